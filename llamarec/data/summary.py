"""What a person checks after a preparation: how the raw files were read, what of them is prepared, what is not and why.

`Summary` is a part of manifest.json, and the printed lines are made from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Required, TypedDict

from llamarec.command import TRAIN_RETRIEVER, program_of
from llamarec.data.config import DataConfig
from llamarec.data.figures import SharedTitles, Ties, UnseenTestItems
from llamarec.data.lines import BadLines
from llamarec.data.recipe import Built
from llamarec.data.source import RawTables
from llamarec.data.times import FILE_ORDER, ORDER_NUMBERS
from llamarec.vocabulary import ITEM_IDS, TIMESTAMP

_MANY_BAD = 0.01  # share of the lines from which skipped ones are a warning
_SHOWN_TITLE = 60
_COPIES = "exact copies of another interaction (same user, item and time)"


class SkippedLines(TypedDict):
    """Malformed lines: how many, and the first few with the reason."""

    count: int
    listed: list[str]


class ReadTimes(TypedDict):
    """How times were read, in words, and the first and the last: ISO dates in UTC, or order numbers as they are."""

    form: str
    first: str
    last: str


class Summary(TypedDict, total=False):
    """Figures of a prepared set; earlier versions wrote fewer.

    first_rows: the whole set is made from so many first rows, as files have more. files: a user's own, and how they
    are read. columns: a user's table's own names, by this package's. rows: interactions that were read, those below the
    threshold of ratings among them. raw: users, items and interactions of the raw files without these, and what of
    them is no interaction of its own. left_out: interactions that were read and are not in the set, by reason; with
    `num_interactions` they add up to `rows`. num_others: users in neither training nor test, who can get
    recommendations. cleaned_titles: items from whose titles markup was removed. keys_as_titles: items whose key is
    their title. taken_before: share of the validation labels that their users had taken before. warnings: what
    was read and is doubtful, as it is printed.
    """

    dataset_code: Required[str]
    num_users: int
    num_items: int
    num_interactions: Required[int]
    first_rows: int
    columns: dict[str, str]
    times: ReadTimes
    rows: int
    raw: dict[str, int]
    left_out: dict[str, int]
    num_others: int
    bad_lines: SkippedLines
    cleaned_titles: int
    keys_as_titles: int
    ties: Ties
    shared_titles: SharedTitles
    has_repeats: Required[bool]
    taken_before: float
    unseen_test_items: UnseenTestItems
    warnings: list[str]
    files: list[str]


def summary_of(tables: RawTables, built: Built, bad: BadLines, config: DataConfig) -> Summary:
    """The figures of what was read and built."""
    num_interactions = int(built.histories[ITEM_IDS].list.len().sum())
    summary: Summary = {
        "dataset_code": config.name,
        "num_users": built.histories.height,
        "num_items": built.items.height,
        "num_interactions": num_interactions,
        "columns": dict(tables.columns),
        "times": _read_times(tables),
        "rows": tables.interactions.height + sum(tables.left_out.values()),
        "raw": {**built.raw, "exact_copies": built.copies, "interactions_without_title": built.untitled},
        "left_out": _left_out(tables, built, num_interactions, config),
        "num_others": built.others.height,
        "bad_lines": {"count": bad.count, "listed": bad.listed},
        "cleaned_titles": built.cleaned_titles,
        "keys_as_titles": built.keys_as_titles,
        "ties": built.ties,
        "shared_titles": built.shared_titles,
        "has_repeats": built.has_repeats,
        "taken_before": round(built.taken_before, 6),
        "unseen_test_items": built.unseen_test_items,
        "warnings": list(tables.warnings),
        "files": list(tables.files),
    }
    return {**summary, "first_rows": bad.limit.max_rows} if bad.limit.is_cut and bad.limit.max_rows else summary


def _read_times(tables: RawTables) -> ReadTimes:
    first, last = (int(tables.interactions[TIMESTAMP].min() or 0), int(tables.interactions[TIMESTAMP].max() or 0))  # type: ignore[arg-type]
    shown = str if tables.times in (ORDER_NUMBERS, FILE_ORDER) else _iso
    return {"form": tables.times, "first": shown(first), "last": shown(last)}


def _left_out(tables: RawTables, built: Built, num_interactions: int, config: DataConfig) -> dict[str, int]:
    too_few = built.raw["interactions"] - built.copies - built.untitled - num_interactions
    least = f"users with fewer than {config.min_user_interactions} or items with fewer than"
    flags = "--min_user_interactions, --min_item_interactions"
    counts = {
        **tables.left_out,
        _COPIES: built.copies,
        "with items that have no title": built.untitled,
        f"of {least} {config.min_item_interactions} ({flags})": too_few,
    }
    return {reason: count for reason, count in counts.items() if count}


def _iso(second: int) -> str:
    try:
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second):%Y-%m-%dT%H:%M:%SZ}"
    except OverflowError:
        return f"{second:,} s since 1970"


# ---- As text ----


def size_line(summary: Summary, folder: Path | None, what: str) -> str:
    """Users, items, interactions and folder of a prepared set; no folder where nothing was written."""
    counts = {name: summary.get(f"num_{name}", 0) for name in ("users", "items", "interactions")}
    sizes = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{summary['dataset_code']} {what}: {sizes}" + (f" -> {folder}" if folder else "")


def summary_lines(summary: Summary) -> Iterator[str]:
    """How the raw files were understood, and what of them is not in the prepared set."""
    for file in summary.get("files", ()):
        yield f"table        {file}"
    if columns := summary.get("columns"):
        yield "columns      " + ", ".join(f"{name}={column}" for name, column in columns.items())
    yield _times_line(summary["times"])
    yield from _dropped(summary)
    yield _ties_line(summary["ties"], summary["num_users"])
    yield from _titles(summary)
    yield _repeats_line(summary)
    yield _test_line(summary["unseen_test_items"])
    yield from summary["warnings"]
    yield from _skipped(summary)


def _times_line(times: ReadTimes) -> str:
    """How times were read: a mistake here spoils everything that follows."""
    if times["form"] == FILE_ORDER:
        return f"times        none (--no_timestamp): {FILE_ORDER} counts"
    if times["form"] == ORDER_NUMBERS:
        first, last = (f"{int(times[end]):,}" for end in ("first", "last"))
        return f"times        read as {ORDER_NUMBERS}, no times: {first} to {last}"
    first, last = (times[end].partition("T")[0] for end in ("first", "last"))
    return f"times        read as {times['form']}: {first} to {last}"


def _dropped(summary: Summary) -> Iterator[str]:
    """What was dropped and why."""
    raw = {**summary["raw"], "interactions": summary["rows"]}
    yield "raw files    " + ", ".join(f"{raw[name]:,} {name}" for name in ("users", "items", "interactions"))
    for reason, count in summary["left_out"].items():
        yield f"dropped      {count:,} {reason if reason == _COPIES else f'interactions {reason}'}"
    if not summary["left_out"]:
        yield "dropped      no interaction"
    if others := summary["num_others"]:
        yield f"             {others:,} users are in neither training nor test, but can get recommendations"


def _ties_line(ties: Ties, num_users: int) -> str:
    """Where the order of the file decides."""
    if not ties["users"]:
        return "ties         no user has two interactions at the same time"
    return (
        f"ties         {ties['users']:,} of {num_users:,} users have interactions at the same time, which keep the "
        f"order of the file; it decided the validation or test item of {ties['labels']:,}"
    )


def _titles(summary: Summary) -> Iterator[str]:
    """Whether titles tell items apart: the language model sees nothing else of them."""
    shared, num_items = summary["shared_titles"], summary["num_items"]
    if shared["items"]:
        title = shared["most_shared"]
        shown = repr(title if len(title) <= _SHOWN_TITLE else f"{title[: _SHOWN_TITLE - 3]}...")
        yield f"titles       {shared['items']:,} of {num_items:,} items share theirs with another item, such as {shown}"
    else:
        yield "titles       every item has another one"

    if count := summary["cleaned_titles"]:
        yield f"titles       {count:,} of {num_items:,} items had HTML or scripts in theirs, which were removed"
    if count := summary["keys_as_titles"]:
        yield f"titles       {count:,} of {num_items:,} items have none: the language model sees their keys"


def _repeats_line(summary: Summary) -> str:
    """Whether people come back: it decides what is proposed to them."""
    share = f"repeats      {summary['taken_before']:.1%} of the validation items were taken before by the same user"
    flag = f"{program_of(TRAIN_RETRIEVER)} --exclude_history"
    if summary["has_repeats"]:
        return f"{share}: items of the history can be candidates again (exclude them: {flag} always)"
    if not summary["taken_before"]:
        return "labels       no validation item was taken before by the same user"
    return f"{share}, too few: items of the history are no candidates (allow them: {flag} never)"


def _test_line(items: UnseenTestItems) -> str:
    """What no retriever can find."""
    if not items["unseen"]:
        return f"test items   all {items['users']:,} are in somebody's training part, too"
    return (
        f"test items   {items['unseen']:,} of {items['users']:,} are in nobody's training part: a retriever cannot "
        "learn them"
    )


def _skipped(summary: Summary) -> Iterator[str]:
    """How many malformed lines were skipped, as a warning where they are many."""
    bad = summary["bad_lines"]
    if bad["count"]:
        share = bad["count"] / (bad["count"] + summary["rows"])
        warning = "WARNING: " if share > _MANY_BAD else ""
        yield f"{warning}{bad['count']:,} malformed lines ({share:.1%}) were skipped. The first: {bad['listed'][0]}"
