"""A table in any dialect gives the same prepared set, byte for byte, or a refusal; never another set."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

import polars as pl
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from rich.console import Console

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.errors import LlamarecError
from tests.data.cases import tarred, zipped

_MILLISECOND: Final = timedelta(milliseconds=1)
_START: Final = datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC)
_NUM_USERS, _NUM_ITEMS = 7, 9
_TITLES: Final = ('Tea "green"', "Salt, pepper", "Two\nlines", "Käse", "C|D", "a;b", "tab\there", "::", "[9]")


class _Taken(NamedTuple):
    """An interaction: its time is unique within the user's, but for ties, which keep the rows' order."""

    user: int
    item: int
    time: datetime


def _interactions() -> list[_Taken]:
    """In an order of which neither users nor times are sorted; with ties, and times 120 ms apart."""
    found = []
    for step in range(8):
        for user in range(_NUM_USERS):
            position = (step * 3 + user) % 8
            # The items at positions 4 and 5 share their time.
            day = timedelta(days=(4 if position == 5 else position) * (user + 1), milliseconds=120 * (position // 6))
            found.append(_Taken(user, (user * 2 + position * (1 + user % 4)) % _NUM_ITEMS, _START + day))
    return found


_ROWS: Final = _interactions()
_KEYS: Final[dict[str, tuple[Callable[[int], str], Callable[[int], str]]]] = {
    "words": (lambda user: f"user {user}", lambda item: f"item-{item}"),
    "numbers": (lambda user: str(1_000 + user), lambda item: str(10**9 + item)),
    "zeros": (lambda user: f"00{user}", lambda item: f"0{item}.0"),
    "dates": (lambda user: f"2020-01-0{user + 1}", lambda item: f"{item}e5"),
}
_TIMES: Final[dict[str, Callable[[datetime], object]]] = {
    "milliseconds": lambda time: (time - datetime(1970, 1, 1, tzinfo=UTC)) // _MILLISECOND,
    "seconds": lambda time: f"{time.timestamp():.3f}",
    "nanoseconds": lambda time: (time - datetime(1970, 1, 1, tzinfo=UTC)) // _MILLISECOND * 10**6,
    "ISO": lambda time: time.isoformat(),
    "ISO with a blank": lambda time: time.isoformat(sep=" ", timespec="milliseconds"),
    "ISO elsewhere": lambda time: time.astimezone(timezone(timedelta(hours=7, minutes=30))).isoformat(),
    "day first": lambda time: f"{time:%d.%m.%Y %H:%M:%S.%f}",
    "day or month first": lambda time: f"{time:%d/%m/%Y %H:%M:%S.%f}",
    "in words": lambda time: f"{time:%b %d, %Y %H:%M:%S.%f}",
}


@st.composite
def _options(draw: st.DrawFn) -> dict[str, str]:
    choices = {
        "keys": list(_KEYS),
        "times": list(_TIMES),
        "kind": ["csv", "csv", "csv", "jsonl", "json", "parquet", "lists.jsonl", "lists.parquet", "lists.csv"],
        "separator": [",", "\t", ";", "|", "::", " ", "~", "\x1f"],
        "quoting": ["minimal", "all", "none"],
        "line_end": ["\n", "\r\n", "\r"],
        "encoding": ["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "iso8859-15"],
        "header": ["usual", "usual", "RecBole", "none", "unknown", "in capitals"],
        "named": ["", "", "columns", "separator", "encoding", "all"],
        "extra": ["", "row numbers", "a name", "a note"],
        "copies": ["", "one", "all"],
        "blank": ["", "first", "between", "last"],
        "packed": ["", "gz", "zip", "tar.gz", "parts"],
        "titles": ["in it", "in a second table"],
    }
    return {name: draw(st.sampled_from(values), label=name) for name, values in choices.items()}


def _records(chosen: Mapping[str, str]) -> list[dict[str, object]]:
    user_key, item_key = _KEYS[chosen["keys"]]
    time_of = _TIMES[chosen["times"]]
    rows = [*_ROWS, *{"": [], "one": _ROWS[7:8], "all": _ROWS}[chosen["copies"]]]
    records: list[dict[str, object]] = []
    for number, row in enumerate(rows):
        extra = {"row numbers": number, "a name": f"Person {row.user}", "a note": f"note {number}, 2020-01-01 10:00"}
        record: dict[str, object] = {"user": user_key(row.user), "item": item_key(row.item), "time": time_of(row.time)}
        if chosen["titles"] == "in it":
            record["title"] = _TITLES[row.item]
        if chosen["extra"]:
            record["extra"] = extra[chosen["extra"]]
        records.append(record)
    return records


_HEADERS: Final = {
    "usual": {"user": "user_id", "item": "item_id", "time": "timestamp", "title": "title", "extra": ""},
    "RecBole": {
        "user": "user_id:token",
        "item": "item_id:token",
        "time": "timestamp:float",
        "title": "title:token_seq",
    },
    "in capitals": {"user": "UserID", "item": "ItemID", "time": "Timestamp", "title": "Title", "extra": "REMARK"},
    "unknown": {"user": "kunde", "item": "ware", "time": "wann", "title": "was", "extra": "wer"},
}


def _text(records: list[dict[str, object]], chosen: Mapping[str, str]) -> bytes:
    text = io.StringIO()
    separator, end = chosen["separator"], chosen["line_end"]
    header = _HEADERS.get(chosen["header"])
    lines = [[str(value) for value in record.values()] for record in records]
    if header:
        lines.insert(0, [header.get(name, "remark") for name in records[0]])

    if chosen["quoting"] == "none" or len(separator) > 1:
        text.write("".join(separator.join(line) + end for line in lines))
    else:
        quoting: Literal[0, 1] = csv.QUOTE_ALL if chosen["quoting"] == "all" else csv.QUOTE_MINIMAL
        csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end).writerows(lines)
    content = text.getvalue()
    if chosen["blank"]:
        first, _, rest = content.partition(end)
        content = {"first": end + content, "between": first + end + end + rest, "last": content + end}[chosen["blank"]]
    return content.encode(chosen["encoding"])


def _lists(records: list[dict[str, object]]) -> list[dict[str, object]]:
    found = []
    for user in dict.fromkeys(record["user"] for record in records):
        own = [record for record in records if record["user"] == user]
        found.append({name: user if name == "user" else [record[name] for record in own] for name in own[0]})
    return found


def _content(records: list[dict[str, object]], chosen: Mapping[str, str]) -> tuple[str, bytes]:
    """Ending and bytes of the table."""
    kind = chosen["kind"]
    if kind.startswith("lists"):
        records = _lists(records)
    if kind.endswith("csv"):
        return "inter" if chosen["header"] == "RecBole" else "csv", _text(records, chosen)

    names = _HEADERS["usual"]
    renamed = [{names.get(name) or "extra": value for name, value in record.items()} for record in records]
    if kind.endswith("parquet"):
        raw = io.BytesIO()
        pl.DataFrame(renamed).write_parquet(raw)
        return "parquet", raw.getvalue()
    if kind == "json":
        return "json", json.dumps(renamed, indent=1).encode()
    return "jsonl", "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in renamed).encode()


def _write(folder: Path, chosen: Mapping[str, str]) -> DataConfig:
    records = _records(chosen)
    ending, content = _content(records, chosen)
    path = folder / f"shop.{ending}"
    if chosen["packed"] == "gz":
        path = folder / f"shop.{ending}.gz"
        path.write_bytes(gzip.compress(content))
    elif chosen["packed"] in ("zip", "tar.gz"):
        path = folder / f"shop.{chosen['packed']}"
        path.write_bytes((zipped if chosen["packed"] == "zip" else tarred)({f"shop.{ending}": content}))
    elif chosen["packed"] == "parts":
        path = folder / "shop"
        path.mkdir()
        half = len(records) // 2
        for number, part in enumerate((records[:half], records[half:])):
            (path / f"part-{number}.{ending}").write_bytes(_content(part, chosen)[1])
    else:
        path.write_bytes(content)

    options = {"experiment_root": str(folder / "experiments")}
    if chosen["titles"] != "in it":
        item_key = _KEYS[chosen["keys"]][1]
        items = [{"item_id": item_key(item), "title": _TITLES[item]} for item in range(_NUM_ITEMS)]
        (folder / "items.jsonl").write_text("".join(json.dumps(one) + "\n" for one in items), encoding="utf-8")
        options["items_file"] = str(folder / "items.jsonl")
    named = chosen["named"]
    if named in ("encoding", "all"):
        options["encoding"] = chosen["encoding"]
    if named in ("separator", "all") and chosen["kind"].endswith("csv"):
        options["separator"] = chosen["separator"]
    if named in ("columns", "all") and chosen["header"] == "none":
        options["columns"] = ",".join("_" if name == "extra" else name for name in records[0])
    if named == "all" and chosen["header"] == "unknown" and chosen["kind"].endswith("csv"):
        names = _HEADERS["unknown"]
        options |= {"user_column": names["user"], "item_column": names["item"], "timestamp_column": names["time"]}
        options |= {"title_column": names["title"]} if chosen["titles"] == "in it" else {}
    if named == "all" and chosen["times"] == "in words":
        options["timestamp_format"] = "%b %d, %Y %H:%M:%S.%f"
    return DataConfig(str(path), **options)  # type: ignore[arg-type]


def _sequences(config: DataConfig) -> tuple[object, ...]:
    """All that a prepared set holds."""
    data = prepare(config, Console(quiet=True))
    sequences = [(data.sequences.whole(user).tolist(), data.users[user]) for user in range(data.num_users)]
    return sequences, data.sequences.timestamps.tolist(), data.items, data.titles, data.fingerprint


@cache
def _expected(keys: str, is_by_user: bool) -> tuple[object, ...]:
    """The set that a plain table gives, whose rows have the users' order where lists have."""
    plain = {"keys": keys, "times": "ISO", "kind": "jsonl", "titles": "in it", "packed": "", "named": ""}
    chosen = {**plain, "extra": "", "copies": "", "header": "usual"}
    records = _records(chosen)
    if is_by_user:
        users = list(dict.fromkeys(record["user"] for record in records))
        records.sort(key=lambda record: users.index(record["user"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.jsonl"
        names = _HEADERS["usual"]
        lines = [json.dumps({names[name]: value for name, value in record.items()}) + "\n" for record in records]
        path.write_text("".join(lines), encoding="utf-8")
        return _sequences(DataConfig(str(path), experiment_root=f"{folder}/experiments"))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
@given(chosen=_options())
def test_any_dialect_gives_the_same_set_or_a_refusal(chosen: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = _sequences(_write(Path(folder), chosen))
        except LlamarecError as error:
            event(f"refused: {str(error).partition(':')[2][:60]}")
            return
    event("read")
    assert found == _expected(chosen["keys"], chosen["kind"].startswith("lists")), chosen


@pytest.mark.parametrize("packed", ["", "gz", "zip", "tar.gz", "parts"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet", "lists.jsonl", "lists.parquet", "lists.csv"])
def test_usual_dialects_are_read(kind: str, packed: str, tmp_path: Path) -> None:
    """The property above does not hold by refusals alone."""
    usual = {"separator": ";", "quoting": "minimal", "line_end": "\r\n", "encoding": "utf-8", "header": "usual"}
    others = {"named": "", "extra": "a note", "copies": "one", "blank": "last", "titles": "in it", "times": "seconds"}
    if kind.startswith("lists") and packed == "parts":
        # The second half of the rows is another row of its user.
        others["copies"] = ""
    chosen = {**usual, **others, "keys": "zeros", "kind": kind, "packed": packed}
    assert _sequences(_write(tmp_path, chosen)) == _expected("zeros", kind.startswith("lists"))
