"""A run of `--readout items` recommends: the whole catalogue by the sum that was fitted and tested."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from llamarec.cli.main import main
from llamarec.data.prepare import prepare
from llamarec.errors import EXIT_FINISHED, ArtifactError
from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.known import known_now, now
from llamarec.experts.queries import Queries
from llamarec.experts.weights import ExpertEvidence, ExpertWeights
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.trained.final_experts import FINAL_EXPERTS, read_final_experts, write_final_experts
from llamarec.ranker.trained.final_fusion import adapter_digest
from llamarec.ranker.trained.item_expert import load_item_expert
from llamarec.ranker.trained.locations import folder_of
from llamarec.ranker.trained.read_histories import LANGUAGE_MODEL
from llamarec.ranker.training.run import train_ranker
from llamarec.recommend import batch
from llamarec.recommend.batch import BatchJob
from llamarec.recommend.engines import LocalEngine
from llamarec.recommend.recommender import Recommender
from llamarec.recommend.requests import Request
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.serving import load_retriever, load_stage
from llamarec.retriever.train import train_retriever
from llamarec.vocabulary import Experiment
from tests.ranker.shop import NUM_ITEMS, NUM_USERS, QUIET, argv_of

NEVER_ASKED = ("title_similarity", "letter", "letter_log_probability")


@pytest.fixture
def copy(item_run: Path, tmp_path: Path) -> Path:
    """A copy of it for each test."""
    return Path(shutil.copytree(item_run, tmp_path / "shop"))


def experiment_in(folder: Path) -> Experiment:
    return parse(argv_of(folder, "--readout", "items")).experiment


def load(folder: Path, *, only_new: bool = False) -> Recommender:
    return Recommender.load(folder / "experiments" / "llm" / "shop", device="cpu", only_new=only_new)


def stored_weights(folder: Path) -> ExpertWeights:
    experiment = experiment_in(folder)
    data = prepare(parse(argv_of(folder)).data, QUIET)
    run = folder_of(experiment).path
    weights = read_final_experts(
        run, adapter_digest=adapter_digest(run), retriever_digest=load_stage(experiment, data).digest, hint=""
    )
    assert weights is not None
    return weights


def store_weights(folder: Path, by_name: dict[str, float]) -> None:
    """As if a fit had found these."""
    experiment = experiment_in(folder)
    data = prepare(parse(argv_of(folder)).data, QUIET)
    run = folder_of(experiment).path
    weights = ExpertWeights(tuple(ExpertEvidence(name, weight, 0.1, 0.01) for name, weight in by_name.items()), 30, 40)
    digest = load_stage(experiment, data).digest
    write_final_experts(run, weights, adapter_digest=adapter_digest(run), retriever_digest=digest)


def by_hand(folder: Path, history: NDArray[np.int32], by_name: dict[str, float]) -> NDArray[np.float32]:
    """[items + 1] the sum of everything that is known now."""
    experiment = experiment_in(folder)
    data = prepare(parse(argv_of(folder)).data, QUIET)
    stage = load_stage(experiment, data)
    experts = [*stage.experts(known_now(data), by_name), load_item_expert(experiment, data, device="cpu")]
    total = ExpertSum(experts, by_name, data.num_items, excludes_history=stage.excludes_history)
    scores_N: NDArray[np.float32] = total.scores(Queries([history], np.array([now(data)])))[0]
    return scores_N


def test_the_order_is_the_sum_that_was_fitted(item_run: Path, item_recommender: Recommender) -> None:
    weights = stored_weights(item_run)
    assert weights.of(LANGUAGE_MODEL).weight > 0, "it knows more than a retriever of one epoch"
    assert item_recommender.order.uses_model
    assert item_recommender.order.note == ""
    assert "language_model" in item_recommender.order.formula

    items = item_recommender.items_of("u3")
    found = item_recommender.recommend(user="u3", k=NUM_ITEMS)
    assert len(found) == NUM_ITEMS - len(set(items))
    scores_N = by_hand(item_run, np.array(items, dtype=np.int32), weights.by_name)
    for one in found:
        item = item_recommender.catalogue.items([one.item])[0]
        assert one.score == pytest.approx(scores_N[item], abs=1e-4)
        assert all(getattr(one, name) is None for name in NEVER_ASKED)
    assert [one.score for one in found] == sorted((one.score or 0.0 for one in found), reverse=True)
    # The first stage's own order, beside it.
    data = item_recommender.data
    proposed, _ = load_retriever(experiment_in(item_run), data).propose([np.array(items, dtype=np.int32)], len(found))
    ranks = {data.items[int(item)]: rank for rank, item in enumerate(proposed[0], start=1)}
    assert {one.item: one.retriever_rank for one in found} == ranks
    assert [one.rank for one in found] != [one.retriever_rank for one in found]


def test_by_user_by_history_and_in_any_company(item_recommender: Recommender) -> None:
    data = item_recommender.data
    keys = [data.items[item] for item in item_recommender.items_of("u3")]
    by_user = item_recommender.recommend(user="u3", k=5)
    assert by_user == item_recommender.recommend(keys, k=5)
    histories = [item_recommender.items_of(f"u{user}") for user in range(NUM_USERS)] * 2
    lists = item_recommender.recommend_many(histories, k=5, times=[now(data)] * len(histories))
    assert len(lists) == 2 * NUM_USERS
    assert [one.item for one in lists[3]] == [one.item for one in by_user]
    assert [one.score for one in lists[3]] == pytest.approx([one.score for one in by_user], abs=1e-4)


def test_every_expert_of_the_weights_counts(item_run: Path, copy: Path) -> None:
    by_name = {"lrurec": 0.3, LANGUAGE_MODEL: 0.7, "transitions": 0.5, "titles": 0.2, "popularity": 0.1}
    store_weights(copy, by_name)
    recommender = load(copy)
    assert recommender.order.formula == (
        "0.30 lrurec + 0.50 transitions + 0.20 titles + 0.10 popularity + 0.70 language_model"
    )
    items = recommender.items_of("u5")
    scores_N = by_hand(copy, np.array(items, dtype=np.int32), by_name)
    best = recommender.recommend(user="u5", k=3)
    wanted = [recommender.data.items[int(item)] for item in np.argsort(-scores_N, kind="stable")[:3]]
    assert [one.item for one in best] == wanted
    assert recommender.fingerprint != load(item_run).fingerprint


def test_without_a_weight_no_base_model_is_loaded_and_the_order_is_the_first_stages(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_weights(copy, {"lrurec": 1.0, LANGUAGE_MODEL: 0.0})
    shutil.rmtree(copy / "experiments" / "llm" / "shop" / "tiny")
    recommender = load(copy)
    assert not recommender.order.uses_model
    found = recommender.recommend(user="u3", k=8)
    items = np.array(recommender.items_of("u3"), dtype=np.int32)
    proposed, scores = load_retriever(experiment_in(copy), recommender.data).propose([items], 8)
    assert [one.item for one in found] == [recommender.data.items[int(item)] for item in proposed[0]]
    assert [one.score for one in found] == scores[0].tolist()
    assert [one.rank for one in found] == [one.retriever_rank for one in found]
    assert {one.language_model_score for one in found} == {None}

    run = str(copy / "experiments" / "llm" / "shop")
    assert main(["recommend", run, "--user", "u3", "--device", "cpu"]) == EXIT_FINISHED
    said = capsys.readouterr().out
    assert "The order is the first stage's: on validation users the language model added nothing to it" in said
    assert "language model " not in said.splitlines()[0]


def _run_what_it_says(text: str, folder: Path) -> None:
    words = text.split("train_ranker.py ", 1)[1].split()
    assert "--resume_from_checkpoint" in words
    train_ranker(parse(words), QUIET)


def test_a_run_that_was_never_tested_says_what_fits_its_weight(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = stored_weights(copy)
    (copy / "experiments" / "llm" / "shop" / "checkpoints" / FINAL_EXPERTS).unlink()
    note = load(copy).order.note
    assert note.startswith("The order is the first stage's: the language model was never tested. To fit its weight: ")
    _run_what_it_says(note, copy)
    assert stored_weights(copy) == wanted
    assert load(copy).order.note == ""


def test_another_retriever_is_refused_and_the_command_fits_again(copy: Path) -> None:
    shutil.rmtree(copy / "experiments" / "lru")
    config = RetrieverConfig(hidden_size=16, num_epochs=2, batch_size=8, experts="none")
    train_retriever(parse(argv_of(copy)).data, config, QUIET)
    with pytest.raises(ArtifactError, match="the retriever was trained again after the ranker") as refused:
        load(copy)
    _run_what_it_says(str(refused.value), copy)
    assert len(load(copy).recommend(user="u1", k=4)) == 4


def test_weights_of_another_adapter_are_not_used(copy: Path) -> None:
    path = copy / "experiments" / "llm" / "shop" / "checkpoints" / FINAL_EXPERTS
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "adapter_sha256": "0" * 64}), encoding="utf-8")
    assert "was never tested" in load(copy).order.note
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"final_experts.json: cannot be read(.|\n)*--resume_from_checkpoint"):
        load(copy)


def test_reasons_name_what_the_language_model_read(item_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(item_run / "experiments" / "llm" / "shop")
    words = ["recommend", run, "--history", "i3", "i4", "i5", "-k", "3", "--device", "cpu"]
    assert main([*words, "--explain"]) == EXIT_FINISHED
    said = capsys.readouterr().out
    assert "language_model: the language model expects it after Film 4 of many, then Film 5 of many" in said
    assert "language model" in said.splitlines()[0]
    assert "letter" not in said
    assert main([*words, "--explain", "--json"]) == EXIT_FINISHED
    one = json.loads(capsys.readouterr().out)["recommendations"][0]
    assert one["letter"] is None
    assert isinstance(one["language_model_score"], float)
    assert {reason["expert"] for reason in one["reasons"]} <= {"lrurec", LANGUAGE_MODEL}


class _Killed(BaseException):
    """As a kill: nothing after it runs."""


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_file_of_users_killed_in_the_middle_ends_in_the_same_bytes(
    item_recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(batch, "_AT_ONCE", 4)
    users = [Request(f"u{user}", user=f"u{user}") for user in range(10)]
    BatchJob(LocalEngine(item_recommender), users, tmp_path / "whole" / name, k=3).run()

    def kill(done: int) -> None:
        if done == 8:
            raise _Killed

    with pytest.raises(_Killed):
        BatchJob(LocalEngine(item_recommender), users, tmp_path / name, k=3).run(progress=kill)
    assert BatchJob(LocalEngine(item_recommender), users, tmp_path / name, k=3).run().num_before == 8
    assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    if name.endswith("parquet"):
        rows = pl.read_parquet(tmp_path / name)
        assert rows["language_model_score"].null_count() == 0
        assert rows["retriever_rank"].min() == 1


def test_only_new_leaves_out_the_history_where_people_come_back(copy: Path) -> None:
    assert load(copy, only_new=True).fingerprint != load(copy).fingerprint
    recommender = load(copy, only_new=True)
    taken = {recommender.data.items[item] for item in recommender.items_of("u3")}
    assert not taken & {one.item for one in recommender.recommend(user="u3", k=NUM_ITEMS)}
