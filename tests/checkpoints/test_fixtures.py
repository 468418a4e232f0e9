"""Checkpoints of format 1, written once by tests/fixtures/make_v1.py: whatever comes later reads and resumes them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from peft import PeftModel

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.progress import progress_in
from llamarec.checkpoints.resume.safe_load import load_json, load_weights, refuse_hostile
from llamarec.checkpoints.storage.discovery import best_in, latest
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import read_manifest
from llamarec.checkpoints.storage.verification import verify
from tests.fixtures.make_v1 import ARGUMENTS
from tests.resume.training import digest, make_model, make_trainer

V1 = Path(__file__).resolve().parent.parent / "fixtures/checkpoints/v1"
FORMATS = ("bin", "safetensors")


@pytest.fixture(params=FORMATS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a run's folder: checkpoint-4 of 6 steps, and the best model, of step 2."""
    return Path(shutil.copytree(V1 / request.param, tmp_path / "run"))


def test_it_verifies(run: Path) -> None:
    choice = latest(RunFolder(run))
    assert choice is not None
    assert choice.verdict.health == "good"
    manifest = choice.verdict.manifest
    assert manifest is not None
    assert (manifest.step, manifest.reason, manifest.sequence, manifest.parent) == (4, "signal", 1, None)
    assert manifest.position == {"epoch": 1, "sample": 4, "num_samples": 12, "batch": 4, "max_steps": 6}
    assert manifest.metrics["best_step"] == 2
    assert manifest.fingerprints["lora"]["lora_alpha"] == 8
    assert [session.from_step for session in manifest.sessions] == [0]
    refuse_hostile(run / "checkpoint-4")
    best = best_in(RunFolder(run))
    assert best is not None
    assert best.step == 2
    assert all((run / name).stat().st_size == entry.num_bytes for name, entry in best.files.items())


@pytest.mark.parametrize("name", ["checkpoint-4/manifest.json", "best.json"])
def test_the_checksum_is_computed_as_documented(name: str, run: Path) -> None:
    content = json.loads((run / name).read_text(encoding="utf-8"))
    checksum = content.pop("checksum")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode("utf-8")).hexdigest() == checksum


def test_the_position_is_read(run: Path) -> None:
    progress = progress_in(load_json(run / "checkpoint-4/trainer_state.json"))
    assert progress is not None
    assert (progress.step, progress.position.epoch, progress.position.sample, progress.batch) == (4, 1, 4, 4)


def test_both_formats_hold_the_same_weights() -> None:
    folders = [V1 / name / place for name in FORMATS for place in ("checkpoint-4", "")]
    last_bin, best_bin, last_safe, best_safe = (digest(load_weights(folder)) for folder in folders)
    assert last_bin == last_safe
    assert best_bin == best_safe != last_bin


def test_it_resumes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # What a random generator makes of a seed may differ between machines, and so the base model of the test.
    trainer = make_trainer(run, CheckpointConfig(allow_changed="base_model"), **ARGUMENTS)
    assert trainer.train("latest").global_step == 6
    said = capsys.readouterr().out
    assert "next:        sample 5 of 12, epoch 2 (step 5)" in said
    assert verify(run / "checkpoint-6").health == "good"
    manifest = read_manifest(run / "checkpoint-6")
    assert manifest is not None
    assert (manifest.parent, [session.from_step for session in manifest.sessions]) == (4, [0, 4])


def test_peft_reads_it(run: Path) -> None:
    for place in (run, run / "checkpoint-4"):
        model = PeftModel.from_pretrained(make_model().unload(), str(place))
        expected = load_weights(place)
        assert expected is not None
        found = {name.replace(".default", ""): p for name, p in model.named_parameters() if "lora_" in name}
        assert {name: digest(p) for name, p in found.items()} == {name: digest(p) for name, p in expected.items()}
