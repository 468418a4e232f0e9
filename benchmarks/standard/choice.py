"""What a user should choose, in three lines that are made from the figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from benchmarks.standard.summary import MAIN, Entry, Group, Summary

WORDS: Final = {
    "leave_one_out": "With each user's last item as the test, which is what papers print",
    "temporal": "After a cut in time, which is what a user of the system gets",
}
SHORT: Final = {"leave_one_out": "last item", "temporal": "cut in time"}
_SECONDS: Final = 120.0


def to_choose(summary: Summary) -> list[str]:
    """Three lines; fewer where a split was not measured, and one more where a winner was not measured everywhere."""
    lines = [_best_line(summary, split) for split in WORDS if _groups(summary, split)]
    return [*lines, _quick_line(summary), *_missing_lines(summary)]


def _missing_lines(summary: Summary) -> list[str]:
    """What is best somewhere may be best where it was not measured, too."""
    winners = {entry.row: entry.title for group in summary.groups for entry in group.entries if entry.is_with_best}
    lines = []
    for row, title in winners.items():
        missing = [group for group in summary.groups if row not in {entry.row for entry in group.entries}]
        places = [f"{group.set_code} ({SHORT[group.split]})" for group in missing]
        if places:
            lines.append(
                f"{title} was not measured yet on {_listed(places, 'and')}: the lines above leave it out there."
            )
    return lines


def _groups(summary: Summary, split: str) -> list[Group]:
    return [group for group in summary.groups if group.split == split]


def _best_line(summary: Summary, split: str) -> str:
    wins = {
        group.set_code: [entry.title for entry in group.entries if entry.is_with_best]
        for group in _groups(summary, split)
    }
    by_winners: dict[tuple[str, ...], list[str]] = {}
    for code, titles in wins.items():
        by_winners.setdefault(tuple(titles), []).append(code)

    parts = [f"{_listed(titles, 'or')} on {_listed(codes, 'and')}" for titles, codes in by_winners.items()]
    return f"{WORDS[split]}: {'; '.join(parts)}{_only_here(summary, split)}."


def _only_here(summary: Summary, split: str) -> str:
    """Systems that are among the best on some set, and on none after the cut in time."""
    after = _groups(summary, "temporal")
    if split == "temporal" or not after:
        return ""
    here, there = (
        {entry.title for group in groups for entry in group.entries if entry.is_with_best}
        for groups in (_groups(summary, split), after)
    )
    measured = {entry.title for group in after for entry in group.entries}
    only = sorted(here & measured - there)
    return (
        f" ({_listed(only, 'and')} {'is' if len(only) == 1 else 'are'} nowhere best after a cut in time)"
        if only
        else ""
    )


def _quick_line(summary: Summary) -> str:
    """The best of what is fitted in two minutes."""
    quick = {
        entry.row: entry.title
        for group in summary.groups
        for entry in group.entries
        if all(one.fit_seconds <= _SECONDS for one in _everywhere(summary, entry.row))
    }
    if not quick:
        return "Nothing that was measured is fitted within two minutes."

    shares = {row: {split: _share(_groups(summary, split), row) for split in WORDS} for row in quick}
    best = max(shares, key=lambda row: sum(shares[row].values()))
    seconds = max(entry.fit_seconds for entry in _everywhere(summary, best))
    reached = " and ".join(
        f"{shares[best][split]:.0%} ({name})" for split, name in SHORT.items() if _groups(summary, split)
    )
    return f"Within two minutes: {quick[best]}, in at most {seconds:,.0f} s. Of the best NDCG@10 it reaches {reached}."


def _everywhere(summary: Summary, row: str) -> list[Entry]:
    return [entry for group in summary.groups for entry in group.entries if entry.row == row]


def _share(groups: Sequence[Group], row: str) -> float:
    """Mean over the sets of a row's NDCG@10 as a share of the best."""
    shares = []
    for group in groups:
        values = {entry.row: entry.estimates[MAIN].mean for entry in group.entries}
        best = max(values.values())
        shares.append(values.get(row, 0.0) / best if best else 0.0)
    return statistics.fmean(shares) if shares else 0.0


def _listed(words: Sequence[str], joint: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"
