"""`llamarec launch`: starts a launcher such as torchrun, and ends as its processes did."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage.outcomes import OUTCOMES, is_unfinished, outcome_in
from llamarec.cli.arguments import Subparsers, add_verb
from llamarec.cli.launched import Launched, Signals
from llamarec.errors import ConfigError

SUMMARY = "Run torchrun (or another launcher) so that its exit code and its signals are those of one process."

_EPILOG = """\
  llamarec launch -- torchrun --nproc_per_node 2 \\
      train_ranker.py --dataset_code beauty --resume_from_checkpoint

torchrun alone ends with 1 where its processes end with 75
or 74, and kills them 30 seconds after a signal. This ends
with their code: 0, 1, 2, 74, 75 or 130, as the guide says
(docs/en/resume.md, 11). SIGTERM, Ctrl-C, SIGHUP and SIGUSR1
reach the processes once, and they have --grace seconds to
save. A third Ctrl-C or signal kills them.

--until_done starts the command again after 75 and after a
kill, 5 seconds later, unless a signal came to this command.
Any other code needs you, and ends it.
"""
_EXAMPLE: Final = "llamarec launch -- torchrun --nproc_per_node 2 train_ranker.py --resume_from_checkpoint"
_GRACE: Final = 600
_PAUSE_SECONDS: Final = 5
# torchrun's own variables.
_SECONDS: Final = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
_HANDLED: Final = "PET_SIGNALS_TO_HANDLE"
# Or processes that are started again find the addresses of those before them in the store, and fail or hang.
_OWN_STORE: Final = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
_ALL: Final = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "launch", SUMMARY, _EPILOG)
    parser.add_argument(
        "--grace", type=int, default=_GRACE, help=f"Seconds to save in, after a signal (default: {_GRACE})."
    )
    parser.add_argument(
        "--until_done",
        action="store_true",
        help="Start it again each time that it was stopped (75) or killed, until it has finished or needs you.",
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="The launcher and all its words.")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the code of its processes."""
    if arguments.grace < 0:
        raise ConfigError(f"--grace {arguments.grace}: 0 or more seconds")
    given = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not given:
        raise ConfigError("llamarec launch: what is to be run?", hint=_EXAMPLE)

    words = [_found(given[0]), *given[1:]]
    with Signals() as signals:
        return _until_done(words, arguments, signals) if arguments.until_done else _once(words, arguments, signals)


def _until_done(words: Sequence[str], arguments: argparse.Namespace, signals: Signals) -> int:
    """What fails again and again is refused by the training itself (--max_failed_starts), and ends this."""
    while True:
        code = _once(words, arguments, signals)
        if signals.received or not is_unfinished(code):
            return code

        sys.stderr.write(f"\n{Path(words[0]).name} ended with {code}: again in {_PAUSE_SECONDS} s\n")
        if signals.wait(_PAUSE_SECONDS):
            return code


def _once(words: Sequence[str], arguments: argparse.Namespace, signals: Signals) -> int:
    with tempfile.TemporaryDirectory(prefix="llamarec-launch-") as folder:
        own = {_SECONDS: str(arguments.grace), _HANDLED: _ALL, _OWN_STORE: "1"}
        environment: Mapping[str, str] = {**own, **os.environ, OUTCOMES: folder}
        launched = Launched(words, environment, arguments.grace, signals, keeps=Path(folder))
        return outcome_in(Path(folder), launched.wait())


def _found(program: str) -> str:
    """Its path: on the PATH, or beside this Python, as where an environment is not activated."""
    beside = shutil.which(program, path=str(Path(sys.executable).parent))
    path = shutil.which(program) or beside
    if path is None:
        raise ConfigError(f"{program}: no such command", hint=_EXAMPLE)
    return path
