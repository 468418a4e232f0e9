"""Tables with a row for each user, or each basket: lists of items and of their times."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import polars as pl

from llamarec.data.lines import LINE, BadLines
from llamarec.errors import DataError
from llamarec.vocabulary import ITEM, TITLE

# A list, or a tuple of several values.
_LIST: Final = re.compile(r"\s*(?:\[(.*)\]|\((.*,.*)\))\s*", re.DOTALL)
# numpy leaves out the middle of long lists.
_CUT: Final = re.compile(r"(?:^|[\s,])\.\.\.(?:[\s,]|$)")
_QUOTED: Final = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\")"""
# Separated by blanks, and by commas.
_TOKEN: Final = re.compile(rf"""\s*(?:{_QUOTED}|([^\s,'"\[\]()]+))\s*(,?)""", re.DOTALL)
_WORDS: Final = re.compile(rf"""\s*(?:{_QUOTED}|([^,'"\[\]()]*[^\s,'"\[\]()]))\s*(,|$)""", re.DOTALL)
_NUM_LOOKED_AT: Final = 1_000


class ListColumns:
    """Which columns of text are lists, decided by the first block of a table.

    Args:
        blank_separated: Columns whose text is a list separated by blanks.

    Attributes:
        were_spread: Whether rows had lists of items.
    """

    def __init__(self, blank_separated: Collection[str]) -> None:
        self.blank_separated = blank_separated
        self._found: list[str] | None = None
        self.were_spread = False

    def of(self, rows: pl.DataFrame) -> list[str]:
        """Those among the columns of these rows."""
        if self._found is None and not rows.is_empty():
            texts = [name for name in rows.columns if rows.schema[name] == pl.String]
            self._found = [name for name in texts if self._is_of_lists(rows[name])]
            if ITEM not in self._found:
                # A title in brackets.
                self._found = []
        return self._found or []

    def _is_of_lists(self, column: pl.Series) -> bool:
        if column.name in self.blank_separated:
            # RecBole's titles are sequences of words.
            return column.name != TITLE or ITEM in self.blank_separated
        values = column.drop_nulls().head(_NUM_LOOKED_AT).to_list()
        return 2 * sum(_LIST.fullmatch(value) is not None for value in values) > len(values)


def spread(rows: pl.DataFrame, columns: ListColumns, path: Path, unit: str, bad: BadLines) -> pl.DataFrame:
    """A row for each interaction, where rows have lists of items.

    Args:
        rows: Columns by this package's names, and LINE.
        columns: Which of them are lists.
        path: Of the table, for an error.
        unit: What a row is to a person.
        bad: What happens to a row whose lists differ in length.

    Raises:
        DataError: a list is none, or there is one title for a list of items.
    """
    for name in columns.of(rows):
        rows = _parsed(rows, name, name in columns.blank_separated, path, unit, bad)

    lists = [name for name in rows.columns if isinstance(rows.schema[name], pl.List | pl.Array)]
    if ITEM not in lists:
        return rows
    columns.were_spread = True
    if TITLE in rows.columns and TITLE not in lists:
        raise DataError(
            f"{path}: a row has a list of items, and one title",
            expected="a list of titles of the same length",
            hint="titles in a second table: --items_file FILE",
        )

    rows = rows.with_columns(pl.col(name).arr.to_list() for name in lists if isinstance(rows.schema[name], pl.Array))
    # No list at all has no length: it is another one than any.
    lengths = rows.select(LINE, *(pl.col(name).list.len() for name in lists))
    differs = pl.any_horizontal(pl.col(ITEM).is_null(), *(pl.col(name).ne_missing(pl.col(ITEM)) for name in lists))
    for row, *lens in lengths.filter(differs).iter_rows():
        if missing := [name for name, length in zip(lists, lens, strict=True) if length is None]:
            bad.add(path, row, f"no list in {' and '.join(missing)}", "", unit=unit)
            continue
        said = " and ".join(f"{length} in {name}" for name, length in zip(lists, lens, strict=True))
        bad.add(path, row, f"its lists differ in length: {said}", "", unit=unit)

    fitting = rows.filter(~lengths.select(differs).to_series())
    return fitting.filter(pl.col(ITEM).list.len() > 0).explode(lists)


def _parsed(
    rows: pl.DataFrame, name: str, is_blank_separated: bool, path: Path, unit: str, bad: BadLines
) -> pl.DataFrame:
    found: list[list[str | None] | None] = []
    malformed: list[int] = []
    for row, text in rows.select(LINE, name).iter_rows():
        try:
            found.append(text.split() if is_blank_separated and text else list(_values(text)) if text else None)
        except ValueError as error:
            bad.add(path, row, str(error), text, unit=unit)
            found.append(None)
            malformed.append(row)
    parsed = rows.with_columns(pl.Series(name, found, dtype=pl.List(pl.String)))
    return parsed.filter(~pl.col(LINE).is_in(malformed))


def _values(text: str) -> Iterator[str | None]:
    """The values of a list as JSON, Python or numpy write it; numbers as they are spelled.

    Raises:
        ValueError: it is no list, or not all of it.
    """
    match = _LIST.fullmatch(text)
    if match is None:
        raise ValueError("not a list, unlike the others")
    try:
        for one in json.loads(text, parse_int=str, parse_float=str, parse_constant=str):
            if isinstance(one, list | dict):
                raise ValueError("a list in a list")
            yield None if one is None else str(one).lower() if isinstance(one, bool) else one
        return
    except (json.JSONDecodeError, RecursionError):
        pass

    inside = (match[1] if match[1] is not None else match[2]).strip()
    if _CUT.search(inside):
        raise ValueError("a list that was cut (...): write it whole")
    token, position = _WORDS if "," in _without_quotes(inside) else _TOKEN, 0
    while position < len(inside):
        one = token.match(inside, position)
        if one is None:
            raise ValueError("not a list of texts or numbers")
        position = one.end()
        yield _unquoted(one[1]) if one[1] else one[2]


def _unquoted(text: str) -> str:
    """The text that a literal of Python stands for."""
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        raise ValueError(f"not a text in quotes: {text}") from None


def _without_quotes(text: str) -> str:
    return re.sub(_QUOTED, "", text, flags=re.DOTALL)
