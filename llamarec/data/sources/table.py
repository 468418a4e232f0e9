"""A user's own table: CSV, TSV, JSON lines or Parquet, with titles in it or in a second table."""

from __future__ import annotations

import difflib
from pathlib import Path

import polars as pl

from llamarec.data.config import DataConfig
from llamarec.data.inputs import INTERACTIONS_FLAG, TITLES_FLAG
from llamarec.data.lines import LINE, BadLines, Schema, csv_format, jsonl_format, open_bytes, read_lines
from llamarec.data.source import FRACTION, RawTables
from llamarec.data.sources import SOURCES
from llamarec.data.times import MICROSECONDS, Times, read_times
from llamarec.errors import ConfigError, DataError
from llamarec.vocabulary import ITEM, TIMESTAMP, TITLE, USER

# Column names that other tools and data sets use, best first.
KNOWN_NAMES = {
    USER: ("user", "user_id", "userid", "uid", "reviewerid", "customer_id", "session_id", "visitorid"),
    ITEM: ("item", "item_id", "itemid", "iid", "movieid", "asin", "parent_asin", "product_id", "business_id", "sku"),
    TIMESTAMP: ("timestamp", "time", "datetime", "date", "unixreviewtime", "created_at", "ts", "event_time"),
    TITLE: ("title", "name", "item_title", "movie_title", "product_title", "item_name"),
}
SEPARATORS = (",", "\t", ";", "|")


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


def read_table(config: DataConfig, bad: BadLines) -> RawTables:
    """Raw tables from the user's files.

    Raises:
        ConfigError: a column is not found.
        DataError: a line is malformed.
    """
    paths = table_files(config)
    main, second = paths[INTERACTIONS_FLAG], paths.get(TITLES_FLAG)

    chosen = {USER: config.user_column, ITEM: config.item_column, TIMESTAMP: config.timestamp_column}
    title = {TITLE: config.title_column}
    with_titles = chosen if second else {**chosen, **title}
    rows = _read(main, with_titles, config, bad)

    # A row whose time cannot be read still gives the title of its item.
    times = _times(rows, main, config, bad)
    time = (times.seconds.alias(TIMESTAMP), times.fractions.alias(FRACTION))
    interactions = rows.select(USER, ITEM, *time).drop_nulls(TIMESTAMP)
    items = rows.select(ITEM, TITLE) if not second else _read(second, {ITEM: config.item_column, **title}, config, bad)
    return RawTables(interactions, items, times.form)


def _read(path: Path, chosen: dict[str, str], config: DataConfig, bad: BadLines) -> pl.DataFrame:
    """The chosen columns under this package's names, all as text."""
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    required = tuple(name for name in chosen if name != TITLE)
    if kind == "parquet":
        return _read_parquet(path, chosen, required, bad)

    if kind in ("jsonl", "json", "ndjson"):
        found = _find_columns(path, _json_fields(path, config.encoding), chosen)
        schema: Schema = dict.fromkeys(found.values(), pl.String)
        form = jsonl_format(schema, tuple(found[name] for name in required), encoding=config.encoding)
        rows = read_lines(path, form, bad, numbered=True)
    else:
        first_line = _first_line(path, config.encoding)
        separator = max(SEPARATORS, key=first_line.count)
        columns = tuple(name.strip().strip('"') for name in first_line.split(separator))
        found = _find_columns(path, columns, chosen)
        schema = dict.fromkeys(found.values(), pl.String)
        needed = tuple(found[name] for name in required)
        form = csv_format(columns, schema, needed, separator=separator, encoding=config.encoding)
        rows = read_lines(path, form, bad, skip_lines=1, numbered=True)

    return rows.rename({column: name for name, column in found.items()})


def _read_parquet(path: Path, chosen: dict[str, str], required: tuple[str, ...], bad: BadLines) -> pl.DataFrame:
    try:
        found = _find_columns(path, tuple(pl.scan_parquet(path, glob=False).collect_schema()), chosen)
        rows = pl.read_parquet(path, columns=list(found.values()), glob=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: cannot be read as Parquet", found=str(error)) from error
    rows = rows.rename({column: name for name, column in found.items()})
    rows = rows.with_columns(_as_text(rows, name) for name in rows.columns)
    rows = rows.with_row_index(LINE, offset=1)
    for name in required:
        for row in rows.filter(pl.col(name).is_null())[LINE].to_list():
            bad.add(path, row, f"no value for {found[name]}", "", unit="row")
        rows = rows.drop_nulls(name)

    return rows


def _as_text(rows: pl.DataFrame, name: str) -> pl.Expr:
    if rows.schema[name].is_temporal():
        # Decimal seconds, which no unit can be mistaken for.
        microseconds = pl.col(name).cast(pl.Datetime("us")).dt.epoch("us")
        fraction = (microseconds % MICROSECONDS).cast(pl.String).str.pad_start(6, "0")
        return pl.concat_str((microseconds // MICROSECONDS).cast(pl.String), pl.lit("."), fraction)
    return pl.col(name).cast(pl.String)


def _find_columns(path: Path, columns: tuple[str, ...], chosen: dict[str, str]) -> dict[str, str]:
    lower = {column.lower(): column for column in columns}
    found, problems = {}, []

    for name, given in chosen.items():
        candidates = [lower[known] for known in KNOWN_NAMES[name] if known in lower]
        if given in columns:
            found[name] = given
        elif given or not candidates:
            near = difflib.get_close_matches(given or name, columns, n=1, cutoff=0.4)
            asked = f"no column {given!r}" if given else f"no column looks like the {name}"
            way = f"--{name}_column {near[0] if near else 'NAME'}"
            if name == TITLE and not given:
                way = "--title_column NAME, or titles in a second table: --items_file FILE"
            problems.append(f"{asked}: {way}")
        else:
            found[name] = candidates[0]

    taken: dict[str, str] = {}
    for name, column in found.items():
        if column in taken:
            problems.append(f"{column!r} is already the {taken[column]} column: --{name}_column NAME")
        taken.setdefault(column, name)

    if problems:
        raise ConfigError(f"{path}: " + "\n    ".join(problems), found=f"the columns {', '.join(columns)}")
    return found


def _times(rows: pl.DataFrame, path: Path, config: DataConfig, bad: BadLines) -> Times:
    """Times of the rows; null where a row has none, which is then a malformed line."""
    text = rows[TIMESTAMP]
    times = read_times(text, config.timestamp_format, str(path))
    unit = "row" if path.suffix.lower() == ".parquet" else "line"
    for row in times.seconds.is_null().arg_true().to_list():
        bad.add(path, rows[LINE][row], "not a time", text[row], expected=times.expected, unit=unit)
    return times


def _first_line(path: Path, encoding: str) -> str:
    with open_bytes(path) as file:
        line = file.readline().decode(encoding, errors="replace").rstrip("\r\n")
    if not line:
        raise DataError(f"{path}: the file is empty", expected="a first line with the column names")
    return line


def _json_fields(path: Path, encoding: str) -> tuple[str, ...]:
    import json

    try:
        row = json.loads(_first_line(path, encoding))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line 1: not a JSON object ({error.msg})") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line 1: expected a JSON object, found a {type(row).__name__}")
    return tuple(row)
