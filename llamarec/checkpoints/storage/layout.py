"""Names on disk: what a run's folder and a checkpoint's folder are made of. Standard library only.

checkpoints/                     the run's folder (the Trainer's output_dir)
  adapter_model.bin, ...         the best model so far, with best.json as its manifest
  checkpoint-1000/               complete, or it would not have this name
    adapter_model.bin ...        the Trainer's own files
    manifest.json                written last
  .saving-checkpoint-1500/       a save in progress, or one that was killed
  .replaced-checkpoint-1000/     the old one while a step is saved again
  .deleting-checkpoint-500/      no longer a checkpoint; being deleted
  .best/                         a new best model on its way
  .run.lock, .run.json           who is training here
  starts.json                    starts that have not come to a checkpoint
  .fetch.lock                    held while a checkpoint comes from the mirror
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MANIFEST: Final = "manifest.json"
TRAINER_STATE: Final = "trainer_state.json"
OPTIMIZER: Final = "optimizer.pt"
SCHEDULER: Final = "scheduler.pt"
SCALER: Final = "scaler.pt"
TRAINING_ARGS: Final = "training_args.bin"
RNG: Final = "rng_state.pth"
RNG_PATTERN: Final = re.compile(r"rng_state(_(?P<rank>\d+))?\.pth")
ADAPTER_CONFIG: Final = "adapter_config.json"
MODEL_CONFIG: Final = "config.json"
# Tensors that training moves and the weights files do not hold.
EXTRA_STATE: Final = "extra_state.safetensors"
# States of the objects that a program passes as `stateful`.
STATEFUL: Final = "stateful.pt"
STATEFUL_PATTERN: Final = re.compile(r"stateful(_(?P<rank>\d+))?\.pt")
BEST_MANIFEST: Final = "best.json"
LIVE_PREFIX: Final = ".live-"
# Our entry among the callbacks' states in trainer_state.json.
STATE_NAME: Final = "ResumableTrainer"

# One of these holds the weights; sharded models have an index of their shards.
WEIGHTS: Final = (
    "adapter_model.bin",
    "adapter_model.safetensors",
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_OF_TRAINING: Final = frozenset({OPTIMIZER, SCHEDULER, SCALER, TRAINER_STATE, TRAINING_ARGS, MANIFEST})
PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth")

# The most bytes that a file of each kind can have, far above what a training writes.
_MIB: Final = 2**20
MAX_JSON_BYTES: Final = 512 * _MIB
_MAX_BYTES: Final = {
    MANIFEST: 64 * _MIB,
    BEST_MANIFEST: 64 * _MIB,
    SCHEDULER: 256 * _MIB,
    SCALER: 64 * _MIB,
    TRAINING_ARGS: 64 * _MIB,
}
_MAX_RNG_BYTES: Final = 256 * _MIB

# Exactly as this package writes it: a folder checkpoint-007 belongs to somebody else.
_CHECKPOINT: Final = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
_LEFTOVER: Final = re.compile(r"\.(saving|replaced|deleting)-checkpoint-(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class RunFolder:
    """The folder in which a run keeps its checkpoints."""

    path: Path

    def checkpoint(self, step: int) -> Path:
        """Path of the checkpoint of a step, whether or not it exists."""
        return self.path / f"checkpoint-{step}"

    def saving(self, step: int) -> Path:
        """Path of the folder in which that checkpoint is written before it gets its name."""
        return self.path / f".saving-checkpoint-{step}"

    def replaced(self, step: int) -> Path:
        """Path to which the old checkpoint is moved while the same step is saved again."""
        return self.path / f".replaced-checkpoint-{step}"

    def deleting(self, step: int) -> Path:
        """Path to which a checkpoint is moved at the moment it is deleted."""
        return self.path / f".deleting-checkpoint-{step}"

    @property
    def best_staging(self) -> Path:
        """Folder in which a new best model is written before its files replace the old ones."""
        return self.path / ".best"

    @property
    def lock(self) -> Path:
        """Lock file, held while a run writes to this folder."""
        return self.path / ".run.lock"

    @property
    def fetch_lock(self) -> Path:
        """Lock file, held while a checkpoint is brought here from a mirror."""
        return self.path / ".fetch.lock"

    @property
    def holder(self) -> Path:
        """File that names the process that holds the lock."""
        return self.path / ".run.json"

    @property
    def restarted(self) -> Path:
        """File that lists the checkpoints from before a restart."""
        return self.path / "restarted.json"

    @property
    def starts(self) -> Path:
        """File that lists the starts that have not come to a checkpoint."""
        return self.path / "starts.json"

    def checkpoints(self) -> list[Path]:
        """Folders named like checkpoints, by step. A name is a claim, not a proof."""
        return [self.checkpoint(step) for step in self.steps()]

    def steps(self) -> list[int]:
        """Steps of these folders, in order."""
        return sorted(step for path in self._folders() if (step := step_of(path)) is not None)

    def leftovers(self) -> list[tuple[str, int]]:
        """What killed saves and deletions left, as (kind, step); kind is saving, replaced or deleting.

        The names are the writer's own, so whatever has one is left over: a folder, a file, a link.
        """
        found = (_LEFTOVER.fullmatch(path.name) for path in self._entries())
        return sorted((match[1], int(match[2])) for match in found if match)

    def live_leftovers(self) -> list[Path]:
        """What is left of models that were being copied into a checkpoint."""
        return sorted(path for path in self._entries() if path.name.startswith(LIVE_PREFIX))

    def _folders(self) -> list[Path]:
        return [path for path in self._entries() if path.is_dir()]

    def _entries(self) -> list[Path]:
        return list(self.path.iterdir()) if self.path.is_dir() else []


def step_of(path: Path) -> int | None:
    """The step in a checkpoint's folder name; None for any other name.

    >>> step_of(Path("runs/checkpoint-1000")), step_of(Path("runs/checkpoint-1000.old"))
    (1000, None)
    """
    match = _CHECKPOINT.fullmatch(path.name)
    return int(match[1]) if match else None


def is_own_name(name: str) -> bool:
    """Whether an entry of a run's folder belongs to the program, so that no model's file may have its name.

    >>> is_own_name(".best"), is_own_name("checkpoint-0"), is_own_name("config.json")
    (True, True, False)
    """
    is_part = _LEFTOVER.fullmatch(name) or step_of(Path(name)) is not None or name.startswith(LIVE_PREFIX)
    run = RunFolder(Path())
    files = (run.best_staging, run.lock, run.fetch_lock, run.holder, run.restarted, run.starts, Path(BEST_MANIFEST))
    return bool(is_part) or name in {path.name for path in files}


def rng_of(rank: int) -> str:
    """Name of the file with the random states of one of several processes. A single process writes `RNG`."""
    return f"rng_state_{rank}.pth"


def stateful_of(rank: int) -> str:
    """Name of the file with the states of one of several processes, where they differ. Else there is one `STATEFUL`."""
    return f"stateful_{rank}.pt"


def max_bytes_of(name: str) -> int:
    """The most bytes that a file of this name can have: a limit for files that are read whole.

    Weights, the optimizer's state and `stateful` objects have none here: their own headers say how large they are.

    >>> max_bytes_of("manifest.json") // 2**20, max_bytes_of("adapter_model.bin") == 2**63 - 1
    (64, True)
    """
    if RNG_PATTERN.fullmatch(name):
        return _MAX_RNG_BYTES
    return _MAX_BYTES.get(name, MAX_JSON_BYTES if name.endswith(".json") else 2**63 - 1)


def is_process_state(name: str) -> bool:
    """Whether a file holds what each process keeps: random states, or the states of `stateful` objects.

    >>> is_process_state("rng_state_1.pth"), is_process_state("stateful.pt"), is_process_state("optimizer.pt")
    (True, True, False)
    """
    return any(pattern.fullmatch(name) for pattern in (RNG_PATTERN, STATEFUL_PATTERN))


def is_of_model(name: str) -> bool:
    """Whether a checkpoint's file belongs to the model, not to its training.

    >>> is_of_model("model.safetensors"), is_of_model("config.json"), is_of_model("optimizer.pt")
    (True, True, False)
    """
    return name not in _OF_TRAINING and not is_process_state(name)


def is_written_by_save(name: str) -> bool:
    """Whether a save writes a file of this name itself, so that nobody else can add one to the checkpoint.

    >>> is_written_by_save("extra_state.safetensors"), is_written_by_save("notes.txt")
    (True, False)
    """
    return name in {*WEIGHTS, EXTRA_STATE} or not is_of_model(name)


def weight_files(folder: Path) -> list[Path]:
    """Files in a folder that hold a model's weights or list their shards."""
    return [folder / name for name in WEIGHTS if (folder / name).is_file()]
