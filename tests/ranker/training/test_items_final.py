"""The end of a run of `--readout items`: one fit of all experts, one sum that ranks, and the first stage where nothing
is added."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.evaluation.metrics import score_ranks
from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.known import known_at, queries_of
from llamarec.experts.queries import Queries
from llamarec.experts.weights import ExpertEvidence, ExpertWeights
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.prompts.history_samples import NextItemSamples
from llamarec.ranker.prompts.history_text import HistoryEncoder
from llamarec.ranker.trained.final_experts import FINAL_EXPERTS, read_final_experts, write_final_experts
from llamarec.ranker.trained.read_histories import LANGUAGE_MODEL
from llamarec.ranker.training.items.final import assess_items, fit_all
from llamarec.ranker.training.run import train_ranker
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.serving import TrainedStage, load_stage
from llamarec.retriever.train import train_retriever
from llamarec.vocabulary import SPLITS, Split
from tests.ranker.shop import NUM_ITEMS, NUM_USERS, QUIET, argv_of, checkpoints_of


def samples_of(tokenizer: Any, data: PreparedData, split: Split) -> NextItemSamples:
    encoder = HistoryEncoder(tokenizer, data.titles, max_history=20, max_title_tokens=8, max_tokens=400)
    return NextItemSamples(data, encoder, split, max_users=0)


class Told:
    """An expert that was told the next item of every history, and scores it so much above noise."""

    name = LANGUAGE_MODEL

    def __init__(self, data: PreparedData, strength: float) -> None:
        rng, self._scores = np.random.default_rng(0), dict[bytes, NDArray[np.float32]]()
        for split in SPLITS:
            users = data.sequences.users_with_label(split)
            for user, history in zip(users.tolist(), queries_of(data, split, users).histories, strict=True):
                scores = rng.normal(size=data.num_items + 1).astype(np.float32)
                scores[data.sequences.label(user, split)] += strength
                self._scores[history.tobytes()] = scores

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, items + 1]"""
        return np.stack([self._scores[history.tobytes()] for history in queries.histories])

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """It was told."""
        return "it was told"


@pytest.fixture(scope="session")
def of_shop(shop: Path) -> PreparedData:
    return prepare(parse(argv_of(shop)).data, QUIET)


@pytest.fixture(scope="session")
def stage(shop: Path, of_shop: PreparedData) -> TrainedStage:
    return load_stage(parse(argv_of(shop)).experiment, of_shop)


def ranks_by(expert_sum: ExpertSum, data: PreparedData, samples: NextItemSamples) -> NDArray[np.int64]:
    return score_ranks(expert_sum.scores(queries_of(data, "test", samples.user_ids)), samples.labels, listed=False)


def test_what_knows_more_gets_a_weight_among_all_and_orders_the_test(
    stage: TrainedStage, of_shop: PreparedData, tokenizer: Any
) -> None:
    told, validation, test = Told(of_shop, 3.0), *(samples_of(tokenizer, of_shop, split) for split in SPLITS)
    weights = fit_all(stage, told, of_shop, validation.user_ids)
    evidence = weights.of(LANGUAGE_MODEL)
    assert evidence.weight > 0
    assert evidence.gain > evidence.error > 0
    assert weights.num_users == NUM_USERS
    asked = {expert.name for expert in stage.experts(known_at(of_shop, "validation"))}
    assert {one.name for one in weights.experts} == asked | {LANGUAGE_MODEL}

    outcome, ranks = assess_items(stage, told, weights, of_shop, test, step=7)
    assert outcome.weights.step == 7
    assert outcome.weights.new == evidence.weight
    # By hand: the weighted sum of what each says at the time of the test.
    experts = [*stage.experts(known_at(of_shop, "test")), told]
    by_hand = ExpertSum(experts, weights.by_name, of_shop.num_items, excludes_history=stage.excludes_history)
    assert (ranks.final == ranks_by(by_hand, of_shop, test)).all()
    assert ranks.final.mean() < ranks.known.mean()


def test_where_nothing_is_added_the_order_is_exactly_the_first_stages(
    stage: TrainedStage, of_shop: PreparedData, tokenizer: Any
) -> None:
    noise, test = Told(of_shop, 0.0), samples_of(tokenizer, of_shop, "test")
    weights = fit_all(stage, noise, of_shop, of_shop.sequences.users_with_label("validation"))
    assert weights.of(LANGUAGE_MODEL).weight == 0.0
    assert weights.of(LANGUAGE_MODEL).error > 0
    assert weights.by_name == stage.weights.by_name

    outcome, ranks = assess_items(stage, noise, weights, of_shop, test, step=7)
    assert (ranks.final == ranks.known).all()
    own = stage.sum_of(stage.experts(known_at(of_shop, "test")))
    assert (ranks.known == ranks_by(own, of_shop, test)).all()
    assert (ranks.new != ranks.known).any()
    assert outcome.weights.new == 0.0


def test_a_few_users_may_be_asked_and_too_few_decide_nothing(stage: TrainedStage, of_shop: PreparedData) -> None:
    users = of_shop.sequences.users_with_label("validation")
    assert fit_all(stage, Told(of_shop, 3.0), of_shop, users[:30]).num_users == 30
    few = fit_all(stage, Told(of_shop, 3.0), of_shop, users[:5])
    assert few.of(LANGUAGE_MODEL).weight == 0.0
    assert few.by_name == stage.weights.by_name


def test_without_experts_it_is_the_model_and_the_language_model(folder: Path) -> None:
    parsed = parse(argv_of(folder))
    shutil.rmtree(folder / "experiments" / "lru")
    alone = RetrieverConfig(hidden_size=16, num_epochs=2, batch_size=8, experts="none")
    train_retriever(parsed.data, alone, QUIET)
    data = prepare(parsed.data, QUIET)
    stage = load_stage(parsed.experiment, data)
    weights = fit_all(stage, Told(data, 3.0), data, data.sequences.users_with_label("validation"))
    assert {one.name for one in weights.experts} == {"lrurec", LANGUAGE_MODEL}
    assert weights.of(LANGUAGE_MODEL).weight > 0


def test_a_run_stores_the_weights_that_it_tested_with(folder: Path) -> None:
    parsed = parse(argv_of(folder, "--readout", "items"))
    outcome = train_ranker(parsed, QUIET).outcome
    content = json.loads((checkpoints_of(folder) / FINAL_EXPERTS).read_text(encoding="utf-8"))
    metrics = json.loads((folder / "experiments" / "llm" / "shop" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["catalogue"]["experts"] == {one["name"]: one["weight"] for one in content["experts"]}
    assert LANGUAGE_MODEL in metrics["catalogue"]["experts"]
    stage = load_stage(parsed.experiment, prepare(parsed.data, QUIET))
    assert content["retriever_digest"] == stage.digest
    assert outcome.comparison.num_users == NUM_USERS
    # Tested again, with the same end.
    before = (checkpoints_of(folder) / FINAL_EXPERTS).read_bytes()
    train_ranker(parse(argv_of(folder, "--readout", "items", "--resume_from_checkpoint")), QUIET)
    assert (checkpoints_of(folder) / FINAL_EXPERTS).read_bytes() == before


def test_weights_belong_to_one_adapter_and_one_retriever(tmp_path: Path) -> None:
    weights = ExpertWeights((ExpertEvidence("lrurec", 1.0, 0.1, 0.01), ExpertEvidence(LANGUAGE_MODEL, 0.5, 0.1, 0.01)))
    assert read_final_experts(tmp_path, adapter_digest="a", retriever_digest="b", hint="") is None
    write_final_experts(tmp_path, weights, adapter_digest="a", retriever_digest="b")
    assert read_final_experts(tmp_path, adapter_digest="a", retriever_digest="b", hint="") == weights
    for adapter, retriever in (("", "b"), ("c", "b"), ("a", "c")):
        assert read_final_experts(tmp_path, adapter_digest=adapter, retriever_digest=retriever, hint="") is None
    for text in ('"weight": NaN', '"weight": -0.5'):
        other = (tmp_path / FINAL_EXPERTS).read_text(encoding="utf-8").replace('"weight": 0.5', text)
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / FINAL_EXPERTS).write_text(other, encoding="utf-8")
        with pytest.raises(ArtifactError, match="weight of language_model: expected a number from 0"):
            read_final_experts(tmp_path / "other", adapter_digest="a", retriever_digest="b", hint="")
    (tmp_path / FINAL_EXPERTS).write_bytes((tmp_path / FINAL_EXPERTS).read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"final_experts.json: cannot be read(.|\n)*type this"):
        read_final_experts(tmp_path, adapter_digest="a", retriever_digest="b", hint="type this")


def test_a_weight_for_an_expert_that_is_not_there_is_refused(stage: TrainedStage, of_shop: PreparedData) -> None:
    unknown = ExpertWeights((ExpertEvidence("lrurec", 1.0, 0.1, 0.01), ExpertEvidence("oracle", 0.5, 0.1, 0.01)))
    with pytest.raises(ArtifactError, match="weights for experts that are not there: oracle"):
        stage.sum_of(stage.experts(known_at(of_shop, "test")), unknown)
    assert of_shop.num_items == NUM_ITEMS
