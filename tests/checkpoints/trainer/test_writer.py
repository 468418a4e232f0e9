"""The writer and the best model: hashed only where something is to be copied, and never replaced by a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.best_model import read_best
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.verification import verify_best
from llamarec.checkpoints.trainer.saves.writer import CheckpointWriter
from tests.resume.torture import session

BEST = session.SCRIPT[0].best_step


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that are hashed, as it comes."""
    found: list[Path] = []
    before = durable.sha256_of

    def spy(path: Path) -> str:
        found.append(path)
        return before(path)

    monkeypatch.setattr(durable, "sha256_of", spy)
    return found


def _writer(folder: Path, said: list[str] | None = None) -> CheckpointWriter:
    warn = (said if said is not None else []).append
    return CheckpointWriter(RunFolder(folder), limit=session.LIMIT, warn=warn, in_background=False)


def test_a_best_model_that_did_not_change_is_not_hashed_again(tmp_path: Path, hashed: list[Path]) -> None:
    writer = _writer(tmp_path)
    writer.submit(session.snapshot(0))
    assert read_best(tmp_path) is not None
    hashed.clear()
    writer.submit(session.snapshot(1))
    checkpoint = RunFolder(tmp_path).checkpoint(BEST)
    assert not [path for path in hashed if checkpoint in path.parents]
    assert not [path for path in hashed if path.parent == tmp_path]


def test_a_damaged_checkpoint_never_becomes_the_best_model(tmp_path: Path) -> None:
    said: list[str] = []
    writer = _writer(tmp_path, said)
    writer.submit(session.snapshot(0))
    weights = RunFolder(tmp_path).checkpoint(BEST) / session.SCRIPT[0].weights
    weights.write_bytes(weights.read_bytes()[::-1])
    (tmp_path / session.SCRIPT[0].weights).unlink()
    writer = _writer(tmp_path, said)
    writer.submit(session.snapshot(1))
    # There is none to put it right with: what is damaged stays known as that.
    assert verify_best(tmp_path).health == "damaged"
    assert not (tmp_path / session.SCRIPT[0].weights).exists()
    assert f"checkpoint-{BEST} holds it and is damaged" in " ".join(said)
    assert writer.last_error
