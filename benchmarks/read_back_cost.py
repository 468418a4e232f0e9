"""What it costs to read the first checkpoint of a process back, beside the save itself: time and memory.

    python -m benchmarks.read_back_cost

A whole Llama of 500 MB in float32 (with its moments, a checkpoint of 1.5 GB), and an adapter of the size of LoRA r 8 on
q and v of Llama 7B. One step is trained and saved with nothing beside it; the same save is timed with and without its
read-back. Memory is what the read-back needs beyond what is there at its beginning, without the pages of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from transformers import LlamaForCausalLM, TrainingArguments, set_seed

from benchmarks.checkpoint_cost import Tokens, make_model, narrow_llama
from benchmarks.harness.machine import describe
from benchmarks.harness.memory import Peak
from benchmarks.harness.report import Row, write_rows
from llamarec.checkpoints.trainer.resumable import ResumableTrainer
from llamarec.checkpoints.trainer.saves.read_back import Content, ReadBack
from llamarec.checkpoints.trainer.saves.saver import CheckpointSaver

MB: Final = 1e6


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One save.

    Attributes:
        save: Seconds without the read-back.
        read_back: Seconds of it.
        num_bytes: Of the checkpoint.
        memory: Bytes that the read-back needed at its peak.
    """

    save: float
    read_back: float
    num_bytes: int
    memory: int


def main() -> None:
    """Prints a Markdown page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num_layers", type=int, default=32, help="Of both models; 32 for the sizes above.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    print(f"{describe('torch', 'transformers', 'peft')}\n\n`python -m benchmarks.read_back_cost`\n")
    print(f"One save with and without its read-back, in the same run; medians of {options.repeats}.\n")
    print(
        "| | checkpoint, MB | save, s | read-back, s | ratio | memory of the read-back, MB |\n|---|---|---|---|---|---|"
    )
    rows = []
    for name, make in (("whole", _whole), ("adapter", make_model)):
        costs = [_one_save(make, options.num_layers) for _ in range(options.repeats)]
        save, read_back = (
            statistics.median(values) for values in zip(*((c.save, c.read_back) for c in costs), strict=True)
        )
        size, memory = costs[0].num_bytes / MB, statistics.median(cost.memory for cost in costs) / MB
        print(f"| {name} | {size:,.0f} | {save:.2f} | {read_back:.2f} | {read_back / save:.2f} | {memory:.0f} |")
        rows.append(Row(f"read_back_over_save_{name}", read_back / save, "<= 1", f"{size:,.0f} MB"))
        rows.append(Row(f"read_back_memory_{name}", memory * MB / costs[0].num_bytes, "<= 0.2", "in checkpoints"))

    if options.json:
        write_rows(options.json, rows)


def _whole(num_layers: int) -> LlamaForCausalLM:
    """A Llama of 3.9 million weights a layer: 500 MB in 32."""
    set_seed(0)
    return narrow_llama(num_layers, width=512, inner=1_856, heads=8)


def _one_save(make: Callable[[int], Any], num_layers: int) -> Cost:
    """A step and its save, while nothing else runs."""
    folder = Path(tempfile.mkdtemp())
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=1,
        save_steps=1,
        per_device_train_batch_size=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_strategy="no",
    )
    trainer = ResumableTrainer(model=make(num_layers), args=arguments, train_dataset=Tokens())

    measured: dict[str, float] = {}
    with _measured(measured):
        trainer.train()
    shutil.rmtree(folder)

    return Cost(
        save=measured["save"] - measured["read_back"],
        read_back=measured["read_back"],
        num_bytes=int(measured["num_bytes"]),
        memory=int(measured["memory"]),
    )


@contextlib.contextmanager
def _measured(into: dict[str, float]) -> Iterator[None]:
    """Within, training waits for its save, and the save and its read-back are measured."""
    save, check = CheckpointSaver.save, ReadBack.check

    def saved(saver: CheckpointSaver, reason: str) -> None:
        started = time.perf_counter()
        save(saver, reason)
        saver._writer.wait()
        into["save"] = time.perf_counter() - started

    def checked(read_back: ReadBack, folder: Path, content: Content) -> str:
        into["num_bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        started = time.perf_counter()
        with Peak(own=True) as peak:
            line = check(read_back, folder, content)
        into["read_back"], into["memory"] = time.perf_counter() - started, peak.extra
        return line

    with patch.object(CheckpointSaver, "save", saved), patch.object(ReadBack, "check", checked):
        yield


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
