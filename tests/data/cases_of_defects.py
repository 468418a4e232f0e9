"""Small tables of which a part is missing, twice there, or another thing: read right, or refused with these words."""

from __future__ import annotations

import json
from typing import Final

import polars as pl

from tests.data.cases import EXPECTED, ROWS, Case, delimited, parquet

_COLUMNS: Final = ("user", "item", "timestamp", "title")
_LISTED: Final = pl.DataFrame(ROWS).group_by("user", maintain_order=True).agg("item", "timestamp", "title")
_OTHERS: Final = {user: items for user, items in EXPECTED.items() if user != "u3"}


def _without(*names: str) -> list[dict[str, object]]:
    """A row for each user, one of whom has no list in some columns."""
    missing = (pl.when(pl.col("user") != "u3").then(name).alias(name) for name in names)
    return _LISTED.with_columns(missing).rows(named=True)


def _json_lines(rows: list[dict[str, object]]) -> bytes:
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
]

# ---- Many malformed lines ----

MANY: Final = [
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

CASES: Final = [*LISTS, *MANY]
