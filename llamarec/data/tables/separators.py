"""What separates the fields of a text table: decided by all first records, or refused."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Final

from llamarec.data.tables.columns import is_known_name
from llamarec.errors import ConfigError

SEPARATORS: Final = (",", "\t", ";", "|")
_LONG: Final = "::"
"""MovieLens' own files."""
_BLANK: Final = " "
_WORDS: Final = {",": "comma", "\t": "tab", _BLANK: "space", "|": "pipe", ";": "semicolon"}
_CHARACTERS: Final = {word: one for one, word in _WORDS.items()}
# A malformed line among the first says nothing.
_MOST: Final = 0.9


def character_of(option: str) -> str:
    """The separator that --separator means: its words are for what a shell makes hard to type."""
    return _CHARACTERS.get(option, option)


def word_of(separator: str) -> str:
    """A separator as a person types it."""
    return _WORDS.get(separator, separator)


def separator_of(lines: Sequence[str], where: str, *, num_columns: int = 0, flag: str = "--separator") -> str:
    """The separator by which the first records have as many fields as the first line.

    Args:
        lines: The first lines of the file; the last may be incomplete.
        where: Path of the table, for an error.
        num_columns: How many fields there must be; 0: as many as the first line has.
        flag: That names the separator.

    Raises:
        ConfigError: several could be it.
    """
    candidates = [one for one in (_LONG, *SEPARATORS) if one in _outside_quotes(_first_record(lines))] or [_BLANK]
    shares = {one: _share_alike(lines, one, num_columns) for one in candidates}
    fitting = [one for one in candidates if shares[one] >= _MOST] or [
        one for one in candidates if shares[one] == max(shares.values())
    ]

    num_known = {one: _num_known(lines, one) for one in fitting}
    best = [one for one in fitting if num_known[one] == max(num_known.values())]
    if len(best) > 1:
        raise ConfigError(
            f"{where}: several characters could separate its fields",
            expected="one by which each record has as many fields as the first line",
            found=repr(lines[0].rstrip("\r\n")[:120]),
            hint=" or ".join(f"{flag} {word_of(one)}" for one in best),
        )
    return best[0]


def records(lines: Sequence[str], separator: str) -> Iterator[tuple[list[str], int]]:
    """The fields of each record, and how many lines it and those before it take; the last may be incomplete."""
    if len(separator) > 1:
        yield from ((line.rstrip("\r\n").split(separator), number) for number, line in enumerate(lines, start=1))
        return

    reader = csv.reader(iter(lines), delimiter=separator, skipinitialspace=separator != _BLANK)
    try:
        for fields in reader:
            yield fields, reader.line_num
    except csv.Error:
        return


def has_blank_before_quote(lines: Sequence[str], separator: str) -> bool:
    """Whether a quoted field follows blanks, as in `1, "a, b"`."""
    if len(separator) > 1 or separator == _BLANK:
        return False
    try:
        found = csv.reader(iter(lines), delimiter=separator)
        return any(field.startswith(_BLANK) and field.lstrip(_BLANK)[:1] == '"' for fields in found for field in fields)
    except csv.Error:
        return False


def _share_alike(lines: Sequence[str], separator: str, num_columns: int) -> float:
    found = [fields for fields, _ in records(lines, separator) if any(field.strip() for field in fields)]
    num_columns = num_columns or len(found[0])
    # The last record may go on behind these lines.
    others = found[:-1] if len(found) > 2 else found
    return sum(len(fields) == num_columns for fields in others) / max(len(others), 1)


def _num_known(lines: Sequence[str], separator: str) -> int:
    return sum(is_known_name(name.strip()) for name in next(records(lines, separator))[0])


def _first_record(lines: Sequence[str]) -> str:
    """The first line, and those after it in which its quotes are closed."""
    record = ""
    for line in lines:
        record += line
        if record.count('"') % 2 == 0:
            return record
    return lines[0]


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])
