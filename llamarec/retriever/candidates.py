"""candidates.parquet: each user's top k items with scores, the label and its rank; the ranker's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData, check_same_data
from llamarec.errors import ArtifactError
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.retriever.state import STATE_FILE
from llamarec.retriever.stored_tables import read_origin, reading, write_table
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


def write_candidates(
    experiment: Experiment, candidates: dict[Split, Candidates], data: PreparedData, made_by: Mapping[str, object]
) -> None:
    """Writes all splits into one file, with `made_by` in its metadata."""
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
    write_table(pl.concat(frames), experiment.candidates, {"data_fingerprint": data.fingerprint, **made_by})


def most_candidates(data: PreparedData) -> int:
    """The number of candidates that every training prompt of the ranker can have.

    Candidates are the label and items outside the history before it, or any items where users repeat items.
    """
    # All items of the longest training part but the last are history.
    taken = 0 if data.has_repeats else int(data.sequences.train_ends.max(initial=1)) - 1
    return data.num_items - taken


def load_candidates(
    experiment: Experiment, data: PreparedData, data_flags: Sequence[str] = ()
) -> dict[Split, Candidates]:
    """Candidates by split.

    Args:
        experiment: Paths of the run.
        data: The data they must have been made from.
        data_flags: Flags of the data set, for the command that an error names.

    Raises:
        ArtifactError: there are none, or they were made from other data; names the command that makes them.
    """
    path, command = experiment.candidates, rebuild_command(experiment, data_flags)
    if not path.is_file():
        is_begun = (experiment.retriever / STATE_FILE).is_file()
        raise ArtifactError(
            f"{path}: no trained retriever for {experiment.dataset_code}, so there are no candidates to rank",
            found="an unfinished training" if is_begun else None,
            hint=[command] if is_begun else [command, "(or add --train_retriever to train it first)"],
        )

    with reading(path, command):
        made_from = read_origin(path)["data_fingerprint"]
    check_same_data(f"{path}: these candidates were", made_from, data, command)
    return read_candidates(experiment, command)


def read_candidates(experiment: Experiment, command: str = "") -> dict[Split, Candidates]:
    """Candidates by split, whatever data they were made from.

    Args:
        experiment: Paths of the run.
        command: The command that makes them, for an error.

    Raises:
        ArtifactError: they are missing or damaged.
    """
    with reading(experiment.candidates, command):
        rows = pl.read_parquet(experiment.candidates, glob=False)
        return {split: _candidates(rows.filter(pl.col(SPLIT) == split)) for split in SPLITS}


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
