"""Answers of `train_ranker.py` that need no torch: help, a mistyped flag, an unknown data set.

torch and transformers take seconds to load. These answers come from the same sources as the training's own.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator, Sequence

from llamarec.cli.arguments import Parser, add_dataclass_arguments, dataclass_from
from llamarec.data.config import DataConfig
from llamarec.ranker.options.flags import PROGRAM, stored_flags, unknown_words

_HELP = ("-h", "--help", "--help_all")


def answer_early(argv: Sequence[str]) -> None:
    """Answers a command line that can be answered without torch; returns if it cannot.

    Args:
        argv: Arguments of `train_ranker.py`, without the program's name.

    Raises:
        SystemExit: after printing help.
        ConfigError: a flag does not exist, or data options are wrong.
    """
    flags = stored_flags()
    if flags is None:
        # The installed transformers has other arguments, which only its own parser knows.
        return
    if any(word in _HELP for word in argv):
        sys.stdout.write(flags.help(everything="--help_all" in argv))
        raise SystemExit(0)
    flags.refuse(unknown_words(argv, flags.spellings))
    _check_data_set(argv)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Suspends garbage collection during large imports.

    Imports take a sixth less time, and later collections skip the imported objects, which are never freed.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _check_data_set(argv: Sequence[str]) -> None:
    parser = Parser(prog=PROGRAM, add_help=False)
    add_dataclass_arguments(parser, DataConfig, title="data")
    config = dataclass_from(DataConfig, parser.parse_known_args([_with_underscores(word) for word in argv])[0])
    # A table that has been prepared is known by its name alone.
    if not config.is_own_table and not config.experiment.data.is_dir():
        from llamarec.data.raw import find_source

        find_source(config)


def _with_underscores(word: str) -> str:
    """A flag in the spelling that the parser knows: --dataset-code is accepted too."""
    if not word.startswith("--"):
        return word

    flag, equals, value = word.partition("=")
    return flag.replace("-", "_").replace("__", "--", 1) + equals + value
