"""What all processes of a training are started with: flags, data, model, versions, and the checkpoint to resume.

Each row would make another model, or a process that waits for ever. What differs is refused before the first step.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Final

from torch import nn
from transformers import TrainingArguments

from llamarec.checkpoints.resume.compatibility import UNTRACKED
from llamarec.checkpoints.resume.decision import Resume
from llamarec.checkpoints.storage.entries import read_bytes
from llamarec.checkpoints.storage.layout import MANIFEST, TRAINER_STATE, max_bytes_of
from llamarec.checkpoints.trainer.distributed.agreement import check_equal
from llamarec.checkpoints.trainer.program import Program
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped

_PACKAGES: Final = ("llamarec", "torch", "transformers", "accelerate", "peft", "bitsandbytes")
# Of a repr, which is what a callable in the options is stored as.
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+")
_DIGITS: Final = 16
# Options that may hold credentials, which no message shows.
_ADDRESSES: Final = ("backup_to", "mirror")
# A resume is free to have others; the processes of one launch are not.
_OF_THE_LAUNCH: Final = ("fsdp", "fsdp_config")


def check_same_settings(
    trainer: LiveTrainer,
    program: Program,
    *,
    fingerprints: Mapping[str, object],
    hyperparameters: Mapping[str, object],
    wanted: object,
) -> None:
    """Refuses processes that were started with other flags, data, models or versions.

    Args:
        trainer: The live Trainer.
        program: What the program gave.
        fingerprints: What identifies the run.
        hyperparameters: Of this process.
        wanted: The checkpoint to resume, as it was asked for.

    Raises:
        DisagreementError: names what differs, with the values and the ranks that have them.
    """
    if trainer.args.world_size == 1:
        return

    flags = {name: value for name, value in hyperparameters.items() if name not in UNTRACKED}
    options = {**asdict(program.options.config), **{name: _address(program, name) for name in _ADDRESSES}}
    config = {f"checkpoint_config.{name}": value for name, value in options.items()}
    values = {
        "resume_from_checkpoint": _wanted(wanted),
        **{name: _plain(getattr(trainer.args, name, None)) for name in _OF_THE_LAUNCH},
        **{name: _plain(value) for name, value in {**flags, **config}.items()},
        **{name: _plain(value) for name, value in fingerprints.items()},
        "number of training samples": _length(trainer.train_dataset),
        "trained tensors": _shapes(unwrapped(trainer)),
        **{f"version of {name}": version for name, version in _versions().items()},
    }
    check_equal(trainer.args, "what a training is started with", values)


def check_same_checkpoint(args: TrainingArguments, resume: Resume | None) -> None:
    """Refuses processes that would continue from different checkpoints.

    Raises:
        DisagreementError: names them.
    """
    if args.world_size == 1:
        return

    values: dict[str, object] = {"checkpoint to resume": "none, from step 0"}
    if resume is not None:
        path = resume.choice.verdict.path
        values = {
            "checkpoint to resume": path.name,
            "its step": resume.step,
            "its content": _short(_content(path / MANIFEST) + _content(path / TRAINER_STATE)),
            "its missing parts": sorted(resume.choice.verdict.missing),
        }
    hint = "look at the folder on each node (llamarec checkpoints list), and start again"
    check_equal(args, "the checkpoint to resume", values, hint=hint)


def _address(program: Program, name: str) -> str:
    address = str(getattr(program.options.config, name))
    return f"an address, {_short(address.encode())}" if address else ""


def _wanted(value: object) -> str:
    """Without the folder, which each node may mount elsewhere."""
    return Path(value).name if isinstance(value, str | Path) else str(value)


def _plain(value: object) -> str:
    """As text: the same in all processes, whatever order a dictionary has and wherever an object lies in memory."""
    return _ADDRESS.sub("0x", json.dumps(value, sort_keys=True, default=str))


def _length(data: object) -> int:
    return len(data) if hasattr(data, "__len__") else -1


def _shapes(model: nn.Module) -> str:
    named = [f"{name} {tuple(p.shape)} {p.dtype}" for name, p in model.named_parameters() if p.requires_grad]
    return f"{len(named)}, {_short(' '.join(named).encode())}"


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, max_bytes_of(path.name))
    except OSError:
        return b""


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
