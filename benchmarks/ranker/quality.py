"""Quality of the ranker: what each choice of the recipe is worth, on the same users, beside the retriever.

    python -m benchmarks.ranker.quality --data_root data --datasets games --trainings published uniform mixed hard \
        --flags="--llm_base_model smollm2-135m --max_steps 100" --test_users 4000

Each training is one run of train_ranker.py over the same retriever, with the flags of all and its own. Then its adapter
is asked about validation and test users (`benchmarks.ranker.answers`), in the orders that the steps of the ablation
(`benchmarks.ranker.steps`) need. Runs and answers that are there already are taken as they are, and a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.harness.machine import describe
from benchmarks.harness.report import ROOT, commit
from benchmarks.ranker.answers import read
from benchmarks.ranker.steps import STEPS, TRAININGS, AdapterAnswers, Step, interval, ndcg_of_covered
from llamarec.ranker.prompts.evaluation_samples import Order
from llamarec.vocabulary import Split

# The run's own test is not what is looked at.
_LITTLE_TEST: Final = (
    "--max_fusion_users 200 --max_test_users 200 --order_prompts 0 --title_similarity false --resume_from_checkpoint"
)
_INITIAL: Final = "initial"
"""The adapter that all trainings begin with, where the flags name one."""


@dataclass(frozen=True)
class Sweep:
    """What is run.

    Attributes:
        options: Of the command line.
        root: For the results.
    """

    options: argparse.Namespace
    root: Path

    @property
    def flags(self) -> list[str]:
        """Of all trainings."""
        return shlex.split(self.options.flags)

    @property
    def initial(self) -> str:
        """That trainings begin with; empty where it is a new adapter."""
        flags = self.flags
        return flags[flags.index("--init_adapter") + 1] if "--init_adapter" in flags else ""

    @property
    def adapters(self) -> list[str]:
        """Names of all that are asked."""
        return [*([_INITIAL] if self.initial else []), *self.options.trainings]

    @property
    def steps(self) -> list[Step]:
        """Those whose adapters there are."""
        return [step for step in STEPS if step.training in self.options.trainings]

    def experiment(self, name: str) -> Path:
        """The experiment root of a training."""
        return self.root / name

    def adapter(self, name: str, code: str) -> str:
        """Where it lies."""
        return self.initial if name == _INITIAL else str(self.experiment(name) / "llm" / code)

    def answers(self, name: str, code: str, split: Split, order: Order) -> Path:
        """The file with what an adapter said."""
        return self.root / "answers" / code / f"{name}-{split}-{order}.npz"

    def asked(self, name: str, code: str, order: Order) -> AdapterAnswers:
        """What an adapter said."""
        validation = self.answers(name, code, "validation", order)
        test = read(self.answers(name, code, "test", order))
        return AdapterAnswers(test, read(validation) if validation.is_file() else None)

    def questions(self, code: str) -> list[tuple[str, str, Split, Order]]:
        """What all steps have to know; nothing is fitted in the retriever's order."""
        shuffled: list[tuple[str, str, Split, Order]] = [
            (name, code, split, "shuffled") for name in self.adapters for split in ("validation", "test")
        ]
        others = {(step.training, step.order) for step in self.steps if step.order != "shuffled"}
        return [*shuffled, *((name, code, "test", order) for name, order in sorted(others))]


def main() -> None:
    """Trains, asks, prints the tables and writes them to --output."""
    options = _options()
    sweep = Sweep(options, Path(options.experiment_root).resolve())
    for code in options.datasets:
        if not (sweep.experiment("retriever") / "lru" / code / "candidates.parquet").is_file():
            _command(["train_retriever.py", *_where(sweep, "retriever", code)], os.cpu_count() or 1)
        _in_parallel(options.jobs, [_training(sweep, name, code) for name in options.trainings])
        _in_parallel(options.jobs, [_question(sweep, *one) for one in sweep.questions(code)])
    text = "\n".join([*_head(options), *(line for code in options.datasets for line in tables(sweep, code))]) + "\n"
    print(text)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")


# ---- Commands ----


def _training(sweep: Sweep, name: str, code: str) -> list[str]:
    """The command of a training, or none."""
    folder = sweep.experiment(name)
    if (folder / "llm" / code / "metrics.json").is_file():
        return []
    for part in ("data", "lru"):
        source, only_training = sweep.experiment("retriever"), shutil.ignore_patterns("folds", "training_state.pt")
        shutil.copytree(source / part / code, folder / part / code, ignore=only_training, dirs_exist_ok=True)
    return [*command_of(name), *_where(sweep, name, code), *sweep.flags, *shlex.split(_LITTLE_TEST)]


def command_of(name: str) -> list[str]:
    """What a training is, after the interpreter's name."""
    training = TRAININGS[name]
    program = ["-m", "benchmarks.ranker.published_loss"] if training.has_published_loss else ["train_ranker.py"]
    return [*program, *shlex.split(training.flags)]


def _question(sweep: Sweep, name: str, code: str, split: Split, order: Order) -> list[str]:
    """The command that asks, or none."""
    output, options = sweep.answers(name, code, split, order), sweep.options
    if output.is_file():
        return []
    what = ["--adapter", sweep.adapter(name, code), "--output", str(output), "--split", split, "--order", order]
    users = ["--max_eval_users", str(options.validation_users), "--max_test_users", str(options.test_users)]
    # The titles' weight is fitted without the language model.
    flags = [*_where(sweep, "retriever", code), *sweep.flags, *users, "--title_similarity", "true"]
    return ["-m", "benchmarks.ranker.answers", *what, "--", *flags]


def _where(sweep: Sweep, name: str, code: str) -> list[str]:
    root = str(sweep.experiment(name))
    return ["--dataset_code", code, "--data_root", sweep.options.data_root, "--experiment_root", root]


def _in_parallel(jobs: int, commands: list[list[str]]) -> None:
    threads = max((os.cpu_count() or 1) // jobs, 1)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda one: _command(one, threads), [one for one in commands if one]))


def _command(arguments: list[str], threads: int) -> None:
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
    )


# ---- Text ----


def _head(options: argparse.Namespace) -> list[str]:
    users = f"--validation_users {options.validation_users} --test_users {options.test_users}"
    return [
        "# Ranker: what each choice is worth",
        "",
        f"`python -m benchmarks.ranker.quality --datasets {shlex.join(options.datasets)} --trainings "
        f'{shlex.join(options.trainings)} {users} --flags="{options.flags}"`',
        "",
        f"Commit {commit()}, {describe('torch', 'transformers', 'peft')}.",
        "",
        "NDCG@10 of the test users whose item is among the candidates; 95% intervals by paired bootstrap over users.",
    ]


def tables(sweep: Sweep, code: str) -> list[str]:
    """Of one data set."""
    some = sweep.asked(sweep.adapters[0], code, "shuffled").test
    num_users, num_covered = len(some.retriever_ranks_U), len(some.rows_P)
    retriever = ndcg_of_covered(some.retriever_ranks_U, some.retriever_ranks_U).mean()
    return [
        "",
        f"## {code}: {num_users:,} test users, {num_covered:,} prompts; retriever {retriever:.4f}",
        *([] if not sweep.steps else _steps_table(sweep, code)),
        *_adapters_table(sweep, code),
    ]


def _steps_table(sweep: Sweep, code: str) -> list[str]:
    lines = ["", "| step | NDCG@10 | to the step before | to the retriever |", "|---|---|---|---|"]
    before = None
    for step in sweep.steps:
        asked = sweep.asked(step.training, code, step.order)
        retriever_U = asked.test.retriever_ranks_U
        found = ndcg_of_covered(asked.ranks(step.score), retriever_U)
        to_retriever = interval(found - ndcg_of_covered(retriever_U, retriever_U))
        change = "" if before is None else str(interval(found - before))
        lines.append(f"| {step.name} | {found.mean():.4f} | {change} | {to_retriever} |")
        before = found
    return lines


def _adapters_table(sweep: Sweep, code: str) -> list[str]:
    """Each adapter's letters, less their prior, in shuffled order; beside the first one's."""
    first = sweep.adapters[0]
    lines = [
        "",
        "Letters alone, less their prior, candidates shuffled. Nats: log-likelihood a prompt above chance. "
        f"To {first}: on the same prompts.",
        "",
        f"| adapter | NDCG@10 | nats | NDCG@10 to {first} | nats to {first} | with the retriever, to the retriever "
        "| nats on validation | letters beside retriever and titles |",
        "|" + "---|" * 8,
    ]
    asked = {name: sweep.asked(name, code, "shuffled") for name in sweep.adapters}
    return [*lines, *(_adapter_row(name, one, None if name == first else asked[first]) for name, one in asked.items())]


def _adapter_row(name: str, asked: AdapterAnswers, first: AdapterAnswers | None) -> str:
    retriever_U = asked.test.retriever_ranks_U
    alone, fused, titles, everything = (
        ndcg_of_covered(asked.ranks(score), retriever_U) for score in ("calibrated", "fused", "titles", "all")
    )
    nats, changes = asked.nats(), ["", ""]
    if first is not None:
        old = ndcg_of_covered(first.ranks("calibrated"), retriever_U)
        changes = [str(interval(alone - old)), str(interval(nats - first.nats()))]
    gain, counts = asked.gain("fused")
    cells = [
        name,
        f"{alone.mean():.4f}",
        f"{nats.mean():.4f}",
        *changes,
        str(interval(fused - ndcg_of_covered(retriever_U, retriever_U))),
        f"{gain:+.4f}{'' if counts else ', no weight'}",
        str(interval(everything - titles)),
    ]
    return "| " + " | ".join(cells) + " |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data")
    parser.add_argument("--experiment_root", default="experiments/ranker_quality")
    parser.add_argument("--datasets", nargs="+", default=["games", "beauty", "ml-latest-small"])
    parser.add_argument("--trainings", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--flags", default="", help="Of train_ranker.py, for all trainings.")
    parser.add_argument("--validation_users", type=int, default=5000, help="To fit prior and weights on; 0: all.")
    parser.add_argument("--test_users", type=int, default=0, help="0: all.")
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time; they share the processor's cores.")
    parser.add_argument("--output", default="")
    return parser.parse_args()


if __name__ == "__main__":
    main()
