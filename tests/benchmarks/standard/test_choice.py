"""What to choose: a system that was not measured somewhere is neither said to lose there nor passed over."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.standard.choice import to_choose
from benchmarks.standard.summary import Summary
from tests.benchmarks.standard.test_merging import _entry, _summary


def _both(measured_after: bool) -> Summary:
    ours, other = _entry("ours", 0.07), replace(_entry("item-knn", 0.02), is_with_best=False)
    after = _summary(
        *([replace(ours, is_with_best=False)] if measured_after else []), _entry("item-knn", 0.03), split="temporal"
    )
    return Summary(groups=[*_summary(ours, other).groups, *after.groups])


def test_what_was_not_measured_after_the_cut_is_not_said_to_lose_there() -> None:
    lines = "\n".join(to_choose(_both(measured_after=False)))
    assert "nowhere best" not in lines
    assert "ours was not measured yet on beauty (cut in time)" in lines


def test_what_lost_after_the_cut_is_said_to() -> None:
    lines = "\n".join(to_choose(_both(measured_after=True)))
    assert "(ours is nowhere best after a cut in time)" in lines
    assert "not measured" not in lines
