"""Small tables whose times and keys are odd: read right, or refused with these words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import polars as pl

from tests.data.cases import DAYS, EXPECTED, ROWS, TITLES, Case, Row, dated, delimited, parquet, with_values

_KEYS: Final = {"untitled_items": "key"}
_RANKED: Final = with_values("rank", [str(1_501_234_567_890_123_456 + day) for day in DAYS])
_REST: Final = ("item", "timestamp", "title")
_SESSIONS: Final = with_values("session", [f"s{number}" for number in range(len(ROWS))])
# The last two of each user in one month, in the order of their days when turned around by a stable sort.
_MONTHS: Final = [
    {**row, "timestamp": f"2020-0{1 + min(day, 4)}-01"}
    for day, row in sorted(zip(DAYS, ROWS, strict=True), key=lambda both: both[0])
]
_HOURS: Final = [{**row, "date": "2020-01-01", "hour": str(7 + day)} for day, row in zip(DAYS, ROWS, strict=True)]
_DAYS_AND_HOURS: Final[list[Row]] = [{**row, "date": f"2020-01-0{int(row['hour']) // 3}"} for row in _HOURS]
_MINUTES: Final = [{**row, "hour": str(700 + 100 * int(row["hour"]) + 5)} for row in _HOURS]
_BY_DAY: Final = sorted(ROWS, key=lambda row: row["timestamp"])
_KEYED_ROWS: Final = ("user", "item", "timestamp", "title")
_SAME: Final[list[tuple[str, dict[str, str]]]] = [
    *((value, {}) for value in ("0", "9999-12-31", "2024-03-31 12:00:00.5", "1577836800")),
    ("31.12.19", {"timestamp_format": "%d.%m.%y"}),
]
"""Times that tell no order, and what is typed."""
_LINES: Final = ["17 23 31 45 52 61 74 88", *["17 45 23 52 31 74 61 88"] * 5]


def _hour(row: Mapping[str, str]) -> int:
    return int(row["hour"])


def _timed(values: list[str]) -> dict[str, bytes]:
    return {"shop.csv": delimited(with_values("timestamp", values))}


def _keyed(change: Callable[[str], str], changed: Callable[[str, int], bool]) -> dict[str, bytes]:
    """The table with other keys of users, in rows that their key and day tell."""

    def key(user: str, day: int) -> str:
        return change(user) if changed(user, day) else user

    return {
        "shop.csv": delimited([{**row, "user": key(row["user"], day)} for row, day in zip(ROWS, DAYS, strict=True)])
    }


def _at(day: int, value: str, form: str = "%Y-%m-%d") -> list[str]:
    """Times of which those of one day stand for "unknown"."""
    return [value if day == own else time for own, time in zip(DAYS, dated(form), strict=True)]


def _year_last(form: str) -> list[str]:
    """Dates of one month as numbers, which have lost their first zero."""
    return [str(int(f"{datetime(2020, 1 + day % 2, 7 - day, tzinfo=UTC):{form}}")) for day in DAYS]


def _turned_day(user: str, item: str) -> tuple[int, int]:
    day = EXPECTED[user].index(item)
    return day % 2, -day


_TURNED: Final = {user: sorted(items, key=lambda item: _turned_day(user, item)) for user, items in EXPECTED.items()}


def _quoted_titles(close: int) -> list[str]:
    titles = [row["title"] for row in ROWS]
    return [f'"{titles[0]}', *titles[1:close], f'{titles[close]}"', *titles[close + 1 :]]


TIMES: Final = [
    Case(
        "-1 for unknown among order numbers",
        _timed([str(day - 1 if day == 0 else day) for day in DAYS]),
        "shop.csv",
        refused=r"not a time(.|\n)*'-1'",
    ),
    Case(
        "halves of a day beside a clock of 24 hours",
        _timed(dated("%Y-%m-%d %I:%M %p")),
        "shop.csv",
        {"timestamp_format": "%Y-%m-%d %H:%M %p"},
        refused=r"no effect beside %H(.|\n)*--timestamp_format '%Y-%m-%d %I:%M %p'",
    ),
    *(
        Case(
            f"times such as {form}",
            _timed([f'"{time}"' for time in dated(form)]),
            "shop.csv",
            refused=rf'not in a known form of times(.|\n)*--timestamp_format "{form}"',
        )
        for form in ("%m/%d/%Y, %I:%M:%S %p", "%d.%m.%Y, %H:%M:%S", "%Y-%m-%d %H", "%d-%b-%y %I.%M.%S.%f %p")
    ),
    *(
        Case(
            f"{name} as numbers",
            _timed(_year_last(form)),
            "shop.csv",
            refused=f'the year at their end(.|\n)*--timestamp_format "{form}"(.|\n)*--order_column timestamp',
        )
        for name, form in (("day, month, year", "%d%m%Y"), ("month, day, year", "%m%d%Y"))
    ),
    *(
        Case(
            f"{name} as numbers, with their format",
            _timed(_year_last(form)),
            "shop.csv",
            {"timestamp_format": form},
            expected=_TURNED,
        )
        for name, form in (("day, month, year", "%d%m%Y"), ("month, day, year", "%m%d%Y"))
    ),
    Case(
        "numbers that only look like dates",
        _timed([str(12_011_990 + 1_000_000 * day) for day in DAYS]),
        "shop.csv",
        {"order_column": "timestamp"},
        printed="read as order numbers",
    ),
    Case(
        "keys that grow with time",
        {"shop.csv": delimited(_RANKED, ("user", "item", "rank"))},
        "shop.csv",
        {"order_column": "rank", **_KEYS},
        printed="read as order numbers",
    ),
    Case(
        "numbers far beyond all times",
        _timed([str(10**19 + day) for day in DAYS]),
        "shop.csv",
        refused=r"not in a known form of times(.|\n)*10000000000000000003",
    ),
    *(
        Case(f"{value} for unknown", _timed(_at(day, value)), "shop.csv", refused=rf"not a time(.|\n)*{value}")
        for day, value in ((0, "2099-12-31"), (5, "1970-01-01"), (5, "1980-01-01"))
    ),
    *(
        Case(
            f"{value} once",
            _timed([value, *dated("%Y-%m-%d %H:%M:%S")[1:]]),
            "shop.csv",
            refused=rf"not a time(.|\n)*{value}",
        )
        for value in ("1970-01-01 01:00:00", "1969-12-31 19:00:00")
    ),
    Case(
        "the largest number of 32 bits",
        _timed(_at(0, "2147483647", "%s")),
        "shop.csv",
        refused=r"not a time(.|\n)*2147483647",
    ),
    Case("blanks around numbers", _timed([f'" {row["timestamp"]} "' for row in ROWS]), "shop.csv"),
    Case(
        "either order of day and month, with halves of a day",
        _timed(dated("%d/%m/%Y %I:%M %p")),
        "shop.csv",
        refused=r'"%d/%m/%Y %I:%M %p" \(day first\) or --timestamp_format "%m/%d/%Y %I:%M %p"',
    ),
]

TYPES: Final = [
    *(
        Case(
            f"{name} of 32 bits",
            {"shop.parquet": parquet(with_values(column, values), **{column: pl.Float32})},
            "shop.parquet",
            refused=r"floating numbers of 32 bits beyond 2\*\*24, which have lost their last digits",
        )
        for name, column, values in (
            ("times", "timestamp", [row["timestamp"] for row in ROWS]),
            ("keys", "user", [str(16_777_217 + int(row["user"][1:])) for row in ROWS]),
        )
    ),
]


def _numbered(first: int, other: str) -> bytes:
    """JSON lines whose users are numbers, also as text; u0 has another spelling at its first time."""
    lines = []
    for number, row in enumerate(ROWS):
        key = first + int(row["user"][1:])
        spelled = other if (row["user"], DAYS[number]) == ("u0", 0) else json.dumps(str(key) if number % 5 else key)
        lines.append(f'{{"user": {spelled}, {json.dumps({name: row[name] for name in _REST})[1:]}\n')
    return "".join(lines).encode()


KEYS: Final = [
    *(
        Case(f"keys with {name}", _keyed(change, lambda _, day: day % 2 == 0), "shop.csv")
        for name, change in (
            ("a blank after some", lambda key: key + " "),
            ("a no-break space before some", lambda key: "\xa0" + key),
            ("an invisible mark before some", lambda key: "\ufeff" + key),
        )
    ),
    *(
        Case(
            f"keys of one user that differ in {name}",
            _keyed(change, lambda key, day: (key, day) == ("u0", 0)),
            "shop.csv",
            expected={**EXPECTED, "u0": EXPECTED["u0"][1:]},
            printed=f"WARNING: 2 users have a key near that of another, such as {said}",
        )
        for name, change, said in (
            ("case", str.upper, "'U0' and 'u0'"),
            ("quotes", lambda key: f"'{key}'", """"'u0'" and 'u0'"""),
            ("a mark within", lambda key: "u\u200b0", r"'u0' and 'u\u200b0'"),
        )
    ),
    *(
        Case(
            f"keys of one user in JSON, a number, a text and {other}",
            {"shop.jsonl": _numbered(first, other)},
            "shop.jsonl",
            expected={
                str(first + number): EXPECTED[f"u{number}"][(1 if not number else 0) :]
                for number in range(len(EXPECTED))
            },
            printed=f"WARNING: 2 users have a key near that of another, such as '{first}' and '{other}'",
        )
        for first, other in ((1, "1.0"), (10**15, "1e15"), (10**16, "1e+16"))
    ),
    Case(
        "blanks around the keys of titles",
        {
            "shop.csv": delimited(columns=("user", "item", "timestamp")),
            "items.csv": delimited([{**row, "item": f" {row['item']} "} for row in TITLES], ("item", "title")),
        },
        "shop.csv",
        {"items_file": "items.csv"},
    ),
    *(
        Case(
            f"{value} as a key",
            {"shop.csv": delimited(with_values("user", [value, *(row["user"] for row in ROWS[1:])]))},
            "shop.csv",
            refused=rf"line 2: no value for user\n +found: +'{re.escape(value)}'",
        )
        for value in ("undefined", "(not set)", "NULL", "#REF!", "[object Object]")
    ),
]

COLUMNS: Final = [
    *(
        Case(
            f"a session beside {person}",
            {"shop.csv": delimited(_SESSIONS, ("session", "user", *_REST), header=("session_id", person, *_REST))},
            "shop.csv",
            refused=f"several columns could be the user: --user_column session_id or --user_column {person}",
        )
        for person in ("client_id", "user_pseudo_id", "email")
    ),
    Case(
        "a session beside a known person",
        {"shop.csv": delimited(_SESSIONS, ("session", "user", *_REST), header=("session_id", "visitor_id", *_REST))},
        "shop.csv",
    ),
    Case(
        "a session beside its browser",
        {"shop.csv": delimited(_SESSIONS, ("user", "session", *_REST), header=("session_id", "user_agent", *_REST))},
        "shop.csv",
    ),
    Case(
        "names with blanks and capitals",
        {"shop.csv": delimited(header=("User ID", "Item-ID", "Time Stamp", "Product Name"))},
        "shop.csv",
        printed="user=User ID, item=Item-ID, timestamp=Time Stamp, title=Product Name",
    ),
    Case(
        "some items with several titles",
        {
            "shop.csv": delimited(columns=("user", "item", "timestamp")),
            "items.csv": delimited([*TITLES, {"item": "i0", "title": "Thing 0 anew"}], ("item", "title")),
        },
        "shop.csv",
        {"items_file": "items.csv"},
        printed="1 items have several titles, of which the first counts: 'i0' has 'Thing 0' and 'Thing 0 anew'",
    ),
    *(
        Case(
            f"fields separated by {name}",
            {"shop.csv": delimited(separator=mark)},
            "shop.csv",
            refused=f"its fields are separated by (.|\n)*--separator {re.escape(value)}",
        )
        for name, mark, value in (("a tilde", "~", "'~'"), ("Hive's control character", "\x01", r"$'\x01'"))
    ),
    *(
        Case(
            f"a line for each user, {name}",
            {"shop.txt": "".join(f"{user} {items[: 24 - cut * user]}\n" for user, items in enumerate(_LINES)).encode()},
            "shop.txt",
            _KEYS,
            refused=r'each line looks like a user with all of its items(.|\n)*"items": \["7", "3"\]',
        )
        for name, cut in (("of one length", 0), ("of several lengths", 2))
    ),
    Case(
        "a line for each user, as the refusal says",
        {
            "shop.jsonl": "".join(
                f"{json.dumps({'user': user, 'items': items})}\n" for user, items in EXPECTED.items()
            ).encode()
        },
        "shop.jsonl",
        {"no_timestamp": True, **_KEYS},
    ),
]

WORDS: Final = [
    Case(
        "titles that are lists",
        {
            "shop.csv": delimited(columns=("user", "item", "timestamp")),
            "items.jsonl": "".join(f"{json.dumps({**row, 'title': [row['title']]})}\n" for row in TITLES).encode(),
        },
        "shop.csv",
        {"items_file": "items.jsonl"},
        refused=r"""items\.jsonl, column 'title': its titles are lists(.|\n)*\["Thing 0"\]""",
    ),
]

QUOTES: Final = [
    *(
        Case(
            f"a quote that another record's closes, {name}",
            {"shop.csv": delimited(with_values("title", _quoted_titles(close)))},
            "shop.csv",
            refused="line 2: a quote is opened here, and whole records follow before one closes it",
        )
        for name, close in (("in the next one", 1), ("further down", 4))
    ),
    Case(
        "a title with a line that has as many separators",
        {"shop.csv": delimited(with_values("title", [f'"One, two\n a, b, 3, {row["title"]}"' for row in ROWS]))},
        "shop.csv",
    ),
]

ORDER: Final = [
    Case(
        "newest first, with equal times",
        {"shop.csv": delimited(sorted(_MONTHS, key=lambda row: row["timestamp"], reverse=True))},
        "shop.csv",
        printed="WARNING: the rows run from the newest to the oldest, and equal times keep that order",
    ),
    *(
        Case(
            f"hours beside dates, {name}",
            {"shop.csv": delimited(rows, ("user", "item", "date", "hour", "title"))},
            "shop.csv",
            {"timestamp_column": "date,hour"},
        )
        for name, rows in (("alone", _HOURS), ("with minutes", _MINUTES))
    ),
    Case(
        "hours beside dates that are not asked for",
        {
            "shop.csv": delimited(
                sorted(_DAYS_AND_HOURS, key=_hour),
                ("user", "item", "date", "hour", "title"),
            )
        },
        "shop.csv",
        printed="WARNING: times are days alone, and the table has a column 'hour': --timestamp_column date,hour",
    ),
    Case(
        "hours beside one date that are not asked for",
        {"shop.csv": delimited(_HOURS, ("user", "item", "date", "hour", "title"))},
        "shop.csv",
        refused="all rows have the same time(.|\n)*the time of day: --timestamp_column date,hour",
    ),
    *(
        Case(
            f"{value} in all rows",
            _timed([value] * len(ROWS)),
            "shop.csv",
            options,
            refused=rf"all rows have the same time(.|\n)*36 times '{value}'(.|\n)*_column NAME(.|\n)*--no_timestamp",
        )
        for value, options in _SAME
    ),
    *(
        Case(
            f"times with and without a zone, {name}",
            {"shop.csv": delimited(with_values("timestamp", _at(day, time, form + zone)))},
            "shop.csv",
            printed="WARNING: 6 of 36 times name no time zone, unlike the others, and count as UTC: if",
        )
        for name, day, time, form, zone in (
            ("of ISO", 1, "2020-01-02T06:30", "%Y-%m-%dT06:30", "+02:00"),
            ("day first", 2, "03.01.2020 06:30", "%d.%m.%Y 06:30", " UTC"),
            ("dates alone", 3, "2020-01-04", "%Y-%m-%dT00:00:00", "Z"),
        )
    ),
    Case(
        "one time in all rows, whose order counts",
        {"shop.csv": delimited(with_values("timestamp", ["2020-01-01"] * len(ROWS), _BY_DAY))},
        "shop.csv",
        {"no_timestamp": True},
    ),
    Case(
        "one time in all rows, and a column that orders",
        {"shop.csv": delimited([{**row, "timestamp": "2020-01-01"} for row in _HOURS], (*_KEYED_ROWS, "hour"))},
        "shop.csv",
        {"order_column": "hour"},
    ),
    *(
        Case(
            f"one time for each {key}",
            {"shop.csv": delimited([{**row, "timestamp": f"2020-01-0{1 + int(row[key][1:])}"} for row in _BY_DAY])},
            "shop.csv",
            expected=expected,
            printed=f"'timestamp' are the same in all rows of the same {key}, as the date of {of} is",
        )
        for key, of, expected in (
            ("user", "a signup", EXPECTED),
            ("item", "a release", {user: sorted(items) for user, items in EXPECTED.items()}),
        )
    ),
]

CASES: Final = [*ORDER, *WORDS, *QUOTES, *TIMES, *TYPES, *KEYS, *COLUMNS]
