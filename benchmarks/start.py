"""How long a user waits: for --help, and from the command to the first step of a resumed run.

    python -m benchmarks.start --data_root data

A start is compared with the least that it can be: a process that only imports the libraries and loads the same base
model with LoRA. Everything is measured in processes of their own; the fastest of --repeats runs counts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.machine import describe
from benchmarks.harness.report import Row, write_rows

ROOT: Final = Path(__file__).resolve().parents[1]
HELP_COMMANDS: Final = (
    ("train_ranker.py", "--help"),
    ("train_ranker.py", "--help_all"),
    ("train_retriever.py", "--help"),
    ("-m", "llamarec.cli.main", "--help"),
    ("-m", "llamarec.cli.main", "checkpoints", "list", "--help"),
    ("-m", "llamarec.cli.main", "plan", "--help"),
)
# What a process does that has nothing to do but load the model.
_BARE: Final = """
import torch, transformers, peft
from transformers import AutoModelForCausalLM, Trainer
model = AutoModelForCausalLM.from_pretrained({source!r}, dtype=torch.float32, trust_remote_code=False)
peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
"""
# train_ranker.py itself, ended at its first step.
_TO_FIRST_STEP: Final = """
import os, sys, time
sys.argv = ["train_ranker.py", *{arguments!r}]
import train_ranker
from llamarec.ranker.training import trainer
def first_step(*_, **__):
    print("FIRST", time.time(), flush=True)
    os._exit(0)
trainer.RankerTrainer.training_step = first_step
train_ranker.main()
"""


def main() -> None:
    """Prints a table and, with --json, writes rows."""
    options = _options()
    print(f"{describe('torch', 'transformers', 'peft')}\n")
    rows = [_slowest_help(options.repeats)]
    with tempfile.TemporaryDirectory() as folder:
        rows += _starts(Path(folder), options)
    for row in rows:
        print(row.line())
    if options.json:
        write_rows(options.json, rows)


def _slowest_help(repeats: int) -> Row:
    seconds = {" ".join(command): min(_run(*command) for _ in range(repeats)) for command in HELP_COMMANDS}
    for name, value in seconds.items():
        print(f"{value:6.2f} s  {name}")
    return Row("help_seconds", max(seconds.values()), "<= 0.3")


def _starts(folder: Path, options: argparse.Namespace) -> list[Row]:
    common = ["--dataset_code", options.dataset, "--data_root", options.data_root]
    common += ["--experiment_root", str(folder), "--llm_base_model", options.model, "--quantization", "none"]
    common += ["--save_steps", "1", "--eval_strategy", "no", "--use_cpu", "true"]
    source = _prepare(common, options, folder)
    subprocess.run(
        [sys.executable, "train_ranker.py", *common, "--max_steps", "1", "--max_test_users", "1"], check=True
    )
    resumed = [*common, "--max_steps", "2", "--resume_from_checkpoint"]
    ours = min(_seconds_to_first_step(resumed) for _ in range(options.repeats))
    bare = min(_run("-c", _BARE.format(source=source)) for _ in range(options.repeats))
    print(f"{bare:6.2f} s  imports and base model alone\n{ours:6.2f} s  from the command to the first resumed step")
    return [Row("start_seconds", ours, ""), Row("start_over_bare_load", ours / bare, "<= 1.5")]


def _prepare(common: list[str], options: argparse.Namespace, folder: Path) -> str:
    """Writes data, candidates and lists as a retriever would leave them; returns the base model's folder."""
    from rich.console import Console

    from llamarec.data.config import DataConfig
    from llamarec.data.prepare import prepare
    from llamarec.ranker.model.base_models import base_model_source
    from llamarec.retriever.candidates import Candidates, candidates_file, with_labels
    from llamarec.retriever.hard_negatives import TrainingLists, hard_negatives_file
    from llamarec.retriever.published import publish
    from llamarec.vocabulary import Split

    config = DataConfig(dataset_code=options.dataset, data_root=options.data_root, experiment_root=str(folder))
    data, rng = prepare(config, Console(quiet=True)), np.random.default_rng(0)

    def drawn_lists(num_lists: int) -> NDArray[np.int32]:
        among = min(200, data.num_items)
        return np.argsort(rng.random((num_lists, among)), axis=1)[:, :20].astype(np.int32) + 1

    splits: tuple[Split, ...] = ("validation", "test")
    candidates: dict[Split, Candidates] = {}
    for split in splits:
        users = data.sequences.users_with_label(split)
        items = drawn_lists(len(users))
        # Every label counts as found by the retriever.
        items[:, 0] = [data.sequences.label(int(user), split) for user in users]
        candidates[split] = with_labels(data, split, users, items, np.zeros(items.shape, dtype=np.float32))

    num_lists = int(data.sequences.num_training_positions().sum())
    lists = TrainingLists(drawn_lists(num_lists), np.ones(num_lists, dtype=np.int32))
    experiment = config.experiment
    files = {
        experiment.candidates.name: candidates_file(candidates, data, {}),
        experiment.hard_negatives.name: hard_negatives_file(lists, data, {}),
    }
    publish(experiment, files, {})

    return base_model_source(options.model, data, config.experiment.ranker)


def _seconds_to_first_step(arguments: list[str]) -> float:
    started = time.time()
    code = _TO_FIRST_STEP.format(arguments=arguments)
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    line = next(line for line in out.splitlines() if line.startswith("FIRST"))
    return float(line.split()[1]) - started


def _run(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data")
    parser.add_argument("--dataset", default="beauty")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=3, help="The fastest of so many processes counts.")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
