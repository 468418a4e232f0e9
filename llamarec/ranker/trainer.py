"""The smallest Trainer subclass: own sample order, samples counted per step, padding that follows a split."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import EarlyStoppingCallback, EvalPrediction, TrainingArguments

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.temporarily import temporarily
from llamarec.checkpoints.trainer import ResumableTrainer
from llamarec.evaluation.metrics import Ranks, all_metrics
from llamarec.ranker.config import RankerConfig
from llamarec.ranker.letter_model import LENGTH_MULTIPLE, collate, trimmed
from llamarec.ranker.samples import EvaluationSamples, TrainingSamples, epoch_order

_LOGGED = ("recall@1", "recall@10", "ndcg@10", "mrr@10")


class RankerTrainer(ResumableTrainer):
    """Trains the adapter; everything else is `ResumableTrainer`'s and the Trainer's own.

    Args:
        model: What `load_letter_model` returned.
        args: Hugging Face's arguments; `output_dir` receives checkpoint-{step}/ and the best adapter.
        config: Early stopping.
        checkpoint_config: Options of checkpoints.
        train: Training samples.
        validation: The part of the users on which the best adapter is chosen.
        pad_token_id: Any token; padding is never attended to.
        fingerprints: What identifies the run beside base model, adapter and samples.
        own_options: The program's hyperparameters, compared on resume.
        given: Flags of this command.
        defaults: Of this command, for what was kept from the checkpoint.
    """

    samples_by_epoch = True

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        config: RankerConfig,
        checkpoint_config: CheckpointConfig,
        train: TrainingSamples,
        validation: EvaluationSamples,
        pad_token_id: int,
        fingerprints: Mapping[str, Any],
        own_options: Mapping[str, Any],
        given: Mapping[str, Any],
        defaults: Mapping[str, Any],
    ) -> None:
        self._multiple = LENGTH_MULTIPLE if args.bf16 or args.fp16 else 1
        stops = config.early_stopping_patience and args.load_best_model_at_end
        super().__init__(
            model=model,
            args=args,
            data_collator=partial(collate, pad_token_id=pad_token_id, multiple=self._multiple),
            train_dataset=train,
            eval_dataset=validation,
            compute_metrics=partial(ranking_metrics, validation),
            callbacks=[EarlyStoppingCallback(config.early_stopping_patience)] if stops else None,
            checkpoint_config=checkpoint_config,
            fingerprints=fingerprints,
            own_options=own_options,
            given=given,
            defaults=defaults,
        )

    def predict_ranks(self, samples: EvaluationSamples) -> NDArray[np.int64]:
        """The label's rank for every user of `samples`: [num_users], 1 = first, 0 = not among the candidates."""
        # `compute_metrics` belongs to the validation users.
        with temporarily(self, compute_metrics=None):
            prediction = self.predict(samples)
        return samples.ranks(letter_ranks(np.asarray(prediction.predictions), np.asarray(prediction.label_ids)))

    def epoch_order(self, epoch: int, num_samples: int) -> NDArray[np.int64]:
        """A permutation drawn from (seed, epoch)."""
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return epoch_order(num_samples, seed, epoch)

    def split_batch(self, batch: Any, num_samples: int, size: int) -> list[tuple[Any, int]]:
        """Pieces without the padding that only longer prompts of the micro-batch needed."""
        pieces = super().split_batch(batch, num_samples, size)
        return [(trimmed(piece, self._multiple), count) for piece, count in pieces] if len(pieces) > 1 else pieces

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """Samples in the whole step: the loss is their mean, however they are cut into micro-batches."""
        if not batch_samples:
            return None
        return torch.tensor(sum(len(batch["labels"]) for batch in batch_samples), device=device)


def ranking_metrics(samples: EvaluationSamples, prediction: EvalPrediction) -> dict[str, float]:
    """Overall and subset metrics of a prediction over `samples`, each named for what it is."""
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    ranks = samples.ranks(letter_ranks(logits, labels))
    return {**_named("overall", ranks), **_named("subset", ranks[samples.retriever_ranks > 0])}


def letter_ranks(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label's place when the candidates are ordered by logit; ties go to the earlier letter.

    Args:
        logits: [num_prompts, num_candidates].
        labels: [num_prompts] place of the label among the candidates.

    Returns:
        [num_prompts] 1 = first; 0 where a logit is not a number, which is a miss and never a hit.
    """
    label_logits = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
    ahead = (logits > label_logits) | ((logits == label_logits) & earlier)
    ranks: NDArray[np.int64] = 1 + ahead.sum(axis=1)
    ranks[np.isnan(logits).any(axis=1)] = 0
    return ranks


def _named(part: str, ranks: Ranks) -> dict[str, float]:
    return {f"{part}_{name}": value for name, value in all_metrics(ranks, (1, 10)).items() if name in _LOGGED}
