"""What the measurements on a GPU have in common: the device, lengths of prompts, a Trainer as the product makes it."""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback, set_seed

from benchmarks.gpu.drawn import LETTER_IDS, DrawnPrompts, Shape, drawn_lengths, drawn_models
from benchmarks.harness.hardware import synchronize
from benchmarks.harness.report import Row
from benchmarks.ranker.product import parsed, trainer_of
from llamarec.ranker.model.base_models import load_letter_model
from llamarec.ranker.training.trainer import RankerTrainer

GIGABYTE: Final = 1e9
_BASE_MODEL: Final = "meta-llama/Llama-2-7b-hf"


class Figure(NamedTuple):
    """A measured value, and anything that a reader must know."""

    value: float
    note: str = ""


@dataclass
class Bench:
    """Where and with what is measured.

    Attributes:
        device: 'cuda', or 'cpu' for trying the script out.
        shape: Of the large model.
        small: Of the model with which only exactness is looked at.
        counted: Lengths of prompts in the data; None draws them.
        warm_steps: Steps before the clock starts.
        timed_steps: Steps that count.
        found: Figures so far, by name.
    """

    device: str
    shape: Shape
    small: Shape
    counted: NDArray[np.int64] | None = None
    warm_steps: int = 2
    timed_steps: int = 6
    found: dict[str, Figure] = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        """Whether memory can be measured, and can run out."""
        return self.device == "cuda"

    def lengths(self, shape: Shape, count: int) -> NDArray[np.int64]:
        """[count] tokens of prompts."""
        if self.counted is None:
            return drawn_lengths(shape, count)
        return self.counted[np.arange(count) % len(self.counted)]

    def value(self, name: str) -> float:
        """Of an earlier figure.

        Raises:
            LookupError: it could not be measured.
        """
        if name not in self.found or math.isnan(self.found[name].value):
            raise LookupError(f"needs {name}, which was not measured")
        return self.found[name].value


@dataclass(frozen=True)
class Measure:
    """One thing to measure.

    Attributes:
        rows: What comes of it, without values.
        take: Measures; one figure for every row.
    """

    rows: tuple[Row, ...]
    take: Callable[[Bench], dict[str, Figure]]


def unmeasured(name: str, goal: str = "", note: str = "") -> Row:
    """A row without a value."""
    return Row(name, math.nan, goal, note)


def take_all(bench: Bench, measures: Sequence[Measure]) -> Iterator[list[Row]]:
    """The rows of each measure, as they come; one that fails says why, and the next has its turn."""
    for measure in measures:
        try:
            # What the Trainer says is no row.
            with contextlib.redirect_stdout(sys.stderr):
                figures = measure.take(bench)
        except Exception as error:
            # Only the text: the traceback holds tensors.
            reason = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            figures = {row.name: Figure(math.nan, reason) for row in measure.rows}
        free(bench)
        bench.found.update(figures)
        yield [_filled(row, figures[row.name]) for row in measure.rows]


def _filled(row: Row, figure: Figure) -> Row:
    return Row(row.name, figure.value, row.goal, "; ".join(filter(None, (figure.note, row.note))))


def free(bench: Bench) -> None:
    """Gives back the memory of what is gone."""
    gc.collect()
    if bench.is_gpu:
        torch.cuda.empty_cache()


# ---- The product's Trainer ----


def make_trainer(bench: Bench, shape: Shape, prompts: DrawnPrompts, folder: Path, **flags: Any) -> RankerTrainer:
    """As train_ranker.py makes it from these flags, with random weights and prompts."""
    on_cpu = {} if bench.is_gpu else {"use_cpu": True}
    command = parsed(dataset_code="beauty", llm_base_model=_BASE_MODEL, output_dir=folder, **on_cpu, **flags)
    set_seed(command.training.seed)
    with drawn_models(shape, bench.device):
        model = load_letter_model(_BASE_MODEL, _BASE_MODEL, command.ranker, LETTER_IDS, bf16=command.training.bf16)
    return trainer_of(command, model, prompts, prompts)


class Watch(TrainerCallback):
    """Times steps, and takes the peak of the memory of the step after them.

    Args:
        bench: Says how many steps are not counted, and how many are.
        micro_batch: Says to what the micro-batch was reduced so far, if it was.

    Attributes:
        seconds: Of the steps that count.
        peak_gb: Of the step after them; not a number on a CPU.
        reduced: The reduced micro-batch when the clock stopped, or 0.
    """

    def __init__(self, bench: Bench, micro_batch: Callable[[], int] = int) -> None:
        self._micro_batch, self.reduced = micro_batch, 0
        self._device, self._warm, self._last = bench.device, bench.warm_steps, bench.warm_steps + bench.timed_steps
        self.seconds, self.peak_gb, self._begun = math.nan, math.nan, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        synchronize(self._device)
        if state.global_step == self._warm:
            self._begun = time.perf_counter()
        elif state.global_step == self._last:
            self.seconds, self.reduced = time.perf_counter() - self._begun, self._micro_batch()
            if self._device == "cuda":
                torch.cuda.reset_peak_memory_stats()
        elif state.global_step == self._last + 1 and self._device == "cuda":
            self.peak_gb = torch.cuda.max_memory_allocated() / GIGABYTE
