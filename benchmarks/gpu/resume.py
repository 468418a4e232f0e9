"""Whether a training on a GPU that is stopped and resumed is the one that never stopped, and what that costs."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback

from benchmarks.gpu.bench import Bench, Figure, Measure, Watch, free, make_trainer, unmeasured
from benchmarks.gpu.drawn import SEED, DrawnPrompts
from benchmarks.ranker.epoch import STEP
from llamarec.checkpoints.trainer.signals import Interrupted

_STEPS: Final = 6
_STOPPED_AT: Final = 3
# The workspace without which cuBLAS may sum in another order; read when it is used first.
WORKSPACE: Final = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def measures() -> list[Measure]:
    """All of this part."""
    note = "parts of the last checkpoint that differ"
    found = [
        Measure(
            (unmeasured(f"resume_{dtype}_differences", "<= 0", f"{note}, deterministic mode"),),
            partial(_differences, dtype=dtype, exact=True),
        )
        for dtype in ("bf16", "nf4")
    ]
    # Not promised, but worth knowing.
    usual = unmeasured("resume_bf16_differences_usual", note=f"{note}, without deterministic mode")
    found.append(Measure((usual,), partial(_differences, dtype="bf16", exact=False)))
    cost = unmeasured("deterministic_step_ratio", note="step of the large model in bf16, deterministic over usual")
    found.append(Measure((cost,), _cost))
    return found


@contextlib.contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Within, torch takes only kernels that give the same bits every time, and refuses where it has none."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault(*WORKSPACE)
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class StopsAt(TrainerCallback):
    """Asks for a stop as a scheduler does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == _STOPPED_AT:
            signal.raise_signal(signal.SIGTERM)


def _differences(bench: Bench, dtype: str, exact: bool) -> dict[str, Figure]:
    # What must be equal of two checkpoints is written down once, beside the tests of resuming.
    from tests.resume.training import state_of

    with tempfile.TemporaryDirectory() as root, deterministic(exact):
        whole, parts = Path(root) / "whole", Path(root) / "parts"
        _trainer(bench, dtype, whole).train()
        stopped = _trainer(bench, dtype, parts)
        stopped.add_callback(StopsAt())
        with contextlib.suppress(Interrupted):
            stopped.train()
        done = stopped.state.global_step
        del stopped
        if done != _STOPPED_AT:
            raise RuntimeError(f"stopped at step {done} instead of {_STOPPED_AT}")
        _trainer(bench, dtype, parts).train("latest")
        last = f"checkpoint-{_STEPS}"
        ours, theirs = state_of(parts / last), state_of(whole / last)
    differing = sorted(name for name in theirs if ours[name] != theirs[name])
    name = f"resume_{dtype}_differences" + ("" if exact else "_usual")
    return {name: Figure(len(differing), ", ".join(differing))}


def _trainer(bench: Bench, dtype: str, folder: Path) -> Any:
    """With dropout, so that random states of the device matter."""
    count = _STEPS * STEP
    prompts = DrawnPrompts(bench.lengths(bench.small, count), bench.small.vocabulary)
    flags: dict[str, Any] = {"quantization": "nf4" if dtype == "nf4" else "none", "bf16": True, "seed": SEED}
    flags |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": STEP // 4}
    flags |= {"save_strategy": "steps", "save_steps": _STEPS, "max_steps": _STEPS, "learning_rate": 1e-3}
    return make_trainer(bench, bench.small, prompts, folder, **flags)


def _cost(bench: Bench) -> dict[str, Figure]:
    seconds = {}
    for exact in (False, True):
        with tempfile.TemporaryDirectory() as folder, deterministic(exact):
            count = (bench.warm_steps + bench.timed_steps) * STEP
            prompts, watch = DrawnPrompts(bench.lengths(bench.shape, count), bench.shape.vocabulary), Watch(bench)
            flags = {"quantization": "none", "bf16": True, "max_steps": count // STEP}
            flags |= {"per_device_train_batch_size": STEP, "gradient_accumulation_steps": 1}
            trainer = make_trainer(bench, bench.shape, prompts, Path(folder), **flags)
            trainer.add_callback(watch)
            trainer.train()
            seconds[exact] = watch.seconds
            del trainer
        free(bench)
    return {"deterministic_step_ratio": Figure(seconds[True] / seconds[False])}
