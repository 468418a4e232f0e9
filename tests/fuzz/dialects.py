"""One table of interactions in several dialects: each gives the set that one would compute first, or a refusal."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from llamarec.data import coded, lines, time_columns
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.data.tables import parquet, rows
from llamarec.errors import ConfigError, DataError
from tests.data.dialects import Interactions, draw_interactions, write
from tests.fuzz.checks import BrokenPromiseError


def check_dialects(draw: Random, folder: Path, num_dialects: int) -> int:
    """Writes a table in dialects and prepares each.

    Returns:
        How many were refused.

    Raises:
        BrokenPromiseError: one gave another set; names the file and what differs.
    """
    with pytest.MonkeyPatch.context() as patched:
        # Blocks so small that the table has several.
        patched.setattr(lines, "BLOCK_BYTES", draw.choice([40, 300, lines.BLOCK_BYTES]))
        for module in (coded, rows, parquet, time_columns):
            patched.setattr(module, "_ROWS_AT_ONCE", draw.choice([1, 4, 1_000_000]))
        return _check(draw, folder, num_dialects)


def _check(draw: Random, folder: Path, num_dialects: int) -> int:
    table = draw_interactions(draw)
    fingerprints, num_refused = set[str](), 0
    for number in range(num_dialects):
        place = folder / str(number)
        place.mkdir(parents=True)
        config = write(table, draw, place)
        try:
            data = prepare(config, Console(quiet=True))
        except (ConfigError, DataError):
            num_refused += 1
            continue

        if difference := _difference(table, data):
            raise BrokenPromiseError(f"{config}: {difference}")
        fingerprints.add(data.fingerprint)

    if len(fingerprints) > 1:
        raise BrokenPromiseError(f"{folder}: one table, and sets with the fingerprints {fingerprints}")
    return num_refused


def _difference(table: Interactions, data: PreparedData) -> str:
    """What is not as it should be; empty where all is."""
    users, items, sequences = table.expected()
    if data.users != users or data.items[1:] != items:
        return f"users {data.users} and items {data.items[1:]} in the place of {users} and {items}"

    sequence = data.sequences
    for number, user in enumerate(users):
        part = slice(int(sequence.offsets[number]), int(sequence.offsets[number + 1]))
        found = [data.items[item] for item in sequence.item_ids[part]]
        both = list(zip(found, sequence.timestamps[part].tolist(), strict=True))
        if both != sequences[user]:
            return f"user {user!r}: {both} in the place of {sequences[user]}"
    return ""
