"""The retriever's lists for training places: what evaluation would propose there, without the label and the future."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.retriever.batches import pack
from llamarec.retriever.hard_negatives import TrainingLists, hard_negatives_file, load_hard_negatives
from llamarec.retriever.mining import mine_hard_negatives
from llamarec.retriever.model import LRURec
from llamarec.vocabulary import Experiment
from tests.samples import make_data

K = 6


@pytest.fixture(scope="module")
def model() -> LRURec:
    torch.manual_seed(0)
    return LRURec(80, width=8, num_blocks=2, dropout=0.3)


def _one_by_one(
    model: LRURec, data: PreparedData, max_length: int, *, exclude: bool
) -> tuple[list[list[int]], list[int]]:
    """As evaluation scores a user, with the part before each training item as the whole history."""
    model.eval()
    lists, places = [], []
    for user in range(data.num_users):
        items = data.sequences.train(user)
        for position in range(1, len(items)):
            packed = pack([items[:position][-max_length:]])
            with torch.no_grad():
                scores = model.scores(model(packed.items_T, packed.positions_T)[packed.lasts_B])[0]
            left_out = {0, *(items[:position].tolist() if exclude else ())}
            order = [int(item) for item in scores.argsort(descending=True) if int(item) not in left_out]
            places.append(1 + order.index(int(items[position])))
            lists.append([item for item in order if item != int(items[position])][:K])
    return lists, places


@pytest.mark.parametrize("exclude", [True, False])
def test_each_list_is_what_evaluation_proposes_but_for_the_label(model: LRURec, exclude: bool) -> None:
    data = make_data(has_repeats=not exclude)
    # Sequences are shorter than 50 items.
    found = mine_hard_negatives([model], data, K, max_length=50, exclude=exclude)
    lists, places = _one_by_one(model, data, 50, exclude=exclude)
    assert found.items_PK.tolist() == lists
    assert found.label_ranks_P.tolist() == places


def test_long_sequences_are_read_in_windows_and_leave_out_all_of_the_history(model: LRURec) -> None:
    data = make_data(num_users=10)
    found = mine_hard_negatives([model], data, K, max_length=4, exclude=True).items_PK
    whole, _ = _one_by_one(model, data, 4, exclude=True)
    row = 0
    for user in range(data.num_users):
        items = data.sequences.train(user).tolist()
        for position in range(1, len(items)):
            assert not set(found[row].tolist()) & set(items[: position + 1])
            if position <= 4:
                assert found[row].tolist() == whole[row]
            row += 1
    assert row == len(found)


def test_what_comes_later_changes_nothing(model: LRURec) -> None:
    data = make_data(num_users=1, seed=3)
    items = data.sequences.item_ids.copy()
    end = int(data.sequences.train_ends[0])
    before = mine_hard_negatives([model], data, K, max_length=50, exclude=True).items_PK
    items[end - 1 :] = np.setdiff1d(np.arange(1, 81), items)[: len(items) - end + 1]
    changed = replace(data, sequences=replace(data.sequences, item_ids=items))
    after = mine_hard_negatives([model], changed, K, max_length=50, exclude=True).items_PK
    # The last training item is the label of the last place, and no input of any.
    assert after[:-1].tolist() == before[:-1].tolist()


def test_where_items_run_out_lists_end_in_padding(model: LRURec) -> None:
    data = make_data(num_users=3)
    found = mine_hard_negatives([model], data, 90, max_length=50, exclude=True).items_PK
    items = data.sequences.train(0)
    assert np.count_nonzero(found[0]) == 80 - 2
    assert np.count_nonzero(found[len(items) - 2]) == 80 - len(items)


def test_training_goes_on_as_before(model: LRURec) -> None:
    model.train()
    mine_hard_negatives([model], make_data(num_users=2), K, max_length=50, exclude=True)
    assert model.training


def _write(experiment: Experiment, lists: TrainingLists, data: PreparedData) -> None:
    experiment.retriever.mkdir(parents=True, exist_ok=True)
    experiment.hard_negatives.write_bytes(hard_negatives_file(lists, data, {}))


def test_what_is_written_is_read(model: LRURec, tmp_path: Path) -> None:
    data, experiment = make_data(), Experiment(tmp_path, "made-up")
    found = mine_hard_negatives([model], data, K, max_length=50, exclude=True)
    _write(experiment, found._replace(num_folds=3), data)
    loaded = load_hard_negatives(experiment, data, K)
    assert loaded.num_folds == 3
    assert loaded.items_PK.tolist() == found.items_PK.tolist()
    assert loaded.label_ranks_P.tolist() == found.label_ranks_P.tolist()
    assert not list(experiment.retriever.glob("*.tmp"))


def test_what_does_not_fit_is_refused_with_the_command(model: LRURec, tmp_path: Path) -> None:
    data, experiment = make_data(), Experiment(tmp_path, "made-up")
    command = r"(?s){}.*python train_retriever\.py --dataset_code made-up"
    with pytest.raises(ArtifactError, match=command.format("are missing") + ".*--hard_negatives 0"):
        load_hard_negatives(experiment, data, K)
    _write(experiment, mine_hard_negatives([model], data, K, max_length=50, exclude=True), data)
    with pytest.raises(ArtifactError, match=command.format("made from other data")):
        load_hard_negatives(experiment, replace(data, fingerprint="1" * 64), K)
    with pytest.raises(ArtifactError, match=command.format("made from other data")):
        load_hard_negatives(experiment, make_data(num_users=29), K)
    with pytest.raises(ArtifactError, match=r"(?s)lists of 6 items are too short.*--top_k 25"):
        load_hard_negatives(experiment, data, 24)
    path = experiment.hard_negatives
    # The file's own metadata are gone with it where polars writes it anew.
    metadata = pl.read_parquet_metadata(path)
    content = json.loads(metadata["llamarec"])
    del content["num_folds"]
    pl.read_parquet(path).write_parquet(path, metadata={"llamarec": json.dumps(content)})
    assert load_hard_negatives(experiment, data, K).num_folds == 1, "before there were folds"
    pl.read_parquet(path).drop("label_place").write_parquet(path, metadata={"llamarec": metadata["llamarec"]})
    with pytest.raises(ArtifactError, match=command.format("from an older version") + ".*not trained again"):
        load_hard_negatives(experiment, data, K)
    path.write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=command.format("cannot be read")):
        load_hard_negatives(experiment, data, K)
