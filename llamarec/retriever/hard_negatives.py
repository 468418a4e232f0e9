"""hard_negatives.parquet: what the retriever would propose at each place of the training sequences, but for the item
that came next there; and where it would have put that one.

A list is computed from the items before its place alone, as at evaluation: nothing that comes later, the label
included, is an input. Items of the history are excluded by the same rule as there; later items of the user are not,
since leaving them out would tell a ranker what the user will take.

The retriever's weights know the training items, and propose them better than those of evaluation. So, unless the user
says otherwise, the lists come from further retrievers that were not trained on the users that they are for
(`cross_fitting.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.files import replacing
from llamarec.retriever.batches import pack
from llamarec.retriever.model import LRURec
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.vocabulary import CANDIDATE_IDS, CATALOGUE_RANK, PADDING_ITEM, Experiment

_METADATA_KEY: Final = "llamarec"
_BLOCK_PLACES: Final = 2048


class TrainingLists(NamedTuple):
    """Of every training item but a user's first; P places.

    items_PK: The k best other items as the retriever saw it coming, best first; 0 where there is no further one.
    label_ranks_P: Of the item itself among all that could be proposed, 1 = first.
    num_folds: 1: by the retriever itself, which was trained on these very items; more: cross-fitted.
    """

    items_PK: NDArray[np.int32]
    label_ranks_P: NDArray[np.int32]
    num_folds: int = 1

    def digest(self, k: int) -> str:
        """Hex SHA-256 of the first k items of each list and of the labels' places, 32-bit integers, little-endian."""
        digest = hashlib.sha256(np.ascontiguousarray(self.items_PK[:, :k], dtype="<i4").data)
        digest.update(np.ascontiguousarray(self.label_ranks_P, dtype="<i4").data)
        return digest.hexdigest()


class _Window(NamedTuple):
    """Part of a user's training sequence in which the model reads along.

    items: what it reads; places after the first `warm` of them get a list. before: items of the user before `items`.
    """

    before: NDArray[np.int32]
    items: NDArray[np.int32]
    labels: NDArray[np.int32]
    warm: int


def hard_negatives(
    model: LRURec,
    data: PreparedData,
    k: int,
    *,
    max_length: int,
    exclude: bool,
    users: Iterable[int] | None = None,
) -> TrainingLists:
    """What a trained retriever proposes, users and places in their order.

    Sequences longer than `max_length` are read in windows that overlap by half, so that each place has at least half
    of `max_length` items before it.

    Args:
        model: Trained.
        data: Prepared.
        k: Items a place.
        max_length: The model reads at most so many items.
        exclude: Whether items of the history are left out.
        users: Of these; None: of all.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        blocks = [_of_block(model, block, k, exclude) for block in _blocks(data, max_length, users)]
    model.train(was_training)
    if not blocks:
        return TrainingLists(np.zeros((0, k), dtype=np.int32), np.zeros(0, dtype=np.int32))
    items, places, _ = zip(*blocks, strict=True)
    return TrainingLists(np.concatenate(items), np.concatenate(places))


def _blocks(data: PreparedData, max_length: int, users: Iterable[int] | None) -> Iterator[list[_Window]]:
    block: list[_Window] = []
    for user in range(data.num_users) if users is None else users:
        for window in _windows(data.sequences.train(user), max_length):
            block.append(window)
            if sum(len(one.labels) for one in block) >= _BLOCK_PLACES:
                yield block
                block = []
    if block:
        yield block


def _windows(items: NDArray[np.int32], max_length: int) -> Iterator[_Window]:
    """Together they have every place from the second item on once, in order.

    >>> [(w.items.tolist(), w.labels.tolist()) for w in _windows(np.arange(1, 8), 4)]
    [([1, 2, 3, 4], [2, 3, 4, 5]), ([3, 4, 5, 6], [6, 7])]
    """
    done, last = 0, len(items) - 1
    while done < last:
        end = min(last, max_length if not done else done + max(max_length // 2, 1))
        start = max(0, end - max_length)
        yield _Window(items[:start], items[start:end], items[done + 1 : end + 1], done - start)
        done = end


def _of_block(model: LRURec, block: list[_Window], k: int, exclude: bool) -> TrainingLists:
    packed = pack([window.items for window in block])
    wanted = np.concatenate([np.arange(len(window.items)) >= window.warm for window in block])
    states_PD = model(packed.items_T, packed.positions_T)[torch.from_numpy(wanted)]
    scores_PN = model.scores(states_PD)
    scores_PN[:, PADDING_ITEM] = -torch.inf
    labels_P1 = torch.from_numpy(np.concatenate([window.labels for window in block]).astype(np.int64))[:, None]
    of_labels_P1 = scores_PN.gather(1, labels_P1)
    scores_PN.scatter_(1, labels_P1, -torch.inf)
    if exclude:
        rows, columns = _histories(block)
        scores_PN[rows, columns] = -torch.inf
    places_P = 1 + (scores_PN > of_labels_P1).sum(dim=1)
    best = scores_PN.topk(min(k, scores_PN.shape[1]), dim=1)
    items = torch.where(torch.isinf(best.values), PADDING_ITEM, best.indices).numpy().astype(np.int32)
    items = np.pad(items, ((0, 0), (0, k - items.shape[1])))
    return TrainingLists(items, places_P.numpy().astype(np.int32))


def _histories(block: list[_Window]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs (place, item of the history before it)."""
    rows, columns, first = [], [], 0
    for window in block:
        seen = np.concatenate([window.before, window.items])
        # The place after the n-th read item has n items of the window, and all before it, as history.
        lengths = len(window.before) + window.warm + 1 + np.arange(len(window.labels))
        rows.append(np.repeat(first + np.arange(len(lengths)), lengths))
        columns += [seen[:length] for length in lengths]
        first += len(lengths)
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(columns).astype(np.int64))


# ---- The file ----


def write_hard_negatives(
    experiment: Experiment, lists: TrainingLists, data: PreparedData, made_by: dict[str, Any]
) -> None:
    """Writes the lists, with what made them in the file's metadata."""
    target = experiment.hard_negatives
    content = {"data_fingerprint": data.fingerprint, "num_folds": lists.num_folds, **made_by}
    metadata = {_METADATA_KEY: json.dumps(content)}
    columns = {CANDIDATE_IDS: lists.items_PK, CATALOGUE_RANK: lists.label_ranks_P}
    frame = pl.DataFrame(columns).with_columns(pl.col(CANDIDATE_IDS).arr.to_list())
    with replacing(target) as staging:
        frame.write_parquet(staging, compression="zstd", metadata=metadata)


def num_folds_of(experiment: Experiment, data: PreparedData) -> int | None:
    """How many folds the lists that lie there were made with; None: there are none of these data."""
    try:
        metadata = _metadata(experiment.hard_negatives)
    except (pl.exceptions.PolarsError, OSError, KeyError, ValueError):
        return None
    return metadata["num_folds"] if metadata["data_fingerprint"] == data.fingerprint else None


def _metadata(path: Path) -> dict[str, Any]:
    # Before there were folds, lists were the retriever's own.
    return {"num_folds": 1, **json.loads(pl.read_parquet_metadata(path)[_METADATA_KEY])}


def load_hard_negatives(
    experiment: Experiment, data: PreparedData, wanted: int, data_flags: Sequence[str] = ()
) -> TrainingLists:
    """What `write_hard_negatives` wrote.

    Args:
        experiment: Where it lies.
        data: What it must have been made from.
        wanted: k must be this at least.
        data_flags: Of this data set, for the command that an error names.

    Raises:
        ArtifactError: there is none, or it was made from other data; names the command that makes it.
    """
    path = experiment.hard_negatives
    hint = rebuild_command(experiment, data_flags)
    if not path.is_file():
        raise ArtifactError(
            f"{path}: the retriever's lists for training prompts are missing",
            hint=f"{hint}\n            (or --hard_negatives 0, without them)",
        )
    lists, made_from = read_hard_negatives(experiment, hint)
    places, (num_lists, k) = int(data.sequences.num_training_positions().sum()), lists.items_PK.shape
    if made_from != data.fingerprint or num_lists != places:
        raise ArtifactError(
            f"{path}: these lists were made from other data",
            expected=f"{places:,} lists, data fingerprint {data.fingerprint[:12]} ({data.folder})",
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
    """The lists, of whichever data, and the fingerprint of these.

    Args:
        experiment: Where they lie.
        hint: What makes them, for an error.

    Raises:
        ArtifactError: they are not there, damaged, or of an older version.
    """
    path = experiment.hard_negatives
    try:
        metadata = _metadata(path)
        made_from, num_folds = str(metadata["data_fingerprint"]), int(metadata["num_folds"])
        frame = pl.read_parquet(path, glob=False)
        items_PK = frame[CANDIDATE_IDS].explode().to_numpy().astype(np.int32).reshape(len(frame), -1)
        if CATALOGUE_RANK not in frame.columns:
            raise ArtifactError(
                f"{path}: of an older version, without the place of the right item",
                hint=f"{hint}\n            (a trained retriever is not trained again, two further ones are; with "
                "--hard_negative_folds 1 none,\n            and the lists are those of before, for a ranker that was "
                "trained on them)",
            )
        return TrainingLists(items_PK, frame[CATALOGUE_RANK].to_numpy().astype(np.int32), num_folds), made_from
    except (pl.exceptions.PolarsError, OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read", found=str(error), hint=hint) from error
