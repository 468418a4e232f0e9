"""A trained retriever that proposes items for any history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load

from llamarec.checkpoints.storage.durable import sha256_of_bytes
from llamarec.data.prepared import PreparedData, check_same_data
from llamarec.errors import ArtifactError
from llamarec.files import stored
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.model import LRURec
from llamarec.retriever.published import read_metrics, read_published
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.retriever.scoring import catalogue_scores
from llamarec.vocabulary import PADDING_ITEM, Experiment

_BLOCK_HISTORIES = 256


class Retriever:
    """Proposes the next items after a history.

    Args:
        model: A model trained on `data`.
        data: Prepared data.
        config: Options the model was trained with.
        digest: SHA-256 of its weights.
        only_new: Propose no item of the history, even where users repeat items.
    """

    def __init__(
        self, model: LRURec, data: PreparedData, config: RetrieverConfig, digest: str = "", *, only_new: bool = False
    ) -> None:
        self._model, self.digest = model.eval(), digest
        self._max_length = config.max_length
        self.excludes_history = only_new or config.excludes(data.has_repeats)

    @torch.inference_mode()
    def propose(self, histories: Sequence[NDArray[np.int32]], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k best items after each history.

        Args:
            histories: Item ids, oldest first, none of them empty.
            k: Number of items for each.

        Returns:
            item_ids [num_histories, k] best first, 0 where no item is left; scores [num_histories, k] as logits, minus
            infinity where no item is left.
        """
        blocks = [
            self._propose(histories[start : start + _BLOCK_HISTORIES], k)
            for start in range(0, len(histories), _BLOCK_HISTORIES)
        ]

        items, scores = zip(*blocks, strict=True) if blocks else ((), ())
        if not items:
            return np.zeros((0, k), dtype=np.int32), np.zeros((0, k), dtype=np.float32)

        return np.concatenate(items), np.concatenate(scores)

    @torch.inference_mode()
    def scores(self, histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """[num_histories, items + 1] logits of all items after each history; minus infinity for padding.

        Args:
            histories: Item ids, oldest first, none of them empty.
        """
        return np.asarray(catalogue_scores(self._model, histories, max_length=self._max_length, exclude=False).numpy())

    def _propose(self, histories: Sequence[NDArray[np.int32]], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        scores_BN = catalogue_scores(self._model, histories, max_length=self._max_length, exclude=self.excludes_history)
        best = scores_BN.topk(min(k, scores_BN.shape[1]), dim=1)
        items = torch.where(torch.isinf(best.values), PADDING_ITEM, best.indices).numpy().astype(np.int32)
        missing = ((0, 0), (0, k - items.shape[1]))
        return np.pad(items, missing), np.pad(best.values.numpy(), missing, constant_values=-np.inf)


def load_retriever(experiment: Experiment, data: PreparedData, *, only_new: bool = False) -> Retriever:
    """The trained retriever of a data set.

    Args:
        experiment: Paths of the run.
        data: The data it must have been made from.
        only_new: See `Retriever`.

    Raises:
        ArtifactError: there is none, it is damaged, or it was made from other data; names the command that makes it.
    """
    folder, weights = experiment.retriever, experiment.retriever_weights
    hint = rebuild_command(experiment)
    made_by = read_metrics(experiment, hint)
    if not made_by:
        raise ArtifactError(f"{folder}: no trained retriever", hint=hint)
    check_same_data(f"{folder}: this retriever was", made_by.get("data_fingerprint"), data, hint)

    config = stored(made_by.get("config") or {}, RetrieverConfig, experiment.retriever_metrics)
    model = LRURec(data.num_items, width=config.hidden_size, num_blocks=config.num_blocks, dropout=config.dropout)
    content = read_published(weights, hint)
    try:
        model.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{weights}: cannot be read", found=str(error).partition("\n")[0], hint=hint) from error

    return Retriever(model, data, config, sha256_of_bytes(content), only_new=only_new)
