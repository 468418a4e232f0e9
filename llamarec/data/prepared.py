"""A prepared data set as later stages read it, and the checks when it is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Required, TypedDict

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.data.config import DataConfig
from llamarec.data.lines import POLARS_ERRORS
from llamarec.data.summary import Summary
from llamarec.errors import ArtifactError, Lines
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
# Where files are does not change what is prepared from them.
_PATHS: Final = ("data_root", "experiment_root", "dataset_code", "items_file")

Options = dict[str, str | bool | int | float]
"""Fields of `DataConfig` that decide what is prepared."""


class FileDescription(TypedDict):
    """Size and SHA-256 of a file."""

    bytes: int
    sha256: str


class Manifest(Summary, total=False):
    """manifest.json of a prepared set; earlier versions wrote fewer keys.

    inputs: raw files by name. outputs: tables of the set by name. fingerprint: see `PreparedData`.
    """

    format_version: int
    options: Required[Options]
    inputs: Required[dict[str, FileDescription]]
    outputs: Required[dict[str, FileDescription]]
    fingerprint: Required[str]
    versions: dict[str, str]


@dataclass(frozen=True)
class Sequences:
    """The sequences of all users, concatenated.

    Attributes:
        item_ids: [num_interactions], each user's by time.
        timestamps: [num_interactions] seconds since 1970.
        offsets: [num_users + 1]; user u has item_ids[offsets[u]:offsets[u + 1]].
        train_ends: [num_users] end of the training part, counted within the user's sequence.
        validation_ends: [num_users] end of the validation part, counted likewise; the test part follows.
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
        """The item that follows the history in a split; 0 without such an item or without a history."""
        items, start = self.whole(user_id), len(self.history(user_id, split))
        end = int(self.validation_ends[user_id]) if split == "validation" else len(items)
        return int(items[start]) if 0 < start < end else PADDING_ITEM

    def num_training_positions(self) -> NDArray[np.int64]:
        """[num_users] training items that have a history: the ones that can be labels of training prompts."""
        positions: NDArray[np.int64] = np.maximum(self.train_ends.astype(np.int64) - 1, 0)
        return positions

    def users_with_label(self, split: Split) -> NDArray[np.int32]:
        """Ids of the users who have a label in a split."""
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
        folder: The folder it was read from.
        sequences: Each user's items by time.
        titles: By item_id; titles[0] is padding.
        items: Raw keys by item_id.
        users: Raw keys by user_id.
        has_repeats: Whether people come back to items, by the share of validation labels that they had taken before.
        fingerprint: Hex SHA-256 over the hashes of histories and items; candidates and adapters carry it.
        manifest: Content of manifest.json.
    """

    dataset_code: str
    folder: Path
    sequences: Sequences
    titles: list[str]
    items: list[str]
    users: list[str]
    has_repeats: bool
    fingerprint: str
    manifest: Manifest

    @cached_property
    def others(self) -> pl.DataFrame:
        """Users with too few interactions for training and test: `user` (raw key) and `item_ids`, oldest first.

        Read on demand, since most users of public data are among them. Empty in a set of an earlier version.
        """
        if OTHERS not in self.manifest.get("outputs", {}):
            return pl.DataFrame(schema={USER: pl.String, ITEM_IDS: pl.List(pl.Int32)})
        return _read_table(self.folder, OTHERS)

    @property
    def has_cut(self) -> bool:
        """Whether two points in time, the same for all users, part training, validation and test."""
        return self.manifest["options"].get("split") == "temporal"

    @property
    def num_users(self) -> int:
        """Number of users with a sequence."""
        return len(self.users)

    @property
    def num_items(self) -> int:
        """Number of items, without padding."""
        return len(self.items) - 1

    @property
    def num_interactions(self) -> int:
        """Number of interactions of all users."""
        return len(self.sequences.item_ids)


def load_prepared(folder: Path) -> PreparedData:
    """Reads a prepared set and verifies its files.

    Raises:
        ArtifactError: it is absent, has another format, or a file does not match its manifest.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ArtifactError(
            f"{folder}: no prepared data set",
            hint=f"llamarec prepare --dataset_code {folder.name}",
        )

    unlisted = {HISTORIES, ITEMS} - manifest["outputs"].keys()
    if unlisted:
        raise ArtifactError(
            f"{folder / MANIFEST} does not list {', '.join(sorted(unlisted))}",
            hint=f"remove the folder {folder}, then: llamarec prepare --dataset_code {folder.name}",
        )
    for name, recorded in manifest["outputs"].items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != recorded["sha256"]:
            raise ArtifactError(
                f"{path} does not match {MANIFEST}",
                expected=f"SHA-256 {recorded['sha256']}",
                found=f"SHA-256 {sha256_of(path)}" if path.is_file() else "no file",
                hint=f"remove the folder {folder}, then: llamarec prepare --dataset_code {folder.name}",
            )

    histories, items = (_read_table(folder, name) for name in (HISTORIES, ITEMS))
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


def _read_table(folder: Path, name: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(folder / name, glob=False)
    except (*POLARS_ERRORS, OSError) as error:
        raise ArtifactError(
            f"{folder / name}: cannot be read as Parquet",
            found=str(error),
            hint=f"remove the folder {folder}, then: llamarec prepare --dataset_code {folder.name}",
        ) from error


def check_same_data(what: str, made_from: object, data: PreparedData, hint: Lines) -> None:
    """Checks that an artifact was made from this data.

    Args:
        what: Start of the sentence "... made from other data".
        made_from: Fingerprint of the data that the artifact was made from.
        data: The data it must have been made from.
        hint: Command that makes the artifact; one line or a list of lines.

    Raises:
        ArtifactError: the fingerprints differ.
    """
    if made_from != data.fingerprint:
        raise ArtifactError(
            f"{what} made from other data",
            expected=f"data fingerprint {data.fingerprint[:12]} ({data.folder})",
            found=f"data fingerprint {str(made_from)[:12]}",
            hint=hint,
        )


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a prepared set, or None where there is none that this version understands."""
    try:
        manifest = json_shapes.read(folder / MANIFEST, Manifest)
    except (OSError, ShapeError):
        return None
    return manifest if manifest.get("format_version") == FORMAT_VERSION else None


def options_from(config: DataConfig) -> Options:
    """The options that decide what is prepared: all but the paths."""
    return {name: value for name, value in asdict(config).items() if name not in _PATHS}


def options_of(manifest: Manifest) -> Options:
    """The options a set was prepared with; defaults where an earlier version had no such option."""
    return {**options_from(DataConfig()), **manifest["options"]}


def _sequences(histories: pl.DataFrame) -> Sequences:
    lengths = histories[ITEM_IDS].list.len().to_numpy().astype(np.int64)
    return Sequences(
        item_ids=histories[ITEM_IDS].explode().to_numpy().astype(np.int32),
        timestamps=histories[TIMESTAMPS].explode().to_numpy().astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        train_ends=histories[TRAIN_END].to_numpy().astype(np.int32),
        validation_ends=histories[VALIDATION_END].to_numpy().astype(np.int32),
    )
