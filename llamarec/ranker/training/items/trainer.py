"""The Trainer of `--readout items`: validation over the whole catalogue, and the features beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import EarlyStoppingCallback, EvalPrediction, TrainingArguments

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.compatibility import FingerprintSources
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.trainer.trainer_access import temporarily
from llamarec.errors import DivergedError
from llamarec.evaluation.metrics import all_metrics, score_ranks
from llamarec.experts.expert_sum import exclude
from llamarec.experts.queries import blocks_of
from llamarec.experts.weights import ExpertWeights
from llamarec.planning.lengths import LENGTH_MULTIPLE
from llamarec.ranker.model.items.forward import collate_histories, trimmed_histories
from llamarec.ranker.model.items.head import ItemHead
from llamarec.ranker.model.items.stored import ITEM_FEATURES, features_as_bytes
from llamarec.ranker.options.config import LOGGED, RankerConfig
from llamarec.ranker.prompts.history_samples import HistorySamples, NextItemSamples
from llamarec.ranker.trained.final_experts import write_final_experts
from llamarec.ranker.trained.read_histories import ReadHistories
from llamarec.ranker.training.adapter_trainer import AdapterTrainer

_CUTOFFS = (1, 10)


class ItemTrainer(AdapterTrainer):
    """Trains LoRA and the item head; everything else is `ResumableTrainer`'s and the Trainer's own.

    Args:
        model: What `load_item_model` returned.
        args: Hugging Face's arguments; `output_dir` receives checkpoint-{step}/ and the best adapter.
        config: Options of the ranker.
        checkpoint_config: Options of checkpoints.
        train: Training samples.
        validation: Samples of the users that choose the best adapter.
        excludes: Whether a user's history is left out of what is ranked.
        pad_token_id: Any token; padding is never attended to.
        fingerprints: What identifies the run beyond base model, adapter and samples.
        origins: Flags behind each fingerprint.
        own_options: Hyperparameters beyond the Trainer's, compared on resume.
        given: Flags of this command.
        defaults: Defaults of this command for values kept from the checkpoint.
        choice: The checkpoint to resume as the command line chose it, already verified.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        config: RankerConfig,
        checkpoint_config: CheckpointConfig,
        train: HistorySamples,
        validation: NextItemSamples,
        excludes: bool,
        pad_token_id: int,
        fingerprints: Mapping[str, Any],
        origins: FingerprintSources,
        own_options: Mapping[str, Any],
        given: Mapping[str, Any],
        defaults: Mapping[str, Any],
        choice: ResumeChoice | None = None,
    ) -> None:
        self.origins = origins
        self.validation, self._excludes = validation, excludes
        self._multiple = LENGTH_MULTIPLE if args.bf16 or args.fp16 else 1
        self._features = features_as_bytes(model.get_base_model().item_head.features_NF)
        stops = config.early_stopping_patience and args.load_best_model_at_end
        super().__init__(
            model=model,
            args=args,
            data_collator=partial(collate_histories, pad_token_id=pad_token_id, multiple=self._multiple),
            train_dataset=train,
            eval_dataset=validation,
            compute_metrics=self._validated,
            callbacks=[EarlyStoppingCallback(config.early_stopping_patience)] if stops else None,
            checkpoint_config=checkpoint_config,
            fingerprints=fingerprints,
            own_options=own_options,
            given=given,
            defaults=defaults,
            choice=choice,
        )

    @property
    def item_head(self) -> ItemHead:
        """What is trained beside LoRA."""
        head = self.model.get_base_model().item_head
        assert isinstance(head, ItemHead)
        return head

    def user_vectors(self, samples: NextItemSamples) -> NDArray[np.float32]:
        """[num_users, K] vectors at the end of each history.

        Raises:
            DivergedError: one of them is not finite.
        """
        # `compute_metrics` belongs to the validation users.
        with temporarily(self, compute_metrics=None):
            prediction = self.predict(samples)
        return _finite(np.asarray(prediction.predictions, dtype=np.float32), self.state.global_step)

    def read(self, samples: NextItemSamples) -> ReadHistories:
        """The present model as an expert that has read the histories of samples.

        Raises:
            DivergedError: a user vector is not finite.
        """
        return self._as_expert(samples, self.user_vectors(samples))

    def write_experts(self, weights: ExpertWeights, retriever_digest: str) -> None:
        """Stores the weights of all experts beside the best adapter; without a saved adapter they belong to none.

        Args:
            weights: Fitted with the adapter that the Trainer holds after training.
            retriever_digest: Hash of the first stage that they were fitted with.
        """
        if digest := self.tested_digest():
            run = Path(str(self.args.output_dir))
            write_final_experts(run, weights, adapter_digest=digest, retriever_digest=retriever_digest)

    def _as_expert(self, samples: NextItemSamples, users_UK: NDArray[np.float32]) -> ReadHistories:
        return ReadHistories(self.item_head.fixed(), samples.histories, torch.from_numpy(users_UK))

    def files_beside_model(self) -> dict[str, bytes]:
        """The features of titles, which training does not move."""
        return {ITEM_FEATURES: self._features}

    def _validated(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of the language model alone, over the whole catalogue."""
        users_UK = _finite(np.asarray(prediction.predictions, dtype=np.float32), self.state.global_step)
        expert, histories = self._as_expert(self.validation, users_UK), self.validation.histories
        ranks = []
        for block in blocks_of(len(histories), self.item_head.num_items):
            scores_BN = expert.scores_of(histories[block])
            exclude(scores_BN, histories[block] if self._excludes else None)
            ranks.append(score_ranks(scores_BN, self.validation.labels[block], listed=False))
        metrics = all_metrics(np.concatenate(ranks), _CUTOFFS)
        return {f"overall_{name}": value for name, value in metrics.items() if name in LOGGED}

    def split_batch(self, batch: Any, num_samples: int, size: int) -> list[tuple[Any, int]]:
        """Pieces of a micro-batch, each padded only to its own longest history."""
        pieces = super().split_batch(batch, num_samples, size)
        return (
            [(trimmed_histories(piece, self._multiple), count) for piece, count in pieces]
            if len(pieces) > 1
            else pieces
        )


def _finite(users_UK: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    if not np.isfinite(users_UK).all():
        users = int((~np.isfinite(users_UK)).any(axis=1).sum())
        raise DivergedError(
            f"the user vectors are not finite after step {step:,}",
            found=f"{users:,} of {len(users_UK):,} users",
            hint="resume from an earlier checkpoint with a lower --learning_rate: llamarec checkpoints list",
        )
    return users_UK
