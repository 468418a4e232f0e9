"""`llamarec checkpoints verify`: hashes checkpoints and reports damage in its exit code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage.layout import BEST_MANIFEST, RunFolder
from llamarec.checkpoints.storage.readable_units import readable
from llamarec.checkpoints.storage.space import folder_bytes
from llamarec.checkpoints.storage.verification import Verdict, verify, verify_best
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_either, name_of, runs_in, runs_under
from llamarec.cli.output import print_json, print_wrapped
from llamarec.errors import CheckpointError

EXIT_ALL_GOOD: Final = 0
EXIT_DAMAGED: Final = 1

SUMMARY = "Hash checkpoints and name every file that has changed since the save."
_EPILOG = """\
good        every byte is the same as when it was saved
unverified  no manifest (a plain Trainer's): complete, and
            the files' own checksums match
incomplete  files that a resume needs are missing
damaged     a file has changed since the save

RUN verifies all checkpoints of a run and the best model in
the folder itself. Without RUN or CKPT, all runs under
--experiment_root are verified.

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
    """Verifies one checkpoint after the other; returns `EXIT_DAMAGED` if one is damaged or incomplete."""
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
        print(f"{len(verdicts)} checked, {len(bad)} damaged or incomplete")
    return EXIT_DAMAGED if bad else EXIT_ALL_GOOD


def _targets(what: str | None, root: Path) -> list[Path]:
    """Folders of checkpoints, and folders of runs that contain a best model."""
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


def _as_dict(verdict: Verdict) -> dict[str, object]:
    return {
        "path": verdict.path,
        "is_best_model": _is_best(verdict),
        "health": verdict.health,
        "problems": verdict.problems,
        "missing": verdict.missing,
        "seconds": verdict.seconds,
    }
