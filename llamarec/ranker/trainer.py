"""The smallest Trainer subclass: own sample order, samples counted per step, adapter format, best adapter kept."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments

from llamarec.evaluation.metrics import Ranks, all_metrics
from llamarec.ranker.config import RankerConfig
from llamarec.ranker.letter_model import collate
from llamarec.ranker.samples import EpochSampler, EvaluationSamples, TrainingSamples

_LOGGED = ("recall@1", "recall@10", "ndcg@10", "mrr@10")


class RankerTrainer(Trainer):
    """Trains the adapter; everything else is the Trainer's own.

    Args:
        model: What `load_letter_model` returned.
        args: Hugging Face's arguments; `output_dir` receives checkpoint-{step}/ and the best adapter.
        config: Adapter format and early stopping.
        train: Training samples.
        validation: The part of the users on which the best adapter is chosen.
        pad_token_id: Any token; padding is never attended to.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        config: RankerConfig,
        train: TrainingSamples,
        validation: EvaluationSamples,
        pad_token_id: int,
    ) -> None:
        self._config, self._peft_model, self._folder = config, model, Path(str(args.output_dir))
        self._num_samples = len(train)
        stops = config.early_stopping_patience and args.load_best_model_at_end
        super().__init__(
            model=model,
            args=args,
            data_collator=partial(collate, pad_token_id=pad_token_id),
            train_dataset=train,
            eval_dataset=validation,
            compute_metrics=partial(ranking_metrics, validation),
            callbacks=[EarlyStoppingCallback(config.early_stopping_patience)] if stops else None,
        )

    def predict_ranks(self, samples: EvaluationSamples) -> NDArray[np.int64]:
        """The label's rank for every user of `samples`: [num_users], 1 = first, 0 = not among the candidates."""
        # `compute_metrics` belongs to the validation users.
        kept, self.compute_metrics = self.compute_metrics, None
        try:
            prediction = self.predict(samples)
        finally:
            self.compute_metrics = kept
        return samples.ranks(letter_ranks(np.asarray(prediction.predictions), np.asarray(prediction.label_ids)))

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[Any]:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(self._num_samples, seed)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """Samples in the whole step: the loss is their mean, however they are cut into micro-batches."""
        if not batch_samples:
            return None
        count = torch.tensor(sum(len(batch["labels"]) for batch in batch_samples), device=device)
        across = self.args.world_size > 1 and self.args.average_tokens_across_devices
        return self.accelerator.gather(count).sum() if across else count

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As the Trainer does, with the adapter's weights in the wanted format."""
        folder = Path(output_dir) if output_dir else self._folder
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        safe = self._config.adapter_format == "safetensors"
        self._peft_model.save_pretrained(folder, state_dict=state_dict, safe_serialization=safe)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        torch.save(self.args, folder / "training_args.bin")

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Puts each new best adapter into the checkpoints folder itself, whether or not this step is saved."""
        is_new_best: bool = super()._determine_best_metric(metrics, trial)
        if is_new_best and self.args.load_best_model_at_end:
            self._publish_best()
            self.state.best_model_checkpoint = self.args.output_dir
        return is_new_best

    def _publish_best(self) -> None:
        staging = self._folder / ".best.tmp"
        self._save(str(staging))
        if self.args.should_save:
            for file in sorted(staging.iterdir()):
                os.replace(file, self._folder / file.name)
            shutil.rmtree(staging)

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._peft_model.load_adapter(str(self._folder), self._peft_model.active_adapter, is_trainable=True)


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
