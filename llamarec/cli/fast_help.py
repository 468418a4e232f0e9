"""What `train_ranker.py` can say at once: help, a mistyped flag, a data set that is not known.

torch and transformers take seconds to load; nothing here needs them, and all of it comes from where the training
itself would have it from.
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
    """Ends the command here where its words say enough.

    Args:
        argv: Of `train_ranker.py`, without the program's name.

    Raises:
        SystemExit: help was wanted, and is printed.
        ConfigError: a flag that does not exist, or data options that do not fit.
    """
    flags = stored_flags()
    if flags is None:
        # The installed transformers has other arguments; its parser answers, later.
        return
    if any(word in _HELP for word in argv):
        sys.stdout.write(flags.help(everything="--help_all" in argv))
        raise SystemExit(0)
    flags.refuse(unknown_words(argv, flags.spellings))
    _check_data_set(argv)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around large imports: a sixth faster, and later collections need not look through what stays for ever."""
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
    # A table that was prepared before is known by its name alone.
    if not config.is_own_table and not config.experiment.data.is_dir():
        from llamarec.data.raw import find_source

        find_source(config)


def _with_underscores(word: str) -> str:
    """--dataset-code is accepted too."""
    flag, equals, value = word.partition("=")
    return flag.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word
