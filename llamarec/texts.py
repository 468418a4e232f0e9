"""Texts as people write them: spaces, accents, words."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata


def normal(text: str) -> str:
    """A text with single spaces, each letter and its accents as one character where there is one (NFC)."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def words_of(text: str) -> list[str]:
    """Its words, in their order; signs that belong to a letter (Hindi, Thai, accents) stay in them."""
    return _pattern().findall(text)


@functools.cache
def _pattern() -> re.Pattern[str]:
    # Python's \w leaves out combining marks.
    marks = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"]
    return re.compile(rf"[\w{re.escape(''.join(marks))}]+")
