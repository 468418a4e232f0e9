"""Small tables in every form in which people have them; each is read right, or refused with these words.

The table is always the same: six users who took six items each, one a day, in an order of their own. The rows lie in
another order, so that only their times tell it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import polars as pl

NUM: Final = 6
_DAY: Final = 86_400
_START: Final = 1_577_836_800  # 2020-01-01
Row = dict[str, str]
Files = Mapping[str, bytes]


def _item(user: int, day: int) -> int:
    return (user + day * (1 if user % 2 else 5)) % NUM


EXPECTED: Final = {f"u{user}": [f"i{_item(user, day)}" for day in range(NUM)] for user in range(NUM)}
"""Each user's items by time."""
_ORDER: Final = [(user, day) for day in (3, 0, 5, 1, 4, 2) for user in range(NUM)]
ROWS: Final[list[Row]] = [
    {
        "user": f"u{user}",
        "item": f"i{_item(user, day)}",
        "rating": "4.5",
        "timestamp": str(_START + day * _DAY),
        "title": f"Thing {_item(user, day)}",
    }
    for user, day in _ORDER
]
DAYS: Final = [day for _, day in _ORDER]
TITLES: Final = [{"item": f"i{item}", "title": f"Thing {item}"} for item in range(NUM)]
_SEPARATE: Final = "objects one after the other"
_BY_COLUMN: Final = {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}
_VALUES: Final = [list(row.values()) for row in ROWS]


@dataclass(frozen=True)
class Case:
    """A user's files, what is typed, and what comes of it.

    Attributes:
        name: Of the case.
        files: By their names.
        code: The path for --dataset_code.
        options: Others.
        refused: A pattern of the message; "" where the table is read right.
        expected: Each user's items by time.
        printed: What the summary says among other things.
        data_set: Name of the data set.
    """

    name: str
    files: Files
    code: str
    options: Mapping[str, str | bool | int] = field(default_factory=dict)
    refused: str = ""
    expected: Mapping[str, Sequence[str]] = field(default_factory=lambda: EXPECTED)
    printed: str = ""
    data_set: str = "shop"


def delimited(
    rows: Sequence[Mapping[str, str]] = ROWS,
    columns: Sequence[str] = ("user", "item", "timestamp", "title"),
    *,
    separator: str = ",",
    header: Sequence[str] | None = None,
    encoding: str = "utf-8",
) -> bytes:
    """Rows as text; `header` has other names, and an empty one is none."""
    lines = [separator.join(row[name] for name in columns) for row in rows]
    names = columns if header is None else header
    return "".join(f"{line}\n" for line in ([separator.join(names)] if names else []) + lines).encode(encoding)


def with_values(name: str, values: Sequence[str], rows: Sequence[Row] = ROWS) -> list[Row]:
    """The rows with other values in a column."""
    return [{**row, name: value} for row, value in zip(rows, values, strict=True)]


def dated(form: str) -> list[str]:
    """The times of the rows in a form of strftime."""
    return [f"{datetime.fromtimestamp(_START + day * _DAY, UTC):{form}}" for day in DAYS]


def zipped(files: Files) -> bytes:
    """An archive of these files."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return raw.getvalue()


def tarred(files: Files, mode: str = "w:gz") -> bytes:
    """A tar archive of these files."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return raw.getvalue()


def parquet(rows: Sequence[Mapping[str, object]], **schema: pl.DataType | type[pl.DataType]) -> bytes:
    """Rows as Parquet; of some columns with these types."""
    raw = io.BytesIO()
    pl.DataFrame(rows).cast(schema).write_parquet(raw)  # type: ignore[arg-type]
    return raw.getvalue()


def _lists(write: Callable[[list[str]], str], names: Sequence[str] = ("item", "timestamp", "title")) -> list[Row]:
    """A row for each user, with the lists as text."""
    found = []
    for user in EXPECTED:
        own = [row for row in ROWS if row["user"] == user]
        found.append({"user": user, **{name: write([row[name] for row in own]) for name in names}})
    return found


def _quoted(rows: Sequence[Row]) -> list[Row]:
    return [
        {name: f'"{value}"' if "," in value or "\n" in value else value for name, value in row.items()} for row in rows
    ]


_CSV: Final = delimited()
_NO_TITLES: Final = ("user", "item", "timestamp")
_KEYS_AND_TITLES: Final = delimited(TITLES, ("item", "title"))
_BY_ROWS: Final = sorted(ROWS, key=lambda row: row["timestamp"])
_PLAIN: Final = ("user", "item", "rating", "timestamp", "title")


# ---- 1. Tables without a header ----

HEADERLESS: Final = [
    Case(
        "names of columns",
        {"shop.csv": delimited(columns=_PLAIN, header=[])},
        "shop.csv",
        {"columns": "user,item,_,timestamp,title"},
        printed="user=user, item=item, timestamp=timestamp, title=title",
    ),
    Case(
        "own names, which flags name",
        {"shop.tsv": delimited(columns=_PLAIN, header=[], separator="\t")},
        "shop.tsv",
        {
            "columns": "kunde,ware,_,wann,name",
            "user_column": "kunde",
            "item_column": "ware",
            "timestamp_column": "wann",
        },
    ),
    Case(
        "no header and no names",
        {"shop.csv": delimited(columns=_PLAIN, header=[])},
        "shop.csv",
        refused=r"(?s)first line looks like data.*--columns user,item,rating,timestamp,title \(a guess",
    ),
    Case(
        "no header in the second table",
        {"shop.csv": delimited(columns=_NO_TITLES), "items.csv": b"17,2001\n18,2002\n"},
        "shop.csv",
        {"items_file": "items.csv"},
        refused=r"(?s)items\.csv: its first line looks like data.*--items_columns",
    ),
    Case(
        "too few names",
        {"shop.csv": delimited(columns=_PLAIN, header=[])},
        "shop.csv",
        {"columns": "user,item,timestamp"},
        refused=r"(?s)--columns: 3 names, but .*shop\.csv has 5 columns.*--columns user,item,rating,timestamp,title",
    ),
    Case(
        "a header all the same",
        {"shop.csv": _CSV},
        "shop.csv",
        {"columns": "user,item,timestamp,title"},
        refused=r"(?s)--columns: .*shop\.csv has a header line.*leave --columns out",
    ),
    Case(
        "names for JSON",
        {"shop.jsonl": b"{}"},
        "shop.jsonl",
        {"columns": "user,item,timestamp,title"},
        refused=r"(?s)--columns: .*is JSON, which names its columns.*--user_column",
    ),
    Case(
        "names for Parquet",
        {"shop.parquet": parquet(ROWS)},
        "shop.parquet",
        {"columns": "user,item,timestamp,title"},
        refused=r"--columns: .*is Parquet, which names its columns",
    ),
    Case(
        "one name twice",
        {"shop.csv": _CSV},
        "shop.csv",
        {"columns": "user,item,item,title"},
        refused="--columns user,item,item,title: names that differ",
    ),
    Case(
        "a header in the middle, as of files put together",
        {"shop.csv": _CSV + _CSV},
        "shop.csv",
        refused=r"shop\.csv, line 38: the header once more",
    ),
]

# ---- 2. Separators ----

SEPARATORS: Final = [
    *(
        Case(f"separated by {separator!r}", {"shop.csv": delimited(separator=separator)}, "shop.csv")
        for separator in (",", "\t", ";", "|", "::", " ")
        if separator != " "
    ),
    Case(
        "MovieLens' own files",
        {
            "ml.dat": delimited(columns=("user", "item", "rating", "timestamp"), header=[], separator="::"),
            "movies.dat": "".join(f"i{n}::Café {n} (1995)::Drama|Comedy\n" for n in range(NUM)).encode("latin-1"),
        },
        "ml.dat",
        {
            "columns": "user,item,rating,timestamp",
            "items_file": "movies.dat",
            "items_columns": "item,title,genres",
            "items_encoding": "latin-1",
        },
        data_set="ml",
    ),
    Case(
        "blanks, without times, as SASRec has them",
        {"shop.txt": delimited(_BY_ROWS, ("user", "item"), header=[], separator=" "), "items.csv": _KEYS_AND_TITLES},
        "shop.txt",
        {"columns": "user,item", "no_timestamp": True, "items_file": "items.csv"},
        printed="none (--no_timestamp): the order of the rows counts",
    ),
    Case(
        "a separator that is named",
        {"shop.csv": delimited(separator="~")},
        "shop.csv",
        {"separator": "~"},
    ),
    Case(
        "a separator by its word",
        {"shop.csv": delimited(separator="\t", header=("user", "item", "timestamp", "title, or name"))},
        "shop.csv",
        {"separator": "tab", "title_column": "title, or name"},
    ),
    Case(
        "two separators in the header, of which records have one",
        {"shop.csv": delimited(separator="|", header=("user", "item", "timestamp", "title;title,title;;"))},
        "shop.csv",
        {"title_column": "title;title,title;;"},
    ),
    Case(
        "two separators that fit",
        {"shop.csv": b"a;b,c;d\n" + b"1;2,3;4\n" * 9},
        "shop.csv",
        refused=r"(?s)several characters could separate its fields.*--separator comma or --separator semicolon",
    ),
    Case(
        "decimal commas",
        {"shop.csv": delimited(with_values("rating", ["4,5"] * len(ROWS)), _PLAIN, separator=";", header=[])},
        "shop.csv",
        {"columns": "user,item,_,timestamp,title"},
    ),
]

# Headers, quotes and numbers as other programs leave them.
LEFT_BY_OTHERS: Final = [
    Case(
        "blanks before quotes",
        {
            "shop.csv": delimited(
                with_values("title", [f'"{row["title"]}, {row["item"]}"' for row in ROWS]), separator=", "
            )
        },
        "shop.csv",
    ),
    Case(
        "quotes with a backslash",
        {"shop.csv": delimited(with_values("title", [r'"a \"b\" c"'] * len(ROWS)))},
        "shop.csv",
        refused=r'line 2: a quote in a field is written \\" here; CSV doubles it',
    ),
    Case(
        "a line before the header",
        {"shop.csv": b"# export of shop 2.1\n" + _CSV},
        "shop.csv",
        refused=r"(?s)is neither a header nor a record.*line 2: 'user,item,timestamp,title'.*remove the line",
    ),
    Case(
        "words before the header",
        {"shop.csv": b"Our orders\n\n" + _CSV},
        "shop.csv",
        refused=r"(?s)its first line is neither a header nor a record.*remove the 2 lines",
    ),
    Case(
        "times that a spreadsheet rounded",
        {"shop.csv": delimited(with_values("timestamp", ["1.58E+09"] * len(ROWS)))},
        "shop.csv",
        refused="(?s)'timestamp': numbers that a spreadsheet has rounded.*'1.58E.09'",
    ),
    Case(
        "keys that a spreadsheet rounded",
        {"shop.csv": delimited(with_values("item", ["9.78014E+12"] * len(ROWS)))},
        "shop.csv",
        refused="line 2: a key that a spreadsheet has rounded, in item",
    ),
    Case(
        "a sum below",
        {"shop.csv": _CSV + b"Total,36,,\n"},
        "shop.csv",
        refused="line 38: no value for timestamp",
    ),
    Case(
        "keys that are not available",
        {"shop.csv": delimited(with_values("user", ["NA"] * len(ROWS)))},
        "shop.csv",
        refused="line 2: no value for user",
    ),
    Case(
        "a name that a shell would change",
        {"shop.csv": delimited(header=("my user", "item", "timestamp", "title"))},
        "shop.csv",
        refused="no column looks like the user: --user_column 'my user'",
    ),
    Case(
        "names that are far from what is looked for",
        {"shop.csv": delimited(header=("user", "price", "timestamp", "title"))},
        "shop.csv",
        refused="no column looks like the item: --item_column NAME",
    ),
    Case(
        "sequences of numbers",
        {"shop.txt": b"1 5 6 7 8\n2 5 6 8 9\n"},
        "shop.txt",
        refused="(?s)first line looks like data.*--columns user,item,rating,_,_ ",
    ),
]

# ---- 3. Containers ----

_MAC: Final = {"__MACOSX/._shop.csv": b"x", ".DS_Store": b"x"}
_HALVES: Final = (delimited(ROWS[:18]), delimited(ROWS[18:]))


def _spark(*halves: bytes) -> Files:
    parts = {f"shop.parquet/part-0000{n}-c000.snappy.parquet": half for n, half in enumerate(halves)}
    return {**parts, "shop.parquet/_SUCCESS": b"", "shop.parquet/.part-00000.crc": b"crc"}


CONTAINERS: Final = [
    Case(
        "zip",
        {"shop.zip": zipped({"folder/data.csv": _CSV, **_MAC})},
        "shop.zip",
        printed="shop.zip/folder/data.csv, separated by comma",
    ),
    Case(
        "a folder of Delta Lake",
        {"shop/part-0.parquet": parquet(ROWS), "shop/_delta_log/0.json": b"{}"},
        "./shop",
        refused="(?s)a table of Delta Lake, whose folder has rows that were deleted.*export",
    ),
    Case(
        "a folder of Iceberg",
        {"shop/data/a.parquet": parquet(ROWS), "shop/metadata/v1.metadata.json": b"{}"},
        "./shop",
        refused="a table of Iceberg",
    ),
    Case(
        "a prepared set",
        {"experiments/data/shop/manifest.json": b"{}", "experiments/data/shop/histories.parquet": parquet(ROWS)},
        "experiments/data/shop",
        refused="(?s)a data set that is prepared already.*--dataset_code shop",
    ),
    Case("zip of gzip", {"shop.zip": zipped({"data.csv.gz": gzip.compress(_CSV)})}, "shop.zip"),
    Case("zip of Parquet", {"shop.zip": zipped({"data.parquet": parquet(ROWS)})}, "shop.zip"),
    Case("tar.gz", {"shop.tar.gz": tarred({"data.csv": _CSV, "README.txt": b"hello"})}, "shop.tar.gz"),
    Case("tgz", {"shop.tgz": tarred({"./data.csv": _CSV})}, "shop.tgz"),
    Case("tar", {"shop.tar": tarred({"data.csv": _CSV}, "w")}, "shop.tar"),
    Case("gz", {"shop.csv.gz": gzip.compress(_CSV)}, "shop.csv.gz"),
    Case("bz2", {"shop.csv.bz2": bz2.compress(_CSV)}, "shop.csv.bz2"),
    Case("xz", {"shop.csv.xz": lzma.compress(_CSV)}, "shop.csv.xz"),
    Case(
        "several tables in a zip",
        {"shop.zip": zipped({"a/ratings.csv": _CSV, "a/movies.csv": _KEYS_AND_TITLES})},
        "shop.zip",
        refused=r"(?s)several tables in it.*a/ratings\.csv, a/movies\.csv.*--dataset_code .*shop\.zip/a/ratings\.csv",
    ),
    Case(
        "one of several in a zip",
        {"all.zip": zipped({"a/shop.csv": delimited(columns=_NO_TITLES), "a/movies.csv": _KEYS_AND_TITLES})},
        "all.zip/a/shop.csv",
        {"items_file": "all.zip/a/movies.csv"},
    ),
    Case(
        "one of several in a tar.gz",
        {"all.tar.gz": tarred({"a/shop.csv": delimited(columns=_NO_TITLES), "a/movies.csv": _KEYS_AND_TITLES})},
        "all.tar.gz/a/shop.csv",
        {"items_file": "all.tar.gz/a/movies.csv"},
    ),
    Case(
        "none of that name in a zip",
        {"all.zip": zipped({"a/ratings.csv": _CSV})},
        "all.zip/a/rating.csv",
        refused=r"(?s)no a/rating\.csv in the archive.*all\.zip/a/ratings\.csv",
    ),
    Case("no table in a zip", {"shop.zip": zipped({"a.png": b"x"})}, "shop.zip", refused=r"(?s)no table in it.*a\.png"),
    Case(
        "a cut gzip",
        {"shop.csv.gz": gzip.compress(_CSV)[:-20]},
        "shop.csv.gz",
        refused=r"shop\.csv\.gz: cannot be read",
    ),
    Case("a cut zip", {"shop.zip": zipped({"a.csv": _CSV})[:-20]}, "shop.zip", refused=r"shop\.zip"),
    Case("a folder of Spark's", _spark(parquet(ROWS[:18]), parquet(ROWS[18:])), "shop.parquet"),
    Case("a folder, named with a slash", _spark(parquet(ROWS)), "shop.parquet/"),
    Case(
        "a folder of CSV parts",
        {"shop/part-2.csv": _HALVES[0], "shop/part-10.csv": _HALVES[1]},
        "./shop",
    ),
    Case(
        "Hive's folders",
        {
            f"shop/item=i{n}/part-0.parquet": parquet(
                [
                    {name: value for name, value in row.items() if name != "item"}
                    for row in ROWS
                    if row["item"] == f"i{n}"
                ]
            )
            for n in range(NUM)
        },
        "./shop",
    ),
    Case(
        "parts with other columns",
        {"shop/a.parquet": parquet(ROWS), "shop/b.parquet": parquet([{"user": "u1", "ware": "i1"}])},
        "./shop",
        refused=r"(?s)its parts have different columns.*a\.parquet.*b\.parquet differs in item, rating.*ware",
    ),
    Case(
        "parts with other types",
        {
            "shop/a.parquet": parquet(with_values("user", ["1"] * 36), user=pl.Int64),
            "shop/b.parquet": parquet(with_values("user", ["1"] * 36), user=pl.Float64),
        },
        "./shop",
        refused=r"(?s)column 'user' has different types in its parts.*whole number.*b\.parquet: Float64",
    ),
    Case(
        "parts of several kinds",
        {"shop/a.parquet": parquet(ROWS), "shop/b.csv": _CSV},
        "./shop",
        refused=r"(?s)tables of several kinds.*a\.parquet, b\.csv",
    ),
    Case("an empty folder", {"shop/_SUCCESS": b""}, "./shop", refused="a folder without a table in it"),
    Case("an unknown ending", {"shop.foo": _CSV}, "./shop.foo", refused="its ending says no kind of table"),
    Case("a JSON list", {"shop.json": json.dumps(ROWS, indent=1).encode()}, "shop.json"),
    Case(
        "a JSON list without an item",
        {"shop.json": json.dumps([*ROWS, {"user": "u1"}]).encode()},
        "shop.json",
        refused=r"shop\.json, record 37: no value for item",
    ),
    Case(
        "a cut JSON list",
        {"shop.json": json.dumps(ROWS).encode()[:-9]},
        "shop.json",
        refused="not a JSON list of objects",
    ),
    *(
        Case(f"JSON: {name}", {"shop.json": content.encode()}, "shop.json", printed=f"shop.json, {said}")
        for name, content, said in (
            ("a list under a key", json.dumps({"data": ROWS}), "one list, under 'data'"),
            ("a list under a key, in lines", json.dumps({"data": ROWS}, indent=2), "one list, under 'data'"),
            ("objects over several lines", "\n".join(json.dumps(row, indent=2) for row in ROWS), _SEPARATE),
            ("objects in one line", "".join(map(json.dumps, ROWS)), _SEPARATE),
            (
                "objects with blank lines between them",
                "\r\n\r\n".join(json.dumps(row, indent="\t") for row in ROWS),
                _SEPARATE,
            ),
        )
    ),
    *(
        Case(f"JSON: {name}", {"shop.json": content.encode()}, "shop.json", refused=f"(?s){refused}")
        for name, content, refused in (
            ("by columns", json.dumps(_BY_COLUMN), "the default of to_json.*orient='records', lines=True"),
            ("by columns, in lines", json.dumps(_BY_COLUMN, indent=1), "the default of to_json"),
            ("by index", json.dumps(dict(enumerate(ROWS))), "orient='index'.*orient='records', lines=True"),
            ("split", json.dumps({"columns": [], "index": [], "data": _VALUES}), "orient='split'"),
            ("pandas' table", json.dumps({"schema": {}, "data": ROWS}), "orient='table'"),
            ("a list of lists", json.dumps(_VALUES), "one list of lists.*orient='records'"),
            ("lists one after the other", "\n".join(map(json.dumps, _VALUES)), "lists one after the other"),
            ("a list beside others", json.dumps({"n": 36, "rows": ROWS}), r"under 'rows', and 'n'.*\['rows'\].*jsonl"),
            ("objects in objects", json.dumps({"hits": {"hits": ROWS}}), "one object whose values are objects"),
            (
                "a list for each user",
                json.dumps({"u1": [1, 2], "u2": [1]}),
                "lists of different lengths.*for each user",
            ),
            ("commas between objects", ",\n".join(map(json.dumps, ROWS)), r"commas between them.*\[ and \]"),
            ("NaN in a list", json.dumps([{**row, "x": float("nan")} for row in ROWS]), "NaN or Infinity.*write null"),
            ("NaN in a line", json.dumps({**ROWS[0], "x": float("nan")}), "line 1.*NaN or Infinity.*write null"),
            ("a cut object", "\n".join(json.dumps(row, indent=1) for row in ROWS)[:-9], "after record 35.*incomplete"),
            ("a first line that is broken", '{"user": "u1"\n' + "\n".join(map(json.dumps, ROWS)), "line 1: not a JSON"),
        )
    ),
]

# ---- 5. Lists ----


def _json_lines(rows: Sequence[Row], form: Callable[[str], object] = str) -> bytes:
    lists = ("item", "timestamp", "title")
    return "".join(
        json.dumps({name: json.loads(value) if name in lists else value for name, value in row.items()}) + "\n"
        for row in rows
    ).encode()


def _csv_of_lists(write: Callable[[list[str]], str]) -> bytes:
    rows = [{name: '"' + value.replace('"', '""') + '"' for name, value in row.items()} for row in _lists(write)]
    return delimited(rows)


LISTS: Final = [
    Case("lists in JSON lines", {"shop.jsonl": _json_lines(_lists(json.dumps))}, "shop.jsonl"),
    Case(
        "lists in a JSON list",
        {"shop.json": b"[" + _json_lines(_lists(json.dumps)).strip().replace(b"\n", b",") + b"]"},
        "shop.json",
    ),
    Case(
        "lists in CSV, as JSON",
        {"shop.csv": _csv_of_lists(json.dumps)},
        "shop.csv",
        printed="shop.csv, separated by comma, rows with lists of items",
    ),
    Case(
        "lists in another form",
        {"shop.csv": b"user,items,timestamps\n" + b"u1,i1|i2|i3,5\n" * 9, "items.csv": _KEYS_AND_TITLES},
        "shop.csv",
        {"items_file": "items.csv"},
        refused=r"(?s)column 'items': its name says lists, and its values are none.*'i1\|i2\|i3'.*--item_column items",
    ),
    Case("lists in CSV, as tuples", {"shop.csv": _csv_of_lists(lambda some: repr(tuple(some)))}, "shop.csv"),
    Case("lists in CSV, as Python", {"shop.csv": _csv_of_lists(lambda some: repr(some))}, "shop.csv"),
    Case("lists in CSV, as numpy", {"shop.csv": _csv_of_lists(lambda some: repr(some).replace(",", ""))}, "shop.csv"),
    Case("lists in CSV, without quotes", {"shop.csv": _csv_of_lists(lambda some: f"[{', '.join(some)}]")}, "shop.csv"),
    Case(
        "a list that numpy cut",
        {"shop.csv": _csv_of_lists(lambda some: f"[{some[0]!r} ... {some[-1]!r}]")},
        "shop.csv",
        refused=r"line 2: a list that was cut \(\.\.\.\)",
    ),
    Case(
        "RecBole's sequences",
        {
            "shop.inter": delimited(
                _lists(" ".join, ("item", "timestamp")),
                _NO_TITLES,
                separator="\t",
                header=("user_id:token", "item_id_list:token_seq", "timestamp_list:float_seq"),
            ),
            "items.csv": _KEYS_AND_TITLES,
        },
        "shop.inter",
        {"items_file": "items.csv"},
    ),
    Case(
        "lists of other lengths",
        {"shop.jsonl": b'{"user": "u1", "item": ["a", "b"], "timestamp": [1], "title": ["A", "B"]}\n'},
        "shop.jsonl",
        refused="line 1: its lists differ in length: 2 in item and 1 in timestamp and 2 in title",
    ),
    Case(
        "one that is no list",
        {
            "shop.jsonl": _json_lines(_lists(json.dumps))
            + b'{"user": "u1", "item": "i1", "timestamp": [1], "title": ["A"]}\n'
        },
        "shop.jsonl",
        refused="line 7: not a list, unlike the others",
    ),
    Case(
        "a list of items with one title",
        {"shop.jsonl": b'{"user": "u1", "item": ["a", "b"], "timestamp": [1, 2], "title": "A"}\n'},
        "shop.jsonl",
        refused="(?s)a row has a list of items, and one title.*--items_file",
    ),
    Case(
        "baskets: items of one time",
        {
            "shop.jsonl": "".join(
                json.dumps({"user": user, "items": EXPECTED[user][day : day + 2], "timestamp": _START + day * _DAY})
                + "\n"
                for day in (4, 0, 2)
                for user in EXPECTED
            ).encode(),
            "items.csv": _KEYS_AND_TITLES,
        },
        "shop.jsonl",
        {"items_file": "items.csv"},
    ),
]

# ---- 6. Order ----

_ONE_DAY: Final = with_values("timestamp", ["2020-01-01"] * len(ROWS))
_NUMBERED: Final = [{**row, "rank": str(day * 10)} for row, day in zip(_ONE_DAY, DAYS, strict=True)]
_CLOCKS: Final = [{**row, "date": "2020-01-01", "time": f"{8 + day}:05"} for row, day in zip(ROWS, DAYS, strict=True)]

ORDER: Final = [
    Case(
        "a column that orders equal times",
        {"shop.csv": delimited(_NUMBERED, ("user", "item", "timestamp", "title", "rank"))},
        "shop.csv",
        {"order_column": "rank"},
        printed="order=rank",
    ),
    Case(
        "a column that orders alone",
        {"shop.csv": delimited(_NUMBERED, ("user", "item", "title", "rank"))},
        "shop.csv",
        {"order_column": "rank"},
        printed="read as order numbers, no times: 0 to 50",
    ),
    Case(
        "an order that is no number",
        {"shop.csv": delimited(_NUMBERED, ("user", "item", "timestamp", "title", "rank"))},
        "shop.csv",
        {"order_column": "title"},
        refused="'title' is already the order column|column 'title': no numbers",
    ),
    Case(
        "a date and a clock, recognised",
        {"shop.csv": delimited(_CLOCKS, ("user", "item", "date", "time", "title"))},
        "shop.csv",
        printed="timestamp=date, clock=time",
    ),
    Case(
        "a date and a clock, named",
        {
            "shop.csv": delimited(
                _CLOCKS, ("user", "item", "date", "time", "title"), header=("user", "item", "tag", "uhr", "title")
            )
        },
        "shop.csv",
        {"timestamp_column": "tag,uhr"},
        printed="ISO dates with times of day",
    ),
    Case(
        "a date and a clock in a form that is given",
        {
            "shop.csv": delimited(
                with_values("time", [f"{8 + day}h05" for day in DAYS], _CLOCKS),
                ("user", "item", "date", "time", "title"),
            )
        },
        "shop.csv",
        {"timestamp_column": "date,time", "timestamp_format": "%Y-%m-%d %Hh%M"},
    ),
    Case(
        "a clock alone",
        {"shop.csv": delimited(_CLOCKS, ("user", "item", "time", "title"))},
        "shop.csv",
        refused=r"(?s)times of day without their dates.*'11:05'.*--timestamp_column DATE,CLOCK",
    ),
    Case(
        "a date with a clock of its own, and another",
        {
            "shop.csv": delimited(
                with_values("date", ["2020-01-01 10:00"] * 36, _CLOCKS), ("user", "item", "date", "time", "title")
            )
        },
        "shop.csv",
        refused="(?s)several columns could be the timestamp.*--timestamp_column date,time",
    ),
    Case(
        "a row without its clock",
        {"shop.csv": delimited([*_CLOCKS, {**_CLOCKS[0], "time": "noon"}], ("user", "item", "date", "time", "title"))},
        "shop.csv",
        {"timestamp_column": "date,time"},
        refused="line 38: not a time of day",
    ),
    Case(
        "no times",
        {"shop.csv": delimited(_BY_ROWS, ("user", "item", "title"))},
        "shop.csv",
        {"no_timestamp": True},
        printed="none (--no_timestamp): the order of the rows counts",
    ),
    Case(
        "no times, and nothing said",
        {"shop.csv": delimited(_BY_ROWS, ("user", "item", "title"))},
        "shop.csv",
        refused="no column looks like the timestamp: .*--no_timestamp",
    ),
    Case(
        "no times, and a cut in time",
        {"shop.csv": _CSV},
        "shop.csv",
        {"no_timestamp": True, "split": "temporal"},
        refused="--no_timestamp: --split temporal needs times",
    ),
]

# ---- 7. A column and an encoding per table ----

_UMLAUTS: Final = [{**row, "title": f"Käse {row['title'][-1]}"} for row in ROWS]

TABLES: Final = [
    Case(
        "another item column in the second table",
        {
            "shop.csv": delimited(columns=_NO_TITLES),
            "items.csv": delimited(TITLES, ("item", "title"), header=("nr", "title")),
        },
        "shop.csv",
        {"items_file": "items.csv", "items_item_column": "nr"},
        printed="item=item, timestamp=timestamp, title=title, items_item=nr",
    ),
    Case(
        "no item column in the second table",
        {
            "shop.csv": delimited(columns=_NO_TITLES),
            "items.csv": delimited(TITLES, ("item", "title"), header=("nr", "title")),
        },
        "shop.csv",
        {"items_file": "items.csv"},
        refused=r"items\.csv: no column looks like the item: --items_item_column",
    ),
    Case("UTF-16 with its mark", {"shop.csv": delimited(_UMLAUTS, encoding="utf-16")}, "shop.csv"),
    Case("UTF-16, named", {"shop.csv": delimited(encoding="utf-16")}, "shop.csv", {"encoding": "utf-16"}),
    Case(
        "UTF-16 without its mark",
        {"shop.csv": delimited(encoding="utf-16-le")},
        "shop.csv",
        refused="this is no text, or text in UTF-16 without its mark",
    ),
    Case(
        "a mark of UTF-8, and another encoding named",
        {"shop.csv": delimited(_UMLAUTS, encoding="utf-8-sig")},
        "shop.csv",
        {"encoding": "cp1252"},
        refused="(?s)it begins with the mark of UTF-8.*--encoding utf-8",
    ),
    Case("cp1252", {"shop.csv": delimited(_UMLAUTS, encoding="cp1252")}, "shop.csv", {"encoding": "cp1252"}),
    Case(
        "two encodings, named as cp1252",
        {"shop.csv": delimited(_UMLAUTS, encoding="cp1252") + "u1,i9,1577836800,Käse\n".encode()},
        "shop.csv",
        {"encoding": "cp1252"},
        refused=r"(?s)shop\.csv, line 38: its text is UTF-8, not cp1252.*'u1,i9,1577836800,Käse'",
    ),
    Case(
        "two encodings",
        {"shop.csv": delimited(_UMLAUTS) + "u1,i9,1577836800,Käse\n".encode("cp1252")},
        "shop.csv",
        refused=r"(?s)shop\.csv, line 38: its text is not UTF-8.*as cp1252 the line reads 'u1,i9,1577836800,Käse'",
    ),
    Case(
        "another encoding in the second table",
        {
            "shop.csv": delimited(_UMLAUTS, ("user", "item", "timestamp", "title"), encoding="cp1252"),
            "items.csv": delimited([{**row, "title": f"Tee {row['item']} é"} for row in TITLES], ("item", "title")),
        },
        "shop.csv",
        {"encoding": "cp1252", "items_file": "items.csv"},
        refused=r"(?s)items\.csv, line 2: its text is UTF-8.*--items_encoding utf-8",
    ),
    Case(
        "another encoding in the second table, named",
        {
            "shop.csv": delimited(_UMLAUTS, encoding="cp1252"),
            "items.csv": delimited([{**row, "title": f"Tee {row['item']} é"} for row in TITLES], ("item", "title")),
        },
        "shop.csv",
        {"encoding": "cp1252", "items_file": "items.csv", "items_encoding": "utf-8"},
    ),
]

# ---- 8. Words ----


def _with_times(form: str) -> Files:
    # In quotes, since a form may have a comma.
    return {"shop.csv": delimited(with_values("timestamp", [f'"{time}"' for time in dated(form)]))}


WORDS: Final = [
    *(
        Case(
            f"times such as {form}",
            _with_times(form),
            "shop.csv",
            refused=rf'(?s)its values are not in a known form of times.*--timestamp_format "{form}"',
        )
        for form in (
            "%b %d, %Y",
            "%m %d, %Y",
            "%a %b %d %H:%M:%S %z %Y",
            "%d-%b-%y",
            "%d.%m.%y",
            "%d/%b/%Y:%H:%M:%S %z",
        )
    ),
    Case(
        "times in words",
        {"shop.csv": delimited(with_values("timestamp", [f"day {day}" for day in DAYS]))},
        "shop.csv",
        refused=r"(?s)not in a known form of times.*'day 3', 'day 0'.*strptime",
    ),
    *(
        Case(
            f"keys that differ: {what}",
            {
                "shop.csv": delimited(columns=_NO_TITLES),
                "items.csv": delimited([{**row, "item": change(row["item"])} for row in TITLES], ("item", "title")),
            },
            "shop.csv",
            {"items_file": "items.csv"},
            refused=f"(?s)has an item with a title.*{said}",
        )
        for what, change, said in (
            ("quotes", lambda key: f"'{key}'", r"""'i\d' .*"'i\d'\""""),
            ("case", str.upper, r"'i\d' .*'I\d'"),
            ("nothing alike", lambda key: f"article-{key[1:]}-x", r"'i\d'.*'article-\d-x'"),
            ("an invisible character", lambda key: "i\u200b" + key[1:], r"'i\d' .*'i\\u200b\d'"),
        )
    ),
    Case(
        "one key that differs",
        {
            "shop.csv": delimited(columns=_NO_TITLES),
            "items.csv": delimited([*TITLES[:5], {"item": "I5", "title": "Thing 5"}], ("item", "title")),
        },
        "shop.csv",
        {"items_file": "items.csv", "min_user_interactions": 4},
        expected={user: [item for item in items if item != "i5"] for user, items in EXPECTED.items()},
        printed="1 items have no title, and a key near that of a title, such as 'i5' in the interactions, 'I5'",
    ),
    Case(
        "nothing left after the k-core",
        {"shop.csv": delimited(ROWS[:10])},
        "shop.csv",
        refused=r"(?s)the k-core of 10 interactions is empty.*round 1: 0 users",
    ),
    Case(
        "a table of a thousand columns",
        {"shop.csv": ",".join(f"a_column_with_a_long_name_{n}" for n in range(1_000)).encode() + b"\n"},
        "shop.csv",
        refused=r"a_column_with_a_long_name_29 and 970 more",
    ),
]

CASES: Final = [*HEADERLESS, *SEPARATORS, *LEFT_BY_OTHERS, *CONTAINERS, *LISTS, *ORDER, *TABLES, *WORDS]
