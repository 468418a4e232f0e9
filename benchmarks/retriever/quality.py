"""Quality of the retriever with its defaults: test metrics over several seeds beside the published ones.

    python -m benchmarks.retriever.quality --data_root data --seeds 3 --jobs 2

Each seed is one run of train_retriever.py in a process of its own, one thread each. The published figures are those of
LRURec in the LlamaRec paper (arXiv 2311.02089, table 2).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import describe

ROOT = Path(__file__).resolve().parents[2]
METRICS = ("ndcg@10", "recall@10", "recall@20")
PUBLISHED = {
    "beauty": (0.0533, 0.0916, 0.1278),
    "games": (0.0800, 0.1463, 0.2126),
    "ml-latest-small": (0.0705, 0.1426, 0.2016),
}


@dataclass(frozen=True)
class Run:
    """One seed of one data set."""

    dataset_code: str
    seed: int
    metrics: dict[str, Any]

    def value(self, split: str, metric: str) -> float:
        """A metric over all users of a split."""
        return float(self.metrics["metrics"][split][metric])


def main() -> None:
    """Trains, prints the table and writes it to --output."""
    options = _options()
    tasks = [(code, seed) for code in options.datasets for seed in range(1, options.seeds + 1)]
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(lambda task: _train(options, *task), tasks))
    text = _table(runs, options)
    print(text)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data")
    parser.add_argument("--experiment_root", default="experiments/quality")
    parser.add_argument("--datasets", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", default="")
    return parser.parse_args()


def _train(options: argparse.Namespace, code: str, seed: int) -> Run:
    root = Path(options.experiment_root) / f"seed-{seed}"
    command = [sys.executable, "train_retriever.py", "--dataset_code", code, "--data_root", options.data_root]
    command += ["--experiment_root", str(root), "--seed", str(seed), "--num_threads", "1", "--hard_negative_folds", "1"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    content = json.loads((ROOT / root / "lru" / code / "metrics.json").read_text(encoding="utf-8"))
    run = Run(code, seed, content)
    print(f"{code} seed {seed}: " + " ".join(f"{m} {run.value('test', m):.4f}" for m in METRICS), flush=True)
    return run


def _table(runs: list[Run], options: argparse.Namespace) -> str:
    lines = [
        "# Retriever: test quality with the defaults",
        "",
        f"`python -m benchmarks.retriever.quality --datasets {' '.join(options.datasets)} --seeds {options.seeds} "
        f"--jobs {options.jobs}`",
        "",
        f"{describe('torch', 'polars', 'numpy')}; one thread per run, {options.jobs} runs at a time.",
        "",
        "Whole catalogue, mean over all users; mean over seeds, ± half the range of the seeds, published in brackets. "
        "Validation is shown because the defaults were chosen on it.",
        "",
        "| data set | users | "
        + " | ".join(f"test {m}" for m in METRICS)
        + " | validation recall@10 | epochs | seconds |",
        "|" + "---|" * 8,
    ]
    codes = dict.fromkeys(run.dataset_code for run in runs)
    lines += [_row(code, [run for run in runs if run.dataset_code == code]) for code in codes]
    return "\n".join(lines) + "\n"


def _row(code: str, runs: list[Run]) -> str:
    cells = [code, f"{runs[0].metrics['num_users']['test']:,}"]
    for index, metric in enumerate(METRICS):
        published = f" ({PUBLISHED[code][index]:.4f})" if code in PUBLISHED else ""
        cells.append(_spread([run.value("test", metric) for run in runs]) + published)
    cells.append(_spread([run.value("validation", "recall@10") for run in runs]))
    cells.append(" / ".join(f"{run.metrics['best_epoch']} of {run.metrics['num_epochs']}" for run in runs))
    cells.append(" / ".join(f"{run.metrics['seconds']:.0f}" for run in runs))
    return "| " + " | ".join(cells) + " |"


def _spread(values: list[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.4f} ± {(max(values) - min(values)) / 2:.4f}" if len(values) > 1 else f"{mean:.4f}"


if __name__ == "__main__":
    main()
