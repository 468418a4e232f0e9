"""`llamarec checkpoints verify`: hashes, and an exit code that a script can use."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage.layout import BEST_MANIFEST, RunFolder
from llamarec.checkpoints.storage.space import folder_bytes
from llamarec.checkpoints.storage.units import readable
from llamarec.checkpoints.storage.verification import Verdict, verify, verify_best
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_either, name_of, runs_in, runs_under
from llamarec.cli.output import print_json, print_wrapped
from llamarec.errors import CheckpointError

EXIT_ALL_GOOD: Final = 0
EXIT_DAMAGED: Final = 1

SUMMARY = "Hash checkpoints, and name every file that is not as it was saved."
_EPILOG = """\
good        every byte is as it was saved
unverified  no manifest (a plain Trainer's): complete, and
            its files' own checksums are right
incomplete  parts of a resume are missing
damaged     a file is not as it was saved

With RUN the best model in the folder itself is verified
too; without anything, all runs under --experiment_root.

exit codes:
  0  all good (or unverified)
  1  something is damaged or incomplete
  2  usage: no such run or checkpoint
"""


def add_parser(verbs: Subparsers) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "verify", SUMMARY, _EPILOG)
    parser.add_argument("what", nargs="?", metavar="CKPT|RUN", help="Checkpoint or run (default: all runs).")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Verifies one after the other, printing as it goes; returns `EXIT_DAMAGED` if one is not whole."""
    verdicts = []
    for path in _targets(arguments.what, arguments.experiment_root):
        verdict = verify_best(path) if (path / BEST_MANIFEST).is_file() else verify(path)
        verdicts.append(verdict)
        if not arguments.json:
            _print(verdict, verdicts[-2] if len(verdicts) > 1 else None)
    bad = [verdict for verdict in verdicts if not verdict.is_resumable]
    if arguments.json:
        print_json({"all_good": not bad, "checkpoints": [_as_dict(verdict) for verdict in verdicts]})
    else:
        print(f"{len(verdicts)} checked, {len(bad)} of them damaged or incomplete")
    return EXIT_DAMAGED if bad else EXIT_ALL_GOOD


def _targets(what: str | None, root: Path) -> list[Path]:
    """Folders of checkpoints, and of runs that hold a best model."""
    if what is None:
        runs = runs_under(root)
    else:
        found = find_either(what, root)
        if isinstance(found, Path):
            return [found]
        runs = runs_in(found)
    targets = [path for run in runs for path in _of_run(run)]
    if not targets:
        names = ", ".join(name_of(run, root) for run in runs)
        raise CheckpointError(
            f"no checkpoints in {names or root}",
            expected="a folder checkpoint-{step}",
            hint="llamarec checkpoints list",
        )
    return targets


def _of_run(run: RunFolder) -> list[Path]:
    return [*run.checkpoints(), *([run.path] if (run.path / BEST_MANIFEST).is_file() else [])]


def _run_of(verdict: Verdict) -> Path:
    return verdict.path if _is_best(verdict) else verdict.path.parent


def _is_best(verdict: Verdict) -> bool:
    return (verdict.path / BEST_MANIFEST).is_file()


def _print(verdict: Verdict, before: Verdict | None) -> None:
    if before is None or _run_of(before) != _run_of(verdict):
        print_wrapped(str(_run_of(verdict)))
    name = "best model" if _is_best(verdict) else verdict.path.name
    of_best = verdict.manifest.num_bytes if verdict.manifest else 0
    size = of_best if _is_best(verdict) else folder_bytes(verdict.path)
    print_wrapped(f"{verdict.health:<10}  {name}  {readable(size)} in {verdict.seconds:.1f} s", indent=2, hanging=14)
    for text in verdict.problems:
        print_wrapped(text, indent=4, hanging=6)


def _as_dict(verdict: Verdict) -> dict[str, Any]:
    return {
        "path": verdict.path,
        "is_best_model": _is_best(verdict),
        "health": verdict.health,
        "problems": verdict.problems,
        "missing": verdict.missing,
        "seconds": verdict.seconds,
    }
