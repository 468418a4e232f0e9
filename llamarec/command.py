"""Command lines in messages: whole, and such that they can be copied into a shell as they stand."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def typed(words: Sequence[str]) -> str:
    """The words of a command line as this system's shell reads them."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def flags_of(options: Any, defaults: Any = None) -> list[str]:
    """Flags for the fields of a dataclass of options that are not at their defaults (its own, unless given)."""
    defaults = defaults or type(options)()
    names = [item.name for item in fields(options) if getattr(options, item.name) != getattr(defaults, item.name)]
    return [word for name in names for word in (f"--{name}", str(getattr(options, name)))]


def options_from(cls: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of options from stored values; of those of a later version, which may have more, what it knows."""
    known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in values.items() if name in known})


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
