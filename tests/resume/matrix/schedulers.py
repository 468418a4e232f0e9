"""Every scheduler of the installed transformers, stepped by validations where it asks for a metric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from transformers.trainer_utils import SchedulerType

from tests.resume.matrix.subjects import Subject, subject
from tests.resume.training import make_model

TITLE: Final = "Schedulers of transformers (`--lr_scheduler_type`)"

# What the scheduler does not start without.
_KWARGS: Final[dict[str, dict[str, Any]]] = {
    "cosine_with_min_lr": {"min_lr": 1e-4},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-4},
    "cosine_with_restarts": {"num_cycles": 2},
    "warmup_stable_decay": {"num_decay_steps": 2},
    "reduce_lr_on_plateau": {"patience": 0, "factor": 0.5},
    "greedy": {"patience": 0, "factor": 0.5, "smooth": False},
}
_BY_METRIC: Final = ("reduce_lr_on_plateau", "greedy")


def subjects() -> Iterator[Subject]:
    """One for each name; two where validations step it, at the saves and between them."""
    for name in SchedulerType:
        arguments: dict[str, Any] = {"lr_scheduler_type": name.value, "learning_rate": 0.1, "warmup_steps": 2}
        arguments["lr_scheduler_kwargs"] = _KWARGS.get(name.value, {})
        yield subject(name.value, make_model, **arguments, **(_validated(2) if name.value in _BY_METRIC else {}))
        if name.value in _BY_METRIC:
            yield subject(f"{name.value}, a validation every step", make_model, **arguments, **_validated(1))


def _validated(steps: int) -> dict[str, Any]:
    return {
        "eval_strategy": "steps",
        "eval_steps": steps,
        "metric_for_best_model": "loss",
        "load_best_model_at_end": True,
    }
