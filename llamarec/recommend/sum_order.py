"""The order of a run of `--readout items`: the whole catalogue by the weighted sum of all experts.

B histories of a block, K items of a list, N items + 1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.checkpoints.storage.layout import EXTRA_STATE, weight_files
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.catalogue_tables import terms_text
from llamarec.experts.expert_sum import ExpertSum, best_of
from llamarec.experts.known import known_now, now
from llamarec.experts.queries import Queries, blocks_of
from llamarec.experts.reasons import Reason, reasons
from llamarec.experts.weights import ExpertWeights
from llamarec.ranker.model.items.stored import ITEM_FEATURES
from llamarec.ranker.trained.final_experts import read_final_experts
from llamarec.ranker.trained.final_fusion import adapter_digest
from llamarec.ranker.trained.item_expert import ItemExpert, load_item_expert
from llamarec.ranker.trained.loading import AdapterLocation, adapter_of, check_same_retriever, described_run
from llamarec.ranker.trained.locations import folder_of
from llamarec.ranker.trained.read_histories import LANGUAGE_MODEL
from llamarec.ranker.trained.retrain import test_again_command
from llamarec.recommend.orders import Histories, ItemIds, Ranked
from llamarec.retriever.published import DIGEST
from llamarec.retriever.serving import TrainedStage, load_stage
from llamarec.vocabulary import PADDING_ITEM, Experiment

_NO_WEIGHT = (
    "The order is the first stage's: on validation users the language model added nothing to it, so it is not loaded."
)


class SumOrder:
    """The whole catalogue by the sum of the first stage's experts and the language model.

    Args:
        stage: The first stage.
        data: Prepared data, all of which is counted.
        adapter: The adapter of the run.
        weights: Weights of all experts.
        model: The language model; None where it has no weight.
        note: Why it has none.
    """

    def __init__(
        self,
        stage: TrainedStage,
        data: PreparedData,
        adapter: AdapterLocation,
        weights: ExpertWeights,
        model: ItemExpert | None,
        note: str = "",
    ) -> None:
        self._stage, self._weights, self._model, self.adapter, self.note = stage, weights, model, adapter, note
        self._moment, self._num_items = now(data), data.num_items
        self._experts = stage.experts(known_now(data), stage.weights.by_name | weights.by_name)
        self._first_stage = stage.sum_of(self._experts)
        self._final: ExpertSum = self._first_stage if model is None else stage.sum_of([*self._experts, model], weights)

    @property
    def uses_model(self) -> bool:
        """See `Order`."""
        return self._model is not None

    @property
    def formula(self) -> str:
        """See `Order`."""
        return terms_text(self._final.weights)

    @property
    def made_of(self) -> list[str]:
        """See `Order`."""
        folder = self.adapter.folder
        files = [*weight_files(folder), folder / EXTRA_STATE, folder / ITEM_FEATURES] if self.uses_model else []
        return [*self._stage.made_of, self._weights.as_bytes().hex(), *map(sha256_of, files)]

    def lists(self, histories: Histories, k: int, times: Sequence[int] | None) -> list[list[Ranked]]:
        """See `Order`."""
        moments = np.full(len(histories), self._moment) if times is None else np.array(times)
        queries = Queries(histories, moments.astype(np.int64))
        experts = [*self._experts, *([self._model.read(histories)] if self._model is not None else [])]

        found: list[list[Ranked]] = []
        for block in blocks_of(len(histories), self._num_items):
            part = queries.part(block.start, block.stop)
            # Each is asked once, for both orders.
            found += self._lists(part, {expert.name: expert.scores(part) for expert in experts}, k)
        return found

    def reasons(self, history: ItemIds, items: ItemIds, titles: Sequence[str]) -> list[list[Reason]]:
        """See `Order`."""
        queries = Queries([history], np.array([self._moment], dtype=np.int64))
        return reasons(self._final, queries, [items], titles)[0]

    def _lists(self, part: Queries, given: Mapping[str, NDArray[np.float32]], k: int) -> list[list[Ranked]]:
        final_BN = self._final.scores(part, given)
        items_BK, scores_BK = best_of(final_BN, k)
        before_BN = final_BN if self._model is None else self._first_stage.scores(part, given)
        before_BK = np.take_along_axis(before_BN, items_BK, axis=1)
        ranks_BK = _ranks_of(before_BN, before_BK)
        if self._model is None:
            ranks_BK[:] = np.arange(1, ranks_BK.shape[1] + 1)
        model_BN = given.get(LANGUAGE_MODEL)

        return [
            [
                Ranked(
                    item=item,
                    score=float(scores_BK[row, column]),
                    retriever_rank=int(ranks_BK[row, column]),
                    retriever_score=float(before_BK[row, column]),
                    language_model_score=float(model_BN[row, item]) if model_BN is not None else None,
                )
                for column, item in enumerate(items_K)
                if item != PADDING_ITEM
            ]
            for row, items_K in enumerate(items_BK.tolist())
        ]


def _ranks_of(scores_BN: NDArray[np.float32], of_BK: NDArray[np.float32]) -> NDArray[np.int64]:
    """[B, K] 1 + the number of items with a higher score."""
    ascending_BN = np.sort(scores_BN, axis=1)
    not_higher = [np.searchsorted(row, of_K, side="right") for row, of_K in zip(ascending_BN, of_BK, strict=True)]
    ranks_BK: NDArray[np.int64] = 1 + scores_BN.shape[1] - np.stack(not_higher).astype(np.int64)
    return ranks_BK


def load_sum_order(experiment: Experiment, data: PreparedData, *, device: str, only_new: bool) -> SumOrder:
    """The order of a run of `--readout items`; without a weight, its language model is not loaded.

    Args:
        experiment: Experiment of the run.
        data: Data it was trained on.
        device: `auto`, or a name of torch.
        only_new: Propose no item of the history.

    Raises:
        LlamarecError: something is missing, damaged, or from other data.
    """
    stage, described = load_stage(experiment, data, only_new=only_new), described_run(experiment, data)
    again = test_again_command(experiment)
    check_same_retriever(experiment, str(described.get(DIGEST) or ""), stage.digest, again)

    adapter = adapter_of(experiment, described)
    weights = read_final_experts(
        folder_of(experiment).path,
        adapter_digest=adapter_digest(adapter.folder),
        retriever_digest=stage.digest,
        hint=again,
    )
    if weights is None:
        note = f"The order is the first stage's: the language model was never tested. To fit its weight: {again}"
        return SumOrder(stage, data, adapter, stage.weights, None, note)
    if not weights.of(LANGUAGE_MODEL).weight:
        return SumOrder(stage, data, adapter, stage.weights, None, _NO_WEIGHT)
    return SumOrder(stage, data, adapter, weights, load_item_expert(experiment, data, device=device))
