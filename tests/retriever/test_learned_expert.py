"""The trained models as one of the experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llamarec.experts.queries import Queries
from llamarec.retriever.learned_expert import LearnedExpert, scores_of_members
from llamarec.retriever.model import LRURec
from llamarec.retriever.scoring import catalogue_scores

HISTORIES = [np.array([1, 2, 3], np.int32), np.array([4], np.int32)]
QUERIES = Queries(HISTORIES, np.zeros(2, np.int64))


@pytest.fixture(scope="module")
def models() -> list[LRURec]:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(LRURec(9, width=8, num_blocks=1, dropout=0.0).eval())
    return found


def _logits(model: LRURec) -> torch.Tensor:
    with torch.no_grad():
        return catalogue_scores(model, HISTORIES, max_length=5, exclude=False)


def test_one_model_keeps_its_logits(models: list[LRURec]) -> None:
    found = LearnedExpert(models[:1], 5).scores(QUERIES)
    np.testing.assert_array_equal(found, _logits(models[0]).numpy())


def test_several_are_averaged_as_log_probabilities(models: list[LRURec]) -> None:
    found = LearnedExpert(models, 5).scores(QUERIES)
    wanted = sum(_logits(model)[:, 1:].log_softmax(dim=1) for model in models) / 2
    np.testing.assert_allclose(found[:, 1:], np.asarray(wanted), rtol=1e-5)
    assert np.isneginf(found[:, 0]).all()


def test_what_was_never_seen_is_scored_as_what_is_rare(models: list[LRURec]) -> None:
    counts = np.array([0, 9, 9, 9, 2, 5, 9, 0, 0, 0])
    logits = _logits(models[0])
    found = scores_of_members([logits], counts)
    torch.testing.assert_close(found[:, :7], logits[:, :7])
    torch.testing.assert_close(found[:, 7:].mean(dim=1), logits[:, [4, 5]].mean(dim=1))
    # Among themselves they keep their order.
    torch.testing.assert_close(found[:, 7:].diff(dim=1), logits[:, 7:].diff(dim=1))

    seen = np.where(counts, counts, 1)
    torch.testing.assert_close(scores_of_members([logits], seen), logits)
