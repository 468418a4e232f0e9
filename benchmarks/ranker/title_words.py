"""What the words of the titles alone would add to the retriever: the least that a language model has to beat.

    python -m benchmarks.ranker.title_words --data_root data --datasets games beauty ml-latest-small

The ranker's first stage (`llamarec.ranker.prompts.first_stage`) on all test users, with paired intervals.
No language model, no training; seconds. Where a ranker gains less than this, its letters know nothing that
words do not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.harness.machine import describe
from benchmarks.harness.report import ROOT, commit
from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.comparison import Comparison, compare_ranks
from llamarec.evaluation.metrics import score_ranks
from llamarec.ranker.prompts.first_stage import FirstStage, fit_first_stage
from llamarec.retriever.candidates import Candidates, load_candidates
from llamarec.vocabulary import Split


def main() -> None:
    """Prints the table, and writes it to --output."""
    options = _options()
    lines = []
    for code in options.datasets:
        config = DataConfig(code, data_root=options.data_root, experiment_root=options.experiment_root)
        if not config.experiment.candidates.is_file():
            where = ["--data_root", options.data_root, "--experiment_root", options.experiment_root]
            command = ["train_retriever.py", "--dataset_code", code, *where, "--hard_negative_folds", "1"]
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        data = prepare(config, Console(quiet=True))
        lines.append(_row(code, *measure(data, load_candidates(config.experiment, data))))
        print(lines[-1], flush=True)
    text = "\n".join([*_head(options), *lines]) + "\n"
    print(text)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")


def measure(data: PreparedData, candidates: dict[Split, Candidates]) -> tuple[Comparison, FirstStage]:
    """The retriever against the first stage, on the test users; the weight is from the validation users."""
    test = candidates["test"]
    first_stage = fit_first_stage(data, candidates["validation"], test.item_ids.shape[1])
    covered = np.flatnonzero(test.label_ranks > 0)
    similarities = [
        first_stage.similarities(data.sequences.history(int(test.user_ids[row]), "test"), test.item_ids[row])
        for row in covered
    ]
    scores = first_stage.scores(test.scores[covered], np.array(similarities))
    retriever = test.label_ranks.astype(np.int64)
    final = retriever.copy()
    final[covered] = score_ranks(scores, retriever[covered] - 1)
    return compare_ranks(retriever, final), first_stage


# ---- Text ----


def _head(options: argparse.Namespace) -> list[str]:
    return [
        "# What the words of the titles alone add",
        "",
        f"`python -m benchmarks.ranker.title_words --datasets {' '.join(options.datasets)}`",
        "",
        f"Commit {commit()}, {describe('torch', 'polars')}.",
        "",
        "NDCG@10 on all test users. No language model: TF-IDF words, weighed on validation users.",
        "",
        "| data set | users | covered | retriever | + words | difference | relative | subset, relative |",
        "|" + "---|" * 8,
    ]


def _row(code: str, found: Comparison, first_stage: FirstStage) -> str:
    overall, subset = (next(row for row in rows if row.metric == "ndcg@10") for rows in (found.overall, found.subset))
    cells = [
        code,
        f"{found.num_users:,}",
        f"{found.num_covered:,}",
        f"{overall.retriever:.4f}",
        f"{overall.ranker:.4f}" + ("" if first_stage.title_weight else " (words not used)"),
        f"{overall.difference:+.4f} ({overall.low:+.4f} to {overall.high:+.4f})",
        f"{overall.difference / overall.retriever:+.1%}",
        f"{subset.difference / subset.retriever:+.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data")
    parser.add_argument("--experiment_root", default="experiments/title_words")
    parser.add_argument("--datasets", nargs="+", default=["games", "beauty", "ml-latest-small"])
    parser.add_argument("--output", default="")
    return parser.parse_args()


if __name__ == "__main__":
    main()
