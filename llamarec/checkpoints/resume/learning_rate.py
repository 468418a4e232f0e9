"""The learning rate across a resume: in the checkpoint, and at the next step."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from transformers import TrainingArguments
from transformers.optimization import get_scheduler

from llamarec.checkpoints.resume.compatibility import Change
from llamarec.checkpoints.resume.current_process import OWN_OPTIMIZER, CurrentProcess
from llamarec.checkpoints.resume.readable import schedule_state
from llamarec.checkpoints.resume.schedule import ScheduleMap
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.storage.layout import SCHEDULER


def rates(
    choice: ResumeChoice, process: CurrentProcess, schedule: ScheduleMap, step: int, changes: list[Change]
) -> tuple[float, float] | None:
    """Learning rate of the first group in the checkpoint and at the next step; None if it is not known."""
    if SCHEDULER in choice.verdict.missing:
        return None
    state = schedule_state(choice.verdict.path / SCHEDULER)
    last = state.get("_last_lr")
    curve = process.custom.curve if process.has_own_scheduler else _curve_of(process.args, schedule.total)
    base = _base_rate(state, process, changes)
    if curve is None or not last or base is None:
        return None
    return float(last[0]), base * curve(schedule(step))


def _base_rate(state: dict[str, list[float]], process: CurrentProcess, changes: list[Change]) -> float | None:
    if not process.has_own_optimizer:
        return float(process.args.learning_rate)
    names = {change.name for change in changes if change.decision == "applied"}
    if names & {"learning_rate", OWN_OPTIMIZER}:
        return process.custom.base_rate
    rates = state.get("base_lrs")
    return float(rates[0]) if rates else None


def _curve_of(args: TrainingArguments, total: int) -> Callable[[float], float] | None:
    """The factor on the learning rate by step on the curve; None for schedulers with a state."""
    # Typed as dict or str, but `TrainingArguments` has parsed the text by now.
    kwargs = cast("dict[str, object] | None", args.lr_scheduler_kwargs)
    # Some curves divide by the learning rate of their optimizer.
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate or 1.0)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(total),
        num_training_steps=total,
        scheduler_specific_kwargs=kwargs,
    )
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        return None
    # Typed for whole steps, but the formulas hold between steps too.
    return cast("Callable[[float], float]", scheduler.lr_lambdas[0])
