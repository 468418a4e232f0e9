"""JSON lines: one object in each; numbers keep the spelling that they have."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final

import msgspec
import polars as pl

from llamarec.data.line_formats import TEXT_KINDS, LineFormat, Lines, Row, Schema, Value, cast


def jsonl_format(
    schema: Schema,
    required: tuple[str, ...],
    *,
    encoding: str = "utf-8",
    list_fields: Container[str] = (),
    has_unique_names: bool = True,
) -> LineFormat:
    """Format of one JSON object per line; other fields are ignored. Numbers keep the spelling that they have.

    Args:
        schema: Fields to read.
        required: Fields that every object needs.
        encoding: Of the file.
        list_fields: Fields whose lists are given as text; a list in another one is no value.
        has_unique_names: Whether it is known that no object has one name twice; else such a one is malformed.
    """
    numbered = {f"field_{number}": name for number, name in enumerate(schema)}
    record = msgspec.defstruct(
        "Record",
        [(field_name, msgspec.Raw, msgspec.field(default=_NULL, name=name)) for field_name, name in numbered.items()],
    )
    decoder = msgspec.json.Decoder(record)
    names = () if has_unique_names else tuple(schema)

    def parse(lines: Lines) -> Row | None:
        line = next(lines)
        if not line.strip():
            return None

        try:
            found = decoder.decode(line)
            check_named_once(line, names)
        except msgspec.ValidationError:
            raise ValueError(f"expected a JSON object, found {_kind_of(line.lstrip())}") from None
        except msgspec.MsgspecError as error:
            raise ValueError(f"not a JSON object ({_reason(line, error)})") from None
        return {
            name: cast(name, _text_of(name, bytes(getattr(found, field_name)), name in list_fields), schema[name])
            for field_name, name in numbered.items()
        }

    take = partial(_take_objects, numbered, schema, required, names)
    return LineFormat(schema, required, parse, take, encoding=encoding)


def _take_objects(
    numbered: Mapping[str, str], schema: Schema, required: Sequence[str], names: Sequence[str], lines: Lines
) -> Iterator[Sequence[Value]]:
    """Objects whose fields have the kinds of the first one's: texts, or numbers as they are spelled."""
    decoder: msgspec.json.Decoder[msgspec.Struct] | None = None
    needed = [number for number, name in enumerate(schema) if name in required]
    kinds = list(schema.values())

    while lines.has_records:
        lines.begin()
        try:
            line = next(lines)
            decoder = decoder or _decoder_like(line, numbered)
            fields = msgspec.structs.astuple(decoder.decode(line))
            values = [_spelled(field, kind) for field, kind in zip(fields, kinds, strict=True)]
            check_named_once(line, names)
        except (ValueError, msgspec.MsgspecError):
            lines.put_back()
            return
        if any(values[number] is None for number in needed):
            lines.put_back()
            return
        yield values


def _decoder_like(line: str, numbered: Mapping[str, str]) -> msgspec.json.Decoder[msgspec.Struct]:
    """A decoder of objects whose fields are texts where this one's are.

    Raises:
        MsgspecError: it is no object.
    """
    first = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    texts = {name for name in numbered.values() if bytes(first.get(name, _NULL))[:1] == b'"'}
    return _decoder(tuple((field, name, name in texts) for field, name in numbered.items()))


@lru_cache(maxsize=64)
def _decoder(fields: tuple[tuple[str, str, bool], ...]) -> msgspec.json.Decoder[msgspec.Struct]:
    """By field: its name in Python and in JSON, and whether it is a text."""
    return msgspec.json.Decoder(
        msgspec.defstruct(
            "Record",
            [
                (field, str if is_text else msgspec.Raw, msgspec.field(default="" if is_text else _NULL, name=name))
                for field, name, is_text in fields
            ],
        )
    )


def _spelled(field: str | msgspec.Raw, kind: type[pl.DataType]) -> Value:
    """A value as it is spelled.

    Raises:
        ValueError: it is a text, a list or an object, or not of this kind.
    """
    if isinstance(field, str):
        return field if kind in TEXT_KINDS and field else cast("", field, kind)

    text = bytes(field).decode()
    if text[0] in '"[{':
        raise ValueError(text)
    return None if text == "null" else text if kind in TEXT_KINDS else cast("", text, kind)


_NULL: Final = msgspec.Raw(b"null")
_HALF: Final = re.compile(r"\\u[dD][89a-fA-F]")


def _text_of(name: str, raw: bytes, is_list: bool) -> str | None:
    """A value of JSON as text; a number or a truth value as it is spelled."""
    if is_list and raw[:1] == b"[":
        return raw.decode()
    if raw[:1] == b'"':
        return msgspec.json.decode(raw, type=str)
    if raw[:1] in (b"[", b"{"):
        raise ValueError(f"{name} is {_kind_of(raw.decode())}")
    return None if raw == b"null" else raw.decode()


def check_named_once(line: str, names: Sequence[str]) -> None:
    """Checks that an object has each of some names once: readers differ in which of two values they take.

    Raises:
        ValueError: it has one twice.
    """
    # A name in an inner object, or a text, may be the same.
    if not any(line.count(f'"{name}"') > 1 for name in names):
        return
    try:
        members = json.loads(line, object_pairs_hook=tuple, parse_int=str)
    except (ValueError, RecursionError):
        return
    found = Counter(name for name, _ in members)
    if twice := [name for name in names if found[name] > 1]:
        raise ValueError(f"{' and '.join(twice)}: {found[twice[0]]} values in one object")


def _reason(line: str, error: msgspec.MsgspecError) -> str:
    """Why a line is no JSON; Python's own reader takes, and writes, what is none."""
    constants = list[str]()
    try:
        json.loads(line, parse_constant=constants.append)
    except (ValueError, RecursionError):
        return str(error)
    if constants:
        return "NaN or Infinity, which are no JSON: write null"
    return r"half of a character, such as \ud83d alone" if _HALF.search(line) else str(error)


def _kind_of(text: str) -> str:
    return {"[": "a list", "{": "an object", '"': "a text", "n": "null"}.get(text[:1], "a number or a truth value")
