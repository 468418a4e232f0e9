"""`llamarec checkpoints du`: disk use per run, and how long the free space lasts."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.readable_units import duration, readable
from llamarec.checkpoints.storage.space import folder_bytes, free_bytes
from llamarec.checkpoints.storage.summary import DEFAULT_KEEP, gather, newest, save_limit
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.growth import Growth, Save, State, growth, hours_left
from llamarec.cli.checkpoints.names import find_run, name_of, runs_under
from llamarec.cli.checkpoints.prune import propose
from llamarec.cli.output import print_json, print_table, print_wrapped

SUMMARY = "Show disk use per run, what prune would free, and how long the disk lasts."
_EPILOG = f"""\
The column prune: what prune --keep {DEFAULT_KEEP} would free.

The rate of a run is the size of its newest checkpoint
divided by the median time between saves.
  growing  keeps all checkpoints, or has fewer than its
           save_total_limit
  steady   deletes a checkpoint for each one it writes
  idle     finished, or no save in ten usual pauses
  unknown  fewer than two saves with a time
Time until the disk is full: free space / sum of rates.
"""
_LAST: Final = {
    "steady": "at this rate the disk does not fill up: each run deletes as much as it writes (steady)",
    "idle": "nothing is being written",
    "unknown": "how long the disk lasts is unknown: there are too few saves to measure a rate",
}


@dataclass(frozen=True)
class Use:
    """One run's share of the disk; `prunable_bytes` is what prune would free."""

    run: RunFolder
    num_checkpoints: int
    num_bytes: int
    prunable_bytes: int
    growth: Growth


def add_parser(verbs: Subparsers) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "du", SUMMARY, _EPILOG)
    parser.add_argument("root", nargs="?", metavar="ROOT", help="Experiment root or run (default: --experiment_root).")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Prints the disk use of each run and the outlook."""
    root = Path(arguments.root) if arguments.root else arguments.experiment_root
    runs = runs_under(root)
    if not runs and arguments.root:
        runs = [find_run(arguments.root, arguments.experiment_root)]
    uses = [disk_use(run, datetime.now(UTC)) for run in runs]
    free = free_bytes(runs[0].path if runs else root)
    left = hours_left([use.growth for use in uses], free)

    if arguments.json:
        print_json(_as_dict(root, uses, free, left))
        return 0

    if not uses:
        print_wrapped(f"no runs under {root}; name a folder, or another --experiment_root")
    else:
        names = [name_of(use.run, root) for use in uses]
        columns = ("run", "saves", "size", "prune", "rate", "state")
        print_table(columns, [_row(name, use) for name, use in zip(names, uses, strict=True)], left=("run",))
        print(f"together: {readable(sum(use.num_bytes for use in uses))}")
    print(f"free:     {readable(free)}")
    print_wrapped(f"at this rate the disk lasts {duration(left * 3600)}" if isinstance(left, float) else _LAST[left])
    return 0


def disk_use(run: RunFolder, now: datetime) -> Use:
    """The disk use of one run; hashes no files."""
    facts = gather(run, deep=False)
    saves = [Save(fact.created, fact.num_bytes, fact.saved.reason) for fact in reversed(newest(facts))]
    freed = propose(run, DEFAULT_KEEP, deep=False).num_bytes
    return Use(run, len(facts), folder_bytes(run.path), freed, growth(saves, save_limit(facts), now))


def _row(name: str, use: Use) -> tuple[str, ...]:
    rate = f"{readable(use.growth.bytes_per_hour)}/h" if use.growth.state == "growing" else "-"
    saves = str(use.num_checkpoints)
    return name, saves, readable(use.num_bytes), readable(use.prunable_bytes), rate, use.growth.state


def _as_dict(root: Path, uses: list[Use], free: int, left: float | State) -> dict[str, object]:
    return {
        "root": root,
        "free_bytes": free,
        "hours_left": left if isinstance(left, float) else None,
        "outlook": "full" if isinstance(left, float) else left,
        "runs": [
            {
                "path": use.run.path,
                "checkpoints": use.num_checkpoints,
                "bytes": use.num_bytes,
                "prunable_bytes": use.prunable_bytes,
                "state": use.growth.state,
                "bytes_per_hour": use.growth.bytes_per_hour,
                "why": use.growth.why,
            }
            for use in uses
        ],
    }
