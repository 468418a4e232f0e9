"""The end of a run with `--readout items`: the weights of all experts, and the test users' ranks by their sum.

The language model is one more expert beside those of the first stage. All weights are fitted together, on validation
users; where the language model adds nothing, the order is exactly the first stage's own.

B users of a block, N items + 1
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.data.parquet import write_parquet
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.catalogue import CatalogueOutcome, CatalogueRanks, CatalogueWeights, outcome_of
from llamarec.evaluation.metrics import score_ranks
from llamarec.experts.expert_sum import exclude
from llamarec.experts.known import known_at, queries_of
from llamarec.experts.prompts import weight_prompts
from llamarec.experts.queries import Expert, blocks_of
from llamarec.experts.weights import ExpertWeights, fit_weights
from llamarec.files import replacing
from llamarec.ranker.prompts.history_samples import NextItemSamples
from llamarec.ranker.trained.read_histories import LANGUAGE_MODEL
from llamarec.retriever.serving import TrainedStage
from llamarec.vocabulary import (
    FINAL_RANK,
    FIRST_STAGE_RANK,
    LABEL_ID,
    LETTERS_RANK,
    RETRIEVER_RANK,
    USER,
    USER_ID,
)


def fit_all(stage: TrainedStage, model: Expert, data: PreparedData, users: NDArray[np.int32]) -> ExpertWeights:
    """The weights of the first stage's experts and of the language model; the first stage's own where it adds nothing.

    Args:
        stage: The first stage.
        model: The language model.
        data: Prepared data.
        users: Validation users that may be asked.
    """
    learned, *others = stage.experts(known_at(data, "validation"))
    # The model comes second: among many experts the last ones' proposals may not all find room.
    experts = [learned, model, *others]
    prompts = weight_prompts(experts, data, excludes_history=stage.excludes_history, users=np.sort(users))
    fitted = fit_weights([expert.name for expert in experts], prompts)
    if fitted.of(LANGUAGE_MODEL).weight:
        return fitted

    found_out = replace(fitted.of(LANGUAGE_MODEL), weight=0.0)
    return replace(fitted, experts=(*stage.weights.experts, found_out))


def assess_items(
    stage: TrainedStage, model: Expert, weights: ExpertWeights, data: PreparedData, test: NextItemSamples, *, step: int
) -> tuple[CatalogueOutcome, CatalogueRanks]:
    """The test users' ranks by the first stage, by the language model, and by the sum of all.

    Args:
        stage: The first stage.
        model: The language model.
        weights: Weights of all experts.
        data: Prepared data.
        test: Users of the test.
        step: Training step of the model.
    """
    by_name = stage.weights.by_name | weights.by_name
    experts = [*stage.experts(known_at(data, "test"), by_name), model]
    first_stage, final = stage.sum_of(experts), stage.sum_of(experts, weights)
    queries = queries_of(data, "test", test.user_ids)

    ranks = []
    for block in blocks_of(len(test), data.num_items):
        part = queries.part(block.start, block.stop)
        # Each is asked once, for all orders.
        given = {expert.name: expert.scores(part) for expert in experts}
        of_model_BN = given[LANGUAGE_MODEL].copy()
        exclude(of_model_BN, part.histories if stage.excludes_history else None)
        orders = (first_stage.scores(part, given), of_model_BN, final.scores(part, given))
        ranks.append(np.stack([score_ranks(scores_BN, test.labels[block], listed=False) for scores_BN in orders]))

    found = CatalogueRanks(*np.concatenate(ranks, axis=1))
    return outcome_of(found, _described(weights, step)), found


def _described(weights: ExpertWeights, step: int) -> CatalogueWeights:
    """Weights as metrics.json has them."""
    model = weights.of(LANGUAGE_MODEL)
    return CatalogueWeights(
        new=model.weight,
        gain=model.gain,
        error=model.error,
        num_prompts=weights.num_prompts,
        num_users=weights.num_users,
        step=step,
        experts={one.name: one.weight for one in weights.experts},
    )


def write_item_test(path: Path, ranks: CatalogueRanks, test: NextItemSamples, data: PreparedData) -> None:
    """Writes the ranks of every test user in the whole catalogue."""
    by_user = np.argsort(test.user_ids, kind="stable")
    users = test.user_ids[by_user]
    table = pl.DataFrame(
        {
            USER_ID: users,
            USER: [data.users[int(user)] for user in users],
            LABEL_ID: test.labels[by_user].astype(np.int32),
            RETRIEVER_RANK: ranks.known[by_user].astype(np.int32),
            FIRST_STAGE_RANK: ranks.known[by_user].astype(np.int32),
            LETTERS_RANK: ranks.new[by_user].astype(np.int32),
            FINAL_RANK: ranks.final[by_user].astype(np.int32),
        }
    )
    with replacing(path) as staging:
        write_parquet(table, staging)
