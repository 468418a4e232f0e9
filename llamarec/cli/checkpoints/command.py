"""`llamarec checkpoints`: lists, verifies, compares, copies and prunes what runs have saved."""

from __future__ import annotations

import argparse

from llamarec.cli.arguments import Subparsers
from llamarec.cli.checkpoints import backup, diff, du, listing, plan, prune, restore, show, verify

SUMMARY = "Checkpoints: list, show, plan, verify, diff, backup, restore, prune, du."

_VERBS = (
    listing,
    show,
    plan,
    verify,
    diff,
    backup,
    restore,
    prune,
    du,
)

NAMES = """\
RUN is one of
  beauty            a data set code: its run under
                    --experiment_root
  path/to/folder    a folder with checkpoint-* in it, or one
                    that contains checkpoints/
CKPT is one of
  path/to/checkpoint-1000
  RUN:latest        the newest one that verifies
  RUN:best          the best one that the newest knows of
  RUN:1000          the one of step 1000

Every verb takes --json; its help says what it does.
"""


def add_parser(commands: Subparsers) -> None:
    """Adds the command, and each verb to it."""
    parser = commands.add_parser(
        "checkpoints",
        help=SUMMARY,
        description=SUMMARY,
        epilog=NAMES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for verb in _VERBS:
        verb.add_parser(verbs)
