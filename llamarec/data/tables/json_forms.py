"""What a JSON file is: objects in lines, one list of them, or a form that is not read, which the message names."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec

from llamarec.data.containers import open_bytes, reading
from llamarec.errors import DataError

_READ: Final = "an object in each line (JSON lines), or one list of objects"
_ORIENT: Final = "from pandas: df.to_json(path, orient='records', lines=True)"
_LOOKED_AT: Final = 4_096
_BLANKS: Final = re.compile(r"[ \t\r\n]*")
_Document = Mapping[str, msgspec.Raw]


class JsonForm(NamedTuple):
    """How the objects of a file are read.

    opened: the file, with an object in each line. unit: what such a line is to a person. said: the form in words, where
    it is not JSON lines.
    """

    opened: Callable[[Path], IO[bytes]] = open_bytes
    unit: str = "line"
    said: str = ""


def json_form(path: Path) -> JsonForm:
    """The form of a JSON file.

    Raises:
        DataError: it is JSON in a form that is not read.
    """
    with reading(path) as file:
        begins = file.read(_LOOKED_AT).lstrip()[:1]
    if begins == b"[":
        return JsonForm(partial(_list_as_lines, key=""), "record", "one list")
    if begins != b"{":
        return JsonForm()

    with reading(path) as file:
        first, second = _filled(file), _filled(file)
    if _is_object(second) or (second and _is_object(first)):
        return JsonForm()

    content = first
    if second and _breaks_off(first):
        with reading(path) as file:
            content = file.read()
    document = _object(content)
    return _of_objects(path, content) if document is None else _of_document(path, document)


def _filled(file: IO[bytes]) -> bytes:
    """The next line that is not blank; empty at the end."""
    return next((line for line in file if line.strip()), b"")


def _breaks_off(line: bytes) -> bool:
    """Whether a line is the beginning of an object, which the next lines go on with."""
    text = line.decode("latin-1").rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text) - 1
    except RecursionError:
        pass
    return False


def _is_object(line: bytes) -> bool:
    """Whether a line is one object, also to Python, which reads NaN."""
    if _object(line) is not None:
        return True
    try:
        return isinstance(json.loads(line.decode("latin-1")), dict)
    except (ValueError, RecursionError):
        return False


def _object(text: bytes) -> dict[str, msgspec.Raw] | None:
    try:
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        return None


def _of_document(path: Path, document: _Document) -> JsonForm:
    """The form of a file that is one object.

    Raises:
        DataError: it is not a row.
    """
    lists = [name for name, raw in document.items() if _begins(raw) == "[{"]
    if len(document) == 1 and lists:
        return JsonForm(partial(_list_as_lines, key=lists[0]), "record", f"one list, under {lists[0]!r}")

    names = set(document)
    if {"columns", "data"} <= names:
        raise _refused(path, "pandas' JSON with orient='split'", _ORIENT)
    if {"schema", "data"} <= names:
        raise _refused(path, "pandas' JSON with orient='table'", _ORIENT)
    if lists:
        others = ", ".join(repr(name) for name in document if name not in lists[:1])
        is_plain = path.is_file() and path.suffix in (".json", ".jsonl", ".ndjson")
        program = f"import json; [print(json.dumps(row)) for row in json.load(open({str(path)!r}))[{lists[0]!r}]]"
        raise _refused(
            path,
            f"one object with a list of objects under {lists[0]!r}, and {others}",
            f'python -c "{program}" > {path.stem}.jsonl' if is_plain else "write that list into a file of its own",
        )
    if all(_begins(raw).startswith("{") for raw in document.values()) and document:
        found = _objects_in_objects(document)
        raise _refused(path, found, *([_ORIENT] if found.startswith("pandas") else []))

    lengths = {len(msgspec.json.decode(raw)) if _begins(raw)[:1] == "[" else -1 for raw in document.values()}
    if len(lengths) > 1 and -1 not in lengths:
        raise _refused(
            path,
            "one object with lists of different lengths, such as the items of each user",
            'write an object for each user: {"user": ..., "items": [...], "timestamps": [...]}',
        )
    return JsonForm()


def _objects_in_objects(document: _Document) -> str:
    """One object whose values are objects, in words."""
    inner = next((found for raw in document.values() if (found := _object(bytes(raw)))), {})
    if inner and all(name.isdigit() for name in inner):
        return "pandas' JSON by columns (the default of to_json)"
    if all(name.isdigit() for name in document):
        return "pandas' JSON with orient='index'"
    return "one object whose values are objects"


def _begins(raw: msgspec.Raw) -> str:
    """What a value begins with: its kind, and that of its first element."""
    return "".join(bytes(raw)[:_LOOKED_AT].decode("latin-1").split())[:2]


def _of_objects(path: Path, content: bytes) -> JsonForm:
    """The form of a file whose first line is no object, by its first line or its whole content.

    Raises:
        DataError: its objects are divided by commas.
    """
    ends = list(_ends(content, most=2))
    if not ends:
        return JsonForm()
    rest = content[ends[0] :].lstrip()
    if rest[:1] == b",":
        raise _refused(path, "objects with commas between them, and no list around them", "put them between [ and ]")
    if len(ends) > 1:
        return JsonForm(_objects_as_lines, "record", "objects one after the other")
    return JsonForm()


def _ends(content: bytes, *, most: int | None = None) -> Iterator[int]:
    """Where the values of a text end, up to the first that is none.

    The structure of JSON is ASCII, so that any encoding will do.
    """
    text, decoder, end, number = content.decode("latin-1"), json.JSONDecoder(), 0, 0
    while most is None or number < most:
        begin = _after_blanks(text, end)
        try:
            _, end = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            return
        yield end
        number += 1


def _after_blanks(text: str, start: int) -> int:
    found = _BLANKS.match(text, start)
    return found.end() if found else start


def _objects_as_lines(path: Path) -> IO[bytes]:
    """Objects one after the other, each as a line.

    Raises:
        DataError: what follows one of them is none.
    """
    with reading(path) as file:
        content = file.read()
    ends = [0, *_ends(content)]
    if content[ends[-1] :].strip():
        raise DataError(
            f"{path}: not a JSON object after record {len(ends) - 1:,}",
            found=repr(content[ends[-1] :].lstrip()[:60].decode(errors="replace")),
            hint="the file may be incomplete",
        )
    return _in_lines(content[begin:end] for begin, end in pairwise(ends))


def _list_as_lines(path: Path, key: str) -> IO[bytes]:
    """The objects of a list as lines.

    Args:
        path: Of the file.
        key: Of the object that the list is in; empty where the file is the list.

    Raises:
        DataError: it is no list of objects.
    """
    with reading(path) as file:
        content = file.read()
    try:
        inner = msgspec.json.decode(content, type=dict[str, msgspec.Raw])[key] if key else content
        found = msgspec.json.decode(inner, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _no_list(path, content, error) from error

    if found and _begins(found[0])[:1] == "[":
        raise _refused(path, "one list of lists, whose columns have no names", _ORIENT)
    return _in_lines(map(bytes, found))


def _in_lines(values: Iterable[bytes]) -> IO[bytes]:
    # A line break in JSON is white space: one in a text is written as \n.
    return io.BytesIO(b"\n".join(one.strip().replace(b"\r", b" ").replace(b"\n", b" ") for one in values))


def _no_list(path: Path, content: bytes, error: Exception) -> DataError:
    ends = list(_ends(content, most=2))
    if len(ends) > 1:
        return _refused(path, "lists one after the other, whose columns have no names", _ORIENT)
    if len(ends) == 1 and not content[ends[0] :].strip():
        # Python reads and writes what is no JSON.
        return _refused(path, "NaN or Infinity, which are no JSON", "write null for them", _ORIENT)
    return DataError(
        f"{path}: not a JSON list of objects",
        found=str(error) or "nested too deeply",
        hint="an object in each line (JSON lines) is read too",
    )


def _refused(path: Path, found: str, *hint: str) -> DataError:
    return DataError(f"{path}: JSON in a form that is not read", expected=_READ, found=found, hint=list(hint))
