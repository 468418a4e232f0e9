"""Quality of the ranker: what each choice of the recipe is worth, on the same users, beside the retriever.

    python -m benchmarks.ranker_quality --data_root data --datasets games --arms uniform mixed hard \
        --flags="--llm_base_model smollm2-135m --max_steps 100 --max_test_users 4000"

Each arm is one run of train_ranker.py over the same retriever, with the flags of all arms and its own. All of an arm's
figures are of test users; every choice inside a run (the best adapter, the fusion) is made on validation users.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import describe
from benchmarks.report import ROOT, commit

_PUBLISHED: Final = "--hard_negatives 0 --candidate_order retriever --title_similarity false"
ARMS: Final[dict[str, str]] = {
    # One thing at a time becomes ours: the letters that are read, the loss, the order, the negatives.
    "published": _PUBLISHED,
    "right letters": _PUBLISHED,
    "letter softmax": _PUBLISHED,
    "uniform": "--hard_negatives 0 --title_similarity false",
    "mixed": "--hard_negatives 0.5 --title_similarity false",
    "hard": "--hard_negatives 1 --title_similarity false",
    "mixed, latest": "--hard_negatives 0.5 --title_similarity false --max_train_prompts 20000 --latest_prompts true",
    "mixed, titles": "--hard_negatives 0.5 --title_similarity true",
}
_OTHERWISE: Final[dict[str, str]] = {"published": "loss,letters", "right letters": "loss"}


@dataclass(frozen=True)
class Arm:
    """One run.

    Attributes:
        dataset_code: Of its data.
        name: Which arm.
        metrics: What the run wrote (metrics.json).
        seconds: Of the whole command.
    """

    dataset_code: str
    name: str
    metrics: dict[str, Any]
    seconds: float

    def row(self, part: str, of: str = "") -> dict[str, Any]:
        """NDCG@10 of the table `part` (subset or overall) of the final order, or `of` letters, first_stage or added."""
        tables = self.metrics[of] if of else self.metrics
        return dict(next(row for row in tables[part] if row["metric"] == "ndcg@10"))


def main() -> None:
    """Runs the arms, prints the table and writes it to --output."""
    options = _options()
    root = Path(options.experiment_root).resolve()
    runs = []
    for code in options.datasets:
        _train_retriever(options, root / "retriever", code)
        for name in options.arms:
            runs.append(_run(options, root, code, name))
            print(_line(runs[-1]), flush=True)
    text = _table(runs, options)
    print(text)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")


def _train_retriever(options: argparse.Namespace, root: Path, code: str) -> None:
    if not (root / "lru" / code / "candidates.parquet").is_file():
        _command(["train_retriever.py", *_where(options, root, code)])


def _run(options: argparse.Namespace, root: Path, code: str, name: str) -> Arm:
    folder = root / name.replace(" ", "_").replace(",", "")
    for part in ("data", "lru"):
        shutil.copytree(root / "retriever" / part / code, folder / part / code, dirs_exist_ok=True)
    started = time.monotonic()
    # Goes on where an earlier call of the same command was stopped.
    flags = [*shlex.split(options.flags), "--resume_from_checkpoint"]
    _command([*command_of(name), *_where(options, folder, code), *flags])
    metrics = json.loads((folder / "llm" / code / "metrics.json").read_text(encoding="utf-8"))
    return Arm(code, name, metrics, time.monotonic() - started)


def command_of(name: str) -> list[str]:
    """What an arm's run is, after the interpreter's name."""
    otherwise = _OTHERWISE.get(name)
    program = ["-m", "benchmarks.published_ranker", otherwise] if otherwise else ["train_ranker.py"]
    return [*program, *shlex.split(ARMS[name])]


def _where(options: argparse.Namespace, root: Path, code: str) -> list[str]:
    return ["--dataset_code", code, "--data_root", options.data_root, "--experiment_root", str(root)]


def _command(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


# ---- Text ----


def _line(arm: Arm) -> str:
    final, letters = arm.row("subset"), arm.row("subset", "letters")
    return (
        f"{arm.dataset_code}, {arm.name}: subset ndcg@10 retriever {final['retriever']:.4f}, letters "
        f"{letters['ranker']:.4f}, ranker {final['ranker']:.4f} ({final['low']:+.4f} to {final['high']:+.4f})"
    )


def _table(runs: list[Arm], options: argparse.Namespace) -> str:
    lines = [
        "# Ranker: test quality",
        "",
        f"`python -m benchmarks.ranker_quality --datasets {shlex.join(options.datasets)} "
        f'--arms {shlex.join(options.arms)} --flags="{options.flags}"`',
        "",
        f"Commit {commit()}, {describe('torch', 'transformers', 'peft')}.",
        "",
        "NDCG@10. Letters: the language model alone. Titles: retriever and titles, without it. Ranker: the final "
        "score, weights fitted on validation. Difference: ranker - retriever; letters add: ranker - titles; 95% "
        "intervals (paired bootstrap over users). First item: share of prompts whose first item is the same in two "
        "orders of the candidates, by letters alone, calibrated, final.",
        "",
        "| data set | arm | users | covered | retriever | letters | titles | ranker | difference | overall difference "
        "| letters add | alpha | first item | minutes |",
        "|" + "---|" * 14,
    ]
    return "\n".join([*lines, *map(_row, runs)]) + "\n"


def _row(arm: Arm) -> str:
    final, letters, overall = arm.row("subset"), arm.row("subset", "letters"), arm.row("overall")
    added = arm.row("subset", "added")
    fusion, orders = arm.metrics["fusion"], arm.metrics["orders"]
    cells = [
        arm.dataset_code,
        arm.name,
        f"{arm.metrics['num_users']:,}",
        f"{arm.metrics['num_covered']:,}",
        f"{final['retriever']:.4f}",
        f"{letters['ranker']:.4f}",
        f"{arm.row('subset', 'first_stage')['ranker']:.4f}",
        f"{final['ranker']:.4f}",
        f"{final['difference']:+.4f} ({final['low']:+.4f} to {final['high']:+.4f})",
        f"{overall['difference']:+.4f} ({overall['low']:+.4f} to {overall['high']:+.4f}), "
        f"{overall['difference'] / overall['retriever']:+.1%}",
        f"{added['difference']:+.4f} ({added['low']:+.4f} to {added['high']:+.4f})",
        f"{fusion['alpha']:.2f}" if fusion["letters"] else "letters not used",
        " / ".join(f"{share:.0%}" for share in orders["kept_first"]) if orders else "",
        f"{arm.seconds / 60:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data")
    parser.add_argument("--experiment_root", default="experiments/ranker_quality")
    parser.add_argument("--datasets", nargs="+", default=["games", "beauty", "ml-latest-small"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["uniform", "mixed", "hard"])
    parser.add_argument("--flags", default="", help="Of train_ranker.py, for all arms.")
    parser.add_argument("--output", default="")
    return parser.parse_args()


if __name__ == "__main__":
    main()
