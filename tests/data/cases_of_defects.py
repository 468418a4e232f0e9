"""Small tables of which a part is missing, twice there, or another thing: read right, or refused with these words."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from tests.data.cases import DAYS, EXPECTED, ROWS, Case, dated, delimited, parquet, with_values, zipped

_COLUMNS: Final = ("user", "item", "timestamp", "title")
_LISTED: Final = pl.DataFrame(ROWS).group_by("user", maintain_order=True).agg("item", "timestamp", "title")
_OTHERS: Final = {user: items for user, items in EXPECTED.items() if user != "u3"}


def _without(*names: str) -> list[dict[str, object]]:
    """A row for each user, one of whom has no list in some columns."""
    missing = (pl.when(pl.col("user") != "u3").then(name).alias(name) for name in names)
    return _LISTED.with_columns(missing).rows(named=True)


def _json_lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# ---- Lists ----

LISTS: Final = [
    *(
        Case(
            f"no list in {' and '.join(names)}, in Parquet",
            {"shop.parquet": parquet(_without(*names))},
            "shop.parquet",
            refused=rf"(?s)row 4: no list in {' and '.join(names)}\n.*correct the table",
        )
        for names in (("item",), ("timestamp",), ("title",), ("item", "timestamp", "title"))
    ),
    Case(
        "no list in item, skipped",
        {"shop.parquet": parquet(_without("item"))},
        "shop.parquet",
        {"on_bad_line": "skip"},
        expected=_OTHERS,
        printed="1 malformed lines (3.2%) were skipped. The first: shop.parquet, row 4: no list in item",
    ),
    *(
        Case(
            f"no list in {name}, in JSON",
            {"shop.jsonl": _json_lines(_without(name))},
            "shop.jsonl",
            refused=f"line 4: no (list in|value for) {name}",
        )
        for name in ("item", "timestamp", "title")
    ),
    Case(
        "a list of items, and the one that follows it",
        {
            "shop.inter": b"user_id:token\titem_id_list:token_seq\titem_id:token\n"
            + "".join(f"{user}\t{' '.join(items[:-1])}\t{items[-1]}\n" for user, items in EXPECTED.items()).encode()
        },
        "shop.inter",
        {"no_timestamp": True, "untitled_items": "key"},
        refused="several columns could be the item: --item_column item_id or --item_column item_id_list",
    ),
]

# ---- JSON ----

_HALF: Final = json.dumps({**ROWS[0], "title": "Thing \ud83d"})

JSON: Final = [
    *(
        Case(
            f"{name} twice in one object",
            {"shop.jsonl": _json_lines([*ROWS, ROWS[0]])[:-2] + f', "{name}": {json.dumps(value)}}}'.encode()},
            "shop.jsonl",
            refused=rf"(?s)line 37: {name}: 2 values in one object.*fix the line",
        )
        for name, value in (("user", "u9"), ("item", "i3"), ("timestamp", 1), ("title", ""))
    ),
    Case(
        "another name twice, and one in an inner object",
        {
            "shop.jsonl": b"".join(
                _json_lines([row])[:-2] + b', "rating": 1, "seller": {"user": "u9", "title": "T", "title": "S"}}\n'
                for row in ROWS
            )
        },
        "shop.jsonl",
    ),
    Case(
        "users that are lists",
        {"shop.jsonl": _json_lines([{**row, "user": [row["user"]]} for row in ROWS])},
        "shop.jsonl",
        refused=r"(?s)column 'user': its keys are lists.*--user_column NAME",
    ),
    Case(
        "half of a character",
        {"shop.jsonl": _json_lines([*ROWS]) + _HALF.encode()},
        "shop.jsonl",
        refused=r"line 37: not a JSON object \(half of a character, such as \\ud83d alone\)",
    ),
    Case(
        "literals of Python",
        {"shop.jsonl": "".join(f"{row!r}\n" for row in ROWS).encode()},
        "shop.jsonl",
        refused=r"(?s)no JSON, but literals of Python.*python -c .*ast\.literal_eval.* > shop\.new\.jsonl",
    ),
    Case("null alone", {"shop.json": b"null"}, "shop.json", refused="line 1: expected a JSON object, found 'null'"),
]

# ---- Content that is not what the ending says ----

_PAGE: Final = b"\r\n<!DOCTYPE html><html><head><title>404</title></head></html>"

CONTENT: Final = [
    Case(
        f"{name} that holds {found}",
        {name: content},
        name,
        refused=rf"(?s)content is not what its ending says.*found: +{found}.*{hint}",
    )
    for name, content, found, hint in (
        ("shop.csv", parquet(ROWS), "Parquet", r"rename it to shop\.parquet"),
        ("shop.csv", _json_lines([*ROWS]), "JSON", r"rename it to shop\.jsonl"),
        ("shop.txt", json.dumps(ROWS).encode(), "JSON", r"rename it to shop\.json$"),
        ("shop.csv.gz", gzip.compress(_json_lines([*ROWS])), "JSON", r"rename it to shop\.jsonl"),
        ("shop.csv", _PAGE, "a web page", "download the table itself"),
        ("shop.json", _PAGE, "a web page", "download the table itself"),
        (
            "shop.csv",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n",
            "the pointer",
            "lfs pull",
        ),
        ("shop.csv", b"%PDF-1.7\n%\xe2\xe3", "a PDF", "export the table as CSV"),
        ("shop.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a workbook of an old Excel", r"save it as \.xlsx or CSV"),
        ("shop.parquet", delimited(ROWS), "delimited text", r"rename it to shop\.csv"),
        ("shop.parquet", b"SQLite format 3\0", "a database of SQLite", "sqlite3 -header"),
        ("shop.xlsx", delimited(ROWS), "delimited text", r"rename it to shop\.csv"),
        ("shop.xlsx", parquet(ROWS), "Parquet", r"rename it to shop\.parquet"),
    )
]

NO_JSON: Final = [
    Case(
        "shop.json that holds CSV",
        {"shop.json": delimited(ROWS)},
        "shop.json",
        refused=r"(?s)no JSON\n.*'user,item,timestamp,title'.*rename it to shop\.csv",
    )
]

# ---- Names ----

_WHO, _WHAT, _WHEN = "khách", "hàng", "ngày"
_APART: Final = delimited(ROWS, _COLUMNS, header=(_WHO, _WHAT, _WHEN, "title"))
_APART_CSV: Final = unicodedata.normalize("NFD", _APART.decode()).encode()
_NAMED: Final = {"user_column": _WHO, "item_column": _WHAT}

NAMES: Final = [
    Case("names with their accents apart", {"shop.csv": _APART_CSV}, "shop.csv", {**_NAMED, "timestamp_column": _WHEN}),
    Case(
        "a name with its accents apart that orders all",
        {"shop.csv": _APART_CSV},
        "shop.csv",
        {**_NAMED, "order_column": _WHEN},
    ),
    *(
        Case(
            f"a table called {name}",
            {name: delimited(ROWS)},
            name,
            refused=rf"(?s){public} is the name of a public data set.*my_.*--dataset_code {public}$",
        )
        for name, public in (("Beauty.csv", "beauty"), ("ML-1M.csv", "ml-1m"), ("STEAM.csv.gz", "steam"))
    ),
    *(
        Case(f"the address {address}", {}, address, refused="(?s)no such file.*download it, and give the path")
        for address in ("https://example.org/shop.csv", "s3://bucket/shop.parquet", "file:///shop.csv")
    ),
    Case("a pattern of names", {}, "shop*.csv", refused="for parts of one table, give the path of their folder"),
    Case(
        "parts in an archive",
        {"shop.zip": zipped({"shop/part-0.csv": delimited(ROWS[:18]), "shop/part-1.csv": delimited(ROWS[18:])})},
        "shop.zip",
        refused=r"(?s)several tables in it.*if they are parts of one table, unpack the archive",
    ),
    Case(
        "data in the place of a header, one of whose fields is empty",
        {"shop.csv": delimited([{**row, "none": ""} for row in ROWS], (*_COLUMNS, "none"), header=())},
        "shop.csv",
        refused="its first line looks like data",
    ),
    Case(
        "no title in the second table",
        {"shop.csv": delimited(ROWS, _COLUMNS[:3]), "items.csv": b"item,prod_name\ni1,Thing 1\n"},
        "shop.csv",
        {"items_file": "items.csv"},
        refused=r"items\.csv: no column looks like the title: --title_column NAME, or keys as titles",
    ),
]

# ---- Times ----

_DATES: Final = dated("%Y-%m-%d")
_FIRST, _LAST = DAYS.index(0), DAYS.index(5)

TIMES: Final = [
    *(
        Case(
            f"one time in {time[:4]}",
            {
                "shop.csv": delimited(
                    with_values("timestamp", [time if n == row else one for n, one in enumerate(_DATES)])
                )
            },
            "shop.csv",
            printed=f"the {which} time, {time}, lies {years} years from all others",
        )
        for time, row, which, years in (
            ("1900-01-01", _FIRST, "first", "120"),
            ("9999-12-31", _LAST, "last", "7,985"),
            ("2031-05-05", _LAST, "last", "11"),
        )
    ),
    Case(
        "weeks of ISO",
        {"shop.csv": delimited(with_values("timestamp", dated("%G-W%V-%u")))},
        "shop.csv",
        refused=r'next: +--timestamp_format "%G-W%V-%u"$',
    ),
]

# ---- Many malformed lines ----

MANY: Final = [
    *(
        Case(
            f"row names of R from {start}",
            {
                "shop.csv": b"user,item,timestamp,title\n"
                + delimited(
                    [{**row, "n": str(n)} for n, row in enumerate(ROWS, start=start)], ("n", *_COLUMNS), header=()
                )
            },
            "shop.csv",
            refused=r"(?s)header names 4 columns, and its records have 5.*row\.names = FALSE",
        )
        for start in (0, 1)
    ),
    Case(
        "a separator at the end of each record",
        {"shop.csv": delimited(ROWS).replace(b"\n", b",\n").replace(b"title,\n", b"title\n", 1)},
        "shop.csv",
        refused=r"(?s)header names 4 columns, and its records have 5.*remove the separator at the end of each record",
    ),
    Case(
        "quotes without meaning in a TSV",
        {"shop.tsv": delimited([{**row, "title": f'"{row["title"]}" (1999)'} for row in ROWS], separator="\t")},
        "shop.tsv",
        refused='line 2: a field begins with a quote that closes before its end; CSV writes "" for a quote',
    ),
    Case(
        "commas in titles without quotes",
        {"shop.csv": delimited([{**row, "title": f"{row['title']}, red"} for row in ROWS])},
        "shop.csv",
        refused=r"(?s)line 2: expected 4 fields.*36 malformed lines among 36.*would leave out 36 of these 36 lines",
    ),
    Case(
        "one line with a comma in its title",
        {"shop.csv": delimited(ROWS) + b"u1,i1,1600000000,a, b\n"},
        "shop.csv",
        refused=r"(?s)line 38: expected 4 fields.*next: +fix the line, or skip malformed lines: --on_bad_line skip$",
    ),
]

CASES: Final = [*LISTS, *JSON, *CONTENT, *NO_JSON, *NAMES, *TIMES, *MANY]
