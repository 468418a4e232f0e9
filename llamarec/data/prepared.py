"""A prepared data set: what later stages read, and how it is checked when it is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.errors import ArtifactError
from llamarec.vocabulary import (
    ITEM,
    ITEM_IDS,
    PADDING_ITEM,
    TIMESTAMPS,
    TITLE,
    TRAIN_END,
    USER,
    VALIDATION_END,
    Split,
)

HISTORIES: Final = "histories.parquet"
ITEMS: Final = "items.parquet"
OTHERS: Final = "others.parquet"
MANIFEST: Final = "manifest.json"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True)
class Sequences:
    """All users' sequences, one after the other.

    Attributes:
        item_ids: [num_interactions], each user's by time.
        timestamps: [num_interactions] seconds since 1970.
        offsets: [num_users + 1]; user u has item_ids[offsets[u]:offsets[u + 1]].
        train_ends: [num_users] within the user's own sequence; what is before is for training.
        validation_ends: [num_users] within the user's own sequence; what is from here on is for the test.
    """

    item_ids: NDArray[np.int32]
    timestamps: NDArray[np.int64]
    offsets: NDArray[np.int64]
    train_ends: NDArray[np.int32]
    validation_ends: NDArray[np.int32]

    def whole(self, user_id: int) -> NDArray[np.int32]:
        """The user's items by time."""
        return self.item_ids[self.offsets[user_id] : self.offsets[user_id + 1]]

    def train(self, user_id: int) -> NDArray[np.int32]:
        """The user's items for training."""
        return self.whole(user_id)[: self.train_ends[user_id]]

    def history(self, user_id: int, split: Split) -> NDArray[np.int32]:
        """The items before the label of a split."""
        ends = self.train_ends if split == "validation" else self.validation_ends
        return self.whole(user_id)[: ends[user_id]]

    def label(self, user_id: int, split: Split) -> int:
        """The item that follows the history in a split; 0 if there is none, or no history before it."""
        items, start = self.whole(user_id), len(self.history(user_id, split))
        end = int(self.validation_ends[user_id]) if split == "validation" else len(items)
        return int(items[start]) if 0 < start < end else PADDING_ITEM

    def num_training_positions(self) -> NDArray[np.int64]:
        """[num_users] training items with something before them: what a ranker can be asked about."""
        places: NDArray[np.int64] = np.maximum(self.train_ends.astype(np.int64) - 1, 0)
        return places

    def users_with_label(self, split: Split) -> NDArray[np.int32]:
        """Users who have something to be predicted in a split."""
        lengths = np.diff(self.offsets)
        starts, ends = (
            (self.train_ends, self.validation_ends) if split == "validation" else (self.validation_ends, lengths)
        )
        return np.flatnonzero((starts > 0) & (starts < ends)).astype(np.int32)


@dataclass(frozen=True)
class PreparedData:
    """Histories and items of one data set.

    Attributes:
        dataset_code: Its short name.
        folder: Where it was read from.
        sequences: What each user took, by time.
        titles: By item_id; titles[0] is padding.
        items: Raw keys by item_id.
        users: Raw keys by user_id.
        has_repeats: Whether somebody took the same item twice.
        fingerprint: Hex SHA-256 over the artifacts' hashes; what a candidate list or an adapter was made from.
        manifest: The content of manifest.json.
    """

    dataset_code: str
    folder: Path
    sequences: Sequences
    titles: list[str]
    items: list[str]
    users: list[str]
    has_repeats: bool
    fingerprint: str
    manifest: dict[str, Any]

    @cached_property
    def others(self) -> pl.DataFrame:
        """Users who took too little to be trained or tested on: `user` (raw key) and `item_ids`, oldest first.

        Read when it is asked for: of public data they are the most. Empty in a set of an earlier version.
        """
        if OTHERS not in self.manifest.get("outputs", {}):
            return pl.DataFrame(schema={USER: pl.String, ITEM_IDS: pl.List(pl.Int32)})
        return pl.read_parquet(self.folder / OTHERS, glob=False)

    @property
    def num_users(self) -> int:
        """Users with a sequence."""
        return len(self.users)

    @property
    def num_items(self) -> int:
        """Items, padding not counted."""
        return len(self.items) - 1

    @property
    def num_interactions(self) -> int:
        """Interactions of all users."""
        return len(self.sequences.item_ids)


def load_prepared(folder: Path) -> PreparedData:
    """Reads a prepared set.

    Raises:
        ArtifactError: it is absent, of another format, or not what its manifest says.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ArtifactError(
            f"{folder}: there is no prepared data set",
            hint=f"llamarec prepare --dataset_code {folder.name}",
        )
    for name, recorded in manifest["outputs"].items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != recorded["sha256"]:
            raise ArtifactError(
                f"{path}: not the file that {MANIFEST} describes",
                expected=f"SHA-256 {recorded['sha256']}",
                found=f"SHA-256 {sha256_of(path)}" if path.is_file() else "no file",
                hint=f"remove the folder {folder} and type: llamarec prepare --dataset_code {folder.name}",
            )
    histories, items = (pl.read_parquet(folder / name, glob=False) for name in (HISTORIES, ITEMS))
    return PreparedData(
        dataset_code=manifest["dataset_code"],
        folder=folder,
        sequences=_sequences(histories),
        titles=["", *items[TITLE].to_list()],
        items=["", *items[ITEM].to_list()],
        users=histories[USER].to_list(),
        has_repeats=manifest["has_repeats"],
        fingerprint=manifest["fingerprint"],
        manifest=manifest,
    )


def check_same_data(what: str, made_from: object, data: PreparedData, hint: str) -> None:
    """What was made from other data is of no use.

    Args:
        what: Subject of the sentence "... made from other data".
        made_from: Fingerprint of the data that it was made from.
        data: Those that it must have been made from.
        hint: What to type.

    Raises:
        ArtifactError: they are not the same.
    """
    if made_from != data.fingerprint:
        raise ArtifactError(
            f"{what} made from other data",
            expected=f"data fingerprint {data.fingerprint[:12]} ({data.folder})",
            found=f"data fingerprint {str(made_from)[:12]}",
            hint=hint,
        )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a prepared set, or None where there is none that this version understands."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(content, dict) and content.get("format_version") == FORMAT_VERSION
    return content if is_ours else None


def _sequences(histories: pl.DataFrame) -> Sequences:
    lengths = histories[ITEM_IDS].list.len().to_numpy().astype(np.int64)
    return Sequences(
        item_ids=histories[ITEM_IDS].explode().to_numpy().astype(np.int32),
        timestamps=histories[TIMESTAMPS].explode().to_numpy().astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        train_ends=histories[TRAIN_END].to_numpy().astype(np.int32),
        validation_ends=histories[VALIDATION_END].to_numpy().astype(np.int32),
    )
