"""`llamarec recommend`: what next, for a user, a history, or a file of either."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.output import figure, print_json, print_table
from llamarec.errors import EXIT_FINISHED, ConfigError

if TYPE_CHECKING:
    from llamarec.recommend.batch import Done
    from llamarec.recommend.recommender import Recommendation, Recommender

SUMMARY = "Recommend with a trained run: for a user, for a history, or for a file of them."

_EPILOG = """\
  llamarec recommend --dataset_code beauty --user A1YJEY40YUW4SE -k 10
  llamarec recommend --dataset_code games --history "Halo 3" "Gears of War"
  llamarec recommend --dataset_code beauty --users users.txt --output top.parquet

What is in a history is known by its key or its title. A file has
a user's key per line; or it is a table (.csv, .tsv, .parquet) with
a column 'user'; or JSON lines like {"user": "A1YJ"} or
{"id": "x", "history": ["Halo 3"]}. The output is .jsonl (a line
per user) or .parquet (a row per recommendation). Stopped or killed,
the same command goes on.
"""
_LINE_SECONDS = 30.0


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "recommend", SUMMARY, _EPILOG)
    parser.add_argument("run_name", metavar="RUN", nargs="?", help="The same as --dataset_code, as in other commands.")
    parser.add_argument(
        "--dataset_code",
        metavar="RUN",
        help="Data set code of a trained ranker, or the folder of a run (experiments/llm/beauty).",
    )
    parser.add_argument("--user", metavar="KEY", help="A user of the data set.")
    parser.add_argument("--history", nargs="+", metavar="ITEM", help="Keys or titles, oldest first.")
    parser.add_argument("--users", type=Path, metavar="FILE", help="Many users or histories; with --output.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Of --users: FILE.jsonl or FILE.parquet.")
    parser.add_argument("-k", type=int, default=10, metavar="K", help="Items each (default: 10).")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, ... (default: auto).")
    parser.add_argument(
        "--only_new", action="store_true", help="Nothing of a history, also where people come back to items."
    )
    parser.add_argument("--restart", action="store_true", help="Begin --output anew, and replace what is there.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Prints the recommendations, or writes the file."""
    _check(arguments)
    if arguments.users is not None:
        return _run_batch(arguments)
    recommender = _load(arguments)
    found = recommender.recommend(arguments.history, user=arguments.user, k=arguments.k)
    if arguments.json:
        content = {"user": arguments.user, "history": arguments.history, "step": recommender.ranker.adapter.step}
        print_json({**content, "recommendations": [one.as_dict() for one in found]})
    else:
        _print(found, recommender)
    return EXIT_FINISHED


def _check(arguments: argparse.Namespace) -> None:
    arguments.dataset_code = arguments.dataset_code or arguments.run_name
    if not arguments.dataset_code:
        raise ConfigError(
            "llamarec recommend: of which run?", hint="llamarec recommend --dataset_code beauty --user KEY"
        )
    given = [flag for flag in ("user", "history", "users") if getattr(arguments, flag) is not None]
    if len(given) != 1:
        raise ConfigError(
            "llamarec recommend: for whom?",
            expected="one of --user KEY, --history ITEM [ITEM ...], --users FILE",
            found=", ".join(f"--{flag}" for flag in given) or "none of them",
        )
    if (arguments.users is None) != (arguments.output is None):
        raise ConfigError(
            "--users FILE and --output FILE belong together", hint="--users users.txt --output recommendations.jsonl"
        )
    if arguments.k < 1:
        raise ConfigError(f"-k {arguments.k}: at least 1")


def _load(arguments: argparse.Namespace) -> Recommender:
    from llamarec.data.inputs import changed_inputs
    from llamarec.recommend.recommender import Recommender

    found = Recommender.load(
        arguments.dataset_code,
        experiment_root=arguments.experiment_root,
        device=arguments.device,
        only_new=arguments.only_new,
    )
    for path in changed_inputs(found.data.folder, arguments.dataset_code):
        print(
            f"WARNING: {path} has changed since it was prepared, and nothing of that is known here. What people took "
            "since can be given with --history; new items need a new training (docs/data.md)",
            file=sys.stderr,
        )
    return found


def _print(found: list[Recommendation], recommender: Recommender) -> None:
    rows = [
        (
            str(one.rank),
            one.item,
            one.title,
            figure(one.score, ".3f"),
            str(one.retriever_rank),
            figure(one.retriever_score, ".3f"),
        )
        for one in found
    ]
    print_table(("", "item", "title", "score", "retriever's place", "its score"), rows, left=("item", "title"))
    if not found:
        print("nothing is left to recommend: the history has every item")
    elif not recommender.ranker.fusion.num_prompts:
        print("The order is the retriever's: this checkpoint was never validated, so its letters have no weight.")
    elif not recommender.ranker.fusion.letters:
        from llamarec.evaluation.tables import first_stage_name

        order = first_stage_name(recommender.ranker.fusion)
        print(f"The order is {order}: on validation users the ranker's letters added nothing to it.")


def _run_batch(arguments: argparse.Namespace) -> int:
    from llamarec.recommend.batch import BatchJob, check_output
    from llamarec.recommend.requests import read_requests

    check_output(arguments.output)
    requests = read_requests(arguments.users, _user_column(arguments))
    job = BatchJob(_load(arguments), requests, arguments.output, k=arguments.k)
    try:
        with _progress(len(requests)) as advance:
            done = job.run(restart=arguments.restart, progress=advance)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        raise
    _say_done(done, arguments)
    return EXIT_FINISHED


def _user_column(arguments: argparse.Namespace) -> str:
    """What the users' column was called when the data were prepared; empty where it was recognised."""
    from llamarec.data.prepared import read_manifest
    from llamarec.ranker.trained.locations import find_experiment

    experiment = find_experiment(arguments.dataset_code, Path(arguments.experiment_root))
    manifest = read_manifest(experiment.data)
    return str(manifest["options"].get("user_column", "")) if manifest is not None else ""


def _say_done(done: Done, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json({"output": arguments.output, "users": done.num_requests, "failed": done.num_failed})
        return
    before = f", {done.num_before:,} of them by an earlier call" if done.num_before else ""
    print(f"{done.num_requests:,} users{before} -> {arguments.output}")
    if done.num_failed:
        print(f"WARNING: {done.num_failed:,} of them are not known; each has an 'error' in the output", file=sys.stderr)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, elsewhere a line every half minute; on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, markup=False, emoji=False)
    columns = (TextColumn("recommending"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        said = time.monotonic()

        def advance(done: int) -> None:
            nonlocal said
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - said >= _LINE_SECONDS:
                console.print(f"{done:,} of {total:,} users", soft_wrap=True)
                said = time.monotonic()

        yield advance
