"""hard_negatives.parquet: the retriever's lists for the ranker's training prompts, and the ranks of the labels.

A retriever knows the items it was trained on, and proposes them better than those of evaluation. So, by default, the
lists come from further retrievers that were not trained on the users of their lists (`cross_fitting.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.retriever.published import check_same_weights, read_published
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.retriever.stored_tables import UNREADABLE, origin_in, reading, table_bytes, table_in
from llamarec.vocabulary import CANDIDATE_IDS, CATALOGUE_RANK, Experiment


class TrainingLists(NamedTuple):
    """Lists for every training item but a user's first, the label; P positions, K items.

    items_PK: The best other items by the history before the label, best first; 0 where no item is left.
    label_ranks_P: Rank of the label among all items that could be proposed, 1 = first, 0 = not ranked.
    num_folds: 1 = by the retriever itself, which was trained on these labels; more = cross-fitted.
    """

    items_PK: NDArray[np.int32]
    label_ranks_P: NDArray[np.int32]
    num_folds: int = 1

    def digest(self, k: int) -> str:
        """Hex SHA-256 of the first k items of each list and of the labels' ranks, as little-endian 32-bit integers."""
        digest = hashlib.sha256(np.ascontiguousarray(self.items_PK[:, :k], dtype="<i4").data)
        digest.update(np.ascontiguousarray(self.label_ranks_P, dtype="<i4").data)
        return digest.hexdigest()


def hard_negatives_file(lists: TrainingLists, data: PreparedData, made_by: Mapping[str, object]) -> bytes:
    """Content of hard_negatives.parquet: the lists, with `made_by` in the metadata."""
    origin = {"data_fingerprint": data.fingerprint, "num_folds": lists.num_folds, **made_by}
    columns = {CANDIDATE_IDS: lists.items_PK, CATALOGUE_RANK: lists.label_ranks_P}
    frame = pl.DataFrame(columns).with_columns(pl.col(CANDIDATE_IDS).arr.to_list())
    return table_bytes(frame, origin)


def num_folds_of(experiment: Experiment, data: PreparedData) -> int | None:
    """Number of folds that the stored lists were made with; None where there are no lists of this data."""
    try:
        made_from, num_folds = _fingerprint_and_folds(origin_in(read_published(experiment.hard_negatives, "")))
    except (*UNREADABLE, ArtifactError):
        return None
    return num_folds if made_from == data.fingerprint else None


def _fingerprint_and_folds(origin: Mapping[str, object]) -> tuple[str, int]:
    # Earlier versions had no folds: the lists were the retriever's own.
    return str(origin["data_fingerprint"]), int(str(origin.get("num_folds", 1)))


def load_hard_negatives(
    experiment: Experiment, data: PreparedData, wanted: int, data_flags: Sequence[str] = ()
) -> TrainingLists:
    """The lists that `train_retriever.py` wrote.

    Args:
        experiment: Paths of the run.
        data: The data they must have been made from.
        wanted: Smallest length of a list.
        data_flags: Flags of the data set, for the command that an error names.

    Raises:
        ArtifactError: there are none, they were made from other data, or are too short; names the command that makes
            them.
    """
    path = experiment.hard_negatives
    hint = rebuild_command(experiment, data_flags)
    if not path.is_file():
        raise ArtifactError(
            f"{path}: the retriever's lists for training prompts are missing",
            hint=[hint, "(or train the ranker without them: --hard_negatives 0)"],
        )

    lists, made_from = read_hard_negatives(experiment, hint)
    num_positions, (num_lists, k) = int(data.sequences.num_training_positions().sum()), lists.items_PK.shape

    if made_from != data.fingerprint or num_lists != num_positions:
        raise ArtifactError(
            f"{path}: these lists were made from other data",
            expected=f"{num_positions:,} lists, data fingerprint {data.fingerprint[:12]} ({data.folder})",
            found=f"{num_lists:,} lists, data fingerprint {made_from[:12]}",
            hint=hint,
        )
    if k < wanted:
        raise ArtifactError(
            f"{path}: lists of {k} items are too short",
            expected=f"{wanted} (--num_candidates - 1)",
            hint=rebuild_command(experiment, data_flags, top_k=wanted + 1),
        )

    return lists


def read_hard_negatives(experiment: Experiment, hint: str = "") -> tuple[TrainingLists, str]:
    """The lists, whatever data they were made from, and the fingerprint of that data.

    Args:
        experiment: Paths of the run.
        hint: The command that makes them, for an error.

    Raises:
        ArtifactError: they are missing, damaged, or from an older version.
    """
    path = experiment.hard_negatives
    content = read_published(path, hint)
    with reading(path, hint):
        origin = origin_in(content)
        made_from, num_folds = _fingerprint_and_folds(origin)
        check_same_weights(path, origin, experiment, hint)
        frame = table_in(content)
        items_PK = frame[CANDIDATE_IDS].explode().to_numpy().astype(np.int32).reshape(len(frame), -1)
        if CATALOGUE_RANK not in frame.columns:
            raise ArtifactError(
                f"{path}: from an older version, without the ranks of the labels",
                hint=[
                    hint,
                    "(the retriever itself is not trained again, only one more for each fold;",
                    "with --hard_negative_folds 1 none is, and the lists suit a ranker trained on the old ones)",
                ],
            )

        return TrainingLists(items_PK, frame[CATALOGUE_RANK].to_numpy().astype(np.int32), num_folds), made_from
