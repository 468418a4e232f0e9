"""`llamarec checkpoints prune`: deletes old checkpoints after listing them."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import dataclass

from llamarec.checkpoints.storage.discovery import best_in
from llamarec.checkpoints.storage.entries import kind_of
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.publish import delete
from llamarec.checkpoints.storage.readable_units import readable
from llamarec.checkpoints.storage.recovery import recover
from llamarec.checkpoints.storage.retention import protected, to_delete
from llamarec.checkpoints.storage.space import bytes_of
from llamarec.checkpoints.storage.summary import DEFAULT_KEEP, CheckpointSummary, gather, latest_and_best
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_run
from llamarec.cli.output import print_json, print_wrapped
from llamarec.errors import ConfigError

SUMMARY = "Delete old checkpoints after listing them."
_EPILOG = """\
All checkpoints are hashed first. Kept are the last N
scheduled ones, the newest good one, the best one, and
damaged ones without a readable manifest, which only you can
judge. Other damaged ones are deleted.

Remains of killed saves and deletions are cleared too.

Nothing is deleted without --yes, or y on a terminal.
Refused while a run trains in the folder.

  llamarec checkpoints prune beauty --keep 2
  llamarec checkpoints prune beauty --keep 2 --yes
"""


def add_parser(verbs: Subparsers) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "prune", SUMMARY, _EPILOG)
    parser.add_argument("run_name", metavar="RUN", help="Data set code or folder.")
    parser.add_argument(
        "--keep",
        type=int,
        default=DEFAULT_KEEP,
        metavar="N",
        help=f"Scheduled checkpoints to keep (default: {DEFAULT_KEEP}).",
    )
    parser.add_argument("--yes", action="store_true", help="Delete without asking.")
    parser.add_argument("--dry_run", action="store_true", help="List only, even with --yes.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


@dataclass(frozen=True)
class Proposal:
    """What prune would delete.

    Attributes:
        doomed: Checkpoints to delete, oldest save first.
        stay: Reasons to keep the others, by step.
        leftovers: Bytes of each folder that a killed save or deletion left, by name.
    """

    doomed: tuple[CheckpointSummary, ...]
    stay: dict[int, str]
    leftovers: dict[str, int]

    @property
    def num_bytes(self) -> int:
        """Bytes that would be freed."""
        return sum(fact.num_bytes for fact in self.doomed) + sum(self.leftovers.values())


def execute(arguments: argparse.Namespace) -> int:
    """Lists, asks, deletes."""
    from llamarec.checkpoints.storage.lock import RunLock

    if arguments.keep < 1:
        raise ConfigError(f"--keep {arguments.keep}: at least 1", hint="to delete a whole run, delete its folder")

    run = find_run(arguments.run_name, arguments.experiment_root)
    # A dry run writes nothing, so it needs no lock and is allowed while a run trains.
    with nullcontext() if arguments.dry_run else RunLock(run):
        proposal = propose(run, arguments.keep, deep=True)
        if not arguments.json:
            _print(run, proposal, arguments.keep)
        done = _carry_out(run, proposal, arguments.keep) if _agreed(arguments, proposal) else None

    if arguments.json:
        print_json(_as_dict(run, proposal, done))
    else:
        _print_outcome(proposal, done, arguments.dry_run)
    return 0


def propose(run: RunFolder, keep: int, *, deep: bool) -> Proposal:
    """What `prune --keep` would delete: never the newest good checkpoint, never the best."""
    facts = gather(run, deep=deep)
    kept = [fact.saved for fact in facts]
    stay = protected(kept, keep)
    latest, best = latest_and_best(facts)
    in_folder = best_in(run)
    for step, why in ((latest, "newest good one"), (best, "best"), (in_folder.step if in_folder else None, "best")):
        if step is not None and any(fact.step == step for fact in facts):
            stay.setdefault(step, why)

    doomed = [step for step in to_delete(kept, keep) if step not in stay]
    for fact in facts:
        if fact.step not in doomed:
            stay.setdefault(fact.step, f"{fact.verdict.health}: yours to judge")

    by_step = {fact.step: fact for fact in facts}
    return Proposal(tuple(by_step[step] for step in doomed), stay, _leftovers(run))


def _leftovers(run: RunFolder) -> dict[str, int]:
    names = [f".{kind}-checkpoint-{step}" for kind, step in run.leftovers()]
    names += [run.best_staging.name] if kind_of(run.best_staging) != "nothing" else []
    names += [path.name for path in run.live_leftovers()]
    return {name: bytes_of(run.path / name) for name in names}


def _agreed(arguments: argparse.Namespace, proposal: Proposal) -> bool:
    if arguments.dry_run or not (proposal.doomed or proposal.leftovers):
        return False
    if arguments.yes:
        return True
    if arguments.json or not sys.stdin.isatty():
        return False
    return input("delete these? [y/N] ").strip().lower() in ("y", "yes")


def _carry_out(run: RunFolder, proposal: Proposal, keep: int) -> list[str]:
    """Deletes and clears; returns one sentence for each action."""
    done = recover(run) if proposal.leftovers else []
    # Recovery may have put a checkpoint back, and then another one may be the newest.
    still = {fact.step for fact in propose(run, keep, deep=True).doomed} if done else None
    for fact in proposal.doomed:
        if still is None or fact.step in still:
            delete(run, fact.step)
            done.append(f"{fact.verdict.path.name}: deleted")
    return done


def _print(run: RunFolder, proposal: Proposal, keep: int) -> None:
    print_wrapped(f"{run.path}, --keep {keep}", hanging=0)
    for step, why in sorted(proposal.stay.items()):
        print_wrapped(f"keep    checkpoint-{step} ({why})", indent=2, hanging=10)
    for fact in proposal.doomed:
        bad = "" if fact.verdict.is_resumable else f", {fact.verdict.health}"
        print_wrapped(f"delete  checkpoint-{fact.step} ({readable(fact.num_bytes)}{bad})", indent=2, hanging=10)
    for name, size in proposal.leftovers.items():
        print_wrapped(f"clear   {name} ({readable(size)}, left by a kill)", indent=2, hanging=10)


def _print_outcome(proposal: Proposal, done: list[str] | None, dry_run: bool) -> None:
    if not (proposal.doomed or proposal.leftovers):
        print("nothing to delete")
    elif done is None:
        how = "dry run" if dry_run else "to delete: --yes"
        print_wrapped(f"nothing is deleted ({how}); this would free {readable(proposal.num_bytes)}")
    else:
        for text in done:
            print_wrapped(text, indent=2, hanging=4)
        print(f"freed about {readable(proposal.num_bytes)}")


def _as_dict(run: RunFolder, proposal: Proposal, done: list[str] | None) -> dict[str, object]:
    return {
        "run": run.path,
        "delete": [
            {"path": fact.verdict.path, "bytes": fact.num_bytes, "health": fact.verdict.health}
            for fact in proposal.doomed
        ],
        "keep": {run.checkpoint(step).name: why for step, why in sorted(proposal.stay.items())},
        "leftovers": proposal.leftovers,
        "bytes": proposal.num_bytes,
        "deleted": done is not None,
        "done": done or [],
    }
