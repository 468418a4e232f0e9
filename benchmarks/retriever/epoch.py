"""The retriever beside LRURec written down plainly: an epoch of Beauty, validation, and the top 20 of all users.

    python -m benchmarks.retriever.epoch --data_root data
    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.retriever.epoch --data_root data    # beside other work

Ours is the product's own trainer, for a whole epoch. After every few of its steps the plain model (plain_lrurec.py)
makes one, on samples of the same steps; its seconds are scaled to the epoch by the number of samples. All begin with
the same weights, and their losses are compared first. That ours learns as well stands in results/retriever_quality.md.

The top 20 are taken in a process of their own for each data set, with weights as they are before training: the work is
the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.harness.machine import describe
from benchmarks.harness.memory import Peak
from benchmarks.harness.report import ROOT, Row, write_rows
from benchmarks.retriever.plain_lrurec import PlainTrainer
from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.hardware import has_fast_bfloat16
from llamarec.retriever.batches import epoch_batches
from llamarec.retriever.config import RetrieverConfig, defaults_for
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.scoring import label_ranks, top_k

TRAINED: Final = "beauty"
TOP_K_DATASETS: Final = ("beauty", "yelp2020")
NUM_PLAIN_STEPS: Final = 12


@dataclass(frozen=True)
class Epoch:
    """Seconds of one epoch, by way of computing.

    Attributes:
        plain: The plain model, scaled from some of its steps.
        float32: Ours with products in float32, scaled from the same steps' samples.
        ours: As it is on this machine, all steps.
        product_type: Of ours.
        num_steps: Of the epoch.
        num_plain_steps: Made by the plain model.
        labelled: Share of the padded positions that have a label.
        loss_difference: Of the first batch, ours in float32 and plain without dropout, relative.
        products_difference: The same of ours as it is here.
    """

    plain: float
    float32: float
    ours: float
    product_type: str
    num_steps: int
    num_plain_steps: int
    labelled: float
    loss_difference: float
    products_difference: float


@dataclass(frozen=True)
class TopK:
    """The top k of all users of a data set.

    Attributes:
        dataset_code: Which.
        num_users: With a label.
        num_items: Padding not counted.
        seconds: For all of them.
        extra_bytes: Peak of memory above what the data and the model take.
    """

    dataset_code: str
    num_users: int
    num_items: int
    seconds: float
    extra_bytes: int

    @property
    def score_bytes(self) -> int:
        """What the scores of all items for all users would take, in float32."""
        return 4 * self.num_users * (self.num_items + 1)


def main() -> None:
    """Prints tables and, with --json, writes rows."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.top_k_of:
        print(
            json.dumps(asdict(measure_top_k(load(options.top_k_of, options.data_root), config_for(options.top_k_of))))
        )
        return
    print(f"{describe('torch', 'numpy')}; {torch.get_num_threads()} threads\n")
    data, config = load(TRAINED, options.data_root), config_for(TRAINED)
    epoch = measure_epoch(data, config, options.plain_steps)
    print(f"{epoch_text(epoch)}\n", flush=True)
    print(f"Validation of {TRAINED}, all users and items: {measure_validation(data, config):.1f} s.\n", flush=True)
    found = [_top_k_in_process(code, options) for code in TOP_K_DATASETS]
    print(top_k_text(found))
    if options.json:
        write_rows(options.json, rows(epoch, found))


def load(code: str, data_root: str) -> PreparedData:
    """Prepares a data set in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as root:
        return prepare(DataConfig(dataset_code=code, data_root=data_root, experiment_root=root), Console(quiet=True))


def config_for(code: str) -> RetrieverConfig:
    """The product's defaults, but for the words of titles: both ways compute the same LRURec, which has none."""
    return RetrieverConfig(**defaults_for(code), title_words=False)


# ---- An epoch ----


def measure_epoch(data: PreparedData, config: RetrieverConfig, num_plain_steps: int) -> Epoch:
    """All steps of the first epoch; every few steps the other ways make one of the same."""
    ours, in_float32 = _trainer(data, config), _trainer(data, replace(config, products="float32"))
    plain = PlainTrainer(data.num_items, config, ours.model.state_dict())
    steps = list(epoch_batches(len(ours.windows), config.batch_size, config.seed, 0))
    differences = [loss_difference(trainer, plain, steps[0]) for trainer in (in_float32, ours)]
    chosen = set(range(0, len(steps), max(1, len(steps) // num_plain_steps)))
    ways: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "plain": lambda step: plain.step([ours.windows[index] for index in step]),
        "float32": in_float32.step,
        "ours": ours.step,
    }
    # Once without being counted: code is generated for new shapes, pages are new.
    for way in ways.values():
        way(steps[0])
    seconds, samples = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
    for number, step in enumerate(steps):
        for name in ways if number in chosen else ("ours",):
            seconds[name] += _seconds(lambda way=ways[name], step=step: way(step))  # type: ignore[misc]
            samples[name] += len(step)
    scaled = {name: seconds[name] * len(ours.windows) / samples[name] for name in ways}
    return Epoch(
        **scaled,
        product_type="bfloat16" if config.uses_bfloat16(has_fast_bfloat16()) else "float32",
        num_steps=len(steps),
        num_plain_steps=len(chosen),
        labelled=float(np.mean([len(window) - 1 for window in ours.windows]) / config.max_length),
        loss_difference=differences[0],
        products_difference=differences[1],
    )


def loss_difference(trainer: RetrieverTrainer, plain: PlainTrainer, chosen: NDArray[np.int64]) -> float:
    """Of the two losses of one batch without dropout, relative to the plain one."""
    models = (trainer.model, plain.model)
    for model in models:
        model.eval()
    with torch.no_grad():
        ours, theirs = trainer.loss(chosen), plain.loss([trainer.windows[index] for index in chosen])
    for model in models:
        model.train()
    return float((ours - theirs).abs() / theirs)


def measure_validation(data: PreparedData, config: RetrieverConfig) -> float:
    """Seconds for the ranks of all users' labels among all items, as after each epoch."""
    model, exclude = _trainer(data, config).model, config.excludes(data.has_repeats)
    return _seconds(lambda: label_ranks(model, data, "validation", max_length=config.max_length, exclude=exclude))


def _trainer(data: PreparedData, config: RetrieverConfig) -> RetrieverTrainer:
    """In a folder without an earlier run; nothing is saved."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = RetrieverTrainer(data, config, Path(folder), Console(quiet=True))
    trainer.model.train()
    return trainer


# ---- The top k ----


def measure_top_k(data: PreparedData, config: RetrieverConfig) -> TopK:
    """Seconds and memory for the candidates of all users with a test label."""
    model, exclude = _trainer(data, config).model, config.excludes(data.has_repeats)
    with Peak() as peak:
        started = time.perf_counter()
        users, *_ = top_k(model, data, "test", config.top_k, max_length=config.max_length, exclude=exclude)
        seconds = time.perf_counter() - started
    return TopK(data.dataset_code, len(users), data.num_items, seconds, peak.extra)


def _top_k_in_process(code: str, options: argparse.Namespace) -> TopK:
    command = [sys.executable, "-m", "benchmarks.retriever.epoch", "--top_k_of", code]
    command += ["--data_root", str(Path(options.data_root).resolve()), "--threads", str(options.threads)]
    out = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return TopK(**json.loads(out.stdout.splitlines()[-1]))


# ---- Text ----


def rows(epoch: Epoch, found: list[TopK]) -> list[Row]:
    """Figures with their goals."""
    by_code = {top.dataset_code: top for top in found}
    beauty, yelp = by_code["beauty"], by_code["yelp2020"]
    return [
        Row("retriever_epoch_ratio", epoch.plain / epoch.ours, ">= 8", f"products in {epoch.product_type}"),
        Row("retriever_epoch_ratio_float32", epoch.plain / epoch.float32),
        Row("retriever_loss_difference", epoch.loss_difference, "<= 1e-5", "relative, same batch and weights"),
        Row("retriever_top20_beauty_seconds", beauty.seconds, "<= 60"),
        Row("retriever_top20_yelp_seconds", yelp.seconds, "<= 60"),
        Row("retriever_top20_yelp_extra_gb", yelp.extra_bytes / 1e9, "<= 1"),
    ]


def epoch_text(epoch: Epoch) -> str:
    """A table in Markdown, and how near the losses are."""
    plain, steps = epoch.plain, epoch.num_plain_steps
    lines = [
        f"An epoch of {TRAINED}: {epoch.num_steps} steps. {epoch.labelled:.0%} of the padded positions have a label.",
        "",
        "| way | steps measured | seconds an epoch | ratio |",
        "|---|---|---|---|",
        f"| plain, float32 | {steps} | {plain:.1f} | 1 |",
        f"| ours, float32 | {steps} | {epoch.float32:.1f} | {plain / epoch.float32:.1f} |",
        f"| ours, {epoch.product_type} (as it is here) | {epoch.num_steps} | {epoch.ours:.1f} "
        f"| {plain / epoch.ours:.1f} |",
        "",
        "Loss of the same batch and weights without dropout, ours against plain, relative: "
        f"{epoch.loss_difference:.0e} in float32, {epoch.products_difference:.0e} in {epoch.product_type}. "
        "Metrics: benchmarks/results/retriever_quality.md.",
    ]
    return "\n".join(lines)


def top_k_text(found: list[TopK]) -> str:
    """A table in Markdown."""
    lines = [
        "| top 20 of all users | users x items | seconds | extra memory, MB | users x items scores, MB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {top.dataset_code} | {top.num_users:,} x {top.num_items:,} | {top.seconds:.1f} "
        f"| {top.extra_bytes / 1e6:.0f} | {top.score_bytes / 1e6:,.0f} |"
        for top in found
    ]
    return "\n".join(lines)


def _seconds(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data")
    parser.add_argument("--plain_steps", type=int, default=NUM_PLAIN_STEPS, help="Steps of the plain model, about.")
    parser.add_argument("--threads", type=int, default=0, help="Of torch; 0: its own choice.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--top_k_of", choices=TOP_K_DATASETS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
