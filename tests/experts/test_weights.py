"""Which experts count: on prompts whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from llamarec.checkpoints.storage.json_shapes import parsed, shaped
from llamarec.experts.build import ExpertBuilder
from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.known import known_at, known_now, queries_of
from llamarec.experts.prompts import WeightPrompts, weight_prompts
from llamarec.experts.reasons import reasons
from llamarec.experts.weights import ExpertWeights, fit_weights, only, weights_text
from tests.samples import make_data

NAMES = ("model", "second", "noise")


def _prompts(weights: tuple[float, ...], num_prompts: int = 1500, seed: int = 0) -> WeightPrompts:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(num_prompts, 20, len(weights)))
    logits = scores @ np.array(weights) + rng.gumbel(size=(num_prompts, 20))
    return WeightPrompts(scores.astype(np.float32), logits.argmax(axis=1), num_prompts)


def test_the_weights_that_made_the_answers_are_found() -> None:
    found = fit_weights(NAMES, _prompts((1.0, 0.5, 0.0)))
    assert [one.name for one in found.experts] == ["model", "second", "noise"]
    assert found.by_name == {"model": pytest.approx(1.0, abs=0.1), "second": pytest.approx(0.5, abs=0.1)}
    assert found.experts[1].gain > 3 * found.experts[1].error
    assert found.experts[2].gain < found.experts[2].error
    assert weights_text(found).endswith("second; nothing is added by noise (1,500 validation prompts)")


def test_the_units_of_an_expert_do_not_matter() -> None:
    prompts = _prompts((1.0, 0.5, 0.0))
    scaled = prompts._replace(scores_PCE=prompts.scores_PCE * np.array([1, 100, 1], np.float32))
    assert fit_weights(NAMES, scaled).by_name["second"] == pytest.approx(
        fit_weights(NAMES, prompts).by_name["second"] / 100, rel=1e-3
    )


def test_an_expert_that_speaks_against_items_does_not_count() -> None:
    assert set(fit_weights(NAMES, _prompts((1.0, -0.5, 0.0))).by_name) == {"model"}


def test_an_expert_that_another_says_better_is_dropped() -> None:
    prompts = _prompts((0.0, 1.0, 1.0))
    # The first one is the sum of the others with noise: alone the best, beside both of them nothing.
    blurred = prompts.scores_PCE[:, :, 1:].sum(axis=2) + np.random.default_rng(1).normal(size=(1500, 20)) * 0.5
    scores = np.concatenate([blurred[:, :, None], prompts.scores_PCE[:, :, 1:]], axis=2).astype(np.float32)
    assert set(fit_weights(NAMES, prompts._replace(scores_PCE=scores)).by_name) == {"second", "noise"}


@pytest.mark.parametrize("num_prompts", [0, 5])
def test_too_few_prompts_leave_the_first_expert_alone(num_prompts: int) -> None:
    found = fit_weights(NAMES, _prompts((0.0, 5.0, 0.0), num_prompts))
    assert found.by_name == {"model": 1.0}
    assert found.num_prompts == num_prompts


def test_where_nothing_counts_each_is_said_to_add_nothing_to_the_first() -> None:
    found = fit_weights(NAMES, _prompts((0.0, 0.0, -0.5)))
    assert found.by_name == {"model": 1.0}
    assert [one.name for one in found.experts] == list(NAMES)
    assert found.experts[1].gain <= found.experts[1].error
    # What speaks against items would add, and does not count.
    assert found.experts[2].gain > found.experts[2].error > 0


def test_scores_without_any_difference_decide_nothing() -> None:
    prompts = WeightPrompts(np.zeros((50, 4, 2), np.float32), np.zeros(50, np.int64), 50)
    assert fit_weights(("model", "other"), prompts).by_name == {"model": 1.0}


def test_the_file_is_read_as_it_was_written() -> None:
    written = fit_weights(NAMES, _prompts((1.0, 0.5, 0.0)))
    assert shaped(parsed(written.as_bytes(), dict[str, object]), ExpertWeights) == written
    assert only("model").is_alone
    assert not written.is_alone


# ---- The sum ----


@pytest.mark.parametrize("has_repeats", [False, True])
def test_the_sum_and_its_prompts(has_repeats: bool) -> None:
    data = make_data(num_users=60, num_items=40, has_repeats=has_repeats)
    known = known_at(data, "validation")
    experts = ExpertBuilder(data).experts(known)
    weights = {expert.name: 0.5 + number for number, expert in enumerate(experts)}
    expert_sum = ExpertSum(experts, weights, data.num_items, excludes_history=not has_repeats)

    users = data.sequences.users_with_label("test")
    queries = queries_of(data, "test", users)
    wanted: NDArray[np.float32] = np.zeros((len(users), 41), np.float32)
    for expert in experts:
        wanted += np.float32(weights[expert.name]) * expert.scores(queries)
    wanted[:, 0] = -np.inf
    for row, history in enumerate(queries.histories):
        if not has_repeats:
            wanted[row, history] = -np.inf
    np.testing.assert_array_equal(expert_sum.scores(queries), wanted)

    items, scores = expert_sum.propose(queries, 50)
    for row in range(len(users)):
        left = np.isfinite(wanted[row]).sum()
        assert (items[row] > 0).sum() == left
        assert scores[row, :left].tolist() == sorted(wanted[row][np.isfinite(wanted[row])].tolist(), reverse=True)
        assert np.isneginf(scores[row, left:]).all()

    prompts = weight_prompts(experts, data, excludes_history=not has_repeats)
    assert prompts.num_users == 60
    assert np.isfinite(prompts.scores_PCE).all()
    assert prompts.scores_PCE.shape[2] == len(experts)
    assert len(prompts.labels_P) > 0


def test_reasons_name_what_they_come_from() -> None:
    data = make_data(num_users=60, num_items=40)
    experts = ExpertBuilder(data).experts(known_now(data))
    expert_sum = ExpertSum(experts, dict.fromkeys((one.name for one in experts), 1.0), 40, excludes_history=True)
    queries = queries_of(data, "test", data.sequences.users_with_label("test"))
    items, _ = expert_sum.propose(queries, 3)

    for history, of_query in zip(
        queries.histories, reasons(expert_sum, queries, list(items), data.titles), strict=True
    ):
        for of_item in of_query:
            contributions = [reason.contribution for reason in of_item]
            assert contributions == sorted(contributions, reverse=True)
            assert min(contributions, default=1.0) > 0
            for reason in of_item:
                if reason.expert in ("transitions", "neighbours", "titles"):
                    assert any(data.titles[int(item)] in reason.text for item in history), reason
