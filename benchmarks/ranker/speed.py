"""The ranker beside the recipe as published: training, evaluation and memory, on the same prompts and base model.

    python -m benchmarks.ranker.speed --data_root data
    python -m benchmarks.ranker.speed --datasets beauty --bf16          # also in bfloat16

Both ways alternate in one process; a figure is given as a ratio, and as a fraction of what the machine's measured
matrix product allows for the prompts' real tokens. Memory is the peak of a process of its own for each way. Batches are
the recipe's: 12 prompts, in training (its micro-batch is its step) and in validation.
"""

from __future__ import annotations

import argparse
import gc
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.harness.hardware import matmul_rate, multiplied_weights, needed_flops
from benchmarks.harness.machine import describe
from benchmarks.harness.report import Row, write_rows
from benchmarks.ranker import published
from benchmarks.ranker.epoch import COVERED, STEP, Epoch
from benchmarks.ranker.memory_use import WAYS, peak_gb
from benchmarks.ranker.product import our_model, our_trainer
from benchmarks.ranker.workload import Workload, load
from llamarec.ranker.options.config import SMOLLM2_135M, RankerConfig

GOALS = {"training": (3.0, 0.70), "evaluation": (2.0, 0.75)}


@dataclass(frozen=True)
class Speed:
    """One way of computing, on some prompts.

    Attributes:
        prompts: How many.
        tokens: Of the prompts, without padding.
        seconds: For all of them.
        limit_seconds: What their real tokens would take at the machine's measured rate of products.
    """

    prompts: int
    tokens: int
    seconds: float
    limit_seconds: float

    @property
    def of_limit(self) -> float:
        """Fraction of the limit."""
        return self.limit_seconds / self.seconds

    @property
    def per_prompt(self) -> float:
        """Seconds."""
        return self.seconds / self.prompts

    @property
    def tokens_per_second(self) -> float:
        """Real ones."""
        return self.tokens / self.seconds


NOT_MEASURED = Speed(0, 0, math.nan, math.nan)


@dataclass(frozen=True)
class Pair:
    """The recipe and ours on the same prompts, in a dtype."""

    what: str
    dataset_code: str
    dtype: str
    attention: str
    theirs: Speed = NOT_MEASURED
    ours: Speed = NOT_MEASURED

    @property
    def ratio(self) -> float:
        """How many times as many samples a second."""
        return self.theirs.seconds / self.ours.seconds


class Clock(TrainerCallback):
    """Seconds from the beginning of training to the end of its last step."""

    def __init__(self) -> None:
        self.begun = self.ended = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """See the class."""
        return self.ended - self.begun


def main() -> None:
    """Prints a table and a line for each goal; with --json, writes rows."""
    options = _options()
    print(f"{describe('torch', 'transformers', 'peft')}; {torch.get_num_threads()} threads\n")
    workloads = [load(code, options.data_root, options.model) for code in options.datasets]
    pairs = [pair for workload in workloads for pair in measure(workload, options)]
    print("| what | data | dtype | recipe, tokens/s | ours, tokens/s | ratio | recipe of limit | ours of limit |")
    print("|---|---|---|---|---|---|---|---|")
    for pair in pairs:
        print(_row(pair))
    rows = [row for pair in pairs for row in _rows_of(pair)]
    if not options.no_memory:
        rows.append(memory_row(options.datasets[-1], options.data_root, options.model))
    rows += [epoch_row(workload, pairs) for workload in workloads if workload.code in COVERED]
    for row in rows:
        print(row.line())
    if options.json:
        write_rows(options.json, rows)


def _rows_of(pair: Pair) -> list[Row]:
    ratio, of_limit = GOALS[pair.what]
    name = f"{pair.what}_{pair.dataset_code}" + ("" if pair.dtype == "float32" else f"_{pair.dtype}")
    has_goal = pair.dtype == "float32"
    return [
        Row(f"{name}_ratio", pair.ratio, f">= {ratio:g}" if has_goal else ""),
        Row(f"{name}_of_limit", pair.ours.of_limit, f">= {of_limit:g}" if has_goal else ""),
    ]


def memory_row(code: str, data_root: str, model: str) -> Row:
    """Peak of a step of the effective batch, ours in shares of the recipe's."""
    theirs, ours = (peak_gb(way, code, data_root, model) for way in WAYS)
    return Row("memory_share", ours / theirs, "<= 0.5", f"{ours:.1f} GB against {theirs:.1f} GB, a step of {STEP}")


def epoch_row(workload: Workload, pairs: list[Pair]) -> Row:
    """An epoch: the recipe validates all users, ours the first 1,000 (the default)."""
    code = workload.code
    of_code = {pair.what: pair for pair in pairs if pair.dataset_code == code and pair.dtype == "float32"}
    train, evaluate = of_code["training"], of_code["evaluation"]
    users = len(workload.data.sequences.users_with_label("validation"))
    epoch = Epoch(len(workload.train), users, COVERED[code])
    theirs = epoch.seconds(train.theirs.per_prompt, evaluate.theirs.per_prompt, users)
    ours = epoch.seconds(train.ours.per_prompt, evaluate.ours.per_prompt, RankerConfig().max_eval_users)
    return Row(f"epoch_{code}_ratio", theirs / ours, ">= 6", f"{ours / 3600:.1f} h against {theirs / 3600:.1f} h")


def measure(workload: Workload, options: argparse.Namespace) -> list[Pair]:
    """Training and evaluation of one data set."""
    dtypes = [torch.float32, *([torch.bfloat16] if options.bf16 else [])]
    return [
        pair
        for dtype in dtypes
        for pair in (
            train_pair(workload, dtype, steps=options.steps, attention=options.attention),
            evaluate_pair(workload, dtype, prompts=options.prompts, attention=options.attention),
        )
    ]


def train_pair(workload: Workload, dtype: torch.dtype, *, steps: int, attention: str) -> Pair:
    """Optimizer steps on the first samples of the first epoch."""
    model, theirs = our_model(workload, dtype), published.load_model(workload, dtype, attention=attention)
    indices = workload.order[: steps * STEP]
    with tempfile.TemporaryDirectory() as folder:
        # Once without being counted: code is generated for new shapes, pages are new.
        few = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
        our_trainer(workload, model, Path(folder), steps=1, dtype=dtype, **few).train()
        return _alternated(
            Pair("training", workload.code, _name(dtype), attention),
            workload.lengths(indices),
            multiplied_weights(model),
            ours=lambda: _train_ours(workload, model, Path(folder), steps, dtype),
            theirs=lambda: _train_theirs(workload, theirs, Path(folder), indices, dtype),
        )


def evaluate_pair(workload: Workload, dtype: torch.dtype, *, prompts: int, attention: str) -> Pair:
    """Letter logits of validation prompts."""
    model, theirs = our_model(workload, dtype), published.load_model(workload, dtype, attention=attention)
    samples = workload.validation(prompts)
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(workload, model, Path(folder), steps=1, dtype=dtype)
        trainer.predict_letters(workload.validation(2))
        return _alternated(
            Pair("evaluation", workload.code, _name(dtype), attention),
            [len(samples[index]["input_ids"]) for index in range(len(samples))],
            multiplied_weights(model),
            ours=lambda: _timed(lambda: trainer.predict_letters(samples)),
            theirs=lambda: _timed(lambda: published.letter_logits(workload, theirs, samples, STEP)),
        )


def _alternated(
    pair: Pair, lengths: list[int], weights: int, *, ours: Callable[[], float], theirs: Callable[[], float]
) -> Pair:
    """Seconds of both ways on the same prompts: ours before and after the recipe's, between two looks at the limit."""
    dtype, tokens = getattr(torch, pair.dtype), sum(lengths)
    before = matmul_rate(dtype)
    first, their_seconds, second = ours(), theirs(), ours()
    rate = max(before, matmul_rate(dtype))
    limit = needed_flops(weights, tokens, training=pair.what == "training") / rate
    return replace(
        pair,
        theirs=Speed(len(lengths), tokens, their_seconds, limit),
        ours=Speed(len(lengths), tokens, (first + second) / 2, limit),
    )


def _train_ours(workload: Workload, model: Any, folder: Path, steps: int, dtype: torch.dtype) -> float:
    trainer, clock = our_trainer(workload, model, folder, steps=steps, dtype=dtype), Clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


def _train_theirs(workload: Workload, model: Any, folder: Path, indices: list[int], dtype: torch.dtype) -> float:
    clock = Clock()
    trainer = published.make_trainer(
        workload,
        model,
        published.training_prompts(workload, indices),
        folder,
        micro_batch=STEP,
        accumulate=1,
        max_steps=len(indices) // STEP,
        use_cpu=True,
        bf16=dtype == torch.bfloat16,
    )
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


# ---- Text ----


def _timed(action: Any) -> float:
    gc.collect()
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _row(pair: Pair) -> str:
    theirs, ours = pair.theirs, pair.ours
    return (
        f"| {pair.what} | {pair.dataset_code} | {pair.dtype} | {theirs.tokens_per_second:.0f} | "
        f"{ours.tokens_per_second:.0f} | {pair.ratio:.2f} | {theirs.of_limit:.0%} | {ours.of_limit:.0%} |"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data")
    parser.add_argument("--datasets", nargs="+", default=["beauty", "games"])
    parser.add_argument("--model", default=SMOLLM2_135M)
    parser.add_argument("--steps", type=int, default=1, help=f"Steps of {STEP} samples.")
    parser.add_argument("--prompts", type=int, default=24, help="Validation prompts.")
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="eager", help="Of the recipe.")
    parser.add_argument("--bf16", action="store_true", help="Also in bfloat16.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no_memory", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
