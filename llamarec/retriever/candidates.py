"""candidates.parquet: each user's top k items with scores, the label and its rank; the ranker's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData, check_same_data
from llamarec.errors import ArtifactError
from llamarec.retriever.published import check_published, check_same_weights, read_published
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.retriever.state import STATE_FILE
from llamarec.retriever.stored_tables import origin_in, reading, table_bytes, table_in
from llamarec.vocabulary import (
    CANDIDATE_IDS,
    LABEL_ID,
    LABEL_RANK,
    SCORES,
    SPLIT,
    SPLITS,
    USER_ID,
    Experiment,
    Split,
)

MOST_LEFT_OUT: Final = 0.05
"""Share of the users who may have too few items left, and are left out; of three users or more, one may always."""

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Candidates:
    """Candidates of one split's users, those who have a label.

    Attributes:
        user_ids: [num_rows].
        item_ids: [num_rows, k] best first.
        scores: [num_rows, k] logits of the retriever.
        label_ids: [num_rows] the item taken next.
        label_ranks: [num_rows] rank of the label among the k, 1 = first, 0 = not among them.
    """

    user_ids: NDArray[np.int32]
    item_ids: NDArray[np.int32]
    scores: NDArray[np.float32]
    label_ids: NDArray[np.int32]
    label_ranks: NDArray[np.int32]


def with_labels(
    data: PreparedData,
    split: Split,
    user_ids: NDArray[np.int32],
    item_ids: NDArray[np.int32],
    scores: NDArray[np.float32],
) -> Candidates:
    """Adds each user's label and its rank among the candidates."""
    labels = np.array([data.sequences.label(int(user), split) for user in user_ids], dtype=np.int32)
    hits = item_ids == labels[:, None]
    ranks = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0).astype(np.int32)
    return Candidates(user_ids, item_ids, scores, labels, ranks)


def candidates_file(candidates: dict[Split, Candidates], data: PreparedData, made_by: Mapping[str, object]) -> bytes:
    """Content of candidates.parquet: all splits, with `made_by` in the metadata."""
    frames = [
        pl.DataFrame(
            {
                SPLIT: [split] * len(rows.user_ids),
                USER_ID: rows.user_ids,
                CANDIDATE_IDS: rows.item_ids,
                SCORES: rows.scores,
                LABEL_ID: rows.label_ids,
                LABEL_RANK: rows.label_ranks,
            }
        ).with_columns(pl.col(CANDIDATE_IDS).arr.to_list(), pl.col(SCORES).arr.to_list())
        for split, rows in candidates.items()
    ]
    return table_bytes(pl.concat(frames), {"data_fingerprint": data.fingerprint, **made_by})


def most_candidates(data: PreparedData) -> int:
    """The number of candidates that training prompts of the ranker can have, but for those of a few users.

    Candidates are the label and items outside the history before it, or any items where users repeat items.
    """
    if data.has_repeats:
        return data.num_items
    # All items of a training part but the last are history.
    return but_for_a_few(data.num_items - np.maximum(data.sequences.train_ends - 1, 0))


def but_for_a_few(numbers: NDArray[np.integer]) -> int:
    """The largest number that all but a few users have or exceed: one who took nearly everything limits nobody else.

    Args:
        numbers: [num_users].
    """
    few = min(max(1, int(len(numbers) * MOST_LEFT_OUT)), (len(numbers) - 1) // 2)
    return int(np.sort(numbers)[few])


def num_left(data: PreparedData, split: Split, k: int) -> NDArray[np.int64]:
    """[num_users] items outside each user's history; where there are k or more, perhaps a smaller number from k on."""
    ends = data.sequences.train_ends if split == "validation" else data.sequences.validation_ends
    left = data.num_items - ends.astype(np.int64)
    for user in np.flatnonzero(left < k):
        left[user] = data.num_items - len(np.unique(data.sequences.history(int(user), split)))
    return left


def load_candidates(
    experiment: Experiment, data: PreparedData, data_flags: Sequence[str] = ()
) -> dict[Split, Candidates]:
    """Candidates by split.

    Args:
        experiment: Paths of the run.
        data: The data they must have been made from.
        data_flags: Flags of the data set, for the command that an error names.

    Raises:
        ArtifactError: there are none, they have changed, or they were made from other data or by another retriever;
            names the command that makes them.
    """
    path, command = experiment.candidates, rebuild_command(experiment, data_flags)
    check_published(experiment, command)
    if not path.is_file():
        is_begun = (experiment.retriever / STATE_FILE).is_file()
        raise ArtifactError(
            f"{path}: no trained retriever for {experiment.dataset_code}, so there are no candidates to rank",
            found="an unfinished training" if is_begun else None,
            hint=[command] if is_begun else [command, "(or add --train_retriever to train it first)"],
        )

    content = read_published(path, command)
    with reading(path, command):
        origin = origin_in(content)
        made_from = origin["data_fingerprint"]
    check_same_data(f"{path}: these candidates were", made_from, data, command)
    check_same_weights(path, origin, experiment, command)
    return _candidates_in(content, path, command)


def read_candidates(experiment: Experiment, command: str = "") -> dict[Split, Candidates]:
    """Candidates by split, whatever data they were made from.

    Args:
        experiment: Paths of the run.
        command: The command that makes them, for an error.

    Raises:
        ArtifactError: they are missing or damaged.
    """
    path = experiment.candidates
    return _candidates_in(read_published(path, command), path, command)


def _candidates_in(content: bytes, path: Path, command: str) -> dict[Split, Candidates]:
    with reading(path, command):
        rows = table_in(content)
        candidates = {split: _candidates(rows.filter(pl.col(SPLIT) == split)) for split in SPLITS}

    # Of an earlier version, which wrote them after a training that had diverged.
    if not all(np.isfinite(one.scores).all() for one in candidates.values()):
        raise ArtifactError(
            f"{path}: scores that are not finite, of a retriever that has diverged",
            hint=f"{command} --restart, with a lower --learning_rate",
        )
    return candidates


def _candidates(rows: pl.DataFrame) -> Candidates:
    return Candidates(
        user_ids=rows[USER_ID].to_numpy(),
        item_ids=_matrix(rows[CANDIDATE_IDS], np.int32),
        scores=_matrix(rows[SCORES], np.float32),
        label_ids=rows[LABEL_ID].to_numpy(),
        label_ranks=rows[LABEL_RANK].to_numpy(),
    )


def _matrix(lists: pl.Series, kind: type[Number]) -> NDArray[Number]:
    return lists.explode().to_numpy().reshape(len(lists), -1).astype(kind, copy=False)
