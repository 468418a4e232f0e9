"""A run of `--readout items` as an expert: scores of the whole catalogue for any history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from llamarec.checkpoints.resume.safe_load import load_weights
from llamarec.checkpoints.trainer.out_of_memory import is_out_of_memory
from llamarec.checkpoints.trainer.state.into_model import put_weights
from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.experts.queries import Queries
from llamarec.files import stored
from llamarec.hardware import has_bfloat16
from llamarec.planning.lengths import LENGTH_MULTIPLE
from llamarec.ranker.model.base_models import base_model_source, load_item_model, load_tokenizer, pad_token_of
from llamarec.ranker.model.items.forward import collate_histories
from llamarec.ranker.model.items.head import FixedItems
from llamarec.ranker.model.items.stored import head_from
from llamarec.ranker.options.config import ITEMS, RankerConfig
from llamarec.ranker.prompts.history_samples import HistorySample
from llamarec.ranker.prompts.history_text import HistoryEncoder, history_encoder_for
from llamarec.ranker.trained.loading import AdapterLocation, adapter_of, described_run
from llamarec.ranker.trained.read_histories import LANGUAGE_MODEL, ReadHistories, reason_after
from llamarec.ranker.trained.retrain import retrain_command
from llamarec.ranker.trained.serving import device_named
from llamarec.vocabulary import DESCRIPTION, Experiment

_BATCH: Final = 64


@dataclass(frozen=True)
class TrainedItems:
    """A trained run, read and checked, but no base model.

    Attributes:
        description: The content of ranker.json.
        config: Model, LoRA and history options.
        source: Argument for `from_pretrained` of the base model.
        tokenizer: Tokenizer of the base model.
        encoder: Encoder of histories, as in training.
        adapter: The best adapter, or else the newest.
    """

    description: Mapping[str, Any]
    config: RankerConfig
    source: str
    tokenizer: Any
    encoder: HistoryEncoder
    adapter: AdapterLocation


class ItemExpert:
    """Scores of all items by a trained language model: one expert of a sum.

    Args:
        model: Model with the adapter and the item head, in evaluation mode, on its device.
        encoder: Encoder of histories.
        adapter: Location of the weights.
        pad_token_id: Any token.
        batch_size: Histories in one forward pass; halved when they do not fit into memory.
        multiple: Padded lengths are multiples of it.
    """

    name = LANGUAGE_MODEL

    def __init__(
        self,
        model: Any,
        encoder: HistoryEncoder,
        adapter: AdapterLocation,
        *,
        pad_token_id: int,
        batch_size: int,
        multiple: int,
    ) -> None:
        self._model, self._encoder, self.adapter = model, encoder, adapter
        self._items: FixedItems = model.get_base_model().item_head.fixed()
        self._pad_token_id, self._batch_size, self._multiple = pad_token_id, batch_size, multiple

    def read(self, histories: Sequence[NDArray[np.int32]]) -> ReadHistories:
        """Reads histories at once; their scores can then be asked for in smaller blocks.

        Args:
            histories: Item ids, oldest first, none of them empty.
        """
        return ReadHistories(self._items, histories, self._users(histories))

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, items + 1] as every expert answers, whatever the moment (`llamarec.experts.queries.Expert`)."""
        return self.read(queries.histories).scores(queries)

    def scores_of(self, histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """[num_histories, items + 1] logits of all items as the next one; minus infinity for padding.

        Args:
            histories: Item ids, oldest first, none of them empty.
        """
        return self.read(histories).scores_of(histories)

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """See `reason_after`."""
        return reason_after(history, titles)

    @torch.inference_mode()
    def _users(self, histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """[num_histories, K] user vectors; histories of similar length share a batch."""
        encoded = [self._encoder.encode(history) for history in histories]
        samples: list[HistorySample] = [
            {"input_ids": one.input_ids, "answer_positions": one.ends[-1:], "labels": [0]} for one in encoded
        ]
        order = np.argsort([len(one.input_ids) for one in encoded], kind="stable").tolist()
        found: dict[int, torch.Tensor] = {}
        start = 0
        while start < len(order):
            rows = order[start : start + self._batch_size]
            try:
                users_BK = self._forward([samples[row] for row in rows])
            except Exception as error:
                if not is_out_of_memory(error) or self._batch_size == 1:
                    raise
                self._batch_size = max(1, min(self._batch_size, len(rows)) // 2)
                continue
            found |= zip(rows, users_BK, strict=True)
            start += len(rows)
        return torch.stack([found[row] for row in range(len(order))])

    def _forward(self, samples: list[HistorySample]) -> torch.Tensor:
        batch = collate_histories(samples, pad_token_id=self._pad_token_id, multiple=self._multiple)
        device = self._model.device
        users_BK: torch.Tensor = self._model(
            input_ids=batch["input_ids"].to(device), answer_positions=batch["answer_positions"].to(device)
        )["logits"]
        return users_BK


def read_trained_items(experiment: Experiment, data: PreparedData) -> TrainedItems:
    """Reads a run of `--readout items`.

    Args:
        experiment: Experiment of the run.
        data: Data it was trained on.

    Raises:
        ArtifactError: there is no run, it has another readout or other data, or it has no adapter yet.
        ModelError: its tokenizer cannot be loaded.
    """
    ranker = described_run(experiment, data)
    config = stored(ranker.get("config") or {}, RankerConfig, experiment.ranker / DESCRIPTION)
    if config.readout != ITEMS:
        raise ArtifactError(
            f"{experiment.ranker}: this run scores {config.readout}, not the whole catalogue",
            hint=retrain_command(experiment, readout=ITEMS),
        )
    adapter = adapter_of(experiment, ranker)
    source = base_model_source(config.llm_base_model, data, experiment.ranker)
    tokenizer = load_tokenizer(config.llm_base_model, source)
    encoder = history_encoder_for(tokenizer, data.titles, config, experiment.ranker)
    return TrainedItems(ranker, config, source, tokenizer, encoder, adapter)


def load_item_expert(experiment: Experiment, data: PreparedData, *, device: str = "auto") -> ItemExpert:
    """The best model of a run of `--readout items`.

    Args:
        experiment: Experiment of the run.
        data: Data it was trained on.
        device: `auto`, or a name of torch.

    Raises:
        ArtifactError: there is no such run, or it was trained on other data.
        ConfigError: there is no such device.
        ModelError: its base model cannot be loaded.
        CheckpointError: the weights are damaged.
    """
    where = device_named(device)
    trained = read_trained_items(experiment, data)
    config, folder = trained.config, trained.adapter.folder
    on_cpu = where.type == "cpu"
    bf16 = not on_cpu and has_bfloat16(on_cpu)

    def head(model: Any) -> Any:
        return head_from(folder, model.config.hidden_size)

    model = load_item_model(config.llm_base_model, trained.source, config, bf16=bf16, device=where, head=head)
    put_weights(model, load_weights(folder) or {}, folder, "default")
    return ItemExpert(
        model.eval(),
        trained.encoder,
        trained.adapter,
        pad_token_id=pad_token_of(trained.tokenizer),
        batch_size=_BATCH,
        multiple=LENGTH_MULTIPLE if bf16 else 1,
    )
