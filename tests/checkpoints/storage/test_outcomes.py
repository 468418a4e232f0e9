"""The exit code of a job of several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamarec.checkpoints.storage import outcomes
from llamarec.errors import ConfigError, PeerLostError

ROWS = [
    # Each process's code by attempt of the launcher, the launcher's own code, and the job's.
    ([{0: 0, 1: 0}], 0, 0),
    ([{0: 75, 1: 75}], 1, 75),
    ([{0: 74, 1: 0}], 1, 74),
    ([{0: 75, 1: 1}], 1, 1),
    ([{0: 2, 1: 75}], 1, 2),
    ([{0: 75}], 1, 75),  # the other one was killed
    ([{0: 1, 1: 1}, {0: 75, 1: 75}], 1, 75),
    ([{0: 75, 1: 75}, {0: 0, 1: 0}], 0, 0),
    ([{0: 75}], 0, 0),  # the script has gone on after a stop
    ([{}], 1, 1),
    ([{}], -15, 143),
    ([{0: 0, 1: 9}], 1, 9),
]


@pytest.mark.parametrize(("attempts", "launcher", "code"), ROWS)
def test_the_most_telling_code_is_the_jobs(
    attempts: list[dict[int, int]], launcher: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(outcomes.OUTCOMES, str(tmp_path))
    for attempt, codes in enumerate(attempts):
        for rank, noted in codes.items():
            monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
            monkeypatch.setenv("RANK", str(rank))
            outcomes.note_outcome(99)  # a later note replaces it
            outcomes.note_outcome(noted)
    (tmp_path / "0-7").touch()  # of a process that was killed in the middle
    assert outcomes.outcome_in(tmp_path, launcher) == code


def test_without_a_launcher_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(outcomes.OUTCOMES, raising=False)
    outcomes.note_outcome(75)


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("x"), 2), (PeerLostError("x"), 75), (SystemExit("text"), 1), (OSError(), 1)]
)
def test_an_exception_notes_its_code(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(outcomes.OUTCOMES, str(tmp_path))
    with pytest.raises(type(error)), outcomes.exception_noted():
        raise error
    assert outcomes.outcome_in(tmp_path, 1) == code


@pytest.mark.parametrize("name", ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"])
def test_processes_in_one_task_of_slurm_note_a_code_each(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(outcomes.OUTCOMES, str(tmp_path))
    for other in outcomes._RANKS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")
    for rank, noted in enumerate((2, 75)):
        monkeypatch.setenv(name, str(rank))
        outcomes.note_outcome(noted)
    assert outcomes.outcome_in(tmp_path, 1) == 2


def test_what_is_no_note_leaves_the_launchers_code(tmp_path: Path) -> None:
    assert outcomes.outcome_in(tmp_path / "emptied as old", 75) == 75
    (tmp_path / "0-0").write_text("²", encoding="utf-8")
    (tmp_path / "0-1").write_text("--1", encoding="utf-8")
    (tmp_path / "0-2").mkdir()
    (tmp_path / "0-3").write_text("9" * 99, encoding="utf-8")
    (tmp_path / "²-4").write_text("2", encoding="utf-8")
    assert outcomes.outcome_in(tmp_path, 75) == 75
    (tmp_path / "0-5").write_text("74", encoding="utf-8")
    assert outcomes.outcome_in(tmp_path, 75) == 74
