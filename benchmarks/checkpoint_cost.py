"""What checkpoints cost, beside the plain Trainer: how long a save holds training up, starting again, room on the disk.

    python -m benchmarks.checkpoint_cost

The adapter has the size of LoRA r 8 on q and v of Llama 7B (4.2 million weights in 128 tensors, so 17 MB of weights and
34 MB of moments); the base model is small, so that a step takes a fraction of a second. Both Trainers run in this
process, alternating; starting again is measured in processes of their own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from benchmarks.harness.machine import describe
from benchmarks.harness.report import Row, write_rows
from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.trainer.resumable import ResumableTrainer
from llamarec.checkpoints.trainer.saves.saver import CheckpointSaver

BATCH, LENGTH, VOCABULARY = 4, 16, 256
STEPS, SAVE_STEPS, LIMIT = 41, 8, 3
NUM_SAMPLES = 4_000
KINDS: dict[str, type[Any]] = {"plain": Trainer, "ours": ResumableTrainer}


class Tokens(Dataset[dict[str, torch.Tensor]]):
    """Samples that cost what tokenising a prompt costs, about half a millisecond."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        until = time.perf_counter() + 5e-4
        while time.perf_counter() < until:
            pass
        ids = (index + torch.arange(LENGTH)) % VOCABULARY
        return {"input_ids": ids, "labels": ids}


class Clock(TrainerCallback):
    """Times of the steps, and of the first one."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def steps(self) -> list[float]:
        """Seconds from the end of a step to the end of the next, saves between them included."""
        return [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]


class StopAfterFirst(TrainerCallback):
    """Ends the process at the first step, and says how long it took to get there."""

    def __init__(self, started: float) -> None:
        self._started = started

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        print(f"FIRST {time.time() - self._started:.3f}", flush=True)
        sys.exit(0)


def main() -> None:
    """Prints a Markdown page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num_layers", type=int, default=32, help="Of the model; 32 as in a 7B model.")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--resume", nargs=4, metavar=("KIND", "FOLDER", "CHECKPOINT", "STARTED"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.resume:
        kind, folder, checkpoint, started = options.resume
        clock = StopAfterFirst(float(started))
        make_trainer(kind, Path(folder), options.num_layers, max_steps=1000, callbacks=[clock]).train(checkpoint)
        return
    print(f"{describe('torch', 'transformers', 'peft')}\n\n`python -m benchmarks.checkpoint_cost`\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = [*_print_saves(Path(folder), options), *_print_starts(Path(folder), options)]
    if options.json:
        write_rows(options.json, rows)


def narrow_llama(num_layers: int, *, width: int, inner: int, heads: int) -> LlamaForCausalLM:
    """A Llama with random weights, the size of its layers as asked for."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def make_model(num_layers: int) -> PeftModel:
    """A narrow Llama whose LoRA layers have the size, and with 32 layers the number, of those of a 7B model."""
    set_seed(0)
    lora = LoraConfig(
        r=128, lora_alpha=32, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    return get_peft_model(narrow_llama(num_layers, width=256, inner=512, heads=4), lora)


def make_trainer(
    kind: str, folder: Path, num_layers: int, *, callbacks: list[TrainerCallback], **changes: Any
) -> Trainer:
    """A Trainer of either kind with the same arguments."""
    arguments: dict[str, Any] = {
        "max_steps": STEPS,
        "save_steps": SAVE_STEPS,
        "save_total_limit": LIMIT,
        "per_device_train_batch_size": BATCH,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
    }
    own = {"checkpoint_config": CheckpointConfig(restart=True)} if kind == "ours" else {}
    trainer: Trainer = KINDS[kind](
        model=make_model(num_layers),
        args=TrainingArguments(output_dir=str(folder), **{**arguments, **changes}),
        train_dataset=Tokens(),
        callbacks=callbacks,
        **own,
    )

    return trainer


# ---- Saves ----


def _print_saves(folder: Path, options: argparse.Namespace) -> list[Row]:
    extra: dict[str, list[float]] = {kind: [] for kind in KINDS}
    held: dict[str, list[float]] = {kind: [] for kind in KINDS}
    disk: dict[str, float] = {}

    for number in range(options.repeats):
        for kind in KINDS:
            total, blocked, peak, one = _one_run(kind, folder / f"{kind}-{number}", options.num_layers)
            extra[kind].append(total)
            held[kind].append(blocked)
            disk[kind] = peak / one
    print(f"Saves: {options.repeats} alternating runs of {STEPS} steps with a save every {SAVE_STEPS}; medians.\n")
    print("| a save ... | plain Trainer | ours | ratio |\n|---|---|---|---|")
    for name, values in (("stops the training loop, ms", held), ("makes the run longer, ms", extra)):
        plain, ours = (1000 * statistics.median(values[kind]) for kind in KINDS)
        print(f"| {name} | {plain:.1f} | {ours:.1f} | {ours / plain:.2f} |")
    print(f"| disk at its fullest, in checkpoints (limit {LIMIT}) | {disk['plain']:.1f} | {disk['ours']:.1f} | |\n")
    stops = statistics.median(held["ours"]) / statistics.median(held["plain"])
    return [Row("save_stops_training_ratio", stops, "<= 0.333"), Row("disk_checkpoints", disk["ours"])]


def _one_run(kind: str, folder: Path, num_layers: int) -> tuple[float, float, float, float]:
    """(seconds a save adds to a run, seconds it stops the loop, most bytes on the disk, bytes of a checkpoint)."""
    clock = Clock()
    trainer = make_trainer(kind, folder, num_layers, callbacks=[clock])
    blocked: list[float] = []
    # Ours takes note in `_save_checkpoint`; its saver makes the save at the step boundary.
    owner, name = (trainer, "_save_checkpoint") if kind == "plain" else (CheckpointSaver, "save")
    untimed = getattr(owner, name)
    setattr(owner, name, _timed(untimed, blocked))
    try:
        with _Fullest(folder) as fullest:
            trainer.train()
    finally:
        setattr(owner, name, untimed)
    # A step beside which nothing is written, and the sum over all steps against it.
    quiet = statistics.median(clock.steps[: SAVE_STEPS - 2])
    saves = (STEPS - 1) // SAVE_STEPS
    extra = (sum(clock.steps) - quiet * len(clock.steps)) / saves
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    one = _size(newest)
    shutil.rmtree(folder)
    return extra, statistics.median(blocked), fullest.num_bytes, one


def _timed(function: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            into.append(time.perf_counter() - started)

    return timed


class _Fullest:
    """The most bytes that a folder held, looked at every 10 ms."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.num_bytes, self._over = folder, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.num_bytes = max(self.num_bytes, _size(self._folder))

    def __enter__(self) -> _Fullest:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()


def _size(folder: Path) -> int:
    total = 0
    # Of folders that are renamed or deleted meanwhile os.walk says nothing; Path.rglob raises.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


# ---- Starting again ----


def _print_starts(folder: Path, options: argparse.Namespace) -> list[Row]:
    early, late = 10, NUM_SAMPLES // BATCH - 10
    print(f"From the start of the process to the first resumed step, seconds; medians of {options.repeats}.\n")
    print("| position | plain Trainer | ours |\n|---|---|---|")
    ours = []
    for name, step in (("step 10", early), (f"step {late} of {NUM_SAMPLES // BATCH} of the epoch", late)):
        medians = []
        for kind in KINDS:
            checkpoint = _checkpoint_at(kind, folder / f"{kind}-start-{step}", step, options.num_layers)
            seconds = [_seconds_to_first(kind, checkpoint, options.num_layers) for _ in range(options.repeats)]
            medians.append(statistics.median(seconds))
        ours.append(medians[1])
        print(f"| {name} | {medians[0]:.2f} | {medians[1]:.2f} |")
    return [Row("resume_late_over_early", ours[1] / ours[0], "<= 1.15", "seconds to the first step, late and early")]


def _checkpoint_at(kind: str, folder: Path, step: int, num_layers: int) -> Path:
    """A checkpoint of a step without training up to there: what a resume costs depends on the position alone."""
    trainer = make_trainer(kind, folder, num_layers, callbacks=[], max_steps=step, save_steps=1000)
    trainer.add_callback(_SkipTo(trainer, step))
    trainer.train()
    return folder / f"checkpoint-{step}"


class _SkipTo(TrainerCallback):
    """After one step says that it was another one, and saves."""

    def __init__(self, trainer: Any, step: int) -> None:
        self._trainer, self._step = trainer, step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        from llamarec.checkpoints.resume.position import Position

        if state.global_step >= self._step:
            return control
        state.global_step, state.epoch = self._step, self._step * BATCH / NUM_SAMPLES
        if isinstance(self._trainer, ResumableTrainer):
            self._trainer._resumable.training.run.move_to(Position(0, self._step * BATCH))
        self._trainer.lr_scheduler.last_epoch = self._step
        control.should_save = True
        return control


def _seconds_to_first(kind: str, checkpoint: Path, num_layers: int) -> float:
    command = [sys.executable, "-m", "benchmarks.checkpoint_cost", "--num_layers", str(num_layers)]
    command += ["--resume", kind, str(checkpoint.parent), str(checkpoint), str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(next(line for line in done.stdout.splitlines() if line.startswith("FIRST")).split()[1])


if __name__ == "__main__":
    main()
