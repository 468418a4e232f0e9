"""A file that would execute code is refused by its name, whether or not it is one that a resume loads."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.safe_load import load_pickled, refuse_hostile
from llamarec.checkpoints.storage.durable import seal_file
from llamarec.checkpoints.storage.layout import MANIFEST, PICKLE_SUFFIXES
from llamarec.checkpoints.storage.manifest import FileEntry, read_manifest
from llamarec.checkpoints.trainer.samples.rng import capture
from llamarec.errors import CheckpointError
from tests.resume.runs import quiet_trainer, stopped
from tests.resume.training import make_args

SMALL: dict[str, Any] = {"num_samples": 12, "noisy": False, "save_steps": 100}
NAMES = (
    "adapter_model.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "scaler.pt",
    "training_args.bin",
    "pytorch_model.bin",
)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


class Command(Payload):
    """The same through a shell."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"{sys.executable} -c \"open(r'{self._path}', 'w')\"",)


class Expression(Payload):
    """The same through eval, hidden inside what looks like weights."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self._path)!r}, 'w').close()",)


def _zipped(path: Path, payload: Any) -> None:
    torch.save({"base_model.model.q.lora_A.weight": torch.zeros(2, 2), "x": payload}, path)


def _old(path: Path, payload: Any) -> None:
    torch.save({"weight": payload}, path, _use_new_zipfile_serialization=False)


def _bare(path: Path, payload: Any) -> None:
    path.write_bytes(pickle.dumps(payload))


WAYS: dict[str, tuple[Callable[[Path, Any], None], Callable[[Path], Payload]]] = {
    "zip": (_zipped, Command),
    "old": (_old, Expression),
    "bare": (_bare, Payload),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with checkpoint-4 of 6 steps."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    stopped(quiet_trainer(folder, CheckpointConfig(adapter_format="bin"), **SMALL), 4)
    return folder


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(saved, tmp_path / "run")) / "checkpoint-4"


def relist(checkpoint: Path) -> None:
    """Makes the manifest fit what is in the folder, as an attacker would."""
    manifest = read_manifest(checkpoint)
    assert manifest is not None
    names = sorted(path.name for path in checkpoint.iterdir() if path.name != MANIFEST)
    files = {name: FileEntry(*seal_file(checkpoint / name)) for name in names}
    (checkpoint / MANIFEST).write_bytes(replace(manifest, files=files).to_bytes())


def test_the_payloads_work(tmp_path: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    for name, (write, payload) in WAYS.items():
        marker = tmp_path / f"executed-{name}"
        write(tmp_path / name, payload(marker))
        assert not marker.exists()
        if name == "bare":
            pickle.loads((tmp_path / name).read_bytes())  # noqa: S301
        else:
            torch.load(tmp_path / name, weights_only=False)
        assert marker.exists(), name


@pytest.mark.parametrize("with_manifest", [True, False], ids=["hashes match", "no manifest"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_refused_by_name_and_not_executed(
    name: str, way: str, with_manifest: bool, checkpoint: Path, tmp_path: Path
) -> None:
    write, payload = WAYS[way]
    marker = tmp_path / "executed"
    write(checkpoint / name, payload(marker))
    if with_manifest:
        relist(checkpoint)
    else:
        _forget_manifest(checkpoint)
    for wanted in ("latest", str(checkpoint)):
        trainer = quiet_trainer(checkpoint.parent, **SMALL)
        with pytest.raises(CheckpointError) as error:
            trainer.train(wanted)
        assert str(error.value).startswith(f"{checkpoint / name} is refused"), error.value
        assert not marker.exists()


def _forget_manifest(checkpoint: Path) -> None:
    """As if a plain Trainer had saved it."""
    (checkpoint / MANIFEST).unlink()
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    del state["stateful_callbacks"]["ResumableTrainer"]
    path.write_text(json.dumps(state), encoding="utf-8")


def test_the_message_says_what_is_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    _zipped(checkpoint / "scaler.pt", Command(tmp_path / "executed"))
    with pytest.raises(CheckpointError, match=r"(?s)scaler\.pt is refused.*(posix|nt)\.system") as error:
        refuse_hostile(checkpoint)
    assert "weights_only=False" not in str(error.value)


def test_a_whole_checkpoint_passes(checkpoint: Path) -> None:
    assert {path.suffix for path in checkpoint.iterdir()} >= set(PICKLE_SUFFIXES)
    refuse_hostile(checkpoint)


@dataclass
class OwnArguments(TrainingArguments):
    """As scripts have them."""

    ranks: list[int] = field(default_factory=lambda: [1, 2])


def test_arguments_of_the_program_pass(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = OwnArguments(
        output_dir=str(checkpoint),
        report_to="none",
        use_cpu=True,
        accelerator_config={"split_batches": False},
        lr_scheduler_kwargs={"num_cycles": 2.0},
        optim_args="fused=True",
        logging_nan_inf_filter=False,
    )
    torch.save(args, checkpoint / "training_args.bin")
    refuse_hostile(checkpoint)
    # As a program that knows nothing of the class: refused by its name, until the user says that it is theirs.
    monkeypatch.delattr(sys.modules[__name__], "OwnArguments")
    with pytest.raises(CheckpointError, match=r"training_args\.bin is refused") as error:
        refuse_hostile(checkpoint)
    assert f"{__name__}.OwnArguments" in str(error.value)
    assert "--allow_changed training_args.bin" in str(error.value)
    refuse_hostile(checkpoint, frozenset({"training_args.bin"}))
    # A preview knows no program at all; what its libraries have is still refused.
    with pytest.raises(CheckpointError, match="OwnArguments"):
        refuse_hostile(checkpoint, is_preview=True)


def test_nothing_is_imported_to_look_a_name_up(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("never_imported")
    module.Thing = type("Thing", (), {"__module__": "never_imported"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "never_imported", module)
    torch.save(module.Thing(), checkpoint / "training_args.bin")
    monkeypatch.delitem(sys.modules, "never_imported")
    with pytest.raises(CheckpointError, match=r"never_imported\.Thing"):
        refuse_hostile(checkpoint)
    refuse_hostile(checkpoint, is_preview=True)


def test_a_preview_refuses_what_no_script_has(checkpoint: Path) -> None:
    torch.save(subprocess.Popen, checkpoint / "training_args.bin")
    with pytest.raises(CheckpointError, match=r"commands\.Popen"):
        refuse_hostile(checkpoint, is_preview=True)
    assert "never_imported" not in sys.modules


def test_random_states_of_numpy_1(tmp_path: Path) -> None:
    torch.save(capture(), tmp_path / "rng_state_0.pth")
    with (
        zipfile.ZipFile(tmp_path / "rng_state_0.pth") as new,
        zipfile.ZipFile(tmp_path / "rng_state_1.pth", "w") as old,
    ):
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert (tmp_path / "rng_state_1.pth").read_bytes().count(b"numpy.core.multiarray") >= 1
    found, expected = load_pickled(tmp_path / "rng_state_1.pth"), capture()
    assert np.array_equal(found["numpy"][1], expected["numpy"][1])


def test_plain_arguments_are_what_is_written(tmp_path: Path) -> None:
    torch.save(make_args(tmp_path), tmp_path / "training_args.bin")
    refuse_hostile(tmp_path)
