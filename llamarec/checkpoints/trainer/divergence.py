"""Losses, gradients and weights that are not finite: they end a training that asked for it, and are never saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from transformers import TrainerState, TrainingArguments

from llamarec.checkpoints.trainer.distributed.agreement import any_process
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer
from llamarec.errors import DivergedError


def check_step(trainer: LiveTrainer, losses: list[torch.Tensor], grad_norm: torch.Tensor | float | None) -> None:
    """Ends a training before the update that a loss or gradient would spoil.

    Args:
        trainer: The live Trainer; asks for it by `ends_when_diverged`.
        losses: Of the micro-batches of this process.
        grad_norm: Of the whole step, before clipping; None where it is not known.

    Raises:
        DivergedError: one of them is not finite, in any process.
    """
    if not trainer.ends_when_diverged:
        return

    loss = float(sum(float(one) for one in losses))
    norm = 0.0 if grad_norm is None else float(grad_norm)
    # Mixed precision of 16 bits skips steps whose gradients overflow.
    is_scaled = getattr(trainer.accelerator, "scaler", None) is not None
    is_finite = math.isfinite(loss) and (is_scaled or math.isfinite(norm))

    (diverged,) = any_process(trainer.args, f"the gradients after step {trainer.state.global_step}", not is_finite)
    if diverged:
        raise _diverged(trainer, f"loss {loss:g}, norm of the gradients {norm:g}")


def check_weights(trainer: LiveTrainer) -> None:
    """Keeps trained weights that are not finite out of a checkpoint.

    Raises:
        DivergedError: there are some.
    """
    if trainer.ends_when_diverged and not _are_finite(trainer.model.parameters()):
        raise _diverged(trainer, "trained weights that are not finite")


def can_be_best(args: TrainingArguments, state: TrainerState, metrics: Mapping[str, float]) -> bool:
    """Whether a validation may choose the best model: an infinite metric is no better than NaN.

    A best metric of NaN, which nothing is better than, is forgotten.
    """
    if state.best_metric is not None and math.isnan(state.best_metric):
        state.best_metric = None

    name = str(args.metric_for_best_model or "")
    value = metrics.get(name if name.startswith("eval_") else f"eval_{name}")
    # The Trainer itself compares NaN, and finds that it is not better.
    return not isinstance(value, float) or not math.isinf(value)


def _are_finite(parameters: Iterable[torch.nn.Parameter]) -> bool:
    finite = [torch.isfinite(one).all() for one in parameters if one.requires_grad]
    return not finite or bool(torch.stack([one.to(finite[0].device) for one in finite]).all())


def _diverged(trainer: LiveTrainer, found: str) -> DivergedError:
    step, rate = trainer.state.global_step, trainer.args.learning_rate
    slower = f"--learning_rate {rate / 10:g}"

    return DivergedError(
        f"the training diverged after step {step:,} (--learning_rate {rate:g})",
        expected="finite losses, gradients and weights",
        found=found,
        hint=[
            f"to continue from the newest checkpoint: --resume_from_checkpoint {slower}",
            f"to start over: --restart {slower}",
        ],
    )
