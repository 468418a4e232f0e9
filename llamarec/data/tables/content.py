"""What a file holds, by its first bytes, where that is not what its ending says."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

from llamarec.data.containers import reading
from llamarec.data.tables.conversions import conversion
from llamarec.data.tables.endings import Kind, compressed_ending, kind_of
from llamarec.errors import DataError

_LOOKED_AT: Final = 4_096
_WORDS: Final[dict[Kind, str]] = {
    "text": "delimited text",
    "json": "JSON",
    "parquet": "Parquet",
    "sheet": "a workbook of Excel",
}
_USUAL: Final[dict[Kind, str]] = {"text": ".csv", "json": ".jsonl", "parquet": ".parquet", "sheet": ".xlsx"}
_TABLES: Final[dict[bytes, Kind]] = {b"PAR1": "parquet", b"PK\x03\x04": "sheet"}
# Tables in a form that is not read, by an ending that they usually have.
_OTHERS: Final[dict[bytes, tuple[str, str]]] = {
    b"\xd0\xcf\x11\xe0": ("a workbook of an old Excel", ".xls"),
    b"ARROW1": ("Arrow", ".feather"),
    b"Obj\x01": ("Avro", ".avro"),
    b"ORC": ("ORC", ".orc"),
    b"SQLite format 3": ("a database of SQLite", ".sqlite"),
    b"\x89HDF": ("HDF5", ".h5"),
}
_PAGE: Final = re.compile(rb"<!doctype html|<html|<\?xml", re.IGNORECASE)
_POINTER: Final = b"version https://git-lfs"
_LITERALS: Final = (
    "import ast, json; [print(json.dumps(ast.literal_eval(line))) for line in open({name!r}, encoding='utf-8')]"
)


def check_content(path: Path, kind: Kind) -> None:
    """Refuses a file whose content is of another kind than its ending says.

    Args:
        path: Of the file, or into an archive.
        kind: What its ending says.

    Raises:
        DataError: it is; says which kind, and what to do.
    """
    with reading(path) as file:
        begin = file.read(_LOOKED_AT)

    for magic, (words, ending) in _OTHERS.items():
        if begin.startswith(magic):
            raise _other(path, kind, words, *conversion(f"{_stem(path)}{ending}"))
    if begin.startswith(b"%PDF"):
        raise _other(path, kind, "a PDF", "export the table as CSV")
    if begin.startswith(_POINTER):
        raise _other(path, kind, "the pointer of Git LFS to a file", "git lfs pull")
    if _PAGE.match(begin.lstrip()):
        raise _other(path, kind, "a web page, or XML", "download the table itself")

    found = _kind_of(begin, kind)
    if found != kind:
        raise _other(path, kind, _WORDS[found], f"rename it to {_stem(path)}{_ending(found, begin)}")
    if kind == "json" and begin.strip():
        _check_is_json(path, begin)


def _other(path: Path, kind: Kind, found: str, *hint: str) -> DataError:
    return DataError(f"{path}: its content is not what its ending says", expected=_WORDS[kind], found=found, hint=hint)


def _stem(path: Path) -> str:
    name = path.name.removesuffix(compressed_ending(path.name))
    return name.removesuffix(Path(name).suffix) if kind_of(name) else name


def _kind_of(begin: bytes, kind: Kind) -> Kind:
    """What a file holds; where its first bytes do not tell it, the kind that its ending says."""
    for magic, one in _TABLES.items():
        if begin.startswith(magic):
            return one
    if _is_json(begin):
        return "json"
    is_text = begin.strip() and b"\0" not in begin
    return "text" if is_text and kind in ("parquet", "sheet") else kind


def _is_json(begin: bytes) -> bool:
    """Whether a text begins as an object, or as a list of objects, does."""
    return re.match(rb"\s*(?:\{\s*(?:\"|\}|$)|\[\s*(?:\{|\[|\]|$))", begin) is not None


def _ending(kind: Kind, begin: bytes) -> str:
    return ".json" if kind == "json" and begin.lstrip().startswith(b"[") else _USUAL[kind]


def _check_is_json(path: Path, begin: bytes) -> None:
    """Refuses literals of Python, and what begins as no JSON does.

    Raises:
        DataError: it is such.
    """
    first = next(line for line in begin.decode(errors="replace").splitlines() if line.strip()).strip()
    is_literal = not _is_read(json.loads, first) and _is_read(ast.literal_eval, first)
    if not is_literal and (first[:1] in '{["' or _is_read(json.loads, first, object)):
        return

    program = _LITERALS.format(name=path.name)
    raise DataError(
        f"{path}: no JSON" + (", but literals of Python" if is_literal else ""),
        expected="an object in each line, with texts in double quotes",
        found=repr(first[:120]),
        hint=f'python -c "{program}" > {_stem(path)}.new.jsonl'
        if is_literal
        else f"if it is delimited text, rename it to {_stem(path)}.csv",
    )


def _is_read(read: Callable[[str], object], text: str, kind: type = dict) -> bool:
    """Whether a function reads a value of this kind from a text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return isinstance(read(text), kind)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return False
