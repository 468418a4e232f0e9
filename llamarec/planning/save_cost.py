"""What a save costs on this machine: a trial with as many bytes as a checkpoint will have."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage import durable
from llamarec.errors import ConfigError

# Weights of LoRA and Adam's two moments, in float32.
BYTES_PER_TRAINED_WEIGHT: Final = 12
_TRIALS: Final = 3


@dataclass(frozen=True)
class SaveCost:
    """Seconds of a save.

    Attributes:
        waits: Training waits: the state is copied in memory.
        writes: Until it is on the disk, synced and read back; the copy is part of it.
    """

    waits: float
    writes: float


def measure_save(folder: Path, num_bytes: int, *, on_gpu: bool) -> SaveCost:
    """Copies, writes, syncs and hashes so many bytes, three times; the medians.

    Args:
        folder: Where the run's checkpoints will be; it need not exist, and nothing is left in it.
        num_bytes: Of the state.
        on_gpu: The state is in a GPU's memory.

    Raises:
        ConfigError: nothing can be written there.
    """
    import torch

    state = torch.ones(max(1, num_bytes), dtype=torch.uint8, device="cuda" if on_gpu else "cpu")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    costs = []
    try:
        with tempfile.TemporaryDirectory(prefix=".save-trial-", dir=existing) as scratch:
            for number in range(_TRIALS):
                started = time.perf_counter()
                copied = state.to("cpu", copy=True)
                waits = time.perf_counter() - started

                path = Path(scratch) / f"{number}"
                durable.write_file(path, copied.numpy().tobytes())
                durable.sha256_of(path)
                costs.append(SaveCost(waits, time.perf_counter() - started))
    except OSError as error:
        raise ConfigError(
            f"a save cannot be measured in {existing}",
            found=str(error),
            hint="another --output_dir or --experiment_root",
        ) from None
    return SaveCost(_median([one.waits for one in costs]), _median([one.writes for one in costs]))


def _median(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]
