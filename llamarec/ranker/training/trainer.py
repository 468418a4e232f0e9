"""The ranker's Trainer: its sample order, samples counted per step, and padding that follows a split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import EarlyStoppingCallback, EvalPrediction, TrainingArguments

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.compatibility import FingerprintSources
from llamarec.checkpoints.storage.best_model import read_best
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.distributed.agreement import from_first_process
from llamarec.checkpoints.trainer.trainer_access import temporarily
from llamarec.errors import DivergedError, LlamarecError
from llamarec.evaluation.fusion import FUSION_FILE, Fusion, read_fusion
from llamarec.evaluation.metrics import Ranks, all_metrics, ndcg_at
from llamarec.planning.lengths import LENGTH_MULTIPLE
from llamarec.ranker.model.letter_model import collate, trimmed
from llamarec.ranker.options.config import LOGGED, RankerConfig
from llamarec.ranker.prompts.evaluation_samples import EvaluationSamples
from llamarec.ranker.prompts.training_samples import TrainingSamples
from llamarec.ranker.trained.final_fusion import read_final, write_final
from llamarec.ranker.training.adapter_trainer import AdapterTrainer
from llamarec.ranker.training.fusion_fit import fusion_of


class RankerTrainer(AdapterTrainer):
    """Trains the adapter for letters; everything else is `ResumableTrainer`'s and the Trainer's own.

    Args:
        model: What `load_letter_model` returned.
        args: Hugging Face's arguments; `output_dir` receives checkpoint-{step}/ and the best adapter.
        config: Options of the ranker.
        checkpoint_config: Options of checkpoints.
        train: Training samples.
        validation: Samples of the users that choose the best adapter.
        fusion_samples: Samples for fitting the weights of the final score after training; None means `validation`.
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
        train: TrainingSamples,
        validation: EvaluationSamples,
        fusion_samples: EvaluationSamples | None = None,
        pad_token_id: int,
        fingerprints: Mapping[str, Any],
        origins: FingerprintSources,
        own_options: Mapping[str, Any],
        given: Mapping[str, Any],
        defaults: Mapping[str, Any],
        choice: ResumeChoice | None = None,
    ) -> None:
        self.origins = origins
        self._multiple = LENGTH_MULTIPLE if args.bf16 or args.fp16 else 1
        self.validation, self.fusion_samples = validation, fusion_samples or validation
        # Fusions of the present model on `validation`, and of the final model on `fusion_samples`.
        self._fusion: Fusion | None = None
        self._final: Fusion | None = None
        self._logits: NDArray[np.float32] | None = None
        stops = config.early_stopping_patience and args.load_best_model_at_end
        super().__init__(
            model=model,
            args=args,
            data_collator=partial(collate, pad_token_id=pad_token_id, multiple=self._multiple),
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

    def predict_letters(self, samples: EvaluationSamples) -> NDArray[np.float32]:
        """[num_prompts, num_candidates] logits of the letters.

        Raises:
            DivergedError: one of them is not finite.
        """
        # `compute_metrics` belongs to the validation users.
        with temporarily(self, compute_metrics=None):
            prediction = self.predict(samples)
        return _finite(np.asarray(prediction.predictions, dtype=np.float32), self.state.global_step)

    def fusion(self) -> Fusion:
        """Fusion of the model after training, on `fusion_samples`: the stored one, or else fitted now."""
        if self._final is None:
            run, digest = Path(str(self.args.output_dir)), self.tested_digest()
            # Every process reads the folder: one answer for all, or some would predict alone.
            known = from_first_process(self.args, "the fusion that is stored", self._known(run, digest))
            self._final = known or self._fitted()
            if digest and self.args.process_index == 0:
                write_final(run, self._final, digest)
        return self._final

    def fusion_logits(self) -> NDArray[np.float32]:
        """[P, C] logits of `fusion_samples` from the model after training, computed once."""
        if self._logits is None:
            self._logits = self.predict_letters(self.fusion_samples)
        return self._logits

    def _fitted(self) -> Fusion:
        return fusion_of(self.fusion_logits(), self.fusion_samples, step=self.tested_step)

    def _known(self, run: Path, digest: str) -> Fusion | None:
        """The fusion fitted earlier on the same users with the same first stage."""
        final, last, samples = read_final(run, digest), self._fusion, self.fusion_samples
        if final is not None and final.num_users == len(samples.user_ids) and self._is_of_this_stage(final):
            return final
        if samples is not self.validation:
            return None
        return last if last is not None and last.step == self.tested_step else self._stored()

    def _is_of_this_stage(self, fusion: Fusion) -> bool:
        return math.isclose(fusion.title_weight, self.validation.first_stage.title_weight, rel_tol=1e-6)

    def _stored(self) -> Fusion | None:
        if not self.args.load_best_model_at_end:
            return None
        folder = Path(str(self.args.output_dir))
        try:
            stored, best = read_fusion(folder), read_best(folder)
        except LlamarecError as error:
            self._warn(f"WARNING: {error.problem}; the fusion is fitted again")
            return None
        if stored is None or stored.step != self.tested_step:
            return None
        if not self._is_of_this_stage(stored):
            # It was fitted with another first stage (--title_similarity).
            return None
        entry = best.files.get(FUSION_FILE) if best is not None else None
        if entry is None or entry.sha256 != sha256_of(folder / FUSION_FILE):
            self._warn(f"WARNING: {folder / FUSION_FILE} was changed after it was saved; the fusion is fitted again")
            return None
        return stored

    def _warn(self, text: str) -> None:
        Console(self.args.process_index == 0).warn(text)

    def files_beside_model(self) -> dict[str, bytes]:
        """fusion.json, if the present model was validated."""
        fusion = self._fusion
        return {} if fusion is None or fusion.step != self.state.global_step else {FUSION_FILE: fusion.as_bytes()}

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's."""
        # Training the same object again gives other weights at the same step.
        self._fusion = self._final = self._logits = None
        return super().train(*args, **kwargs)

    def _validated(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of the letters alone and of the final order."""
        logits = _finite(np.asarray(prediction.predictions), self.state.global_step)
        self._fusion = fusion_of(logits, self.validation, step=self.state.global_step)
        return ranking_metrics(self.validation, logits, self._fusion)

    def split_batch(self, batch: Any, num_samples: int, size: int) -> list[tuple[Any, int]]:
        """Pieces of a micro-batch, each padded only to its own longest prompt."""
        pieces = super().split_batch(batch, num_samples, size)
        return [(trimmed(piece, self._multiple), count) for piece, count in pieces] if len(pieces) > 1 else pieces


def ranking_metrics(samples: EvaluationSamples, logits_PC: NDArray[np.float32], fusion: Fusion) -> dict[str, float]:
    """Metrics of a prediction over `samples`, by name.

    `subset_` (users with a prompt) and `overall_` (all users) rank by letters alone. Over all users, `fused_` ranks by
    final score, `retriever_` by the retriever, and `first_stage_` by retriever and titles.
    """
    letters = samples.ranks_by(fusion.corrected(logits_PC))
    fused = samples.ranks_by(fusion.scores(logits_PC, samples.first_stage_PC))
    return {
        **_named("overall", letters),
        **_named("subset", letters[samples.retriever_ranks > 0]),
        **_named("fused", fused),
        "retriever_ndcg@10": ndcg_at(samples.retriever_ranks, 10),
        "first_stage_ndcg@10": ndcg_at(samples.ranks_by(samples.first_stage_PC), 10),
        "fusion_alpha": fusion.alpha,
        "fusion_letters": fusion.letters,
        "fusion_gain": fusion.gain,
    }


def _finite(logits_PC: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    if not np.isfinite(logits_PC).all():
        prompts = int((~np.isfinite(logits_PC)).any(axis=1).sum())
        raise DivergedError(
            f"the letters' scores are not finite after step {step:,}",
            found=f"{prompts:,} of {len(logits_PC):,} prompts",
            hint="resume from an earlier checkpoint with a lower --learning_rate: llamarec checkpoints list",
        )
    return logits_PC


def _named(part: str, ranks: Ranks) -> dict[str, float]:
    return {f"{part}_{name}": value for name, value in all_metrics(ranks, (1, 10)).items() if name in LOGGED}
