"""`llamarec checkpoints backup`: verified copies to any address that fsspec knows, once or continuously."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llamarec.checkpoints.storage.discovery import order_of_saves
from llamarec.checkpoints.storage.layout import MANIFEST, TRAINER_STATE, RunFolder
from llamarec.checkpoints.storage.verification import verify
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_either, find_run, latest_of
from llamarec.cli.output import print_json, print_wrapped
from llamarec.errors import ConfigError, LlamarecError, printable

SUMMARY = "Copy a checkpoint, verified, to a folder or address."
_EPILOG = """\
The copy is DEST/checkpoint-STEP. Every file is hashed
while it is copied, then read back. The manifest is copied
last; on a local disk the copy appears with one rename. A
good copy is not copied again, and a different checkpoint
of the same name is never overwritten.

DEST is a folder or an address that fsspec knows:
s3://bucket/folder (pip install s3fs), gs:// (gcsfs),
ssh:// (sshfs), ...

--every copies each new checkpoint until Ctrl-C. A damaged
one is reported, and the next older one is copied instead.

  llamarec checkpoints backup beauty /mnt/backup/beauty
  llamarec checkpoints backup beauty s3://b/run --every 600
"""


def add_parser(verbs: Subparsers) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "backup", SUMMARY, _EPILOG)
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="RUN:latest, RUN:best, RUN:1000, a path, or RUN (short for RUN:latest)."
    )
    parser.add_argument("destination", metavar="DEST", help="Folder or address to copy to.")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="Look for a new one this often until Ctrl-C.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Copies one checkpoint, or every new one with --every."""
    root, text = arguments.experiment_root, arguments.checkpoint
    if arguments.every is not None:
        if arguments.every <= 0:
            raise ConfigError(f"--every {arguments.every:g}: more than 0 seconds")

        run = find_run(text.removesuffix(":latest"), root)
        watch = Watch(run, arguments.destination, say_copied=_print_json_line if arguments.json else _print_copied)
        try:
            watch.repeat(arguments.every)
        except KeyboardInterrupt:
            print(f"stopped; {len(watch.copied)} copied", file=sys.stderr)
        return 0

    from llamarec.checkpoints.backup.copies import backup

    found = find_either(text, root)
    checkpoint = found if isinstance(found, Path) else latest_of(found)
    copy = backup(checkpoint, arguments.destination)
    if arguments.json:
        print_json({"checkpoint": checkpoint, "copy": copy})
    else:
        _print_copied(checkpoint, copy)
    return 0


def _print_copied(checkpoint: Path, copy: str) -> None:
    print_wrapped(f"copied {checkpoint} and verified the copy: {copy}")


def _print_json_line(checkpoint: Path, copy: str) -> None:
    import json

    print(json.dumps({"checkpoint": str(checkpoint), "copy": copy}), flush=True)


@dataclass
class Watch:
    """Copies the newest good checkpoint of a run each time there is a new one.

    Attributes:
        run: The run to watch.
        destination: Folder or address to copy to.
        sleep: Waits for a number of seconds; replaced in tests.
        say_copied: Called with each checkpoint and its copy.
        copied: The copies made so far, oldest first.
    """

    run: RunFolder
    destination: str
    sleep: Callable[[float], None] = time.sleep
    say_copied: Callable[[Path, str], None] = _print_copied
    copied: list[str] = field(default_factory=list)
    _done: tuple[str, int] | None = None
    _damaged: set[tuple[str, int]] = field(default_factory=set)
    _last_problem: str = ""

    def repeat(self, seconds: float, rounds: int | None = None) -> None:
        """Looks for a new checkpoint at an interval.

        A destination that cannot be reached is tried again in the next round.

        Args:
            seconds: Pause between two looks.
            rounds: Number of looks; None for no end.
        """
        done = 0
        while rounds is None or done < rounds:
            if done:
                self.sleep(seconds)
            self.look()
            done += 1

    def look(self) -> None:
        """Copies the newest good checkpoint, unless it was copied before."""
        for checkpoint in order_of_saves(self.run):
            mark = _mark(checkpoint)
            if mark is None or mark in self._damaged:
                continue
            if mark == self._done:
                return

            verdict = verify(checkpoint)
            if verdict.is_resumable:
                self._copy(checkpoint, mark)
                return
            # A checkpoint that the run deleted while it was read is not a problem to report.
            if checkpoint.is_dir():
                self._damaged.add(mark)
                self._complain(f"not copied: {checkpoint.name} is {verdict.health}: {verdict.reason}")

    def _copy(self, checkpoint: Path, mark: tuple[str, int]) -> None:
        from llamarec.checkpoints.backup.copies import backup

        try:
            copy = backup(checkpoint, self.destination)
        except LlamarecError as error:
            self._complain(f"not copied this time: {error}")
            return

        self._done, self._last_problem = mark, ""
        self.copied.append(copy)
        self.say_copied(checkpoint, copy)

    def _complain(self, text: str) -> None:
        if text != self._last_problem:
            print(printable(text), file=sys.stderr, flush=True)
        self._last_problem = text


def _mark(checkpoint: Path) -> tuple[str, int] | None:
    """Identifies one save of a step; None if the folder no longer exists."""
    for name in (MANIFEST, TRAINER_STATE):
        try:
            return checkpoint.name, (checkpoint / name).stat().st_mtime_ns
        except OSError:
            continue
    return (checkpoint.name, 0) if checkpoint.is_dir() else None
