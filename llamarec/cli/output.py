"""Tables, wrapped lines and JSON on stdout: ASCII, no colours, readable at 60 columns."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from io import StringIO

from llamarec.errors import printable


def print_json(content: object) -> None:
    """Prints indented JSON; NaN and infinity, which JSON does not have, become null."""
    print(json.dumps(_plain(content), indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str] = ()) -> None:
    """Prints a table; text columns (`left`) may wrap, all others are right-aligned numbers that never wrap."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        if column in left:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(printable, row))

    # Cells are padded to the column's width. At the end of a line, padding is in the way of copying.
    text = StringIO()
    Console(file=text, highlight=False, markup=False, emoji=False, width=width()).print(table)
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def print_pairs(title: str, pairs: Mapping[str, object]) -> None:
    """Prints a title and a line `name  value` for each pair, long values wrapped; prints nothing without pairs."""
    if not pairs:
        return

    print(printable(title))
    column = min(max(len(name) for name in pairs), width() // 2)
    for name, value in pairs.items():
        hanging = min(column + 4, width() // 2)
        longest = max(map(len, str(value).split()), default=0)
        # A hash or a path that does not fit beside its name gets its own line, indented less.
        print_wrapped(f"{name:<{column}}  {value}", indent=2, hanging=hanging if hanging + longest <= width() else 4)


def print_wrapped(text: str, *, indent: int = 0, hanging: int = 2) -> None:
    """Prints one paragraph with a hanging indent; keeps spaces inside the text and never breaks a word."""
    lines = textwrap.wrap(
        printable(text),
        width(),
        initial_indent=" " * indent,
        subsequent_indent=" " * hanging,
        break_on_hyphens=False,
        break_long_words=False,  # a path that is cut cannot be copied
    )
    print("\n".join(lines))


def width() -> int:
    """Width of the terminal (or COLUMNS), at least 40 and at most 120."""
    return max(40, min(shutil.get_terminal_size((80, 24)).columns, 120))


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested dictionaries as one dictionary whose names are joined by dots.

    >>> flat({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    result: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result


def figure(value: float | None, form: str = ".4f") -> str:
    """A formatted number; a dash for None."""
    return "-" if value is None else f"{value:{form}}"


def _plain(content: object) -> object:
    """The same content in the types that JSON has."""
    if is_dataclass(content) and not isinstance(content, type):
        return _plain(asdict(content))
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, datetime):
        return content.isoformat()
    return content if isinstance(content, str | int | float | bool | None) else str(content)
