"""`llamarec recommend`: the next items for a user, a history, or a file of either."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from llamarec.cli.arguments import Subparsers, add_common_arguments, add_dataclass_arguments, add_verb, dataclass_from
from llamarec.cli.fast_help import importing
from llamarec.cli.output import figure, print_json, print_table
from llamarec.errors import EXIT_FINISHED, ConfigError
from llamarec.recommend.ray_cluster import RayConfig

if TYPE_CHECKING:
    from llamarec.experts.reasons import Reason
    from llamarec.recommend.batch import Done
    from llamarec.recommend.engines import Engine
    from llamarec.recommend.recommender import Recommendation, Recommender

SUMMARY = "Recommend items to a user, for a history, or for a file of either."

_EPILOG = """\
  llamarec recommend --dataset_code beauty --user A1YJEY40YUW4SE -k 10
  llamarec recommend --dataset_code games --history "Halo 3" "Gears of War"
  llamarec recommend --dataset_code beauty --user A1YJEY40YUW4SE --explain
  llamarec recommend --dataset_code beauty --users users.txt --output top.parquet

A history lists items by key or title. A file of users is one of
  text         one user key per line
  table        .csv, .tsv or .parquet with a column 'user'
  JSON lines   {"user": "A1YJ"} or
               {"id": "x", "history": ["Halo 3"]}
The output is .jsonl (a line per user) or .parquet (a row per
recommendation). If it was interrupted, the same command
continues it, with either engine:

  llamarec recommend --dataset_code beauty --users users.txt \\
      --output top.parquet --engine ray --num_workers 2
"""
LOCAL, RAY = "local", "ray"
_LINE_SECONDS = 30.0


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "recommend", SUMMARY, _EPILOG)
    parser.add_argument("run_name", metavar="RUN", nargs="?", help="The same as --dataset_code.")
    parser.add_argument(
        "--dataset_code",
        metavar="RUN",
        help="Data set code of a trained ranker, or the folder of a run (experiments/llm/beauty).",
    )
    parser.add_argument("--user", metavar="KEY", help="A user of the data set.")
    parser.add_argument("--history", nargs="+", metavar="ITEM", help="Keys or titles, oldest first.")
    parser.add_argument("--users", type=Path, metavar="FILE", help="File of users or histories; needs --output.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="File to write for --users: .jsonl or .parquet.")
    parser.add_argument("-k", type=int, default=10, metavar="K", help="Number of items per list (default: 10).")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="Where to compute: auto, cpu, cuda, ... (default: auto)."
    )
    parser.add_argument(
        "--only_new",
        action="store_true",
        help="Never recommend an item of the history, even if users of this data set repeat items.",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="With --user or --history: why each item is recommended, in words (with letters: why it is a candidate).",
    )
    parser.add_argument("--restart", action="store_true", help="Replace --output instead of continuing it.")
    parser.add_argument(
        "--engine",
        default=LOCAL,
        choices=(LOCAL, RAY),
        help='Who computes --users: this process (local), or workers on Ray (pip install "llamarec[ray]").',
    )
    add_common_arguments(parser)
    add_dataclass_arguments(parser, RayConfig, title="workers on Ray")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Prints the recommendations, or writes them into a file."""
    _check(arguments)
    if arguments.users is not None:
        return _run_batch(arguments)

    recommender = _load(arguments)
    found = recommender.recommend(arguments.history, user=arguments.user, k=arguments.k)
    reasons = _reasons(recommender, arguments, found) if arguments.explain else [[] for _ in found]
    if arguments.json:
        content = {"user": arguments.user, "history": arguments.history, "step": recommender.order.adapter.step}
        because = [{"reasons": [reason._asdict() for reason in of_one]} if of_one else {} for of_one in reasons]
        listed = [{**one.as_dict(), **more} for one, more in zip(found, because, strict=True)]
        print_json({**content, "recommendations": listed})
    else:
        _print(found, recommender)
        _print_reasons(found, reasons)
    return EXIT_FINISHED


def _reasons(
    recommender: Recommender, arguments: argparse.Namespace, found: list[Recommendation]
) -> list[list[Reason]]:
    if arguments.user is not None:
        history = recommender.items_of(str(arguments.user))
    else:
        history = recommender.catalogue.items([str(item) for item in arguments.history])
    return recommender.reasons(history, found)


def _print_reasons(found: list[Recommendation], reasons: list[list[Reason]]) -> None:
    for one, of_one in zip(found, reasons, strict=True):
        if of_one:
            print(f"\n{one.rank}. {one.title}")
        for reason in of_one:
            print(f"   {reason.contribution:+.2f} {reason.expert}: {reason.text}")


def _check(arguments: argparse.Namespace) -> None:
    arguments.dataset_code = arguments.dataset_code or arguments.run_name
    if not arguments.dataset_code:
        raise ConfigError("llamarec recommend: which run?", hint="llamarec recommend --dataset_code beauty --user KEY")

    given = [flag for flag in ("user", "history", "users") if getattr(arguments, flag) is not None]
    if arguments.explain and arguments.users is not None:
        raise ConfigError(
            "--explain: for one user or history at a time",
            found="--users FILE",
            hint=f"llamarec recommend {arguments.dataset_code} --user KEY --explain",
        )
    if len(given) != 1:
        raise ConfigError(
            "llamarec recommend: for which user or history?",
            expected="exactly one of --user KEY, --history ITEM [ITEM ...] and --users FILE",
            found=", ".join(f"--{flag}" for flag in given) or "none of them",
            hint=f"llamarec recommend {arguments.dataset_code} --user KEY",
        )

    if (arguments.users is None) != (arguments.output is None):
        raise ConfigError(
            "--users FILE and --output FILE must be given together",
            hint="--users users.txt --output recommendations.jsonl",
        )
    if arguments.k < 1:
        raise ConfigError(f"-k {arguments.k}: at least 1")
    _check_engine(arguments)


def _check_engine(arguments: argparse.Namespace) -> None:
    if arguments.engine == RAY and arguments.users is None:
        raise ConfigError(
            "--engine ray: for a file of users", hint="--users users.txt --output top.parquet --engine ray"
        )

    config = dataclass_from(RayConfig, arguments)
    if arguments.engine != RAY and config != RayConfig():
        changed = [f"--{name}" for name, value in vars(config).items() if value != getattr(RayConfig(), name)]
        raise ConfigError(f"{', '.join(changed)}: only with --engine ray", hint="add --engine ray")


def _load(arguments: argparse.Namespace) -> Recommender:
    with importing():
        from llamarec.recommend.recommender import Recommender

    recommender = Recommender.load(
        arguments.dataset_code,
        experiment_root=arguments.experiment_root,
        device=arguments.device,
        only_new=arguments.only_new,
    )
    _warn_of_changed_inputs(recommender.data.folder, arguments)
    return recommender


def _warn_of_changed_inputs(data: Path, arguments: argparse.Namespace) -> None:
    from llamarec.data.inputs import changed_inputs

    for path in changed_inputs(data, arguments.dataset_code):
        print(
            f"WARNING: {path} has changed since it was prepared; the changes are not used. New interactions can be "
            "given with --history. New items need a new training (docs/data.md).",
            file=sys.stderr,
        )


def _print(found: list[Recommendation], recommender: Recommender) -> None:
    columns = {
        "": [str(one.rank) for one in found],
        "item": [one.item for one in found],
        "title": [one.title for one in found],
        "score": [figure(one.score, ".3f") for one in found],
        "first stage rank": [str(one.retriever_rank) for one in found],
        "first stage score": [figure(one.retriever_score, ".3f") for one in found],
        "language model": [figure(one.language_model_score, ".3f") for one in found],
    }
    if all(one.language_model_score is None for one in found):
        del columns["language model"]
    print_table(tuple(columns), list(zip(*columns.values(), strict=True)), left=("item", "title"))
    if not found:
        print("Nothing is left to recommend: the history contains every item.")
    elif recommender.order.note:
        print(recommender.order.note)


def _run_batch(arguments: argparse.Namespace) -> int:
    with importing():
        from llamarec.recommend.batch import BatchJob, check_output
        from llamarec.recommend.requests import read_requests

    check_output(arguments.output)
    requests = read_requests(arguments.users, _user_column(arguments))
    try:
        with _engine(arguments) as engine, _progress(len(requests)) as advance:
            job = BatchJob(engine, requests, arguments.output, k=arguments.k)
            done = job.run(restart=arguments.restart, progress=advance)
    except KeyboardInterrupt:
        print("\nstopped; to continue, type the same command", file=sys.stderr)
        raise
    _say_done(done, arguments)
    return EXIT_FINISHED


def _engine(arguments: argparse.Namespace) -> AbstractContextManager[Engine]:
    if arguments.engine == LOCAL:
        with importing():
            from llamarec.recommend.engines import LocalEngine
        return nullcontext(LocalEngine(_load(arguments)))

    with importing():
        from llamarec.ranker.trained.locations import find_experiment
        from llamarec.recommend.ray_engine import ray_engine
    _warn_of_changed_inputs(find_experiment(arguments.dataset_code, arguments.experiment_root).data, arguments)
    return ray_engine(
        dataclass_from(RayConfig, arguments),
        arguments.dataset_code,
        experiment_root=arguments.experiment_root,
        device=arguments.device,
        only_new=arguments.only_new,
        say=_say,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _user_column(arguments: argparse.Namespace) -> str:
    """The users' column as it was named when the data were prepared; empty if it was recognised."""
    from llamarec.data.prepared import read_manifest
    from llamarec.ranker.trained.locations import find_experiment

    experiment = find_experiment(arguments.dataset_code, Path(arguments.experiment_root))
    manifest = read_manifest(experiment.data)
    return str(manifest["options"].get("user_column", "")) if manifest is not None else ""


def _say_done(done: Done, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json({"output": arguments.output, "users": done.num_requests, "failed": done.num_failed})
        return

    before = f" ({done.num_before:,} by an earlier call)" if done.num_before else ""
    print(f"{done.num_requests:,} users{before} -> {arguments.output}")
    if done.num_failed:
        text = f"WARNING: {done.num_failed:,} of {done.num_requests:,} could not be answered: see 'error' in the output"
        print(text, file=sys.stderr)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, otherwise a line every half minute; both on stderr."""
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
