"""Optimizer, learning-rate schedule and gradient scaler: made for a length, and restored from a checkpoint."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from llamarec.checkpoints.resume.decision import Resume
from llamarec.checkpoints.resume.progress import progress_in
from llamarec.checkpoints.resume.readable import schedule_state
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.resume.schedule import ScheduleMap
from llamarec.checkpoints.storage.layout import OPTIMIZER, SCALER, SCHEDULER, STATE_NAME
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.guards.versions import METRIC_SCHEDULERS
from llamarec.checkpoints.trainer.state.moment_shapes import SavedShapes, lay_out
from llamarec.checkpoints.trainer.state.optimizer_names import check_same_class, matched, optimizer_names
from llamarec.checkpoints.trainer.state.stateful import Stateful
from llamarec.checkpoints.trainer.state.tensors import is_shard, sharded_like
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.errors import CheckpointError


class OptimizerState:
    """Restores what the optimizer's steps go by.

    Args:
        trainer: The live Trainer, with its optimizer and scheduler made.
        resume: The checkpoint, and what has changed since.
        console: For what is lost.
        allow_partial: Continue without an optimizer's state that does not fit.
    """

    def __init__(self, trainer: LiveTrainer, resume: Resume, console: Console, *, allow_partial: bool) -> None:
        self._trainer, self._resume, self._console, self._allow_partial = trainer, resume, console, allow_partial
        self._folder, self._missing = resume.choice.verdict.path, resume.choice.verdict.missing

    def restore(self) -> None:
        """Loads all three.

        Raises:
            CheckpointError: the optimizer is of another kind.
        """
        groups = self._trainer.optimizer.param_groups
        fresh_rates = [(float(group["lr"]), float(group.get("initial_lr", group["lr"]))) for group in groups]

        if OPTIMIZER not in self._missing and not self._resume.new_optimizer:
            self._load_optimizer(self._folder / OPTIMIZER)
        self._load_schedule(fresh_rates)
        self._load_gradient_scaler()

    def _load_optimizer(self, path: Path) -> None:
        optimizer = self._trainer.optimizer
        # Only arguments that differ from the checkpoint's are applied: some optimizers and schedulers keep state of
        # their own in the groups.
        applied = self._resume.applied_to_groups
        fresh = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]

        try:
            optimizer.load_state_dict(_spread(self._fitting_state(path), optimizer))
            lay_out(optimizer)
        except (ValueError, KeyError, TypeError, AttributeError, CheckpointError) as error:
            if self._allow_partial:
                self._console.print(f"lost:        {path.name}: of another optimizer; its moments start from zero")
                return

            if isinstance(error, CheckpointError):
                raise
            kind = type(getattr(optimizer, "optimizer", optimizer)).__name__
            raise CheckpointError(
                f"{path} is of another optimizer than this run's",
                expected=f"the state of a {kind}, as this run has it",
                found=str(error),
                hint=[
                    "give the optimizer of before (--optim, or your own)",
                    "or start its moments from zero: --allow_partial_resume",
                ],
            ) from error

        for group, values in zip(optimizer.param_groups, fresh, strict=True):
            if "lr" in applied and group.get("initial_lr"):
                # Where the rate is no function of the step (ReduceLROnPlateau), the reduction so far stays.
                values["initial_lr"] = values.get("initial_lr", values["lr"])
                values["lr"] = values["initial_lr"] * group["lr"] / group["initial_lr"]
            group.update({name: value for name, value in values.items() if name in applied})

    def _fitting_state(self, path: Path) -> dict[str, Any]:
        """The saved state, each moment at the parameter that it belongs to, and of its shape.

        Raises:
            CheckpointError: it is of other parameters, or of another shape.
        """
        saved, live = self._names(), optimizer_names(self._trainer)
        if not isinstance(saved, list):
            check_same_class(unwrapped(self._trainer), self._folder)

        state = matched(load_pickled(path), saved, live, str(path))
        shapes = SavedShapes(self._trainer.optimizer, live)
        shapes.check(state, str(path))

        if not isinstance(saved, list):
            self._console.print(f"note:        {path.name} names no parameters; its moments are matched by their order")
        if shapes.not_compared:
            names = ", ".join(sorted(shapes.not_compared))
            self._console.print(
                f"note:        {path.name}: shapes of {names} could not be compared with the optimizer's"
            )
        return state

    def _names(self) -> object:
        """Of the checkpoint's optimizer; None in one that has none."""
        entry = (self._resume.trainer_state.get("stateful_callbacks") or {}).get(STATE_NAME) or {}
        # A plain Trainer carries our entry along; its optimizer has the order that it saved.
        is_ours = progress_in(self._resume.trainer_state) is not None
        return entry.get("optimizer") if is_ours else None

    def _load_schedule(self, fresh_rates: list[tuple[float, float]]) -> None:
        resume, scheduler, groups = self._resume, self._trainer.lr_scheduler, self._trainer.optimizer.param_groups
        base_rates = [group.get("initial_lr", group["lr"]) for group in groups]

        is_function = isinstance(scheduler, LambdaLR)
        is_saved = SCHEDULER not in self._missing and not resume.new_scheduler
        # The state of the program's own scheduler holds its length too (T_max, total_steps, ...), which has changed.
        is_too_short = resume.has_own_scheduler and resume.is_of_another_length and not is_function
        starts_fresh = (not is_saved or is_too_short) and not goes_by_metrics(scheduler)

        if is_saved and not starts_fresh:
            _give(scheduler, schedule_state(self._folder / SCHEDULER), self._folder / SCHEDULER)
        if not isinstance(scheduler, LambdaLR):
            if starts_fresh:
                self._advance(fresh_rates)
            return

        if starts_fresh:
            scheduler.last_epoch = resume.step
        # With fp16 it is behind the step: steps whose gradients overflowed do not move it.
        done, scheduler.base_lrs = scheduler.last_epoch, base_rates
        rates = [base * curve(done) for base, curve in zip(base_rates, scheduler.lr_lambdas, strict=True)]
        scheduler._last_lr = rates

        for group, base, rate in zip(groups, base_rates, rates, strict=True):
            group["initial_lr"], group["lr"] = base, rate

    def _advance(self, fresh_rates: list[tuple[float, float]]) -> None:
        """Steps a scheduler that was just made to where training is; the optimizer's base rates stay."""
        scheduler, groups = self._trainer.lr_scheduler, self._trainer.optimizer.param_groups
        for group, (rate, base) in zip(groups, fresh_rates, strict=True):
            group["lr"] = rate * (group.get("initial_lr", base) / base if base else 1.0)
        if hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [group.get("initial_lr", group["lr"]) for group in groups]

        with warnings.catch_warnings():
            # Torch misses the steps of the optimizer, which another process has made.
            warnings.simplefilter("ignore")
            for _ in range(self._resume.step):
                scheduler.step()

    def _load_gradient_scaler(self) -> None:
        path, scaler = self._folder / SCALER, getattr(self._trainer.accelerator, "scaler", None)
        if scaler is not None and path.is_file():
            _give(scaler, load_pickled(path), path)


def _spread(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A state whose moments are sharded as their parameters are."""
    parameters = [
        (key, parameter)
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True)
        for key, parameter in zip(saved["params"], group["params"], strict=True)
    ]
    if not any(is_shard(parameter) for _, parameter in parameters):
        return state

    spread = dict(state["state"])
    for key, parameter in parameters:
        spread[key] = {
            name: sharded_like(parameter, value)
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim
            else value
            for name, value in spread.get(key, {}).items()
        }
    return {**state, "state": {key: moments for key, moments in spread.items() if moments}}


def goes_by_metrics(scheduler: LRScheduler) -> bool:
    """Whether validations move a scheduler: its rate is no function of the step, and it has no length."""
    return isinstance(scheduler, METRIC_SCHEDULERS)


def follow_schedule(scheduler: LRScheduler, schedule: ScheduleMap) -> None:
    """Leads a scheduler that is a function of the step along the run's own map of steps."""
    if schedule.knots and isinstance(scheduler, LambdaLR):
        # Plain functions: others would be stored in scheduler.pt.
        scheduler.lr_lambdas = [_mapped(curve, schedule) for curve in scheduler.lr_lambdas]


def _mapped(curve: Callable[[int], float], schedule: ScheduleMap) -> Callable[[int], float]:
    def factor(step: int) -> float:
        # Between two steps of the curve: its functions take fractions, whatever torch declares.
        return float(curve(cast(int, schedule(step))))

    return factor


def _give(one: Stateful, state: dict[str, Any], path: Path) -> None:
    """Gives a scheduler or scaler its state.

    Raises:
        CheckpointError: it does not take it.
    """
    names = state if isinstance(state, dict) else ()
    methods = [name for name in names if inspect.isfunction(getattr(type(one), str(name), None))]
    try:
        if methods:
            # Schedulers take every entry for an attribute.
            raise TypeError(f"{methods[0]} is a method, not a part of the state")
        one.load_state_dict(state)
    except Exception as error:  # each class says in its own way that a state is none of its own
        raise CheckpointError(
            f"{path} does not fit the {type(one).__name__} of this training",
            found=f"{type(error).__name__}: {error}",
            hint="resume from another checkpoint (llamarec checkpoints list), or with the scheduler that it was",
        ) from error
