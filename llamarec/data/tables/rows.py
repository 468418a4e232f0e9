"""Rows of a table under this package's names, block by block: one for each interaction, a key in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

import polars as pl

from llamarec.command import typed
from llamarec.data.lines import KEY, LINE, BadLines
from llamarec.data.source import CLOCK, ORDER
from llamarec.data.tables.columns import NUM_ROWS, Wanted, find_columns, flag_of, is_name_of_lists
from llamarec.data.tables.lists import ListColumns, spread
from llamarec.data.tables.parquet import as_text
from llamarec.data.tables.parts import Part, TableOptions
from llamarec.errors import DataError
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER

PART: Final = "part number"
"""Column of numbers of the parts that rows come from."""
_ROWS_AT_ONCE: Final = 500_000
# What exports write for "no value"; no key or title.
_NO_VALUE: Final = (
    *("nan", "NaN", "NULL", "null", "None", "<NA>", "\\N", "NA", "N/A", "n/a", "#N/A", "NaT", "(null)", "undefined"),
    *("(not set)", "[object Object]", "#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!"),
)
# Blanks of all kinds, and marks that nobody sees.
_AROUND: Final = "".join(chr(n) for n in range(0x3001) if chr(n).isspace()) + "\ufeff\u200b\u200e\u200f\u2060"
# As a spreadsheet writes long numbers: all but a few digits are lost.
_ROUNDED: Final = r"^\d([.,]\d+)?E\+\d{2,3}$"
_NO_KEYS: Final = (TIMESTAMP, CLOCK, ORDER, RATING)


@dataclass(frozen=True)
class Table:
    """A user's table.

    Attributes:
        options: How it is read.
        parts: Its files.
        columns: Its own names of columns, by this package's.
        has_lists: Whether the item column is recognised by a name that says lists.
        notes: What was recognised while it was read.
    """

    options: TableOptions
    parts: Sequence[Part]
    columns: Mapping[str, str]
    has_lists: bool = False
    notes: set[str] = field(default_factory=set)

    @property
    def where(self) -> str:
        """Its path, for an error."""
        return str(self.options.path)

    @property
    def read_as(self) -> str:
        """Which files are read, and how, where a person could not know."""
        first, num_others = self.parts[0], len(self.parts) - 1
        others = f" and {num_others:,} more parts" if num_others > 1 else " and 1 more part" if num_others else ""
        return ", ".join(
            filter(
                None, [f"{first.path.relative_to(self.options.path.parent)}{others}", first.form, *sorted(self.notes)]
            )
        )


def open_table(options: TableOptions, wanted: Wanted, parts: Sequence[Part]) -> Table:
    """The table of these parts with its columns.

    Raises:
        ConfigError: a column is not found, or several could be it.
    """
    columns = find_columns(str(options.path), parts[0].names, wanted)
    if ORDER in columns and TIMESTAMP not in columns:
        columns[TIMESTAMP] = columns.pop(ORDER)
    is_guessed = not wanted.chosen.get(ITEM)
    return Table(options, parts, columns, is_guessed and is_name_of_lists(ITEM, columns[ITEM]))


def read_rows(table: Table, bad: BadLines, *, max_rows: int | None = None) -> pl.DataFrame:
    """The rows, in their order: keys and titles coded (KEY), all else as text; LINE and PART.

    Args:
        table: The user's.
        bad: What happens to rows without a key.
        max_rows: About how many rows of the files are read; None: all.
    """
    frames: list[pl.DataFrame] = []
    for number, part in enumerate(table.parts):
        left = None if max_rows is None else max_rows - sum(frame.height for frame in frames)
        if left is None or left > 0:
            rows = _read_part(table, part, bad, left)
            frames.append(rows.with_columns(pl.lit(number, dtype=pl.Int32).alias(PART)))
    return pl.concat(frames)


def distinct_titles(rows: pl.DataFrame) -> pl.DataFrame:
    """ITEM and TITLE as text, each pair once, by first appearance; NUM_ROWS says how many rows have it."""
    found = pl.DataFrame(schema={ITEM: KEY, TITLE: KEY, NUM_ROWS: pl.UInt32})
    waiting, num_waiting = [found], 0
    # A part of the rows at a time, since most pairs repeat; put together when there are as many new ones as old ones.
    for start in range(0, rows.height, _ROWS_AT_ONCE):
        part = rows.slice(start, _ROWS_AT_ONCE).group_by(ITEM, TITLE, maintain_order=True)
        waiting.append(part.agg(pl.len().cast(pl.UInt32).alias(NUM_ROWS)))
        num_waiting += waiting[-1].height
        if num_waiting > found.height:
            found = pl.concat(waiting).group_by(ITEM, TITLE, maintain_order=True).agg(pl.col(NUM_ROWS).sum())
            waiting, num_waiting = [found], 0

    found = pl.concat(waiting).group_by(ITEM, TITLE, maintain_order=True).agg(pl.col(NUM_ROWS).sum())
    return found.with_columns(pl.col(ITEM, TITLE).cast(pl.String))


def _read_part(table: Table, part: Part, bad: BadLines, max_rows: int | None) -> pl.DataFrame:
    found = table.columns
    required = [column for name, column in found.items() if name != TITLE]
    lists = ListColumns([name for name, column in found.items() if column in part.listed])

    def each(block: pl.DataFrame) -> pl.DataFrame:
        with bad.among(block.height):
            return _of_block(table, part, lists, bad, block)

    return part.read(list(dict.fromkeys(found.values())), required, bad, each, max_rows)


def _of_block(table: Table, part: Part, lists: ListColumns, bad: BadLines, block: pl.DataFrame) -> pl.DataFrame:
    found, prefix = table.columns, table.options.prefix
    rows = block.select(LINE, *(pl.col(column).alias(name) for name, column in found.items()))
    rows = spread(rows, lists, part.path, part.unit, bad)
    if lists.were_spread:
        table.notes.add("rows with lists of items")
    elif table.has_lists and not rows.is_empty():
        _refuse_other_lists(table, part, rows)

    where = {name: f"{part.path}, column {column!r}" for name, column in found.items()}
    rows = rows.with_columns(as_text(rows, name, where[name], flag_of(name, prefix)) for name in found)
    coded = [name for name in found if name not in _NO_KEYS]
    rows = rows.with_columns(pl.col(name).cast(KEY) for name in coded)
    rows = _without_headers(rows, found, part, bad)
    rows = _without_rounded(rows, found, part, bad)
    values = rows.with_columns(_values(rows[name], is_key=name != TITLE) for name in coded)
    return _with_values(values, rows, found, part, bad)


def _refuse_other_lists(table: Table, part: Part, rows: pl.DataFrame) -> NoReturn:
    column = table.columns[ITEM]
    raise DataError(
        f"{part.path}, column {column!r}: its name says lists, and its values are none",
        expected='lists such as "[1, 2, 3]", or 1 2 3 in a column that is called NAME:token_seq',
        found=repr(str(rows[ITEM][0])[:60]),
        hint=f"if each value is one item: {typed([flag_of(ITEM, table.options.prefix), column])}",
    )


def _with_values(
    rows: pl.DataFrame, spelled: pl.DataFrame, found: Mapping[str, str], part: Part, bad: BadLines
) -> pl.DataFrame:
    """Rows that have every value but the title; `spelled` has what the table says in place of the others."""
    has_all = pl.Series([True]).new_from_index(0, rows.height)
    for name in [name for name in found if name != TITLE]:
        for row in (has_all & rows[name].is_null()).arg_true().to_list():
            text = spelled[name][row] or ""
            bad.add(part.path, rows[LINE][row], f"no value for {found[name]}", str(text), unit=part.unit)
        has_all &= rows[name].is_not_null()
    return rows if has_all.all() else rows.filter(has_all)


def _without_headers(rows: pl.DataFrame, found: Mapping[str, str], part: Part, bad: BadLines) -> pl.DataFrame:
    """Rows but those that repeat the header, as files do that were put together."""
    keys = [name for name in (USER, ITEM, TITLE) if name in found]
    repeats = pl.all_horizontal(pl.col(name) == found[name] for name in keys).fill_null(False)
    for row in rows.filter(repeats)[LINE].to_list():
        bad.add(part.path, row, "the header once more", ",".join(part.names), unit=part.unit)
    return rows.filter(~repeats)


def _values(column: pl.Series, *, is_key: bool) -> pl.Series:
    """Keys, without the blanks around them, or titles; null where an export wrote that there is none."""
    texts = column.unique().cast(pl.String)
    bare = texts.str.strip_chars(_AROUND)
    nothing = texts.filter((bare == "") | bare.is_in(_NO_VALUE))
    has_blanks = is_key and bool((bare != texts).any())
    if nothing.is_empty() and not has_blanks:
        return column

    spelled = column.cast(pl.String)
    spelled = spelled.set(spelled.is_in(nothing.implode()), None)
    return (spelled.str.strip_chars(_AROUND) if has_blanks else spelled).cast(KEY)


def _without_rounded(rows: pl.DataFrame, found: Mapping[str, str], part: Part, bad: BadLines) -> pl.DataFrame:
    """Rows but those whose key is 1.23E+12, as which a spreadsheet writes all that begin with 123."""
    for name in [name for name in (USER, ITEM) if name in found]:
        keys = rows[name].unique().cast(pl.String)
        rounded = keys.filter(keys.str.contains(_ROUNDED))
        if rounded.is_empty():
            continue

        is_rounded = pl.col(name).cast(pl.String).is_in(rounded.implode()).fill_null(False)
        for row, key in rows.filter(is_rounded).select(LINE, name).iter_rows():
            reason = f"a key that a spreadsheet has rounded, in {found[name]}"
            bad.add(part.path, row, reason, key, expected="all digits of the key", unit=part.unit)
        rows = rows.filter(~is_rounded)
    return rows
