"""Keys of two tables that should be the same: examples of both, with what is invisible in them spelled out."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import polars as pl

_MOST_SHOWN: Final = 3
_MOST_TRIED: Final = 200_000
_ZEROS: Final = re.compile(r"^0+(?=.)|\.0+$")


def near_keys(ours: pl.Series, theirs: pl.Series) -> list[str]:
    """Lines with keys of interactions and of titles that are nearly the same, or else with the first of both.

    Args:
        ours: Keys of items of interactions, as text.
        theirs: Keys of items with titles.
    """
    known = set(theirs.to_list())
    lacking = [key for key in ours.head(_MOST_TRIED).to_list() if key not in known]
    bare = {_bare(key): key for key in theirs.head(_MOST_TRIED).to_list()}
    pairs = [(key, bare[_bare(key)]) for key in lacking if _bare(key) in bare][:_MOST_SHOWN]
    if pairs:
        return [f"{_shown(key)} in the interactions, {_shown(other)} among the titles" for key, other in pairs]
    return [
        "in the interactions " + ", ".join(map(_shown, lacking[:_MOST_SHOWN])),
        "among the titles " + ", ".join(map(_shown, theirs.head(_MOST_SHOWN).to_list())),
    ]


def _bare(key: str) -> str:
    """A key without what people do not see or do not mean."""
    text = unicodedata.normalize("NFKC", key)
    text = "".join(one for one in text if unicodedata.category(one) not in ("Cf", "Cc"))
    return _ZEROS.sub("", text.strip().strip("'\"").casefold())


def _shown(key: str) -> str:
    text = key if len(key) <= 60 else key[:57] + "..."
    # Letters that look alike have other numbers.
    return repr(text) if text.isascii() else f"{text!r} ({text!a})" if ascii(text) != repr(text) else repr(text)
