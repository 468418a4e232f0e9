"""Files that `on_save` writes into `checkpoint-N`, as callbacks for a plain Trainer do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.verification import verify
from llamarec.checkpoints.trainer.saves.callback_files import CallbackFiles
from llamarec.errors import ConfigError
from tests.resume.runs import quiet_trainer
from tests.resume.training import state_of

SMALL: dict[str, Any] = {"num_samples": 12, "noisy": False, "save_steps": 2, "max_steps": 4}


class Writes(TrainerCallback):
    """Writes a file into the checkpoint's folder, which it makes where that is wanted."""

    def __init__(self, name: str = "notes/step.txt", *, makes: bool = True) -> None:
        self._name, self._makes = name, makes

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / self._name
        if self._makes:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(state.global_step), encoding="utf-8")


def test_a_file_of_a_callback_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    quiet_trainer(tmp_path / "plain", **SMALL).train()
    quiet_trainer(tmp_path / "run", callbacks=(Writes(),), **SMALL).train()
    for step in (2, 4):
        folder = tmp_path / f"run/checkpoint-{step}"
        assert (folder / "notes/step.txt").read_text(encoding="utf-8") == str(step)
        assert "notes/step.txt" in json.loads((folder / "manifest.json").read_bytes())["files"]
        assert verify(folder).health == "good"
        assert state_of(folder) == state_of(tmp_path / f"plain/checkpoint-{step}")
    assert not list((tmp_path / "run").glob(".*-callbacks"))


@pytest.mark.parametrize("name", ["optimizer.pt", "extra_state.safetensors", "manifest.json"])
def test_a_file_that_the_checkpoint_has_itself_is_not_replaced(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_trainer(tmp_path, callbacks=(Writes(name),), **SMALL).train()
    assert f"on_save of a callback wrote checkpoint-2/{name}" in capsys.readouterr().err
    assert all(verify(tmp_path / f"checkpoint-{step}").health == "good" for step in (2, 4))


def test_the_half_of_a_checkpoint_that_was_there_before_is_not_taken_over(tmp_path: Path) -> None:
    half = tmp_path / "checkpoint-4"
    trainer = quiet_trainer(tmp_path, CheckpointConfig(restart=True), callbacks=(Writes(),), **SMALL)
    half.mkdir()
    (half / "model-00001-of-00002.safetensors").write_bytes(b"half")
    trainer.train()
    assert (half / "notes/step.txt").is_file()
    assert not (half / "model-00001-of-00002.safetensors").exists()


def test_a_folder_that_is_not_there_yet_is_explained(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, callbacks=(Writes("step.txt", makes=False),), **SMALL)
    with pytest.raises(FileNotFoundError) as error:
        trainer.train()
    assert "give after_save=" in error.value.__notes__[0]


@pytest.mark.parametrize(
    ("num_samples", "match"),
    [(0, "train_dataset has 0 samples"), (1, "(?s)drop_last true leaves no sample.*--per_device_train_batch_size 1")],
)
def test_nothing_to_train_on_is_refused(num_samples: int, match: str, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, dataloader_drop_last=True, **{**SMALL, "num_samples": num_samples})
    with pytest.raises(ConfigError, match=match):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_checkpoint_of_an_older_line_is_looked_at_when_nothing_deletes_it_any_more(tmp_path: Path) -> None:
    older = tmp_path / "checkpoint-6"
    older.mkdir()
    (older / "rng_state.pth").write_bytes(b"of the older line")
    files = CallbackFiles(RunFolder(tmp_path), warn=pytest.fail, settle=lambda: shutil.rmtree(older))

    files.note(6)
    older.mkdir()
    (older / "notes.txt").write_bytes(b"of a callback")

    assert files.collect(6, tmp_path / "target")
    assert not older.exists()
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["notes.txt"]
