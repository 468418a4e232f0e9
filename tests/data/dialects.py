"""Tables of interactions as people write them: with csv, json, pandas or polars, in a dialect that is drawn.

Whatever the dialect, the prepared set is the same, or the table is refused.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Final, Literal

import polars as pl

from llamarec.data.config import DataConfig

MICROSECONDS: Final = 10**6
DAY: Final = 86_400 * MICROSECONDS
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# What dialects trip over.
_KEYS: Final = (
    *("u1", "19", "007", "1e16", "true", "19.0", "-", "na", "a'b", "a b", "in  between", "x" * 40, "0", "+5", "1_000"),
    *("é", "ключ", "日本", "e\u0301", "a,b", "a;b", "a|b", "a\tb", 'a"b', '"', "a\\b", "=1+1", "#1", "a\nb", "a\r\nb"),
)
_TITLES: Final = ("Film {}", "Café {}", 'The "best" of {}', "A, B; C | D {}", "Rock &amp; Roll {}", "{}: one\nand two")
_NAMES: Final = {
    "user": ("user", "user_id", "userId", "reviewerID", "customer_id", "USER"),
    "item": ("item", "item_id", "movieId", "asin", "sku", "product_id"),
    "timestamp": ("timestamp", "ts", "event_time", "created_at", "date", "unixReviewTime"),
    "title": ("title", "item_name", "product_title", "movie_title"),
}


Value = str | int | float
Flags = dict[str, str]
"""Options of `DataConfig` for one table."""


@dataclass(frozen=True)
class Interactions:
    """A table, before it is written.

    Attributes:
        rows: In their order: user, item, microseconds since 1970, or those of an order number in the place of seconds.
        titles: Of each item.
        step: Of which all times are multiples, in microseconds; 0 for order numbers.
        has_numbers: Whether all keys are whole numbers.
    """

    rows: Sequence[tuple[str, str, int]]
    titles: dict[str, str]
    step: int
    has_numbers: bool

    def expected(self) -> tuple[list[str], list[str], dict[str, list[tuple[str, int]]]]:
        """Users and items by first appearance, and each user's items with their seconds, as one would first do it."""
        distinct = list(dict.fromkeys(self.rows))
        users = list(dict.fromkeys(user for user, _, _ in distinct))
        items = list(dict.fromkeys(item for _, item, _ in distinct))
        by_time = sorted(distinct, key=lambda row: row[2])
        sequences = {
            user: [(item, time // MICROSECONDS) for owner, item, time in by_time if owner == user] for user in users
        }
        return users, items, sequences

    @property
    def is_by_user(self) -> bool:
        """Whether all rows of a user stand together."""
        users = [user for user, _, _ in self.rows]
        return users == sorted(users, key=users.index)


def draw_interactions(draw: Random) -> Interactions:
    """Some users and items with odd keys or numbers, ties, and exact copies."""
    has_numbers = draw.random() < 0.4
    keys = [str(draw.choice([9, 120, 2**31, 2**52]) - number) for number in range(draw.randint(2, 9))]
    if not has_numbers:
        keys = draw.sample(_KEYS, draw.randint(2, 9)) + [f"k{n}" for n in range(draw.randint(1, 4))]
    keys = list(dict.fromkeys(keys))
    items = draw.sample(keys, draw.randint(1, len(keys)))

    step = draw.choice([DAY, MICROSECONDS, MICROSECONDS, 1_000, 1, 0])
    first = draw.randrange(800_000_000, 1_900_000_000) * MICROSECONDS if step else draw.randrange(0, 1_000)
    start, unit = (first // step, step) if step else (first, MICROSECONDS)
    rows = [
        (draw.choice(keys), draw.choice(items), (start + draw.randrange(draw.choice([3, 1_000]))) * unit)
        for _ in range(draw.randint(1, 30))
    ]
    rows += [draw.choice(rows) for _ in range(draw.choice([0, 0, 3]))]
    if draw.random() < 0.3:
        users = [user for user, _, _ in rows]
        rows.sort(key=lambda row: users.index(row[0]))

    titles = {item: draw.choice(_TITLES).format(number) for number, item in enumerate(items)}
    return Interactions(rows, titles, step, has_numbers)


# ---- Times ----

# Step of the times down to which the form goes; how it is written; --timestamp_format where one is needed.
_TIMES: Final[tuple[tuple[int, Callable[[int], str | int], str], ...]] = (
    (MICROSECONDS, lambda time: time // MICROSECONDS, ""),
    (MICROSECONDS, lambda time: f"{time // MICROSECONDS}.0", ""),
    (1_000, lambda time: time // 1_000, ""),
    (1_000, lambda time: f"{time // MICROSECONDS}.{time % MICROSECONDS // 1_000:03}", ""),
    (1, lambda time: time, ""),
    (1, lambda time: time * 1_000, ""),
    (1, lambda time: _formatted(time, "%Y-%m-%d %H:%M:%S.%f"), ""),
    (1, lambda time: _formatted(time, "%Y-%m-%dT%H:%M:%S.%fZ"), ""),
    (MICROSECONDS, lambda time: _formatted(time, "%Y-%m-%d %H:%M:%S"), ""),
    (MICROSECONDS, lambda time: _formatted(time, "%Y-%m-%dT%H:%M:%S+00:00"), ""),
    (MICROSECONDS, lambda time: _formatted(time + 2 * 3_600 * MICROSECONDS, "%Y-%m-%dT%H:%M:%S+02:00"), ""),
    (MICROSECONDS, lambda time: _formatted(time, "%Y%m%d%H%M%S"), ""),
    (MICROSECONDS, lambda time: _formatted(time, "%d/%m/%Y %H:%M:%S"), ""),
    (MICROSECONDS, lambda time: _formatted(time, "%m/%d/%Y %I:%M:%S %p"), ""),
    (MICROSECONDS, lambda time: _formatted(time, "%d/%m/%Y %H:%M:%S"), "%d/%m/%Y %H:%M:%S"),
    (MICROSECONDS, lambda time: _formatted(time, "%d %b %Y %H:%M:%S"), "%d %b %Y %H:%M:%S"),
    # A mix of units, as of two programs that wrote one log.
    (MICROSECONDS, lambda time: time // (MICROSECONDS if time // MICROSECONDS % 3 else 1_000), ""),
    (DAY, lambda time: _formatted(time, "%Y-%m-%d"), ""),
    (DAY, lambda time: _formatted(time, "%Y%m%d"), ""),
    (DAY, lambda time: _formatted(time, "%d.%m.%Y"), ""),
    (DAY, lambda time: _formatted(time, "%m-%d-%Y"), "%m-%d-%Y"),
)


_ORDER_NUMBERS: Final[tuple[tuple[int, Callable[[int], str | int], str], ...]] = (_TIMES[0], _TIMES[1])


def _moment(time: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time)


def _formatted(time: int, form: str) -> str:
    return f"{_moment(time):{form}}"


# ---- Writers ----


@dataclass(frozen=True)
class Columns:
    """A table as it is to be written.

    Attributes:
        named: Values by the names that the file has.
        time: The name of the times; "" without them.
        moments: The times, for types of their own; empty where the form of the times is given.
        keys: The names of keys that are all numbers, and may have a type of numbers.
        user: The name of the users; "" where rows of one cannot be put into lists.
    """

    named: dict[str, list[Value]]
    time: str = ""
    moments: Sequence[datetime] = ()
    keys: Sequence[str] = ()
    user: str = ""

    @property
    def rows(self) -> list[tuple[Value, ...]]:
        """Row by row."""
        return list(zip(*self.named.values(), strict=True))

    def typed(self, draw: Random) -> Columns:
        """Keys as numbers, perhaps."""
        numbers = [name for name in self.keys if draw.random() < 0.7]
        named = {name: [int(v) if name in numbers else v for v in values] for name, values in self.named.items()}
        return replace(self, named=named)


def write(table: Interactions, draw: Random, folder: Path) -> DataConfig:
    """Writes the table in a dialect, its titles in a second one or not; the options with which it is to be read."""
    forms = [one for one in _TIMES if one[0] <= table.step] if table.step else _ORDER_NUMBERS
    _, spelled, form = draw.choice(forms)
    names = {name: draw.choice(known) for name, known in _NAMES.items()}
    columns: dict[str, list[Value]] = {
        names["user"]: [user for user, _, _ in table.rows],
        names["item"]: [item for _, item, _ in table.rows],
        names["timestamp"]: [spelled(time) for _, _, time in table.rows],
    }
    has_second = draw.random() < 0.3
    if not has_second:
        columns[names["title"]] = [table.titles[item] for _, item, _ in table.rows]
    for name in draw.sample(["rating", "comment", "quantity"], draw.randint(0, 2)):
        columns[name] = [_extra(name, draw) for _ in table.rows]

    keys = [names["user"], names["item"]] if table.has_numbers else []
    written = Columns(
        {name: columns[name] for name in draw.sample(list(columns), len(columns))},
        time=names["timestamp"],
        moments=[_moment(time) for _, _, time in table.rows] if table.step and not form else (),
        keys=keys,
        user=names["user"] if table.is_by_user else "",
    )
    path, flags = draw.choice(_WRITERS)(written.typed(draw), draw, folder / "shop")
    config = DataConfig(
        str(path),
        experiment_root=str(folder / "experiments"),
        min_user_interactions=1,
        min_item_interactions=1,
        # One title for most items would be refused as a guess.
        title_column=names["title"],
        timestamp_format=form,
        encoding=flags.get("encoding", "utf-8"),
        columns=flags.get("columns", ""),
    )
    if not has_second:
        return config

    titles: dict[str, list[Value]] = {names["item"]: [*table.titles], names["title"]: [*table.titles.values()]}
    of_items = Columns(titles, keys=keys[1:])
    second, flags = draw.choice(_WRITERS)(of_items.typed(draw), draw, folder / "items")
    # Without a flag of its own it has the first one's.
    encoding = flags.get("encoding", "utf-8")
    return replace(config, items_file=str(second), items_encoding=encoding, items_columns=flags.get("columns", ""))


def _extra(name: str, draw: Random) -> Value:
    if name == "comment":
        return draw.choice(["", "good", 'said "so"', "one, two; three", "a\nb", "tab\there"])
    return draw.choice([1, 2.5, 4]) if name == "rating" else draw.randint(1, 9)


def _text_file(text: str, draw: Random, path: Path) -> tuple[Path, Flags]:
    """Writes a text, in an encoding that has all of it, plain or packed."""
    encodings = ["utf-8", "utf-8-sig", "utf-16"]
    for narrow in ("cp1252", "latin-1"):
        try:
            text.encode(narrow)
            encodings.append(narrow)
        except UnicodeEncodeError:
            continue
    encoding = draw.choice([*encodings, "utf-8"])
    content = text.encode(encoding)

    packed = draw.choice(["", "", "", ".gz", ".zip"])
    target = path.with_name(path.name + packed)
    if packed == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(path.name, content)
    else:
        target.write_bytes(gzip.compress(content) if packed else content)
    return target, {"encoding": encoding} if encoding in ("cp1252", "latin-1") else {}


def _with_csv(columns: Columns, draw: Random, path: Path) -> tuple[Path, Flags]:
    separator, ending = draw.choice([(",", ".csv"), (";", ".csv"), ("\t", ".tsv"), ("\t", ".csv"), ("|", ".csv")])
    line_end = draw.choice(["\n", "\r\n"])
    has_header = draw.random() < 0.8
    records = []
    for row in [*([tuple(columns.named)] if has_header else []), *columns.rows]:
        text = io.StringIO()
        quoting: Literal[0, 1] = draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=line_end).writerow(row)
        records.append(text.getvalue() + (line_end if draw.random() < 0.05 else ""))

    whole = "".join(records)
    whole = whole.removesuffix(line_end) if draw.random() < 0.3 else whole
    written, flags = _text_file(whole, draw, path.with_suffix(ending))
    return written, flags if has_header else {**flags, "columns": ",".join(columns.named)}


def _with_json(columns: Columns, draw: Random, path: Path) -> tuple[Path, Flags]:
    ascii_only = draw.random() < 0.5
    records = [dict(zip(columns.named, row, strict=True)) for row in columns.rows]
    if draw.random() < 0.2:
        return _text_file(json.dumps(records, ensure_ascii=ascii_only, indent=1), draw, path.with_suffix(".json"))

    line_end = draw.choice(["\n", "\r\n"])
    lines = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    lines = [line + (line_end if draw.random() < 0.05 else "") for line in lines]
    ending = draw.choice([".jsonl", ".json", ".ndjson"])
    return _text_file(line_end.join(lines) + line_end, draw, path.with_suffix(ending))


def _frame(columns: Columns, draw: Random, types: Sequence[pl.DataType]) -> pl.DataFrame:
    frame = pl.DataFrame({name: _of_one_type(values) for name, values in columns.named.items()})
    if not columns.moments or draw.random() < 0.5:
        return frame
    moments = pl.Series(columns.time, columns.moments, dtype=pl.Datetime("us", "UTC"))
    kind = draw.choice(types)
    return frame.with_columns(moments if kind == moments.dtype else moments.dt.replace_time_zone(None).cast(kind))


def _of_one_type(values: list[Value]) -> list[str] | list[float] | list[int]:
    if all(isinstance(value, int) for value in values):
        return [int(value) for value in values]
    if any(isinstance(value, str) for value in values):
        return [str(value) for value in values]
    return [float(value) for value in values]


def _with_polars(columns: Columns, draw: Random, path: Path) -> tuple[Path, Flags]:
    frame = _frame(columns, draw, [pl.Datetime("us")])
    if draw.random() < 0.3:
        path = path.with_suffix(".ndjson")
        frame.write_ndjson(path)
        return path, {}

    path = path.with_suffix(".csv")
    frame.write_csv(
        path,
        separator=draw.choice([",", ";", "\t", "|"]),
        quote_style=draw.choice(["necessary", "always", "non_numeric"]),
        line_terminator=draw.choice(["\n", "\r\n"]),
        include_bom=draw.random() < 0.3,
    )
    return path, {}


def _with_parquet(columns: Columns, draw: Random, path: Path) -> tuple[Path, Flags]:
    path = path.with_suffix(".parquet")
    frame = _frame(columns, draw, [pl.Datetime("us"), pl.Datetime("ns"), pl.Datetime("us", "UTC")])
    for name, kind in frame.schema.items():
        if kind == pl.String and draw.random() < 0.3:
            frame = frame.with_columns(pl.col(name).cast(pl.Categorical))
        elif name in columns.keys and kind == pl.Int64 and draw.random() < 0.3:
            frame = frame.with_columns(pl.col(name).cast(pl.Float64))
    if columns.user and draw.random() < 0.5:
        frame = frame.group_by(columns.user, maintain_order=True).agg(pl.all())
    frame.write_parquet(path, row_group_size=draw.choice([3, 1_000]))
    return path, {}


def _with_pandas(columns: Columns, draw: Random, path: Path) -> tuple[Path, Flags]:
    import pandas as pd

    frame = pd.DataFrame(columns.named)
    if draw.random() < 0.3:
        path = path.with_suffix(".jsonl")
        frame.to_json(path, orient="records", lines=True, force_ascii=draw.random() < 0.5)
        return path, {}

    path = path.with_suffix(".csv")
    if columns.moments and draw.random() < 0.4:
        frame[columns.time] = pd.to_datetime(pd.Series(columns.moments), utc=True)
    frame.to_csv(
        path,
        # The index is a column without a name.
        index=draw.random() < 0.5,
        sep=draw.choice([",", ";", "\t", "|"]),
        quoting=draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
        lineterminator=draw.choice(["\n", "\r\n"]),
        encoding=draw.choice(["utf-8", "utf-8-sig"]),
    )
    return path, {}


HAS_PANDAS: Final = find_spec("pandas") is not None
_WRITERS: Final = (_with_csv, _with_csv, _with_json, _with_polars, _with_parquet, *([_with_pandas] * HAS_PANDAS))
