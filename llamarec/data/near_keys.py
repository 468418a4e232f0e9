"""Keys that should be the same, of two tables or of one: examples, with what is invisible in them spelled out."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import polars as pl

_MOST_SHOWN: Final = 3
_MOST_TRIED: Final = 200_000
_FRACTION: Final = r"\.0+$"
_LEADING: Final = re.compile(r"^0+(?=.)")
# As programs write whole floating numbers from 1e15 on.
_EXPONENT: Final = r"^-?[0-9](?:\.[0-9]+)?e\+?1[0-9]$"


def near_keys(ours: pl.Series, theirs: pl.Series) -> list[str]:
    """Lines with keys of interactions and of titles that are nearly the same, or else with the first of both.

    Args:
        ours: Keys of items of interactions, as text.
        theirs: Keys of items with titles.
    """
    if pairs := _pairs(ours, theirs):
        return [_line(*pair) for pair in pairs[:_MOST_SHOWN]]
    lacking = ours.filter(~ours.is_in(theirs.implode())).head(_MOST_SHOWN).to_list()
    return [
        "in the interactions " + ", ".join(map(_shown, lacking)),
        "among the titles " + ", ".join(map(_shown, theirs.head(_MOST_SHOWN).to_list())),
    ]


def warning_of_near_keys(ours: pl.Series, theirs: pl.Series) -> str:
    """Said where items have no title only because their keys are written otherwise; empty where none is near."""
    pairs = _pairs(ours, theirs)
    if not pairs:
        return ""
    return f"WARNING: {len(pairs):,} items have no title, and a key near that of a title, such as {_line(*pairs[0])}"


def warning_of_split_keys(keys: pl.Series, what: str) -> str:
    """Said where one user or item seems to have several keys, which are written nearly the same; empty where none has.

    Args:
        keys: Each once, as text.
        what: "users" or "items".
    """
    text = keys.str.normalize("NFKC").str.replace_all(r"[\p{Cf}\p{Cc}]", "").str.strip_chars(" '\"").str.to_lowercase()
    whole = text.set(~text.str.contains(_EXPONENT), None)
    whole = whole.cast(pl.Float64).cast(pl.Int64, strict=False).cast(pl.String)
    text = text.zip_with(whole.is_null(), whole).str.replace(_FRACTION, "").str.replace(r"^0+(.)", "$1")
    near = pl.DataFrame({"key": keys, "bare": text}).filter(pl.col("bare").is_duplicated())
    if near.is_empty():
        return ""

    shown = near.filter(pl.col("bare") == near.sort("bare", "key")["bare"][0]).sort("key")["key"].head(_MOST_SHOWN)
    return (
        f"WARNING: {near.height:,} {what} have a key near that of another, such as "
        f"{' and '.join(map(_shown, shown.to_list()))}: each counts as one of its own"
    )


def _pairs(ours: pl.Series, theirs: pl.Series) -> list[tuple[str, str]]:
    """Keys without a title, each with that of a title which is nearly the same."""
    known = set(theirs.to_list())
    lacking = [key for key in ours.to_list() if key not in known][:_MOST_TRIED]
    if not lacking:
        return []
    bare = {_bare(key): key for key in theirs.head(_MOST_TRIED).to_list()}
    return [(key, bare[_bare(key)]) for key in lacking if _bare(key) in bare]


def _line(key: str, other: str) -> str:
    return f"{_shown(key)} in the interactions, {_shown(other)} among the titles"


def _bare(key: str) -> str:
    """A key without what people do not see or do not mean."""
    text = unicodedata.normalize("NFKC", key)
    text = "".join(one for one in text if unicodedata.category(one) not in ("Cf", "Cc"))
    text = text.strip().strip("'\"").casefold()
    text = str(int(float(text))) if re.match(_EXPONENT, text) else text
    return _LEADING.sub("", re.sub(_FRACTION, "", text))


def _shown(key: str) -> str:
    text = key if len(key) <= 60 else key[:57] + "..."
    # Letters that look alike have other numbers.
    return repr(text) if text.isascii() else f"{text!r} ({text!a})" if ascii(text) != repr(text) else repr(text)
