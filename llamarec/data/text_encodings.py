"""Text in the encoding that a flag names, or in another one."""

from __future__ import annotations

import re
from typing import Final

# Encodings of one byte whose letters lie above 0xC0: their text is hardly ever UTF-8 by chance.
_EIGHT_BITS: Final = ("cp125", "iso8859", "latin", "koi8")
_UTF_8_LETTER: Final = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
IS_UTF_8: Final = "UTF-8"
"""Reason of an error where a text is UTF-8 in the place of what was named."""


def has_utf_8(raw: bytes, encoding: str) -> bool:
    """Whether a text in an encoding of one byte has letters that are UTF-8 instead."""
    return encoding.startswith(_EIGHT_BITS) and _UTF_8_LETTER.search(raw) is not None


def decoded(line: bytes, encoding: str) -> str:
    """The text of a line.

    Raises:
        UnicodeDecodeError: it has another encoding.
    """
    if has_utf_8(line, encoding) and _is_utf_8(line):
        raise UnicodeDecodeError(encoding, line, 0, 1, IS_UTF_8)
    return line.decode(encoding)


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
