"""Command lines from option dataclasses: one flag a field, its help and default from the field."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, NoReturn, TypeVar, get_type_hints

from llamarec.errors import ConfigError

T = TypeVar("T")
_TRUE, _FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


class Parser(argparse.ArgumentParser):
    """Without abbreviations; a wrong flag is a `ConfigError` like every other."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """As our own error, with the nearest of the flags that there are."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1) if unknown else []
        help_ = f"{self.prog} --help"
        raise ConfigError(f"{self.prog}: {message}", hint=f"{near[0]}? ({help_})" if near else help_)


def add_dataclass_arguments(parser: argparse.ArgumentParser, cls: type[Any], *, title: str) -> None:
    """A group of flags, one for each field of a dataclass of options.

    Args:
        parser: Receives the group.
        cls: A dataclass whose fields have a default and `metadata={"help": ...}`.
        title: Of the group in --help.
    """
    group = parser.add_argument_group(title)
    types = get_type_hints(cls)
    for item in fields(cls):
        default = _default(item)
        text = item.metadata.get("help", "")
        if default not in ("", None) and "default" not in text:
            text = f"{text.rstrip('.')} (default: {default})."
        boolean = types[item.name] is bool
        optional: dict[str, Any] = {"nargs": "?", "const": True} if boolean else {}
        group.add_argument(
            f"--{item.name}",
            default=default,
            type=_boolean if boolean else _converter(types[item.name]),
            metavar="BOOL" if boolean else item.name.rpartition("_")[2].upper(),
            # Written for argparse already, as in the Trainer's own arguments.
            help=text,
            **optional,
        )


def dataclass_from(cls: type[T], namespace: argparse.Namespace) -> T:
    """The dataclass with the values of a parsed command line."""
    return cls(**{item.name: getattr(namespace, item.name) for item in fields(cls)})  # type: ignore[arg-type]


def _default(item: Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"true or false was expected, not {text!r}")


def _converter(kind: Any) -> Callable[[str], Any]:
    return kind if kind in (int, float) else str
