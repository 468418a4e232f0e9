"""Command lines in messages: whole, and such that they can be copied into a shell as they stand."""

from __future__ import annotations

import difflib
import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from llamarec.credentials import without_credentials

# What two names have in common, from 0 to 1, from which on one may be a slip for the other: "json" and "jsn" 0.86,
# "num_epochs" and "num_train_epochs" 0.77, but "restart" and "data_root" 0.50.
_NEAR: Final = 0.75
_SHORTEST_ABBREVIATION: Final = 3

TRAIN_RETRIEVER: Final = "train-retriever"
TRAIN_RANKER: Final = "train-ranker"


def command_of(name: str) -> list[str]:
    """How a training is typed: `python train_ranker.py` in a clone, `llamarec train-ranker` where it is installed.

    Args:
        name: `TRAIN_RETRIEVER` or `TRAIN_RANKER`.
    """
    script = name.replace("-", "_") + ".py"
    is_clone = (Path(__file__).resolve().parents[1] / script).is_file()
    return ["python", script] if is_clone else ["llamarec", name]


def program_of(name: str) -> str:
    """A training's name in its usage and errors: "train_ranker.py" or "llamarec train-ranker"."""
    words = command_of(name)
    return words[-1] if words[0] == "python" else " ".join(words)


def typed(words: Sequence[str]) -> str:
    """The words of a command line as this system's shell reads them, for messages: no password is in an address."""
    words = [without_credentials(word) for word in words]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def flags_of(options: Any, defaults: Any = None) -> list[str]:
    """Flags for the fields of a dataclass of options that are not at their defaults (its own, unless given)."""
    defaults = defaults or type(options)()
    names = [item.name for item in fields(options) if getattr(options, item.name) != getattr(defaults, item.name)]
    return [word for name in names for word in (f"--{name}", str(getattr(options, name)))]


def with_flags(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """A command line with these flags (and their values) in the place of those of the same names.

    >>> with_flags(["train.py", "--seed", "1", "--rate=2"], ["--seed", "7"])
    ['train.py', '--rate=2', '--seed', '7']
    """
    replaced = {flag_name(word) for word in flags if word.startswith("--")}
    kept, is_kept = [], True
    for word in words:
        if word.startswith("--"):
            # Its values, if it has any, go with it.
            is_kept = flag_name(word) not in replaced
        if is_kept:
            kept.append(word)
    return [*kept, *flags]


def flag_name(flag: str) -> str:
    """A flag without its value, in the one spelling of both that are accepted.

    >>> flag_name("--data-root=raw") == flag_name("--data_root")
    True
    """
    return flag.partition("=")[0].replace("-", "_")


def given_in(argv: Sequence[str]) -> set[str]:
    """Names of the flags on a command line.

    >>> sorted(given_in(["--data-root=raw", "--seed", "1"]))
    ['data_root', 'seed']
    """
    return {flag_name(word)[2:] for word in argv if word.startswith("--")}


def near_flags(flag: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Flags that a mistyped one may stand for, nearest first; none where no flag is near.

    >>> near_flags("--jsn", ["--json", "--restart"]), near_flags("--data_root", ["--json", "--restart"])
    (['--json'], [])
    >>> near_flags("--exp_root", ["--experiment_root", "--json"])
    ['--experiment_root']
    """
    mistyped = _bare(flag)
    near = {name: ratio for name in known if (ratio := _nearness(mistyped, _bare(name)))}
    return sorted(near, key=lambda name: -near[name])[:count]


def _bare(flag: str) -> str:
    return flag_name(flag).lstrip("_")


def _nearness(mistyped: str, name: str) -> float:
    """How alike two names are, up to 1 for the same; 0 where they are not near."""
    ratio = difflib.SequenceMatcher(None, mistyped, name).ratio()
    return ratio if ratio >= _NEAR or _abbreviates(mistyped, name) else 0.0


def _abbreviates(short: str, name: str) -> bool:
    """Whether each word of it begins a word of the name, in the same order."""
    rest = iter(name.split("_"))
    return len(short) >= _SHORTEST_ABBREVIATION and all(
        any(word.startswith(beginning) for word in rest) for beginning in short.split("_")
    )
