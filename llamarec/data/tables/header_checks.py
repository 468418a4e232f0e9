"""First lines that are read as a header and are none, or whose records do not fit it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llamarec.command import typed
from llamarec.data.tables.columns import is_known_name
from llamarec.data.tables.header import Header, before, shown
from llamarec.data.tables.separators import SEPARATORS, records
from llamarec.data.tables.suggestions import LARGE, VALUE, suggested_columns
from llamarec.errors import ConfigError, DataError

_ITEMS_IN_A_LINE, _USUAL_COLUMNS = 3, 5


def check_is_header(header: Header, lines: Sequence[str], where: str, *, prefix: str = "") -> None:
    """Refuses a first line that looks like data, since its record would be lost.

    Raises:
        ConfigError: it does; says what to type.
    """
    num_skipped, _ = before(lines, where)
    if any(map(is_known_name, header.columns)):
        return
    _check_separator(header, where, prefix)
    _check_no_sequences(header, lines[num_skipped:], where)
    if not any(map(VALUE.fullmatch, header.columns)) and not _header_below(lines, num_skipped, header.separator):
        return

    flag = f"--{prefix}columns"
    below = _header_below(lines, num_skipped, header.separator)
    if below:
        raise DataError(
            f"{where}: its first line is neither a header nor a record",
            expected="the names of columns in the first line",
            found=[shown(lines[num_skipped]), f"line {below + 1}: {shown(lines[below])}"],
            hint="remove the line before the header" if below == 1 else f"remove the {below} lines before the header",
        )
    raise ConfigError(
        f"{where}: its first line looks like data, not like the names of columns",
        found=shown(lines[num_skipped]),
        hint=[
            f"{flag} {suggested_columns(header.columns)} (a guess: names in the file's order, _ for one to ignore)",
            f"if it is a header: --{prefix}item_column NAME" + ("" if prefix else " --user_column NAME ..."),
        ],
    )


def check_as_many_fields(header: Header, lines: Sequence[str], where: str) -> None:
    """Refuses records that all have one field more than the header: row names of R, or a separator at their ends.

    Args:
        header: Of the table.
        lines: The first lines of the file.
        where: Path of the table, for an error.

    Raises:
        DataError: they have; says which, and what to change.
    """
    found = [fields for fields, _ in records(lines[header.num_lines :], header.separator) if fields]
    if not found or any(len(fields) != len(header.columns) + 1 for fields in found):
        return

    hint = ""
    if not any(fields[-1].strip() for fields in found):
        hint = "remove the separator at the end of each record, or add one to the header"
    elif [fields[0] for fields in found] in ([str(n) for n in range(start, start + len(found))] for start in (0, 1)):
        hint = "add a name for the first column to the header, or from R: write.csv(data, path, row.names = FALSE)"
    if hint:
        raise DataError(
            f"{where}: its header names {len(header.columns)} columns, and its records have {len(found[0])}",
            expected="a name for each column",
            found=[shown(lines[header.num_lines - 1]), shown(lines[header.num_lines])],
            hint=hint,
        )


def _check_separator(header: Header, where: str, prefix: str) -> None:
    """Refuses a header that another separator would split into known names.

    Raises:
        ConfigError: names the flag.
    """
    if len(header.columns) > 1:
        return
    for mark in dict.fromkeys(re.findall(r"[^\w\s-]|[\x00-\x1f]", header.columns[0])):
        if sum(map(is_known_name, header.columns[0].split(mark))) > 1:
            value = typed([mark]) if mark.isprintable() else f"$'\\x{ord(mark):02x}'"
            raise ConfigError(
                f"{where}: its fields are separated by {mark!r}",
                found=shown(header.columns[0]),
                hint=f"--{prefix}separator {value}",
            )


def _check_no_sequences(header: Header, lines: Sequence[str], where: str) -> None:
    """Refuses lines of a user and all of its items, separated by blanks.

    Raises:
        DataError: says which form is read.
    """
    if header.separator not in ("space", " ") or len(header.columns) < _ITEMS_IN_A_LINE:
        return
    fields = [line.split() for line in lines if line.strip()]
    are_small = all(one.isdigit() and len(one) <= LARGE for line in fields for one in line)
    if are_small and (len({len(line) for line in fields}) > 1 or len(header.columns) > _USUAL_COLUMNS):
        raise DataError(
            f"{where}: each line looks like a user with all of its items",
            expected="a row for each interaction, or lists of items that are marked as such",
            found=shown(lines[0]),
            hint=[
                'as JSON lines: {"user": "1", "items": ["7", "3"]} with --no_timestamp',
                "or a line for each item with --columns user,item --no_timestamp",
            ],
        )


def _header_below(lines: Sequence[str], num_skipped: int, separator: str) -> int:
    """Index of a later line that looks like the header; 0 where none does."""
    for number, line in enumerate(lines[num_skipped + 1 :], start=num_skipped + 1):
        for mark in (separator, *SEPARATORS):
            if sum(map(is_known_name, next(records([line], mark), ([], 0))[0])) > 1:
                return number
    return 0
