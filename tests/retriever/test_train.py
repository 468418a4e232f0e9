"""Training: windows, policies, exact continuation after a kill, candidates that are what they say."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError, ConfigError, DataError
from llamarec.retriever.batches import epoch_batches, pack, training_windows
from llamarec.retriever.candidates import (
    but_for_a_few,
    candidates_file,
    load_candidates,
    most_candidates,
    num_left,
    with_labels,
)
from llamarec.retriever.checks import check_folds, check_histories, check_top_k
from llamarec.retriever.config import RetrieverConfig, defaults_for
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.scoring import label_ranks, top_k
from llamarec.retriever.state import load_state
from llamarec.vocabulary import SPLITS, Experiment
from tests.data.raw import WRITERS
from tests.samples import make_data

CONFIG = RetrieverConfig(hidden_size=16, dropout=0.2, batch_size=8, num_epochs=6, patience=50, max_length=10)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return make_data()


@pytest.fixture
def trainer(data: PreparedData, tmp_path: Path) -> RetrieverTrainer:
    return RetrieverTrainer(data, replace(CONFIG, products="float32"), tmp_path, Console(quiet=True))


def _weights(trainer: RetrieverTrainer) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(trainer.model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_windows_hold_every_label_once_where_strides_do_not_overlap() -> None:
    data = make_data(num_users=5, num_items=90)
    windows = training_windows(data.sequences, max_length=4, stride=4)
    labels = sum(len(window) - 1 for window in windows)
    assert labels == sum(len(data.sequences.train(user)) - 1 for user in range(5))
    assert max(len(window) for window in windows) == 5


def test_without_a_stride_only_the_last_window_is_taken(data: PreparedData) -> None:
    windows = training_windows(data.sequences, max_length=3, stride=0)
    assert [w.tolist() for w in windows] == [data.sequences.train(u)[-4:].tolist() for u in range(data.num_users)]


def test_an_epoch_sees_every_window_once_in_its_own_order() -> None:
    orders = [np.concatenate(list(epoch_batches(50, 8, seed=1, epoch=epoch))) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0].tolist() != orders[1].tolist()


def test_only_positions_with_a_next_item_are_in_the_loss(trainer: RetrieverTrainer) -> None:
    trainer.model.eval()
    chosen = np.array([0, 3])
    windows = [trainer.windows[i] for i in chosen]
    losses = []
    for window in windows:
        packed = pack([window[:-1]])
        logits = trainer.model.scores(trainer.model(packed.items_T, packed.positions_T))
        losses += [-torch.log_softmax(row, -1)[item] for row, item in zip(logits, window[1:].tolist(), strict=True)]
    torch.testing.assert_close(trainer.loss(chosen), torch.stack(losses).mean())


def test_it_learns_what_always_follows(tmp_path: Path) -> None:
    # Everybody walks round the same circle of 90 items: the next item is certain. Chance is 10 in 90.
    data = make_data(num_users=120, num_items=90, has_repeats=True)
    starts = np.repeat(np.arange(120), np.diff(data.sequences.offsets))
    steps = np.concatenate([np.arange(n) for n in np.diff(data.sequences.offsets)])
    circle = replace(data.sequences, item_ids=((starts + steps) % 90 + 1).astype(np.int32))
    config = replace(CONFIG, num_epochs=25, batch_size=16, learning_rate=2e-2, dropout=0.0)
    trainer = RetrieverTrainer(replace(data, sequences=circle), config, tmp_path, Console(quiet=True))
    trainer.fit()
    ranks = label_ranks(trainer.model, replace(data, sequences=circle), "test", max_length=10, exclude=False)
    assert (ranks <= 10).mean() > 0.95


def test_excluded_is_all_of_the_history_not_only_what_the_model_reads(
    data: PreparedData, trainer: RetrieverTrainer
) -> None:
    users, items, _ = top_k(trainer.model, data, "test", 20, max_length=2, exclude=True)
    for user, row in zip(users, items, strict=True):
        assert not set(row.tolist()) & set(data.sequences.history(int(user), "test").tolist())
        assert 0 not in row


def test_where_people_come_back_the_history_stays() -> None:
    assert RetrieverConfig().excludes(has_repeats=False)
    assert not RetrieverConfig().excludes(has_repeats=True)
    assert RetrieverConfig(exclude_history="always").excludes(has_repeats=True)


def test_ranks_and_top_k_agree(data: PreparedData, trainer: RetrieverTrainer) -> None:
    for split in SPLITS:
        ranks = label_ranks(trainer.model, data, split, max_length=10, exclude=True)
        found = top_k(trainer.model, data, split, 20, max_length=10, exclude=True)
        assert with_labels(data, split, *found).label_ranks.tolist() == np.where(ranks <= 20, ranks, 0).tolist()


def test_a_run_interrupted_at_every_epoch_ends_in_the_same_bits(data: PreparedData, tmp_path: Path) -> None:
    whole = RetrieverTrainer(data, CONFIG, tmp_path / "whole", Console(quiet=True))
    whole.fit()
    for epochs in range(1, CONFIG.num_epochs + 1):
        part = RetrieverTrainer(data, replace(CONFIG, num_epochs=epochs), tmp_path / "part", Console(quiet=True))
        assert part.state.epoch == epochs - 1
        torch.rand(7)  # whatever else draws from the global generator must not matter
        part.fit()
    assert _weights(part) == _weights(whole)
    assert part.state.history == whole.state.history
    assert (part.state.best_epoch, part.state.bad_epochs) == (whole.state.best_epoch, whole.state.bad_epochs)


def test_other_options_or_data_start_anew_and_say_why(data: PreparedData, tmp_path: Path) -> None:
    RetrieverTrainer(data, replace(CONFIG, num_epochs=1), tmp_path, Console(quiet=True)).fit()
    console = Console(record=True, width=200, quiet=False)
    with console.capture() as said:
        other = RetrieverTrainer(data, replace(CONFIG, dropout=0.3), tmp_path, console)
    assert other.state.epoch == 0
    assert "dropout 0.2 -> 0.3" in said.get()
    with console.capture() as said:
        changed = replace(data, fingerprint="1" * 64)
        assert RetrieverTrainer(changed, CONFIG, tmp_path, console).state.epoch == 0
    assert "data 0000" in said.get()


def test_a_finished_run_says_so_and_restart_forgets_it(data: PreparedData, tmp_path: Path) -> None:
    RetrieverTrainer(data, CONFIG, tmp_path, Console(quiet=True)).fit()
    console = Console(width=200)
    with console.capture() as said:
        assert RetrieverTrainer(data, CONFIG, tmp_path, console).is_finished
    assert "is finished at epoch 6 (train longer: --num_epochs" in said.get()
    assert RetrieverTrainer(data, replace(CONFIG, restart=True), tmp_path, console).state.epoch == 0


def test_a_damaged_state_is_named(data: PreparedData, tmp_path: Path) -> None:
    RetrieverTrainer(data, replace(CONFIG, num_epochs=1), tmp_path, Console(quiet=True)).fit()
    path = tmp_path / "training_state.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"(?s)training_state\.pt.*--restart"):
        RetrieverTrainer(data, CONFIG, tmp_path, Console(quiet=True))


def test_early_stopping_ends_after_patience(data: PreparedData, tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1e-12, patience=3, num_epochs=50)
    said = StringIO()
    trainer = RetrieverTrainer(data, config, tmp_path, Console(file=said))
    trainer.fit()
    assert (trainer.state.epoch, trainer.state.best_epoch) == (4, 1)
    assert "3 epochs without a better Recall@10 on validation (--patience)" in said.getvalue()


def test_candidates_survive_the_file_and_refuse_other_data(
    data: PreparedData, tmp_path: Path, trainer: RetrieverTrainer
) -> None:
    experiment = Experiment(tmp_path, "made-up")
    found = {s: with_labels(data, s, *top_k(trainer.model, data, s, 20, max_length=10, exclude=True)) for s in SPLITS}
    with pytest.raises(
        ArtifactError, match=r"(?s)no trained retriever.*python train_retriever\.py --dataset_code made-up"
    ):
        load_candidates(experiment, data)
    experiment.retriever.mkdir(parents=True)
    experiment.candidates.write_bytes(candidates_file(found, data, {"config": {"seed": 42}}))
    loaded = load_candidates(experiment, data)
    for split in SPLITS:
        for name in ("user_ids", "item_ids", "scores", "label_ids", "label_ranks"):
            np.testing.assert_array_equal(getattr(loaded[split], name), getattr(found[split], name))
    with pytest.raises(ArtifactError, match="made from other data"):
        load_candidates(experiment, replace(data, fingerprint="1" * 64))


def test_options_that_do_not_fit_are_all_named() -> None:
    with pytest.raises(ConfigError, match=r"(?s)--top_k 0.*--dropout 1\.5.*--exclude_history 'no'"):
        RetrieverConfig(top_k=0, dropout=1.5, exclude_history="no")


def test_folds_are_of_the_users_that_are_trained_on(data: PreparedData) -> None:
    ends = data.sequences.validation_ends.copy()
    ends[1:] = data.sequences.train_ends[1:]
    few = replace(data, sequences=replace(data.sequences, validation_ends=ends))
    assert len(few.sequences.users_with_label("validation")) == 1
    check_folds(few, replace(CONFIG, hard_negative_folds=2))
    with pytest.raises(ConfigError, match=rf"(?s)at most {data.num_users}.*next: +--hard_negative_folds 2") as refused:
        check_folds(few, replace(CONFIG, hard_negative_folds=data.num_users + 1))
    assert refused.value.retry_with == ("--hard_negative_folds", "2")


def test_every_user_must_have_enough_candidates_left(data: PreparedData) -> None:
    longest = max(len(data.sequences.history(user, "test")) for user in range(data.num_users))
    check_top_k(data, replace(CONFIG, top_k=data.num_items - longest))
    with pytest.raises(
        ConfigError, match=rf"(?s)--top_k {data.num_items}.*at most {data.num_items - longest}"
    ) as refused:
        check_top_k(data, replace(CONFIG, top_k=data.num_items))
    assert refused.value.retry_with == ("--top_k", str(data.num_items - longest))
    check_top_k(data, replace(CONFIG, top_k=data.num_items, exclude_history="never"))


def test_a_user_who_had_everything_leaves_no_candidate() -> None:
    data = make_data(num_users=30, num_items=14)
    with pytest.raises(ConfigError, match=r"(?s)more items.*14 items; 30 of 30 users have fewer.*min_item_inter") as no:
        check_top_k(data, CONFIG)
    assert no.value.retry_with == (), "a ranker needs two candidates"


def test_one_user_who_had_everything_limits_nobody_else(data: PreparedData) -> None:
    ends = data.sequences.validation_ends.copy()
    assert but_for_a_few(np.array([70, 60, 3])) == 60
    assert but_for_a_few(np.array([3, 70])) == 3, "one of two is not a few"
    assert but_for_a_few(np.array([*range(100)])) == 5

    greedy = data.sequences.whole(int(ends.argmax()))
    assert len(greedy) == int(ends.max()) + 1
    left = num_left(data, "test", 100)
    assert left.tolist() == (data.num_items - ends).tolist()
    assert num_left(data, "test", 5).tolist() == left.tolist()


def test_as_many_candidates_as_the_ranker_can_draw(data: PreparedData) -> None:
    longest = max(len(data.sequences.train(user)) for user in range(data.num_users))
    # The last training item of that user is the label, all before it are history: 80 items, less those.
    assert most_candidates(data) == data.num_items - (longest - 1)
    assert most_candidates(make_data(num_items=45, has_repeats=True)) == 45
    check_histories(data)


def test_data_on_which_a_ranker_cannot_be_trained_are_refused(data: PreparedData) -> None:
    sequences = data.sequences
    ends = np.minimum(sequences.train_ends, 1)
    with pytest.raises(DataError, match=r"(?s)no user for training\n.*four items or more"):
        check_histories(replace(data, sequences=replace(sequences, train_ends=ends)))
    whole = np.diff(sequences.offsets).astype(np.int32)
    with pytest.raises(DataError, match="no user for validation and test"):
        check_histories(replace(data, sequences=replace(sequences, train_ends=whole, validation_ends=whole)))
    full = make_data(num_users=2, num_items=14)
    everything = replace(full.sequences, train_ends=np.array([14, 3], dtype=np.int32))
    with pytest.raises(DataError, match=r"(?s)no other item.*a user with 14 of them"):
        check_histories(replace(full, sequences=everything))


def test_defaults_of_data_sets_are_options() -> None:
    for code in ("beauty", "games", "yelp2020", "ml-100k", "ml-latest-small", "something else"):
        RetrieverConfig(**defaults_for(code))


def _command(tmp_path: Path, *more: str) -> list[str]:
    places = ["--data_root", str(tmp_path), "--experiment_root", str(tmp_path / "e")]
    options = [
        "--num_epochs",
        "60",
        "--patience",
        "1000",
        "--top_k",
        "5",
        "--hidden_size",
        "16",
        "--dropout",
        "0.3",
        "--save_seconds",
        "0",
        "--exclude_history",
        "never",
    ]
    return [sys.executable, "train_retriever.py", "--dataset_code", "beauty", *places, *options, *more]


def test_the_command_killed_and_typed_again_gives_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "beauty").mkdir()
    WRITERS["beauty"](tmp_path / "beauty")
    environment = {**os.environ, "PYTHONUTF8": "1"}
    folder = tmp_path / "e" / "lru" / "beauty"
    killed = subprocess.Popen(_command(tmp_path), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (folder / "training_state.pt").is_file() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    state = load_state(folder)
    assert state is not None
    assert state.epoch < 60, "killed before its end"
    results = []
    for restart in ([], ["--restart"]):
        done = subprocess.run(
            _command(tmp_path, *restart), cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        assert "candidates.parquet" in done.stdout
        lists = pl.read_parquet(folder / "hard_negatives.parquet").to_dict(as_series=False)
        results.append(((folder / "retriever.safetensors").read_bytes(), lists))
    assert results[0] == results[1]
