"""What the preparation of a data set prints: its size, how times were read, what was dropped and why."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl

from llamarec.command import TRAIN_RETRIEVER, program_of
from llamarec.data.config import DataConfig
from llamarec.data.lines import BadLines
from llamarec.data.prepared import PreparedData
from llamarec.data.recipe import Built
from llamarec.data.source import RawTables
from llamarec.data.times import ORDER_NUMBERS
from llamarec.vocabulary import TIMESTAMP

_MANY_BAD = 0.01  # share of the lines from which skipped ones are a warning


def size_line(data: PreparedData, what: str) -> str:
    """Users, items, interactions and folder of a prepared set."""
    return (
        f"{data.dataset_code} {what}: {data.num_users:,} users, {data.num_items:,} items, "
        f"{data.num_interactions:,} interactions -> {data.folder}"
    )


def detail_lines(tables: RawTables, built: Built, data: PreparedData, config: DataConfig) -> Iterator[str]:
    """How the raw files were understood, and what of them is not in the prepared set."""
    yield from _columns(tables)
    yield from _times(tables)
    yield from _repeats(built)
    yield from _keys_as_titles(built, data)
    yield from _dropped(tables, built, data, config)


def skipped_line(bad: BadLines, num_rows: int) -> str:
    """How many malformed lines were skipped, as a warning where they are many; empty where there was none."""
    if not bad.count:
        return ""

    share = bad.count / (bad.count + num_rows)
    warning = "WARNING: " if share > _MANY_BAD else ""
    return f"{warning}{bad.count:,} malformed lines ({share:.1%}) were skipped. The first: {bad.listed[0]}"


def _columns(tables: RawTables) -> Iterator[str]:
    """Which columns were taken: a wrong one is seen nowhere later."""
    if tables.columns:
        yield "columns      " + ", ".join(f"{name}={column}" for name, column in tables.columns.items())


def _times(tables: RawTables) -> Iterator[str]:
    """How times of a user's own table were read: a mistake here spoils everything that follows."""
    if not tables.times or tables.interactions.is_empty():
        return

    first, last = _first_and_last(tables.interactions)
    if tables.times == ORDER_NUMBERS:
        yield f"times        read as {ORDER_NUMBERS}, no times: {first:,} to {last:,}"
    else:
        yield f"times        read as {tables.times}: {_day(first)} to {_day(last)}"


def _repeats(built: Built) -> Iterator[str]:
    """Whether people come back: it decides what is proposed to them."""
    if not built.taken_before:
        return

    share = f"repeats      {built.taken_before:.1%} of the validation items were taken before by the same user"
    flag = f"{program_of(TRAIN_RETRIEVER)} --exclude_history"
    if built.has_repeats:
        yield f"{share}: items of the history can be candidates again (exclude them: {flag} always)"
    else:
        yield f"{share}, too few: items of the history are no candidates (allow them: {flag} never)"


def _keys_as_titles(built: Built, data: PreparedData) -> Iterator[str]:
    """What the language model sees of items that have no title."""
    if built.keys_as_titles:
        yield (
            f"titles       {built.keys_as_titles:,} of {data.num_items:,} items have none: the language model sees "
            "their keys"
        )


def _day(second: int) -> str:
    try:
        return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        return f"{second:,} s since 1970"


def _first_and_last(interactions: pl.DataFrame) -> tuple[int, int]:
    times = interactions[TIMESTAMP]
    return int(times.min() or 0), int(times.max() or 0)  # type: ignore[arg-type]


def _dropped(tables: RawTables, built: Built, data: PreparedData, config: DataConfig) -> Iterator[str]:
    """What was dropped and why; nothing where all of the raw data is prepared."""
    too_few = built.raw["interactions"] - built.copies - built.untitled - data.num_interactions
    num_others = built.others.height

    for reason, count in tables.left_out.items():
        yield f"dropped      {count:,} interactions {reason}"
    if built.copies:
        yield f"dropped      {built.copies:,} exact copies of another interaction (same user, item and time)"
    if built.untitled:
        yield f"dropped      {built.untitled:,} interactions with items that have no title"
    if too_few:
        least = f"users with fewer than {config.min_user_interactions} or items with fewer than"
        flags = "--min_user_interactions, --min_item_interactions"
        yield f"dropped      {too_few:,} interactions of {least} {config.min_item_interactions} ({flags})"
    if num_others:
        yield f"             {num_others:,} users are in neither training nor test, but can get recommendations"

    if tables.left_out or built.copies or built.untitled or too_few or num_others:
        raw = {**built.raw, "interactions": built.raw["interactions"] + sum(tables.left_out.values())}
        yield f"raw files    {', '.join(f'{count:,} {name}' for name, count in raw.items())}"
