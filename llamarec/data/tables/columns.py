"""Which column is which: by the names that other tools and data sets use, or by the user's flags.

A guess that could be another one is refused: a wrong column is seen nowhere later.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from llamarec.command import typed
from llamarec.data.source import CLOCK, ORDER
from llamarec.errors import ConfigError, DataError
from llamarec.texts import normal
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER

_KNOWN: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    USER: (
        ("user", "user_id", "userid", "uid", "reviewerid", "customer_id", "customerid", "visitorid", "member_id"),
        ("session_id", "sessionid", "session"),
    ),
    ITEM: (
        (
            *("item", "item_id", "itemid", "iid", "asin", "parent_asin", "product_id", "productid", "business_id"),
            *("sku", "movieid", "movie_id", "book_id", "article_id", "track_id", "song_id", "game_id", "stockcode"),
        ),
    ),
    TIMESTAMP: (
        (
            *("timestamp", "datetime", "unixreviewtime", "created_at", "ts", "event_time", "event_date", "eventdate"),
            *("order_date", "purchase_date", "invoicedate", "t_dat", "time_stamp"),
        ),
        ("date", "time"),
    ),
    RATING: (
        ("rating", "ratings", "stars", "star_rating", "overall", "score", "review_rating", "review_score"),
        ("user_rating", "review_overall"),
    ),
    TITLE: (
        ("title", "item_title", "movie_title", "book_title", "product_title", "item_name", "product_name"),
        ("name",),
    ),
}
"""By column, groups of names; a group counts where no name of an earlier one is there."""
# A person may be told from a session: visitor, client_id, user_pseudo_id, email.
_PERSON: Final = re.compile(
    r"(user|visitor|customer|client|member|person|buyer|shopper|account|viewer|reader|player|reviewer)"
    r"(.*(id|key|hash|uuid|no|number|name|email))?|.*email"
)
# What the name of a column of lists ends with: items, item_id_list, timestamp-seq.
_OF_LISTS: Final = re.compile(r"[-_/ ]?(list_seq|list|seq|sequence|history)$|s$")
_LIST_OF: Final = re.compile(r"[-_/ ](list|list_seq|history)$")
_DATE, _TIME_OF_DAY = "date", "time"

# An error fits on a screen.
_MOST_LISTED: Final = 30
_LONGEST_NAME: Final = 40

_LIST_AS_TEXT: Final = r"""^\[\s*(".*"|'.*')\s*\]$"""

NUM_ROWS: Final = "number of rows"
"""Column of counts of rows."""
# Checked from so many items on; a share above this is no matter of a few spellings.
_FEW_ITEMS: Final = 10
_MOST: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is looked for in a table.

    Attributes:
        chosen: By column (USER, ITEM, ...), the name that a flag gives; "" where it is to be recognised.
        prefix: Of the flags of this table.
        shared: Name of the item's key where two tables share one.
        optional: Columns that may be absent.
    """

    chosen: Mapping[str, str]
    prefix: str = ""
    shared: str = ""
    optional: frozenset[str] = frozenset()


def find_columns(where: str, columns: Sequence[str], wanted: Wanted) -> dict[str, str]:
    """The table's names of the columns.

    Args:
        where: Path of the table, for an error.
        columns: All of its names.
        wanted: What is looked for.

    Raises:
        ConfigError: a column is not found, or several could be it; names the flags.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for name, given in wanted.chosen.items():
        shared = wanted.shared if name == ITEM and not given else ""
        candidates = [shared] if shared else _candidates(name, given, columns)
        if name == TIMESTAMP and not given:
            order = _called(wanted.chosen.get(ORDER, ""), columns)
            candidates = [column for column in candidates if column not in order]
        date_and_clock = _date_and_clock(given, candidates, columns) if name == TIMESTAMP else None
        if date_and_clock:
            found[TIMESTAMP], found[CLOCK] = date_and_clock
        elif len(candidates) == 1:
            found[name] = candidates[0]
        elif candidates or given or name not in wanted.optional:
            problems.append(_problem(name, given, candidates, columns, wanted.prefix))

    taken: dict[str, str] = {}
    for name, column in found.items():
        if column in taken:
            problems.append(f"{column!r} is already the {taken[column]} column: {flag_of(name, wanted.prefix)} NAME")
        taken.setdefault(column, name)

    if problems:
        raise ConfigError(f"{where}: " + "\n    ".join(problems), found=f"the columns {listed(columns)}")
    return found


def flag_of(name: str, prefix: str = "") -> str:
    """The flag that names a column; the second table has one of its own for the item."""
    return f"--{prefix if name == ITEM else ''}{name}_column"


def listed(columns: Sequence[str]) -> str:
    """Names of columns for an error, the first of many."""
    named = [_short(column) or "(no name)" for column in columns[:_MOST_LISTED]]
    others = len(columns) - len(named)
    return ", ".join(named) + (f" and {others:,} more" if others else "")


def is_known(name: str, column: str) -> bool:
    """Whether a table's column is recognised as `name` (USER, ITEM, ...)."""
    return any(
        _bare(name, column, of_lists) in _plain_names(group) for group in _KNOWN[name] for of_lists in (False, True)
    )


def is_name_of_lists(name: str, column: str) -> bool:
    """Whether a column is recognised by a name that says lists: items, item_seq."""
    plain, of_lists = (any(_bare(name, column, many) in group for group in _KNOWN[name]) for many in (False, True))
    return of_lists and not plain


def is_known_name(column: str) -> bool:
    """Whether a column is recognised as any."""
    return any(is_known(name, column) for name in _KNOWN)


def shared_key(first: Sequence[str], second: Sequence[str]) -> str:
    """The one name of the item's key that both tables have; "" where none or several are in both."""
    both = [name for name in _candidates(ITEM, "", first) if name in _candidates(ITEM, "", second)]
    return both[0] if len(both) == 1 else ""


def check_titles(items: pl.DataFrame, where: str, flag: str, column: str, *, of_items: bool) -> None:
    """Checks that a guessed column holds titles of items: not of reviews, nor names of customers.

    Args:
        items: item, title, each pair once, and in NUM_ROWS how many rows have it.
        where: Table, for an error.
        flag: That names the column.
        column: That was guessed.
        of_items: Whether the table is one of items, in which one row tells that an item has one title.

    Raises:
        DataError: most items have several titles, or most have one and the same.
    """
    titles = items.drop_nulls(TITLE)
    where, least = f"{where}, column {column!r}", 1 if of_items else 2
    seen = items.group_by(ITEM).agg(pl.col(NUM_ROWS).sum()).filter(pl.col(NUM_ROWS) >= least).select(ITEM)
    num_titles = titles.join(seen, on=ITEM, how="semi").group_by(ITEM).len()["len"]
    several = float((num_titles > 1).mean() or 0)  # type: ignore[arg-type]  # of booleans
    if len(num_titles) >= _FEW_ITEMS and several > _MOST:
        example = titles.filter(pl.len().over(ITEM) > 1).sort(ITEM, TITLE)
        shown = example.filter(pl.col(ITEM) == example[ITEM][0])[TITLE].head(3).to_list()
        raise DataError(
            f"{where}: {several:.0%} of the items have several titles there, as if it named something else",
            expected="one title for each item",
            found=f"item {example[ITEM][0]!r} with " + ", ".join(map(repr, shown)),
            hint=[
                f"{flag} NAME, or a second table: --items_file FILE",
                f"or take each item's first: {typed([flag, column])}",
            ],
        )

    firsts = titles.unique(ITEM, keep="first", maintain_order=True)
    most = firsts[TITLE].value_counts(sort=True).head(1)
    if firsts.height >= _FEW_ITEMS and most["count"][0] > _MOST * firsts.height:
        raise DataError(
            f"{where}: {most['count'][0]:,} of {firsts.height:,} items have the title {most[TITLE][0]!r}",
            expected="a title that tells an item from others",
            hint=f"{flag} NAME; to take these all the same, {typed([flag, column])}",
        )


def check_not_lists(values: pl.Series, where: str, name: str) -> None:
    """Refuses titles, or keys of users, that are lists as text, such as '["Red kettle"]'.

    Args:
        values: Titles or keys.
        where: Table and column, for an error.
        name: TITLE or USER.

    Raises:
        DataError: all are.
    """
    values = values.drop_nulls()
    if len(values) and all(some.str.contains(_LIST_AS_TEXT).all() for some in (values.head(_FEW_ITEMS), values)):
        raise DataError(
            f"{where}: its {'titles' if name == TITLE else 'keys'} are lists",
            expected="one text for each item" if name == TITLE else "one key in each row",
            found=", ".join(repr(_short(one)) for one in values.head(3).to_list()),
            hint=f"write the table with this column as text, or {flag_of(name)} NAME",
        )


def warning_of_several_titles(items: pl.DataFrame) -> str:
    """Said where some items have several titles, of which the first counts; empty where none has.

    Args:
        items: item, title, each pair once.
    """
    titles = items.drop_nulls(TITLE)
    several = titles.filter(pl.len().over(ITEM) > 1)
    if several.is_empty():
        return ""

    first = several[ITEM][0]
    shown = several.filter(pl.col(ITEM) == first)[TITLE].head(2).to_list()
    return (
        f"WARNING: {several[ITEM].n_unique():,} items have several titles, of which the first counts: "
        f"{first!r} has {' and '.join(repr(_short(title)) for title in shown)}"
    )


def _candidates(name: str, given: str, columns: Sequence[str]) -> list[str]:
    """Columns that could be meant; two of one name are two."""
    if given:
        return _called(given, columns)

    for of_lists in (False, True):
        for number, group in enumerate(_KNOWN.get(name, ())):
            if there := [column for column in columns if _bare(name, column, of_lists) in _plain_names(group)]:
                is_session = name == USER and number > 0
                there += [column for column in columns if is_session and _PERSON.fullmatch(_plain(column))]
                # A list of items, beside the one that follows it.
                lists = [column for column in columns if not of_lists and _LIST_OF.search(column.lower())]
                return there + [column for column in lists if _bare(name, column, True) in _plain_names(group)]
    return []


def _called(given: str, columns: Sequence[str]) -> list[str]:
    """Columns of a name, or else of one that is spelled with other marks and looks the same."""
    return [column for column in columns if column == given] or [
        column for column in columns if normal(column) == normal(given)
    ]


def _bare(name: str, column: str, of_lists: bool) -> str:
    return _plain(_OF_LISTS.sub("", column.lower(), count=1) if of_lists and name != USER else column)


def _plain(column: str) -> str:
    """A name without what tools write differently: User ID, user-id, userId."""
    return re.sub(r"[\W_]+", "", column.lower())


@functools.cache
def _plain_names(group: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_plain, group))


def _date_and_clock(given: str, candidates: Sequence[str], columns: Sequence[str]) -> tuple[str, str] | None:
    """The columns of the date and of its time of day, where there are two of them."""
    if given and not candidates and given.count(",") == 1:
        named = [_called(part.strip(), columns) for part in given.split(",")]
        found = [one[0] for one in named if one]
        return (found[0], found[1]) if len(found) > 1 and found[0] != found[1] else None

    by_name = {column.lower(): column for column in candidates}
    both = len(candidates) == len(by_name) and by_name.keys() == {_DATE, _TIME_OF_DAY}
    return (by_name[_DATE], by_name[_TIME_OF_DAY]) if both else None


def _problem(name: str, given: str, candidates: Sequence[str], columns: Sequence[str], prefix: str) -> str:
    flag = flag_of(name, prefix)
    if len(set(candidates)) == 1:
        return f"{len(candidates)} columns are called {candidates[0]!r}: rename all but one of them"
    if candidates:
        shown = [typed([flag, _short(one)]) for one in candidates[:_MOST_LISTED]]
        return f"several columns could be the {name}: " + " or ".join(shown)

    named = [column for column in columns if column]
    # A name that is far from the column's own is a trap, once it is typed.
    near = difflib.get_close_matches(given or name, named, n=1, cutoff=0.4 if given else 0.7)
    flag_and_name = typed([flag, _short(near[0])]) if near else f"{flag} NAME"
    asked = f"no column {_short(given)!r}" if given else f"no column looks like the {name}"
    if name == TITLE and not given:
        second = "" if prefix else ", or titles in a second table: --items_file FILE"
        return f"{asked}: {flag_and_name}{second}, or keys as titles: --untitled_items key"
    if name == TIMESTAMP and not given:
        return f"{asked}: {flag_and_name}, or --no_timestamp if the order of the rows counts"
    return f"{asked}: {flag_and_name}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 3] + "..."
