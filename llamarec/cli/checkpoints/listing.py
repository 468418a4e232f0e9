"""`llamarec checkpoints list`: the checkpoints of one run or of all runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llamarec.checkpoints.storage.discovery import best_in
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.readable_units import age, readable
from llamarec.checkpoints.storage.retention import protected
from llamarec.checkpoints.storage.summary import DEFAULT_KEEP, CheckpointSummary, gather, latest_and_best, save_limit
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_run, name_of, runs_in, runs_under
from llamarec.cli.output import figure, print_json, print_table, print_wrapped
from llamarec.errors import CheckpointError

SUMMARY = "List checkpoints with step, epoch, loss, metric, size and age."
_EPILOG = """\
The column verified shows what was checked:
  hashes    every byte, against the manifest (--verify)
  sizes     names and sizes, against the manifest
  formats   no manifest: the files' own checksums (--verify)
  names     no manifest: only that the files exist
  NO        damaged or incomplete; the reason is below
marks:
  B  best checkpoint so far
  L  latest: the newest good checkpoint
  R  from before a --restart; latest ignores it
  P  protected: kept when the run deletes old checkpoints
     (save_total_limit; 3 if that is unknown)

RUN may be the address of a mirror or of backups:
  llamarec checkpoints list s3://bucket/beauty
"""
_COLUMNS = ("step", "epoch", "loss", "metric", "size", "age", "verified", "marks")


def add_parser(verbs: Subparsers) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "list", SUMMARY, _EPILOG)
    parser.add_argument(
        "run_name", nargs="?", metavar="RUN", help="Data set code, folder or address (default: all runs)."
    )
    parser.add_argument("--verify", action="store_true", help="Hash every file instead of comparing names and sizes.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Prints a table for each run."""
    root = arguments.experiment_root
    if "://" in (arguments.run_name or ""):
        return _list_address(arguments)

    runs = runs_in(find_run(arguments.run_name, root)) if arguments.run_name else runs_under(root)
    gathered = [(run, _gathered(run, deep=arguments.verify)) for run in runs]
    if arguments.json:
        how = "hashes" if arguments.verify else "names and sizes"
        print_json({"verified_by": how, "runs": [as_dict(run, facts) for run, facts in gathered]})
        return 0

    if not runs:
        print_wrapped(f"no runs under {root}; name a folder, or another --experiment_root")
    for position, (run, facts) in enumerate(gathered):
        print(end="\n" if position else "")
        _print_run(run, facts, root)
    if any(facts for _, facts in gathered):
        _print_how(arguments)
    return 0


def _print_how(arguments: argparse.Namespace) -> None:
    print_wrapped(
        "verified by hash" if arguments.verify else "checked by name and size only; to check hashes: --verify"
    )


def _list_address(arguments: argparse.Namespace) -> int:
    """Prints a table of the copies at an address, which is read as far as the table needs it."""
    from llamarec.checkpoints.backup.stores import open_store
    from llamarec.checkpoints.mirror.listing import gather_mirror

    store = open_store(arguments.run_name)
    facts = gather_mirror(store, deep=arguments.verify)
    if arguments.json:
        how = "hashes" if arguments.verify else "names and sizes"
        of_run = {"path": store.url, **_latest_and_best(facts), "best_model_step": None, "leftovers": []}
        rows = [
            {**row, "path": f"{store.url}/{fact.verdict.path.name}"}
            for row, fact in zip(_rows(facts), facts, strict=True)
        ]
        print_json({"verified_by": how, "runs": [{**of_run, "checkpoints": rows}]})
        return 0

    print_wrapped(store.url)
    if not facts:
        print("  no checkpoints")
        return 0
    _print_table(facts)
    print_wrapped(f"to copy one here: llamarec checkpoints restore {store.url}/checkpoint-STEP RUN")
    _print_how(arguments)
    return 0


def _gathered(run: RunFolder, *, deep: bool) -> list[CheckpointSummary]:
    """The run's checkpoints; that its record of restarts cannot be read is said, and is in the way of no other run."""
    try:
        return gather(run, deep=deep)
    except CheckpointError as error:
        print(f"WARNING: {error}", file=sys.stderr)
        return gather(run, deep=deep, with_restarts=False)


def limit_of(facts: list[CheckpointSummary]) -> int:
    """Number of scheduled checkpoints that the run keeps."""
    return save_limit(facts) or DEFAULT_KEEP


def as_dict(run: RunFolder, facts: list[CheckpointSummary]) -> dict[str, object]:
    """A run as JSON."""
    in_folder = best_in(run)
    return {
        "path": run.path,
        **_latest_and_best(facts),
        "best_model_step": in_folder.step if in_folder else None,
        "leftovers": [f".{kind}-checkpoint-{step}" for kind, step in run.leftovers()],
        "checkpoints": _rows(facts),
    }


def _latest_and_best(facts: list[CheckpointSummary]) -> dict[str, object]:
    latest, best = latest_and_best(facts)
    return {"latest_step": latest, "best_step": best}


def _rows(facts: list[CheckpointSummary]) -> list[dict[str, object]]:
    latest, best = latest_and_best(facts)
    stay = protected([fact.saved for fact in facts], limit_of(facts))
    return [
        {
            "path": fact.verdict.path,
            "step": fact.step,
            "epoch": fact.epoch,
            "loss": fact.loss,
            "metric": fact.metric,
            "metric_name": fact.metric_name or None,
            "bytes": fact.num_bytes,
            "created": fact.created,
            "health": fact.verdict.health,
            "verified": fact.verified,
            "problems": fact.verdict.problems,
            "latest": fact.step == latest,
            "before_restart": fact.is_superseded,
            "best": fact.step == best,
            "protected": stay.get(fact.step),
        }
        for fact in facts
    ]


def _print_run(run: RunFolder, facts: list[CheckpointSummary], root: Path) -> None:
    name = name_of(run, root)
    print_wrapped(f"{name} ({run.path})" if name != str(run.path) else name)
    if not facts:
        print("  no checkpoints")
        return

    _print_table(facts)
    in_folder = best_in(run)
    if in_folder:
        print_wrapped(f"best model in the folder itself: step {in_folder.step}")
    if run.leftovers():
        print_wrapped(
            f"{len(run.leftovers())} left by killed saves or deletions; to clear: llamarec checkpoints prune {name}"
        )


def _print_table(facts: list[CheckpointSummary]) -> None:
    latest, best = latest_and_best(facts)
    stay = protected([fact.saved for fact in facts], limit_of(facts))
    print_table(_COLUMNS, [_row(fact, latest, best, fact.step in stay) for fact in facts])
    for fact in facts:
        if not fact.verdict.is_resumable:
            print_wrapped(f"{fact.verdict.path.name} is {fact.verdict.health}: {fact.verdict.reason}")

    print_wrapped(
        "B best, L latest, P protected: " + ", ".join(f"{step} ({why})" for step, why in sorted(stay.items()))
    )
    if any(fact.is_superseded for fact in facts):
        print_wrapped("R: from before a --restart; latest ignores it, but it can be named by its path")
    names = {fact.metric_name for fact in facts if fact.metric_name}
    if names:
        print_wrapped(f"metric: {', '.join(sorted(names))}")


def _row(fact: CheckpointSummary, latest: int | None, best: int | None, stays: bool) -> tuple[str, ...]:
    held = {"B": fact.step == best, "L": fact.step == latest, "P": stays, "R": fact.is_superseded}
    return (
        str(fact.step),
        figure(fact.epoch, ".2f"),
        figure(fact.loss),
        figure(fact.metric),
        readable(fact.num_bytes),
        age(fact.created),
        fact.verified,
        "".join(mark for mark, holds in held.items() if holds),
    )
