"""`llamarec checkpoints restore`: copies a backup into a run's folder."""

from __future__ import annotations

import argparse
import sys

from llamarec.checkpoints.storage.discovery import order_of_saves
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_new_run
from llamarec.cli.output import print_json, print_wrapped
from llamarec.errors import printable

SUMMARY = "Copy a backed-up checkpoint into a run's folder."
_EPILOG = """\
SRC is a copy (.../checkpoint-1000) or a folder of copies,
of which the newest is used: a local folder or any address
that fsspec knows. The copy is staged, verified against its
manifest, and appears with one rename. Refused while a run
trains in the folder, or if the checkpoints there belong to
another run. A damaged checkpoint of the same step is
replaced; a good one only with --replace.

  llamarec checkpoints restore /mnt/backup/beauty beauty
  llamarec checkpoints restore s3://b/checkpoint-9 beauty
"""


def add_parser(verbs: Subparsers) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "restore", SUMMARY, _EPILOG)
    parser.add_argument("source", metavar="SRC", help="Folder or address of one copy or several.")
    parser.add_argument("run_name", metavar="RUN", help="Data set code or folder, existing or new.")
    parser.add_argument("--replace", action="store_true", help="Replace a good checkpoint of the same step.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def _say_passed_over(text: str) -> None:
    print(printable(f"passed over {text}"), file=sys.stderr)


def execute(arguments: argparse.Namespace) -> int:
    """Restores under the run's lock."""
    from llamarec.checkpoints.backup.contents import one_of
    from llamarec.checkpoints.backup.copies import restore
    from llamarec.checkpoints.backup.stores import open_store
    from llamarec.checkpoints.storage.lock import RunLock

    run = find_new_run(arguments.run_name, arguments.experiment_root)
    # Before the lock, which creates the run's folder: a wrong SRC must not leave an empty run.
    store = one_of(open_store(arguments.source), _say_passed_over)
    source = store.url
    with RunLock(run):
        restored = restore(store, run, arguments.replace)
        newest = order_of_saves(run)[0]

    if arguments.json:
        print_json({"source": source, "checkpoint": restored, "newest": newest})
        return 0

    print_wrapped(f"restored and verified {source}: {restored}")
    if newest != restored:
        print_wrapped(
            f"{newest.name} was saved later, so it is still the latest. To resume from this one: "
            f"--resume_from_checkpoint {restored}"
        )
    else:
        print_wrapped(f"next: llamarec checkpoints show {restored}")
    return 0
