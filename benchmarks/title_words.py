"""What the words of the titles alone would add to the retriever: the least that a language model has to beat.

    python -m benchmarks.title_words --data_root data --datasets games beauty ml-latest-small

For each candidate, how alike its title is to those of the history: cosine of TF-IDF vectors of words, the more recent
ones counting more (0.8 to the power of how many items ago). Fused with the retriever as letters are (a conditional
logit on validation users, `llamarec.evaluation.fusion`), tested on test users with paired intervals. No language model,
no training; seconds. Where a table says that a ranker gains less than this, it has not yet read the titles.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.machine import describe
from benchmarks.report import ROOT, commit
from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.comparison import Comparison, compare
from llamarec.evaluation.fusion import Fusion, fit_fusion
from llamarec.evaluation.metrics import score_ranks
from llamarec.retriever.candidates import Candidates, load_candidates
from llamarec.vocabulary import Split

_DECAY, _HISTORY = 0.8, 20
_WORD = re.compile(r"\w+")


class Words:
    """Titles as sparse vectors of length 1."""

    def __init__(self, titles: list[str]) -> None:
        words = [set(_WORD.findall(title.casefold())) for title in titles]
        counts = Counter(word for of_title in words for word in of_title)
        self._vectors = [self._vector(of_title, counts, len(titles)) for of_title in words]

    @staticmethod
    def _vector(words: set[str], counts: Counter[str], num_titles: int) -> dict[str, float]:
        weights = {word: math.log(num_titles / counts[word]) for word in words}
        length = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
        return {word: weight / length for word, weight in weights.items()}

    def alike(self, history: NDArray[np.int32], candidates: NDArray[np.int32]) -> list[float]:
        """Of each candidate to the history, oldest first."""
        wanted: Counter[str] = Counter()
        for age, item in enumerate(reversed(history[-_HISTORY:].tolist())):
            for word, weight in self._vectors[item].items():
                wanted[word] += _DECAY**age * weight
        return [
            sum(weight * wanted[word] for word, weight in self._vectors[int(item)].items() if word in wanted)
            for item in candidates
        ]


def main() -> None:
    """Prints the table, and writes it to --output."""
    options = _options()
    lines = []
    for code in options.datasets:
        config = DataConfig(code, data_root=options.data_root, experiment_root=options.experiment_root)
        if not (config.experiment.retriever / "candidates.parquet").is_file():
            where = ["--data_root", options.data_root, "--experiment_root", options.experiment_root]
            subprocess.run([sys.executable, "train_retriever.py", "--dataset_code", code, *where], cwd=ROOT, check=True)
        data = prepare(config, Console(quiet=True))
        lines.append(_row(code, *measure(data, load_candidates(config.experiment, data))))
        print(lines[-1], flush=True)
    text = "\n".join([*_head(options), *lines]) + "\n"
    print(text)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")


def measure(data: PreparedData, candidates: dict[Split, Candidates]) -> tuple[Comparison, Fusion]:
    """The retriever against retriever and words, on the test users; weights from the validation users."""
    words = Words(data.titles)
    scores, alike, labels, _ = _features(words, data, candidates["validation"], "validation")
    prior = np.zeros(scores.shape[1])
    fusion = fit_fusion(alike, scores, labels, prior_C=prior, num_users=len(candidates["validation"].user_ids))
    scores, alike, labels, covered = _features(words, data, candidates["test"], "test")
    retriever = candidates["test"].label_ranks.astype(np.int64)
    final = retriever.copy()
    final[covered] = score_ranks(fusion.combined(alike, scores), labels)
    return compare(retriever, final), fusion


def _features(
    words: Words, data: PreparedData, rows: Candidates, split: Split
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Of the users whose label is among the candidates: scores [P, C], likeness [P, C], labels [P], rows [P]."""
    covered = np.flatnonzero(rows.label_ranks > 0)
    alike = [words.alike(data.sequences.history(int(rows.user_ids[row]), split), rows.item_ids[row]) for row in covered]
    labels = rows.label_ranks[covered].astype(np.int64) - 1
    return rows.scores[covered].astype(np.float64), np.array(alike), labels, covered


# ---- Text ----


def _head(options: argparse.Namespace) -> list[str]:
    return [
        "# What the words of the titles alone add",
        "",
        f"`python -m benchmarks.title_words --datasets {' '.join(options.datasets)}`",
        "",
        f"Commit {commit()}, {describe('torch', 'polars')}.",
        "",
        "NDCG@10 on all test users. No language model: TF-IDF words, fused with the retriever as letters are.",
        "",
        "| data set | users | covered | retriever | + words | difference | relative | subset, relative |",
        "|" + "---|" * 8,
    ]


def _row(code: str, found: Comparison, fusion: Fusion) -> str:
    overall, subset = (next(row for row in rows if row.metric == "ndcg@10") for rows in (found.overall, found.subset))
    cells = [
        code,
        f"{found.num_users:,}",
        f"{found.num_covered:,}",
        f"{overall.retriever:.4f}",
        f"{overall.ranker:.4f}" + ("" if fusion.letters else " (words not used)"),
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
