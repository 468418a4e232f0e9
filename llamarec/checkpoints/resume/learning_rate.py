"""The learning rate across a resume: as the checkpoint had it, and at the next step."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments
from transformers.optimization import get_scheduler

from llamarec.checkpoints.resume.compatibility import Change
from llamarec.checkpoints.resume.process import OWN_OPTIMIZER, CurrentProcess
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.resume.schedule import ScheduleMap
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.storage.layout import SCHEDULER


def rates(
    choice: ResumeChoice, now: CurrentProcess, schedule: ScheduleMap, step: int, changes: list[Change]
) -> tuple[float, float] | None:
    """Learning rate of the first group as the checkpoint had it, and at the next step; None where that is not known."""
    if SCHEDULER in choice.verdict.missing:
        return None
    state = load_pickled(choice.verdict.path / SCHEDULER)
    if not isinstance(state, dict):
        return None
    last = state.get("_last_lr")
    curve = now.handed.curve if now.has_own_scheduler else _curve_of(now.args, schedule.total)
    base = _base_rate(state, now, changes)
    if curve is None or not last or base is None:
        return None
    return float(last[0]), base * curve(schedule(step))


def _base_rate(state: Any, now: CurrentProcess, changes: list[Change]) -> float | None:
    if not now.has_own_optimizer:
        return float(now.args.learning_rate)
    names = {change.name for change in changes if change.decision == "applied"}
    if names & {"learning_rate", OWN_OPTIMIZER}:
        return now.handed.base_rate
    rates = state.get("base_lrs")
    return float(rates[0]) if rates else None


def _curve_of(args: TrainingArguments, total: int) -> Any:
    """The factor on the learning rate as a function of the step on the curve; None for schedulers with a state."""
    kwargs: Any = args.lr_scheduler_kwargs
    # Some curves divide by the rate that they are made for.
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate or 1.0)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(total),
        num_training_steps=total,
        scheduler_specific_kwargs=kwargs,
    )
    return scheduler.lr_lambdas[0] if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR) else None
