"""What a process that loads data is given. It imports torch alone, so that one that starts anew does so soon."""

from __future__ import annotations

import atexit
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from llamarec.checkpoints.trainer.worker_signals import LeaveSignals

NUM_SAMPLES, LENGTH, VOCABULARY = 50, 8, 32


class Words(Dataset[dict[str, torch.Tensor]]):
    """Sequences that count upwards, of which a random token is replaced at each reading, drawn three ways."""

    def __init__(self, num_samples: int = NUM_SAMPLES, *, noisy: bool = True) -> None:
        self._num_samples, self._noisy = num_samples, noisy

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = (index + torch.arange(LENGTH)) % VOCABULARY
        if self._noisy:
            ids[random.randrange(LENGTH)] = int(torch.randint(VOCABULARY, (1,)))
            ids[int(np.random.randint(LENGTH))] = index % VOCABULARY
        return {"input_ids": ids, "labels": ids.clone(), "index": torch.tensor(index)}


class Seen:
    """Collates, draws a random number on the way, and writes down which samples came."""

    def __init__(self, log: Path | None = None, *, noisy: bool = True) -> None:
        self._log, self._noisy = log, noisy

    def __call__(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        indices = batch.pop("index")
        if self._noisy:
            batch["input_ids"][0, -1] = int(torch.randint(VOCABULARY, (1,)))
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(" ".join(str(int(index)) for index in indices) + "\n")
        return batch


class Slow(Dataset[int]):
    """Takes its time over each sample."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> int:
        time.sleep(self._seconds)
        return index


def stuck(is_ready: Any) -> None:
    """A worker that does not come to an end."""
    LeaveSignals()(0)
    is_ready.set()
    time.sleep(600)


def worked(goodbye: Path, error: str) -> None:
    """A worker that does its work, or fails; the interpreter would say goodbye."""
    LeaveSignals()(0)
    atexit.register(goodbye.touch)
    if error:
        raise SystemExit(error)
