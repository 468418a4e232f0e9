"""Command lines: flags from dataclasses of options, the flags of every verb, and what a wrong flag is answered with."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, TypeVar, get_type_hints

from llamarec.command import near_flags
from llamarec.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance, SupportsWrite

T = TypeVar("T", bound="DataclassInstance")

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `ArgumentParser.add_subparsers` returns; a verb adds its own parser to it."""

_TRUE: Final = ("true", "yes", "1", "on")
_FALSE: Final = ("false", "no", "0", "off")
_CONVERTERS: Final[dict[object, Callable[[str], object]]] = {int: int, float: float}


class Parser(argparse.ArgumentParser):
    """A parser that knows no abbreviations and reports a wrong flag as a `ConfigError`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **kwargs})

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # Argparse's own hides that nothing could be written.
        if message:
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """Raises a `ConfigError` that names the nearest flag, if there is one near."""
        help_ = f"{self.prog} --help"
        unknown = re.search(r"unrecognized arguments:.*?(--?[A-Za-z][\w-]*)", message)
        if unknown is None:
            raise ConfigError(f"{self.prog}: {message}", hint=help_)

        near = near_flags(unknown[1], self._option_string_actions)
        raise ConfigError(
            f"{self.prog}: unknown flag {unknown[1]}",
            hint=f"did you mean {near[0]}? ({help_})" if near else help_,
        )


def add_verb(
    verbs: Subparsers, name: str, summary: str, epilog: str = "", *, prefix_chars: str = "-"
) -> argparse.ArgumentParser:
    """Adds a verb and returns its parser.

    Args:
        verbs: Subparsers of the command.
        name: The word to type.
        summary: One sentence for the list of verbs and the verb's own help.
        epilog: Printed under the flags, with its line breaks.
        prefix_chars: Characters that flags begin with. Without "-" the verb gets no --help.
    """
    return verbs.add_parser(
        name,
        help=summary,
        description=textwrap.fill(summary, 58),  # the formatter below does not wrap it
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prefix_chars=prefix_chars,
        add_help="-" in prefix_chars,
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every verb that answers and ends."""
    add_experiment_root(parser)
    parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")


def add_experiment_root(parser: argparse.ArgumentParser) -> None:
    """The folder under which a data set code is looked up."""
    parser.add_argument(
        "--experiment_root",
        type=Path,
        default=Path("experiments"),
        metavar="DIR",
        help="Folder with the runs of all data sets (default: experiments).",
    )


def add_dataclass_arguments(parser: argparse.ArgumentParser, cls: type[DataclassInstance], *, title: str) -> None:
    """A group of flags, one for each field of a dataclass of options.

    Args:
        parser: Receives the group.
        cls: A dataclass whose fields have a default and `metadata={"help": ...}`.
        title: Heading of the group in --help.
    """
    group = parser.add_argument_group(title)
    types = get_type_hints(cls)

    for item in fields(cls):
        flag, default = f"--{item.name}", _default(item)
        # The texts are written for argparse already, as those of the Trainer's own arguments are.
        text = item.metadata.get("help", "")
        if default not in ("", None) and "default" not in text:
            text = f"{text.rstrip('.')} (default: {default})."

        if types[item.name] is bool:
            group.add_argument(flag, default=default, type=_boolean, nargs="?", const=True, metavar="BOOL", help=text)
        else:
            convert = _CONVERTERS.get(types[item.name], str)
            metavar = item.name.rpartition("_")[2].upper()
            group.add_argument(flag, default=default, type=convert, metavar=metavar, help=text)


def dataclass_from(cls: type[T], namespace: argparse.Namespace) -> T:
    """The dataclass with the values of a parsed command line."""
    return cls(**{item.name: getattr(namespace, item.name) for item in fields(cls)})


def _default(item: Field[Any]) -> object:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
