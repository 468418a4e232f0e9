"""The ranker beside the recipe as published: training, evaluation and memory, on the same prompts and base model.

    python -m benchmarks.ranker_speed --data_root data
    python -m benchmarks.ranker_speed --datasets beauty --bf16          # also in bfloat16

Both ways alternate in one process; a figure is given as a ratio, and as a fraction of what the machine's measured
matrix product allows for the prompts' real tokens. Memory is the peak of a process of its own for each way.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from benchmarks import published
from benchmarks.hardware import matmul_rate, multiplied_weights, needed_flops
from benchmarks.machine import describe
from benchmarks.report import Row, write_rows
from benchmarks.workload import SEED, Workload, load
from llamarec.checkpoints.config import CheckpointConfig
from llamarec.ranker.base_models import SMOLLM2_135M, load_letter_model
from llamarec.ranker.config import RankerConfig
from llamarec.ranker.trainer import RankerTrainer

MICRO_BATCH, EFFECTIVE_BATCH, EVAL_STEPS = 4, 12, 100
GOALS = {"training": (3.0, 0.70), "evaluation": (2.0, 0.75)}


# Users whose label is among the 20 candidates of the published retriever (LlamaRec, table 4).
COVERED = {"beauty": 0.1278, "games": 0.2126}


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
    def tokens_per_second(self) -> float:
        """Real ones."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Pair:
    """The recipe and ours on the same prompts, in a dtype."""

    what: str
    dataset_code: str
    dtype: str
    attention: str
    theirs: Speed
    ours: Speed

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
    """Prints a table and, as its last line, JSON."""
    options = _options()
    if options.memory_of:
        print(json.dumps(peak_memory(options.memory_of, load(options.datasets[0], options.data_root))))
        return
    print(f"{describe('torch', 'transformers', 'peft')}; {torch.get_num_threads()} threads\n")
    workloads = [load(code, options.data_root) for code in options.datasets]
    pairs = [pair for workload in workloads for pair in measure(workload, options)]
    print("| what | data | dtype | recipe, tokens/s | ours, tokens/s | ratio | recipe of limit | ours of limit |")
    print("|---|---|---|---|---|---|---|---|")
    for pair in pairs:
        print(_row(pair))
    memory = {way: _memory_in_process(way, options) for way in ("theirs", "ours")} if not options.no_memory else {}
    if memory:
        print(f"\npeak memory of a step of {EFFECTIVE_BATCH}, {options.datasets[0]}: {memory}")
    rows = [row for pair in pairs for row in _rows_of(pair)] + _memory_rows(memory)
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


def _memory_rows(memory: dict[str, float]) -> list[Row]:
    if not memory:
        return []
    note = f"{memory['ours']:.1f} GB against {memory['theirs']:.1f} GB"
    return [Row("memory_share", memory["ours"] / memory["theirs"], "<= 0.5", note)]


def epoch_row(workload: Workload, pairs: list[Pair]) -> Row:
    """An epoch as a user pays it: its training prompts, and a validation every 100 steps.

    The recipe validates all users whose label is among the candidates, ours those of the first 1,000 (the default).
    Saves and the start are less than a hundredth of either and left out.
    """
    code, prompts = workload.code, len(workload.train)
    of_code = {pair.what: pair for pair in pairs if pair.dataset_code == code and pair.dtype == "float32"}
    train, evaluate = of_code["training"], of_code["evaluation"]
    users = len(workload.data.sequences.users_with_label("validation"))
    validations = prompts // EFFECTIVE_BATCH // EVAL_STEPS
    seconds = {}
    for way, num_users in (("theirs", users), ("ours", min(RankerConfig().max_eval_users, users))):
        per_prompt = [getattr(pair, way).seconds / getattr(pair, way).prompts for pair in (train, evaluate)]
        seconds[way] = per_prompt[0] * prompts + per_prompt[1] * validations * num_users * COVERED[code]
    note = f"{seconds['ours'] / 3600:.1f} h against {seconds['theirs'] / 3600:.1f} h"
    return Row(f"epoch_{code}_ratio", seconds["theirs"] / seconds["ours"], ">= 6", note)


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
    """Optimizer steps on the first samples of the first epoch; ours before and after the recipe's."""
    model, theirs = our_model(workload, dtype), published.load_model(workload, dtype, attention=attention)
    weights, indices = multiplied_weights(model), workload.order[: steps * MICRO_BATCH]
    tokens = sum(workload.lengths(indices))
    rate = matmul_rate(dtype)
    with tempfile.TemporaryDirectory() as folder:
        # Once without being counted: code is generated for new shapes, pages are new.
        _train_ours(workload, model, Path(folder) / "warm", 1, dtype)
        ours = [_train_ours(workload, model, Path(folder) / "a", steps, dtype)]
        their_seconds = _train_theirs(workload, theirs, Path(folder) / "b", indices, dtype)
        ours.append(_train_ours(workload, model, Path(folder) / "c", steps, dtype))
    rate = max(rate, matmul_rate(dtype))
    limit = needed_flops(weights, tokens, training=True) / rate
    return Pair(
        "training",
        workload.code,
        _name(dtype),
        attention,
        Speed(len(indices), tokens, their_seconds, limit),
        Speed(len(indices), tokens, sum(ours) / len(ours), limit),
    )


def evaluate_pair(workload: Workload, dtype: torch.dtype, *, prompts: int, attention: str) -> Pair:
    """Letter logits of validation prompts; ours before and after the recipe's."""
    model, theirs = our_model(workload, dtype), published.load_model(workload, dtype, attention=attention)
    weights, samples = multiplied_weights(model), workload.validation(prompts)
    tokens = sum(len(samples[index]["input_ids"]) for index in range(len(samples)))
    rate = matmul_rate(dtype)
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(workload, model, Path(folder), steps=1, dtype=dtype)
        trainer.predict_ranks(samples)
        ours = [_timed(lambda: trainer.predict_ranks(samples))]
        their_seconds = _timed(lambda: published.letter_logits(workload, theirs, samples, MICRO_BATCH))
        ours.append(_timed(lambda: trainer.predict_ranks(samples)))
    rate = max(rate, matmul_rate(dtype))
    limit = needed_flops(weights, tokens, training=False) / rate
    return Pair(
        "evaluation",
        workload.code,
        _name(dtype),
        attention,
        Speed(len(samples), tokens, their_seconds, limit),
        Speed(len(samples), tokens, sum(ours) / len(ours), limit),
    )


# ---- Ours ----


def our_model(workload: Workload, dtype: torch.dtype) -> Any:
    """As train_ranker.py loads it."""
    set_seed(SEED)
    config = RankerConfig(llm_base_model=SMOLLM2_135M)
    bf16 = dtype == torch.bfloat16
    return load_letter_model(SMOLLM2_135M, workload.source, config, workload.encoder.letter_ids, bf16=bf16)


def our_trainer(
    workload: Workload, model: Any, folder: Path, *, steps: int, dtype: torch.dtype, batch: int = MICRO_BATCH
) -> RankerTrainer:
    """As train_ranker.py makes it on a CPU, without saves and validations."""
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=batch,
        per_device_eval_batch_size=4,
        learning_rate=1e-4,
        seed=SEED,
        use_cpu=True,
        bf16=dtype == torch.bfloat16,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=False,
    )
    return RankerTrainer(
        model,
        args,
        config=RankerConfig(llm_base_model=SMOLLM2_135M),
        checkpoint_config=CheckpointConfig(),
        train=workload.train,
        validation=workload.validation(4),
        pad_token_id=0,
        fingerprints={},
        own_options={},
        given={},
        defaults={},
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
        micro_batch=MICRO_BATCH,
        accumulate=1,
        max_steps=len(indices) // MICRO_BATCH,
        use_cpu=True,
        bf16=dtype == torch.bfloat16,
    )
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


# ---- Memory ----


def peak_memory(way: str, workload: Workload) -> dict[str, float]:
    """Peak of this process's resident memory in a step of the effective batch, in GB, and what it was before."""
    dtype, indices = torch.float32, workload.order[:EFFECTIVE_BATCH]
    before, peak = _resident(), Peak()
    with tempfile.TemporaryDirectory() as folder, peak:
        if way == "ours":
            trainer: Any = our_trainer(
                workload,
                our_model(workload, dtype),
                Path(folder),
                steps=1,
                dtype=dtype,
                batch=EFFECTIVE_BATCH,
            )
        else:
            prompts = published.training_prompts(workload, indices)
            model = published.load_model(workload, dtype, attention="sdpa")
            trainer = published.make_trainer(
                workload,
                model,
                prompts,
                Path(folder),
                micro_batch=EFFECTIVE_BATCH,
                accumulate=1,
                max_steps=1,
                use_cpu=True,
            )
        trainer.train()
    return {"before_gb": before / 1e9, "peak_gb": peak.value / 1e9}


class Peak(threading.Thread):
    """Watches resident memory, every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.value, self._ends = 0, threading.Event()

    def run(self) -> None:
        while not self._ends.wait(0.005):
            self.value = max(self.value, _resident())

    def __enter__(self) -> Peak:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self.join()


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _memory_in_process(way: str, options: argparse.Namespace) -> float:
    command = [sys.executable, "-m", "benchmarks.ranker_speed", "--memory_of", way]
    command += ["--data_root", options.data_root, "--datasets", options.datasets[0]]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if out.returncode:
        # Killed: it did not fit at all.
        return float("inf")
    return float(json.loads(out.stdout.splitlines()[-1])["peak_gb"])


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
    parser.add_argument("--steps", type=int, default=2, help=f"Steps of {MICRO_BATCH} samples.")
    parser.add_argument("--prompts", type=int, default=16, help="Validation prompts.")
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="eager", help="Of the recipe.")
    parser.add_argument("--bf16", action="store_true", help="Also in bfloat16.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--memory_of", choices=["theirs", "ours"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
