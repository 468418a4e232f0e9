"""JSON from the disk: parsed, then checked against the type that the program expects.

A file can be valid JSON and still hold a text where a number belongs. Every reader uses this module, so that such a
file leads to an error that names the field and what was found, never to a traceback somewhere else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from llamarec.checkpoints.storage.entries import read_bytes
from llamarec.checkpoints.storage.layout import MAX_JSON_BYTES, max_bytes_of

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A count: 0 or more, and at most 64 bits."""

_MAX_DEPTH: Final = 100
# As a float it is still finite.
_MAX_NUMBER: Final = 2**1000
_PATH: Final = re.compile(r" - at `(?:key in )?\$\.?(?P<path>.*)`$")


class ShapeError(ValueError):
    """Not JSON, or JSON of another shape; the text names the field, what was expected and what was found."""


def parse(raw: bytes | str) -> object:
    """A JSON text as plain values. NaN and infinity are allowed: metrics may be either.

    Raises:
        ShapeError: it is not JSON, is nested too deeply, or holds half a character (a lone surrogate).
    """
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        content: object = json.loads(text)
        _check_bounds(content)
        if "\\ud" in text.lower():
            # JSON can spell half a character; printing or saving it would fail later.
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ShapeError("nested too deeply") from error
    except ValueError as error:
        raise ShapeError(str(error)) from error
    return content


def _check_bounds(content: object) -> None:
    """Raises if values are nested deeper, or numbers are larger, than what later steps can take.

    Raises:
        ShapeError: they are.
    """
    level, depth = [content], 0
    while level:
        if depth > _MAX_DEPTH:
            raise ShapeError("nested too deeply")

        following: list[object] = []
        for value in level:
            if isinstance(value, dict):
                following += value.values()
            elif isinstance(value, list):
                following += value
            elif isinstance(value, int) and abs(value) > _MAX_NUMBER:
                raise ShapeError(f"a number of {len(str(value))} digits")
        level, depth = following, depth + 1


def shaped(content: object, shape: type[T]) -> T:
    """Plain values as a dataclass or another type. Unknown fields are ignored: a later version may write more.

    Args:
        content: A value that `parse` returned, or a part of one.
        shape: The expected type. Only whole numbers (to float) and lists (to tuples) are converted.

    Raises:
        ShapeError: a field is missing or has another type.

    >>> shaped({"step": "12"}, dict[str, int])
    Traceback (most recent call last):
    llamarec.checkpoints.storage.json_shapes.ShapeError: [...]: expected int, found str
    """
    try:
        return msgspec.convert(content, shape)
    except msgspec.ValidationError as error:
        raise ShapeError(_readable(str(error))) from error


def parsed(raw: bytes | str, shape: type[T]) -> T:
    """A JSON text as a dataclass or another type.

    Raises:
        ShapeError: it is not JSON, or of another shape.
    """
    return shaped(parse(raw), shape)


def read(path: Path, shape: type[T]) -> T:
    """A JSON file as a dataclass or another type.

    Raises:
        OSError: it cannot be read.
        ShapeError: it is not JSON, or of another shape.
    """
    return parsed(read_bytes(path, min(max_bytes_of(path.name), MAX_JSON_BYTES)), shape)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of any content.

    Raises:
        OSError: it cannot be read.
        ShapeError: it is not JSON, or not an object.
    """
    return read(path, dict[str, Any])


def whole(value: object) -> int | None:
    """A whole number, including one written as 12.0; None for anything else.

    >>> [whole(value) for value in (12, 12.0, 12.5, True, "12", float("inf"))]
    [12, 12, None, None, None, None]
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _readable(text: str) -> str:
    """The text of msgspec with the field first."""
    found = _PATH.search(text)
    path = found["path"] if found else ""
    what = _PATH.sub("", text).replace("`", "").replace(", got ", ", found ")
    what = what[:1].lower() + what[1:]
    return f"{path}: {what}" if path else what
