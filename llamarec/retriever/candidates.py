"""candidates.parquet: the top k of every user with scores, the label and its rank. What the ranker starts from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData, check_same_data
from llamarec.errors import ArtifactError
from llamarec.files import replacing
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.retriever.state import STATE_FILE
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

_METADATA_KEY: Final = "llamarec"


@dataclass(frozen=True)
class Candidates:
    """Candidates of the users of one split who have a label.

    Attributes:
        user_ids: [num_rows].
        item_ids: [num_rows, k] best first.
        scores: [num_rows, k] the retriever's, as logits.
        label_ids: [num_rows] the item taken next.
        label_ranks: [num_rows] its place among the k, 1 = first, 0 = not among them.
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
    experiment: Experiment, candidates: dict[Split, Candidates], data: PreparedData, made_by: dict[str, Any]
) -> None:
    """Writes all splits into one file, with what made them in its metadata."""
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
    target = experiment.candidates
    metadata = {_METADATA_KEY: json.dumps({"data_fingerprint": data.fingerprint, **made_by})}
    with replacing(target) as staging:
        pl.concat(frames).write_parquet(staging, compression="zstd", metadata=metadata)


def most_candidates(data: PreparedData) -> int:
    """How many candidates each training prompt of the ranker can have.

    They are the label and items that are not in the history before it; where people come back, any items.
    """
    # Of the longest training part everything but the last item is history.
    taken = 0 if data.has_repeats else int(data.sequences.train_ends.max(initial=1)) - 1
    return data.num_items - taken


def load_candidates(
    experiment: Experiment, data: PreparedData, data_flags: Sequence[str] = ()
) -> dict[Split, Candidates]:
    """Candidates by split.

    Args:
        experiment: Where they lie.
        data: What they must have been made from.
        data_flags: Of this data set, for the command that an error names.

    Raises:
        ArtifactError: there are none, or they were made from other data; names the command that makes them.
    """
    path, command = experiment.candidates, rebuild_command(experiment, data_flags)
    if not path.is_file():
        is_begun = (experiment.retriever / STATE_FILE).is_file()
        raise ArtifactError(
            f"{path}: there is no trained retriever for {experiment.dataset_code}, so there is nothing to rank",
            found="a training of it that has not come to its end" if is_begun else None,
            hint=command if is_begun else f"{command}\n            (or add --train_retriever to train it first)",
        )
    try:
        made_by = json.loads(pl.read_parquet_metadata(path)[_METADATA_KEY])
    except (pl.exceptions.PolarsError, OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read", found=str(error), hint=command) from error
    check_same_data(f"{path}: these candidates were", made_by["data_fingerprint"], data, command)
    return read_candidates(experiment, command)


def read_candidates(experiment: Experiment, command: str = "") -> dict[Split, Candidates]:
    """Candidates by split, of whichever data.

    Args:
        experiment: Where they lie.
        command: That makes them, for an error.

    Raises:
        ArtifactError: they are not there, or damaged.
    """
    path = experiment.candidates
    try:
        rows = pl.read_parquet(path, glob=False)
        return {split: _of_split(rows.filter(pl.col(SPLIT) == split)) for split in SPLITS}
    except (pl.exceptions.PolarsError, OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read", found=str(error), hint=command) from error


def _of_split(rows: pl.DataFrame) -> Candidates:
    return Candidates(
        user_ids=rows[USER_ID].to_numpy(),
        item_ids=_matrix(rows[CANDIDATE_IDS]),
        scores=_matrix(rows[SCORES]),
        label_ids=rows[LABEL_ID].to_numpy(),
        label_ranks=rows[LABEL_RANK].to_numpy(),
    )


def _matrix(lists: pl.Series) -> NDArray[Any]:
    return lists.explode().to_numpy().reshape(len(lists), -1)
