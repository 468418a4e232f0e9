"""A user's own table, with titles in it or in a second table."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from llamarec.data.config import DataConfig
from llamarec.data.lines import BadLines
from llamarec.data.near_keys import warning_of_near_keys, warning_of_split_keys
from llamarec.data.ratings import LeastRating
from llamarec.data.source import FRACTION, ITEM_SCHEMA, ORDER, RawTables
from llamarec.data.tables.columns import Wanted, check_not_lists, check_titles, shared_key, warning_of_several_titles
from llamarec.data.tables.files import open_parts, table_files
from llamarec.data.tables.numbers import RowNumbers
from llamarec.data.tables.order import OrderReader
from llamarec.data.tables.order_checks import dates_of_keys, days_beside_hours, far_end, newest_first
from llamarec.data.tables.parts import options_of_tables
from llamarec.data.tables.rows import Table, distinct_titles, open_table, read_rows
from llamarec.texts import normal
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER


def read_table(config: DataConfig, bad: BadLines, least: LeastRating | None = None) -> RawTables:
    """Raw tables from the user's files.

    Args:
        config: Options.
        bad: What happens to malformed lines.
        least: Threshold of ratings; None where they are not read.

    Raises:
        ConfigError: a column is not found.
        DataError: a line is malformed.
    """
    table_files(config)
    main, second = _tables(config, with_ratings=least is not None)
    interactions, titles, form, warning = _interactions(main, config, bad, least)
    users = interactions[USER].unique(maintain_order=True).cast(pl.String)
    check_not_lists(users, f"{main.where}, column {main.columns[USER]!r}", USER)

    warnings = [warning_of_split_keys(interactions[name].unique().cast(pl.String), f"{name}s") for name in (USER, ITEM)]
    warnings += [
        warning,
        newest_first(interactions),
        days_beside_hours(interactions, main),
        far_end(interactions, form),
    ]
    if not config.timestamp_column:
        warnings.append(dates_of_keys(interactions, main))
    with_titles, files = second or main, _files(main, second)
    if TITLE not in with_titles.columns:
        none = pl.DataFrame(schema=ITEM_SCHEMA)
        return RawTables(interactions, none, form, main.columns, warnings=tuple(filter(None, warnings)), files=files)

    titles = distinct_titles(read_rows(second, bad)) if second else titles
    column = with_titles.columns[TITLE]
    check_not_lists(titles[TITLE], f"{with_titles.where}, column {column!r}", TITLE)
    if not config.title_column:
        check_titles(titles, with_titles.where, "--title_column", column, of_items=second is not None)
    warnings.append(warning_of_several_titles(titles))
    named = {**main.columns, TITLE: with_titles.columns[TITLE]}
    if second and second.columns[ITEM] != main.columns[ITEM]:
        named["items_item"] = second.columns[ITEM]
    if second:
        warnings.append(_warning_of_near_keys(interactions, titles))
    return RawTables(
        interactions,
        titles.select(ITEM, TITLE),
        form,
        named,
        warnings=tuple(filter(None, warnings)),
        files=files,
    )


def _warning_of_near_keys(interactions: pl.DataFrame, titles: pl.DataFrame) -> str:
    keys = interactions[ITEM].unique().cast(pl.String).sort()
    return warning_of_near_keys(keys, titles.drop_nulls(TITLE)[ITEM].unique(maintain_order=True))


def _files(*tables: Table | None) -> tuple[str, ...]:
    return tuple(table.read_as for table in tables if table)


class _Read(NamedTuple):
    """interactions and form: as in `RawTables`. titles: those of the same table, as `distinct_titles` gives them.

    warning: as in `Order`.
    """

    interactions: pl.DataFrame
    titles: pl.DataFrame
    form: str
    warning: str


def _interactions(table: Table, config: DataConfig, bad: BadLines, least: LeastRating | None) -> _Read:
    """The interactions, and what their rows say of titles; texts are gone when it returns."""
    rows = bad.limit.cut(read_rows(table, bad, max_rows=bad.limit.to_read))
    # A row whose time or rating cannot be read still gives the title of its item.
    titles = distinct_titles(rows) if TITLE in rows.columns else pl.DataFrame(schema=ITEM_SCHEMA)

    numbers = RowNumbers(table, bad)
    rows, form, warning = OrderReader(config, numbers).read(rows)
    if least:
        rows = rows.with_columns(numbers.read(rows, RATING).alias(RATING))
    columns = [name for name in (USER, ITEM, TIMESTAMP, FRACTION, ORDER, RATING) if name in rows.columns]
    # Texts and numbers of lines go before the rest is copied into one piece.
    rows = pl.DataFrame([rows[name] for name in columns])
    rows = rows.rechunk()
    if sum(rows.null_count().row(0)):
        rows = rows.drop_nulls()

    return _Read(least.keep(rows) if least else rows, titles, form, warning)


def _tables(config: DataConfig, *, with_ratings: bool) -> tuple[Table, Table | None]:
    """The user's tables with their columns.

    Raises:
        ConfigError: a column is not found, or several could be it.
    """
    chosen = {USER: config.user_column, ITEM: config.item_column, TIMESTAMP: config.timestamp_column}
    if config.no_timestamp:
        del chosen[TIMESTAMP]
    if config.order_column:
        chosen[ORDER] = config.order_column
    if with_ratings:
        chosen[RATING] = config.rating_column
    title = {TITLE: config.title_column}
    optional = {TITLE} if config.untitled_items == "key" else set()
    optional |= {TIMESTAMP} if config.order_column else set()

    main, *others = options_of_tables(config)
    parts = open_parts(main, [*chosen.values(), config.title_column])
    if not others:
        return open_table(main, Wanted(chosen={**chosen, **title}, optional=frozenset(optional)), parts), None

    (second,) = others
    parts_of_second = open_parts(second, [config.items_item_column, config.title_column])
    names = parts_of_second[0].names
    shared = shared_key(parts[0].names, names)
    # The flag of the first table's column counts for both, where both have it.
    same = config.item_column if normal(config.item_column) in map(normal, names) else ""
    of_second = {ITEM: config.items_item_column or same, **title}
    wanted = Wanted(chosen=chosen, shared=shared, optional=frozenset(optional))
    wanted_of_second = Wanted(chosen=of_second, shared=shared, prefix=second.prefix, optional=frozenset(optional))
    return open_table(main, wanted, parts), open_table(second, wanted_of_second, parts_of_second)
