"""A user's own table: CSV, TSV, JSON lines or Parquet, with titles in it or in a second table."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from llamarec.data.config import DataConfig
from llamarec.data.inputs import INTERACTIONS_FLAG, TITLES_FLAG
from llamarec.data.lines import LINE, POLARS_ERRORS, BadLines, Schema, csv_format, jsonl_format, read_lines
from llamarec.data.ratings import LeastRating
from llamarec.data.source import FRACTION, ITEM_SCHEMA, RawTables
from llamarec.data.sources import SOURCES
from llamarec.data.tables.columns import check_titles, find_columns, shared_key
from llamarec.data.tables.header import json_fields, read_header, unique_names
from llamarec.data.times import MICROSECONDS, Times, read_times
from llamarec.errors import ConfigError, DataError
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER

# What exports write for "no value"; no key or title.
_NO_VALUE = ("nan", "NaN", "NULL", "null", "None", "<NA>", "\\N")


def table_files(config: DataConfig) -> dict[str, Path]:
    """The table and, where given, the table of titles, by flag.

    Raises:
        ConfigError: a file does not exist, or the table has the name of a public data set.
    """
    if config.name in SOURCES:
        # Its results would be taken for those of the public set, and replace them.
        raise ConfigError(
            f"{INTERACTIONS_FLAG} {config.dataset_code}: {config.name} is the name of a public data set",
            expected="a table with a name of its own, which names the folders of its results",
            hint=[
                f"rename the file, to my_{config.name}.csv for example",
                f"the public set: {INTERACTIONS_FLAG} {config.name}",
            ],
        )

    named = {INTERACTIONS_FLAG: config.dataset_code, TITLES_FLAG: config.items_file}
    paths = {flag: Path(name) for flag, name in named.items() if name}

    for flag, path in paths.items():
        if not path.is_file():
            near = _near_files(path)
            kind = "interactions" if flag == INTERACTIONS_FLAG else "items and titles"
            raise ConfigError(
                f"{flag} {path}: no such file",
                expected=f"the path of a table of {kind}",
                hint=f"{flag} {near[0]}" if near else None,
            )
    return paths


def _near_files(path: Path) -> list[Path]:
    there = {one.name: one for one in path.parent.iterdir() if one.is_file()} if path.parent.is_dir() else {}
    return [there[name] for name in difflib.get_close_matches(path.name, there, n=1)]


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
    paths = table_files(config)
    main, second = paths[INTERACTIONS_FLAG], paths.get(TITLES_FLAG)

    chosen = {USER: config.user_column, ITEM: config.item_column, TIMESTAMP: config.timestamp_column}
    if least:
        chosen[RATING] = config.rating_column
    title = {TITLE: config.title_column}
    columns = _columns_of(main, second, chosen, title, config)
    rows = _read(main, columns[main], config, bad)

    if least:
        rows = _with_numbers(rows, RATING, main, bad)

    # A row whose time cannot be read still gives the title of its item.
    times = _times(rows, main, config, bad)
    time = (times.seconds.alias(TIMESTAMP), times.fractions.alias(FRACTION))
    interactions = rows.select(USER, ITEM, *time, *([RATING] if least else [])).drop_nulls(TIMESTAMP)
    interactions = least.keep(interactions) if least else interactions
    items = _read(second, columns[second], config, bad) if second else rows
    with_titles = second or main
    if TITLE not in columns[with_titles]:
        return RawTables(interactions, pl.DataFrame(schema=ITEM_SCHEMA), times.form, columns[main])

    items = items.select(ITEM, TITLE)
    if not config.title_column:
        check_titles(items, f"{with_titles}, column {columns[with_titles][TITLE]!r}", "--title_column")

    named = {**columns[main], TITLE: columns[with_titles][TITLE]}
    return RawTables(interactions, items, times.form, named)


def _columns_of(
    main: Path, second: Path | None, chosen: dict[str, str], title: dict[str, str], config: DataConfig
) -> dict[Path, dict[str, str]]:
    """The columns of each table by the package's names.

    Raises:
        ConfigError: a column is not found, or several could be it.
    """
    names = _names(main, config.encoding)
    optional = (TITLE,) if config.untitled_items == "key" else ()
    if second is None:
        return {main: find_columns(main, names, {**chosen, **title}, optional=optional)}

    names_of_second = _names(second, config.encoding)
    shared = shared_key(names, names_of_second)
    return {
        main: find_columns(main, names, chosen, shared),
        second: find_columns(second, names_of_second, {ITEM: config.item_column, **title}, shared, optional),
    }


def _kind(path: Path) -> str:
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    return "jsonl" if kind in ("jsonl", "json", "ndjson") else kind


def _names(path: Path, encoding: str) -> tuple[str, ...]:
    """The names of a table's columns.

    Raises:
        DataError: it cannot be read.
    """
    if _kind(path) == "parquet":
        with _reading_parquet(path):
            return tuple(pl.scan_parquet(path, glob=False).collect_schema())

    return json_fields(path, encoding) if _kind(path) == "jsonl" else read_header(path, encoding).columns


def _read(path: Path, found: dict[str, str], config: DataConfig, bad: BadLines) -> pl.DataFrame:
    """The columns under this package's names, all as text; rows without a key are malformed."""
    required = tuple(name for name in found if name != TITLE)
    rows = _read_parquet(path, found) if _kind(path) == "parquet" else _read_text(path, found, required, config, bad)
    keys = [name for name in required if name != TIMESTAMP]
    rows = rows.with_columns(_value(name) for name in (*keys, TITLE) if name in rows.columns)
    for name in required:
        for row in rows.filter(pl.col(name).is_null())[LINE].to_list():
            bad.add(path, row, f"no value for {found[name]}", "", unit=_unit(path))
        rows = rows.drop_nulls(name)

    return rows


def _value(name: str) -> pl.Expr:
    """A key or a title; null where an export wrote that there is none."""
    text = pl.col(name)
    return pl.when((text.str.strip_chars() != "") & ~text.is_in(_NO_VALUE)).then(text).alias(name)


def _read_text(
    path: Path, found: dict[str, str], required: tuple[str, ...], config: DataConfig, bad: BadLines
) -> pl.DataFrame:
    schema: Schema = dict.fromkeys(found.values(), pl.String)
    needed = tuple(found[name] for name in required)
    if _kind(path) == "jsonl":
        form, num_skipped = jsonl_format(schema, needed, encoding=config.encoding), 0
    else:
        header = read_header(path, config.encoding)
        names, num_skipped = unique_names(header.columns), header.num_lines
        form = csv_format(names, schema, needed, separator=header.separator, encoding=config.encoding)

    rows = read_lines(path, form, bad, skip_lines=num_skipped, numbered=True)
    return rows.rename({column: name for name, column in found.items()})


@contextlib.contextmanager
def _reading_parquet(path: Path, problem: str = "cannot be read as Parquet") -> Iterator[None]:
    try:
        yield
    except POLARS_ERRORS as error:
        raise DataError(f"{path}: {problem}", found=str(error)) from error


def _read_parquet(path: Path, found: dict[str, str]) -> pl.DataFrame:
    with _reading_parquet(path):
        rows = pl.read_parquet(path, columns=list(found.values()), glob=False)
    rows = rows.rename({column: name for name, column in found.items()}).with_row_index(LINE, offset=1)

    # A row for each user, with lists of items and times.
    if lists := [name for name in found if isinstance(rows.schema[name], pl.List | pl.Array)]:
        with _reading_parquet(
            path, f"the lists of a row in {', '.join(found[name] for name in lists)} differ in length"
        ):
            rows = rows.explode(lists)
    return rows.with_columns(_as_text(rows, name, f"{path}, column {found[name]!r}") for name in found)


def _as_text(rows: pl.DataFrame, name: str, where: str) -> pl.Series:
    """A column as text.

    Raises:
        DataError: its type holds neither keys nor times nor titles.
    """
    column, kind = rows[name], rows.schema[name]
    if isinstance(kind, pl.Datetime | pl.Date):
        # Decimal seconds, which no unit can be mistaken for.
        microseconds = column.cast(pl.Datetime("us")).dt.epoch("us")
        fraction = (microseconds % MICROSECONDS).cast(pl.String).str.pad_start(6, "0")
        return ((microseconds // MICROSECONDS).cast(pl.String) + "." + fraction).alias(name)

    is_text = kind in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null, pl.Binary)
    problem = f"its type is {kind}"
    if is_text or kind.is_numeric():
        try:
            return column.cast(pl.String)
        except POLARS_ERRORS:
            problem = "bytes that are no text in UTF-8"
    raise DataError(
        f"{where} cannot be the {name}",
        expected="a date with its time of day, or a number" if name == TIMESTAMP else "text or a number",
        found=problem,
        hint=f"--{name}_column NAME, or write the table with this column as text",
    )


def _with_numbers(rows: pl.DataFrame, name: str, path: Path, bad: BadLines) -> pl.DataFrame:
    """The rows with a column as finite numbers; a row without one is malformed."""
    number = pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)
    is_number = number.is_not_null() & number.is_finite()
    for line, text in rows.filter(~is_number).select(LINE, name).iter_rows():
        bad.add(path, line, f"{name} is not a number: {text!r}", text, unit=_unit(path))
    return rows.filter(is_number).with_columns(number)


def _unit(path: Path) -> str:
    return "row" if _kind(path) == "parquet" else "line"


def _times(rows: pl.DataFrame, path: Path, config: DataConfig, bad: BadLines) -> Times:
    """Times of the rows; null where a row has none, which is then a malformed line."""
    text = rows[TIMESTAMP]
    times = read_times(text, config.timestamp_format, str(path))
    unit = _unit(path)
    unknown = text.filter(times.seconds.is_null())
    alike = dict(unknown.value_counts().iter_rows())
    for row in times.seconds.is_null().arg_true().to_list():
        others = alike[text[row]] - 1
        reason = "not a time" + (f", and {others:,} others have the same" if others else "")
        bad.add(path, rows[LINE][row], reason, text[row], expected=times.expected, unit=unit)
    return times
