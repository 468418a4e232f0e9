"""What is deleted, and what never is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamarec.checkpoints.storage.retention import SavedCheckpoint, newest_first, protected, to_delete

REASONS = ("scheduled", "final", "time", "signal", "exception", "best")


@st.composite
def folders(draw: st.DrawFn, *, plain: bool = True) -> list[SavedCheckpoint]:
    """What may lie in a run's folder: steps and saves in any order, some damaged, some of a plain Trainer."""
    steps = draw(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True))
    sequences = draw(st.permutations(range(len(steps))))
    return [
        SavedCheckpoint(
            step=step,
            sequence=-1 if plain and draw(st.booleans()) and draw(st.booleans()) else sequence,
            is_good=draw(st.booleans()) or draw(st.booleans()),
            reason=draw(st.sampled_from(REASONS)),
            best_step=draw(st.one_of(st.none(), st.sampled_from(steps))),
        )
        for step, sequence in zip(steps, sequences, strict=True)
    ]


@given(checkpoints=folders(), limit=st.integers(1, 5))
def test_what_is_never_deleted(checkpoints: list[SavedCheckpoint], limit: int) -> None:
    gone = to_delete(checkpoints, limit)
    stay = [kept for kept in checkpoints if kept.step not in gone]
    good = [kept for kept in newest_first(checkpoints) if kept.is_good]
    if not good:
        assert gone == []
        return
    assert good[0] in stay
    scheduled = [kept for kept in good if kept.reason in ("scheduled", "final")]
    assert all(kept in stay for kept in scheduled[:limit])
    # Whoever resumes one of these finds the best model that it knows.
    there = {kept.step for kept in good}
    for kept in [good[0], *scheduled[:limit]]:
        assert kept.best_step is None or kept.best_step not in there or kept.best_step not in gone
    # A damaged folder that is not ours is not touched.
    assert all(kept in stay for kept in checkpoints if not kept.is_good and kept.sequence < 0)


# Whether a plain Trainer's checkpoint is newer than ours depends on what else is there, so these two are about ours.
@given(checkpoints=folders(plain=False), limit=st.integers(1, 5))
def test_deleting_is_done_with_one_pass_and_not_too_timid(checkpoints: list[SavedCheckpoint], limit: int) -> None:
    gone = to_delete(checkpoints, limit)
    stay = [kept for kept in checkpoints if kept.step not in gone]
    assert to_delete(stay, limit) == []
    assert len([kept for kept in stay if kept.is_good]) <= 2 * (limit + 1) or not gone


@given(checkpoints=folders(plain=False), limit=st.integers(1, 5))
def test_a_pass_that_was_killed_is_finished_by_the_next(checkpoints: list[SavedCheckpoint], limit: int) -> None:
    gone = to_delete(checkpoints, limit)
    for done in range(len(gone)):
        rest = [kept for kept in checkpoints if kept.step not in gone[:done]]
        assert to_delete(rest, limit) == gone[done:]


@pytest.mark.parametrize("limit", [None, 0, -1])
def test_without_a_limit_everything_stays(limit: int | None) -> None:
    assert to_delete([SavedCheckpoint(step, step, is_good=True) for step in range(9)], limit) == []


def test_a_new_line_of_saves_is_newer_than_the_old() -> None:
    """Resumed from 200 of 100..500: the saves at 210 and 220 are the newest two, whatever the numbers say."""
    old = [SavedCheckpoint(100 * n, sequence=n, is_good=True) for n in (1, 2, 3, 4, 5)]
    new = [SavedCheckpoint(210, sequence=6, is_good=True), SavedCheckpoint(220, sequence=7, is_good=True)]
    assert to_delete([*old, *new], 2) == [100, 200, 300, 400, 500]


def test_a_save_for_the_moment_goes_when_a_newer_one_is_there() -> None:
    saves = [
        SavedCheckpoint(100, 1, is_good=True),
        SavedCheckpoint(130, 2, is_good=True, reason="time"),
        SavedCheckpoint(160, 3, is_good=True, reason="signal"),
    ]
    assert to_delete(saves, 3) == [130]
    assert to_delete([*saves, SavedCheckpoint(200, 4, is_good=True)], 3) == [130, 160]


def test_each_kept_one_keeps_its_best() -> None:
    saves = [
        SavedCheckpoint(100, 1, is_good=True, best_step=100),
        SavedCheckpoint(200, 2, is_good=True, best_step=200),
        SavedCheckpoint(300, 3, is_good=True, best_step=200),
        SavedCheckpoint(400, 4, is_good=True, best_step=200),
        SavedCheckpoint(500, 5, is_good=True, best_step=500),
    ]
    assert to_delete(saves, 2) == [100, 300]
    assert protected(saves, 2) == {500: "newest good one", 400: "one of the last 2", 200: "best as of step 400"}


def test_a_damaged_newest_does_not_count() -> None:
    saves = [
        SavedCheckpoint(100, 1, is_good=True),
        SavedCheckpoint(200, 2, is_good=True),
        SavedCheckpoint(300, 3, is_good=False),
    ]
    assert to_delete(saves, 1) == [100, 300]


def test_time_stamps_are_not_looked_at() -> None:
    """There are none in what the decision is made from."""
    assert set(SavedCheckpoint.__dataclass_fields__) == {"step", "sequence", "is_good", "reason", "best_step"}
