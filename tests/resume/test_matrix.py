"""The matrix finds what differs, and its page has no such row of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import Trainer

from llamarec.checkpoints import ResumableTrainer
from tests.resume.forks import CAN_FORK, WHY_NOT, Forks
from tests.resume.matrix.__main__ import SECTIONS, STORED
from tests.resume.matrix.subjects import Subject, TrainerClass

PAGE = STORED.read_text(encoding="utf-8")


def found(trainer: str, folder: str) -> dict[str, str]:
    """A job of `Forks`: the verdict on PEFT's p-tuning, whose encoder a plain Trainer does not save."""
    from tests.resume.matrix import adapters
    from tests.resume.matrix.verdict import verdict

    classes: dict[str, TrainerClass] = {"llamarec": ResumableTrainer, "plain": Trainer}
    subject = next(one for one in adapters.subjects() if one.name == "P_TUNING")
    return vars(verdict(subject, classes[trainer], Path(folder)))


@pytest.mark.slow
@pytest.mark.skipif(not CAN_FORK, reason=WHY_NOT)
def test_another_model_is_found(forks: Forks, tmp_path: Path) -> None:
    job = "tests.resume.test_matrix:found"
    ours = forks.run(job, trainer="llamarec", folder=str(tmp_path / "ours"))
    plain = forks.run(job, trainer="plain", folder=str(tmp_path / "plain"))

    assert ours.result["kind"] == "equal", ours.log
    assert plain.result["kind"] == "DIFFERENT", plain.log
    assert "weights" in plain.result["why"]


def _cells() -> Iterator[tuple[str, str]]:
    """Name of a row, and what is said of ours: the rest of the line where no plain Trainer is beside it."""
    for line in PAGE.splitlines():
        row = re.fullmatch(r"\| (.+?) \| (.*?) \|(?: (.*?) ?\|)?", line)
        if row and row[1] != "---":
            yield row[1], f"{row[2]} {row[3]}" if re.fullmatch(r"\d+ of \d+", row[2]) else row[2]


def test_no_row_of_ours_is_another_model_or_lost() -> None:
    assert [name for name, ours in _cells() if "**" in ours] == []
    assert len(list(_cells())) > 50


@pytest.mark.parametrize("name", SECTIONS)
def test_the_page_has_every_row(name: str) -> None:
    title, subjects = SECTIONS[name]
    assert f"## {title}" in PAGE
    rows = {row for row, _ in _cells()}
    names = [one.name if isinstance(one, Subject) else one.name.partition(": ")[0] for one in subjects()]
    assert [name for name in names if name not in rows] == []
