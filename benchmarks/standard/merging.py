"""A summary of new measurements, joined with what an earlier one has of the same data: a sweep may take days."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.standard.sets import SETS, SPLITS
from benchmarks.standard.summary import MAIN, Entry, Estimate, Group, Summary
from benchmarks.standard.systems import MODULES, system_of

_ORDER: Final = [row for name in MODULES for row in system_of(name).titles]


def merged(new: Summary, before: Summary) -> Summary:
    """The new summary, with rows that only an earlier one has, or has of more seeds.

    What is no worse than the best is decided by paired differences within `new`. Where a row of `before` is in a table,
    the users of both are no longer at hand, so it is decided by the two intervals as if they were of different users;
    that is never the more lenient.
    """
    pairs = {(code, split): (new.group(code, split), before.group(code, split)) for code in SETS for split in SPLITS}
    return Summary(groups=[group for one, other in pairs.values() if (group := _group(one, other)) is not None])


def kept(new: Summary, before: Summary) -> Iterator[str]:
    """What `merged` takes from the earlier summary, in words: a line for each set and split."""
    for group in merged(new, before).groups:
        measured = new.group(group.set_code, group.split)
        entries = measured.entries if measured is not None else []
        titles = [one.title for one in group.entries if not any(_is_same(one, other) for other in entries)]
        if titles:
            yield f"{group.set_code} {group.split}: {', '.join(titles)}"


def _is_same(one: Entry, other: Entry) -> bool:
    return replace(one, is_with_best=True) == replace(other, is_with_best=True)


def _group(new: Group | None, before: Group | None) -> Group | None:
    if new is None or before is None or new.digests != before.digests:
        return new or before

    entries = {one.row: one for one in before.entries}
    for one in new.entries:
        if one.row not in entries or entries[one.row].seeds <= one.seeds:
            entries[one.row] = one
    rows = sorted(entries, key=_ORDER.index)
    is_all_new = all(any(entries[row] is one for one in new.entries) for row in rows)
    return new if is_all_new else replace(new, entries=_compared([entries[row] for row in rows]))


def _compared(entries: list[Entry]) -> list[Entry]:
    best = max((one.estimates[MAIN] for one in entries), key=lambda one: one.mean)
    return [replace(one, is_with_best=not _is_below(one.estimates[MAIN], best)) for one in entries]


def _is_below(one: Estimate, best: Estimate) -> bool:
    """Whether the 95% interval of the difference of two independent estimates lies below zero."""
    distance = ((one.high - one.mean) ** 2 + (best.mean - best.low) ** 2) ** 0.5
    return bool(one.mean + distance < best.mean)
