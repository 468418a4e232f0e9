"""The sets of the comparison, prepared and checked: Beauty, Toys and Sports as the field has them, and Games.

The field's Beauty, Toys and Sports are the 5-cores of the Amazon ratings of 2014, with every item, whether or not it
has a title. The numbers of users, items and interactions are those of the papers; the number of different transitions
in the training part is that of arXiv 2605.07125, which took its sequences from other files. A few swapped items change
it, so equal numbers mean equal sequences. Games is the set of LlamaRec (arXiv 2311.02089): titled items only.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from benchmarks.standard.protocol import known_sequences
from benchmarks.standard.sparse_rows import transitions
from llamarec.data.config import SPLIT_METHODS, DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import DataError
from llamarec.files import write_text

QUICK: Final = "quick"
SPLITS: Final = SPLIT_METHODS
_QUICK_USERS, _QUICK_ITEMS, _QUICK_LENGTH = 150, 40, 9


@dataclass(frozen=True, kw_only=True)
class Form:
    """Sizes by which a set is known; `transitions` are the different ones in the training part of leave-one-out."""

    users: int
    items: int
    interactions: int
    transitions: int


@dataclass(frozen=True, kw_only=True)
class StandardSet:
    """A set of the comparison.

    Attributes:
        code: Its short name.
        untitled_items: Option of the data stage.
        form: What it must be; None: anything.
    """

    code: str
    untitled_items: str = "drop"
    form: Form | None = field(default=None)


SETS: Final = {
    one.code: one
    for one in (
        StandardSet(
            code="beauty",
            untitled_items="key",
            form=Form(users=22_363, items=12_101, interactions=198_502, transitions=114_582),
        ),
        StandardSet(
            code="toys",
            untitled_items="key",
            form=Form(users=19_412, items=11_924, interactions=167_597, transitions=102_268),
        ),
        StandardSet(
            code="sports",
            untitled_items="key",
            form=Form(users=35_598, items=18_357, interactions=296_337, transitions=180_610),
        ),
        StandardSet(code="games", form=Form(users=15_264, items=7_676, interactions=147_861, transitions=93_480)),
        StandardSet(code=QUICK),
    )
}


def prepared_set(code: str, split: str, folder: Path, data_root: str) -> PreparedData:
    """A set, prepared if it is not yet, and checked.

    Args:
        code: One of `SETS`.
        split: One of `SPLITS`.
        folder: Of everything that the comparison writes.
        data_root: Folder of raw files.

    Raises:
        LlamarecError: raw files are missing or malformed.
        DataError: it is another set than the field's; says what to do.
    """
    one = SETS[code]
    table = quick_table(folder) if code == QUICK else code
    config = DataConfig(
        dataset_code=str(table),
        data_root=data_root,
        experiment_root=str(folder / "prepared" / split),
        split=split,
        untitled_items=one.untitled_items,
    )
    data = prepare(config, Console(quiet=True))

    if one.form is not None:
        check_form(data, one.form, split)
    return data


def check_form(data: PreparedData, expected: Form, split: str) -> None:
    """Checks that a set is the field's.

    Raises:
        DataError: it is not.
    """
    found = Form(
        users=data.num_users,
        items=data.num_items,
        interactions=data.num_interactions,
        # A cut in time has other training parts.
        transitions=len(transitions(known_sequences(data, "validation"), data.num_items).values)
        if split == "leave_one_out"
        else expected.transitions,
    )
    if found == expected:
        return

    wrong = [one.name for one in fields(Form) if getattr(found, one.name) != getattr(expected, one.name)]
    raise DataError(
        f"{data.dataset_code} is not in the form that the published figures are for: other {', '.join(wrong)}",
        expected=_sizes(expected),
        found=_sizes(found),
        hint=[
            "compare the raw files' sizes and SHA-256 with docs/data.md, and fetch those that differ again;",
            f"then remove {data.folder} and type the same command",
        ],
    )


def _sizes(form: Form) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in asdict(form).items())


def digests_of(data: PreparedData) -> dict[str, str]:
    """Hex SHA-256 of `sequences` (who took what in which order, and where it is cut) and of `titles`.

    Unlike the hash of a file they do not depend on versions of libraries, so two machines can compare them.
    """
    sequences, titles = hashlib.sha256(), hashlib.sha256()
    parts = data.sequences

    for user in np.argsort(np.array(data.users)).tolist():
        items = " ".join(data.items[item] for item in parts.whole(user))
        sequences.update(
            f"{data.users[user]} {parts.train_ends[user]} {parts.validation_ends[user]} {items}\n".encode()
        )
    for item in np.argsort(np.array(data.items[1:])).tolist():
        titles.update(f"{data.items[item + 1]} {data.titles[item + 1]}\n".encode())

    return {"sequences": sequences.hexdigest(), "titles": titles.hexdigest()}


def counts_of(data: PreparedData) -> dict[str, int]:
    """Sizes that a reader compares; `unseen`: test labels that no training part has."""
    return {
        "users": data.num_users,
        "items": data.num_items,
        "interactions": data.num_interactions,
        "test": len(data.sequences.users_with_label("test")),
        "unseen": data.manifest["unseen_test_items"]["unseen"],
    }


def quick_table(folder: Path) -> Path:
    """A small generated table: people walk along a ring of items, so that order and titles both tell something."""
    path = folder / f"{QUICK}.csv"
    if path.is_file():
        return path

    generator = np.random.default_rng(0)
    lines = ["user,item,title,timestamp"]
    for user in range(_QUICK_USERS):
        steps = generator.integers(1, 3, _QUICK_LENGTH)
        items = (generator.integers(_QUICK_ITEMS) + np.cumsum(steps)) % _QUICK_ITEMS
        times = 1_500_000_000 + 86_400 * np.cumsum(generator.integers(1, 100, _QUICK_LENGTH))
        lines += [
            f"u{user},i{item},shade {item // 4} number {item},{time}"
            for item, time in zip(items.tolist(), times.tolist(), strict=True)
        ]

    write_text(path, "\n".join(lines) + "\n")
    return path
