"""`llamarec checkpoints`: lists, verifies, compares, copies and prunes the checkpoints of runs."""

from __future__ import annotations

import argparse

from llamarec.cli.arguments import Subparsers
from llamarec.cli.checkpoints import backup, diff, du, listing, plan, prune, restore, show, verify

SUMMARY = "List, verify, compare, copy and delete checkpoints; preview a resume."

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
  path/to/folder    a folder that contains checkpoint-*, or
                    a folder checkpoints/ with them
CKPT is one of
  path/to/checkpoint-1000
  RUN:latest        the newest good checkpoint
  RUN:best          the best checkpoint so far
  RUN:1000          the checkpoint of step 1000

All verbs take --json and --help.
"""


def add_parser(commands: Subparsers) -> None:
    """Adds the command and its verbs."""
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
