"""From a checkpoint to a training that goes on: state, schedule and optimizer in the Trainer's own places."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer_callback import ExportableState, TrainerControl, TrainerState

from llamarec.checkpoints.resume.decision import METRIC, Resume
from llamarec.checkpoints.resume.position import Geometry, Position
from llamarec.checkpoints.resume.process import CustomOptimizers, effective_batch, hyperparameters_of
from llamarec.checkpoints.resume.progress import Progress
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.resume.schedule import ScheduleMap
from llamarec.checkpoints.storage.layout import OPTIMIZER, RNG, SCALER, SCHEDULER, TRAINER_STATE
from llamarec.checkpoints.trainer import rng
from llamarec.checkpoints.trainer.shared_state import SharedState
from llamarec.checkpoints.trainer.versions import METRIC_SCHEDULERS
from llamarec.checkpoints.trainer.weights import folder_of_best
from llamarec.errors import CheckpointError


class Restoring(SharedState):
    """Mixin before `Trainer`: the places of its training loop where a checkpoint comes in."""

    # ---- How long ----

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[int, int, int, int, int, int, int]:
        """As the Trainer's, counted in samples from where training goes on."""
        geometry: Geometry = dataloader.batch_sampler.geometry
        step, position = 0, Position()
        if self._resume is not None:
            step, position, to_go = self._resume.step, self._resume.progress.position, self._resume.steps_to_go
        elif args.max_steps > 0:
            to_go = int(args.max_steps)
        else:
            to_go = geometry.steps_to_go(position, float(args.num_train_epochs))
        num_epochs = self._resume.num_epochs if self._resume is not None else 0
        if not num_epochs:
            num_epochs = geometry.last_epoch(position, to_go) if to_go else position.epoch
        # An epoch whose samples are all seen is still to be closed.
        num_epochs = max(num_epochs, position.epoch + 1) if position.sample else num_epochs
        if self._resume is None:
            schedule = ScheduleMap(step + to_go, step + to_go)
            self._progress = Progress(num_samples=geometry.num_samples, batch=geometry.batch, schedule=schedule)
        samples = (
            (step + to_go) * geometry.batch if args.max_steps > 0 else geometry.num_samples * args.num_train_epochs
        )
        return (
            num_epochs,
            geometry.steps_per_epoch,
            geometry.num_samples,
            int(samples),
            geometry.batch,
            geometry.steps_per_epoch,
            step + to_go,
        )

    def get_total_train_batch_size(self, args: Any) -> int:
        """Samples per optimizer step."""
        return effective_batch(args)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As the Trainer's, over the curve that the schedule map leads through."""
        schedule = self._progress.schedule
        total = schedule.total if schedule is not None else num_training_steps
        scheduler = super().create_scheduler(total, optimizer)  # type: ignore[misc]
        if schedule is not None and schedule.knots and isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            # Plain functions: others would be stored in scheduler.pt.
            scheduler.lr_lambdas = [_mapped(curve, schedule) for curve in scheduler.lr_lambdas]
        return scheduler

    # ---- The Trainer's state ----

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, num_train_epochs: int, resume_from_checkpoint: Any, trial: Any
    ) -> tuple[int, int]:
        started = super()._init_training_state(max_steps, steps_per_epoch, num_train_epochs, None, trial)  # type: ignore[misc]
        if self._resume is None:
            return started  # type: ignore[no-any-return]
        self._progress = self._resume.progress
        if self._resume.trainer_state:
            known = set(TrainerState.__dataclass_fields__)
            content = {name: value for name, value in self._resume.trainer_state.items() if name in known}
            self.state = TrainerState(**content)
            # The arguments of this process count, not those of the checkpoint.
            self.state.train_batch_size = self.args.train_batch_size
            self.state.compute_steps(self.args, max_steps)
            self._restore_callbacks(content.get("stateful_callbacks") or {})
            if self._resume.plan.changed & (METRIC | self.origins.measures):
                self._forget_best()
        self.state.global_step = self._resume.step
        self._restore_best()
        self.state.init_training_references(self, max_steps, num_train_epochs, trial)
        return self._progress.position.epoch, 0

    def _restore_callbacks(self, states: dict[str, Any]) -> None:
        """What callbacks remember; what they were made with is as it is now."""
        seen: dict[str, int] = {}
        for callback in self.callback_handler.callbacks:
            if not isinstance(callback, ExportableState):
                continue
            name = type(callback).__name__
            entries = states.get(name)
            number, seen[name] = seen.get(name, 0), seen.get(name, 0) + 1
            entries = entries if isinstance(entries, list) else [entries]
            entry = entries[number] if number < len(entries) else None
            for attribute, value in (entry or {}).get("attributes", {}).items():
                setattr(callback, attribute, value)

    def _forget_best(self) -> None:
        """Another metric, or other questions: what was best by the old one is no measure for it."""
        self.state.best_metric = self.state.best_global_step = None
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience_counter = 0

    def _restore_best(self) -> None:
        """A best model is remembered by its step; its place is wherever the run's folder is now."""
        step = self.state.best_global_step
        folder = folder_of_best(self._run, step) if step is not None else None
        if step is not None and folder is None and self.args.load_best_model_at_end:
            self._say(
                f"note: the best model so far (step {step:,}, {self.state.best_metric:.4g}) lies neither in "
                f"checkpoint-{step} nor in the run's folder: the best is chosen anew from here on"
            )
            self.state.best_metric = self.state.best_global_step = None
        self.state.best_model_checkpoint = str(folder) if folder is not None else None

    # ---- Weights, optimizer, schedule ----

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        if self._resume is not None:
            self._load_weights(self._resume.choice.verdict.path)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)  # type: ignore[misc]
        if self._resume is not None:
            self._load_optimizer(self._resume)
            self._load_schedule(self._resume)
            self._load_gradient_scaler(self._resume)
        return prepared

    def _load_optimizer(self, resume: Resume) -> None:
        groups = self.optimizer.param_groups
        self._fresh_rates = [(float(group["lr"]), float(group.get("initial_lr", group["lr"]))) for group in groups]
        if OPTIMIZER in resume.choice.verdict.missing or resume.new_optimizer:
            return
        path = resume.choice.verdict.path / OPTIMIZER
        # Of what this process's arguments say only what differs from the checkpoint's is applied: some optimizers and
        # schedulers keep state of their own in the groups.
        applied = resume.applied_to_groups
        fresh = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(load_pickled(path))
        except (ValueError, KeyError, TypeError) as error:
            if self._config.allow_partial_resume:
                self._say_plan(f"lost:        {path.name}: of another optimizer; its moments start anew")
                return
            kind = type(getattr(self.optimizer, "optimizer", self.optimizer)).__name__
            raise CheckpointError(
                f"{path} is of another optimizer than this run's",
                expected=f"the state of a {kind}, as this run has it",
                found=str(error),
                hint="the optimizer as it was (--optim, or your own); or --allow_partial_resume: it starts anew",
            ) from error
        for group, values in zip(self.optimizer.param_groups, fresh, strict=True):
            if "lr" in applied and group.get("initial_lr"):
                # Where the rate is no function of the step (ReduceLROnPlateau) what it was reduced by stays.
                values["initial_lr"] = values.get("initial_lr", values["lr"])
                values["lr"] = values["initial_lr"] * group["lr"] / group["initial_lr"]
            group.update({name: value for name, value in values.items() if name in applied})

    def _load_schedule(self, resume: Resume) -> None:
        path = resume.choice.verdict.path / SCHEDULER
        base_rates = [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]
        scheduler = self.lr_scheduler
        is_function = isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        is_saved = SCHEDULER not in resume.choice.verdict.missing and not resume.new_scheduler
        # In its state the program's own has its length too (T_max, total_steps, ...), which is another one now.
        is_too_short = resume.has_own_scheduler and resume.is_of_another_length and not is_function
        starts_anew = (not is_saved or is_too_short) and not goes_by_metrics(scheduler)
        if is_saved and not starts_anew:
            scheduler.load_state_dict(load_pickled(path))
        if not is_function:
            if starts_anew:
                self._advance(resume.step)
            return
        if starts_anew:
            scheduler.last_epoch = resume.step
        # With fp16 it is behind the step: steps whose gradients overflowed do not move it.
        place, scheduler.base_lrs = scheduler.last_epoch, base_rates
        rates = [base * curve(place) for base, curve in zip(base_rates, scheduler.lr_lambdas, strict=True)]
        scheduler._last_lr = rates
        for group, base, rate in zip(self.optimizer.param_groups, base_rates, rates, strict=True):
            group["initial_lr"], group["lr"] = base, rate

    def _advance(self, steps: int) -> None:
        """A scheduler as it was just made, brought to where training is; the optimizer's base rates stay."""
        for group, (rate, base) in zip(self.optimizer.param_groups, self._fresh_rates, strict=True):
            group["lr"] = rate * (group.get("initial_lr", base) / base if base else 1.0)
        if hasattr(self.lr_scheduler, "base_lrs"):
            self.lr_scheduler.base_lrs = [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]
        with warnings.catch_warnings():
            # Of steps that no optimizer has made in this process.
            warnings.simplefilter("ignore")
            for _ in range(steps):
                self.lr_scheduler.step()

    def _load_gradient_scaler(self, resume: Resume) -> None:
        path, scaler = resume.choice.verdict.path / SCALER, getattr(self.accelerator, "scaler", None)
        if scaler is not None and path.is_file():
            scaler.load_state_dict(load_pickled(path))

    # ---- Last ----

    def _restore_last(self) -> None:
        """After every callback of the start has run: accumulators, requests that were open, random states."""
        if self._resume is None:
            return
        progress, verdict = self._progress, self._resume.choice.verdict
        if TRAINER_STATE not in verdict.missing:
            self._tr_loss.fill_(progress.loss_since_log)
            self._total_loss_scalar = progress.loss_total
            self._globalstep_last_logged = progress.logged_step
            self._initial_global_step = 0
            # Once more: the events of the start were heard before.
            self._restore_callbacks(self._resume.trainer_state.get("stateful_callbacks") or {})
            self._restore_requests(self._resume)
        self._restore_rng(self._resume)

    def _restore_requests(self, resume: Resume) -> None:
        content = (resume.trainer_state.get("stateful_callbacks") or {}).get("TrainerControl") or {}
        open_requests = content.get("args") or {}
        control: TrainerControl = self.control
        manifest = resume.choice.verdict.manifest
        # A plain Trainer saves before its callbacks take the request back.
        if manifest is not None:
            control.should_evaluate = bool(open_requests.get("should_evaluate"))
            control.should_save = bool(open_requests.get("should_save"))
            # A callback had ended this epoch, and it is not closed yet.
            ends_epoch = bool(open_requests.get("should_epoch_stop")) and self._progress.position.sample > 0
            control.should_epoch_stop = ends_epoch
        finished = resume.plan.steps_to_go == 0 and bool(open_requests.get("should_training_stop"))
        control.should_training_stop = resume.stops or finished

    def _restore_rng(self, resume: Resume) -> None:
        path, rank = resume.choice.verdict.path, self.args.process_index
        names = [f"rng_state_{rank}.pth"] if self.args.world_size > 1 else [RNG]
        names += [RNG, "rng_state_0.pth"] if rank == 0 else []
        for name in names:
            if (path / name).is_file():
                rng.set_states(load_pickled(path / name))
                return
        rng.seed_from(self.args.seed, rng.PROCESS_STREAM, resume.step, rank)
        if torch.cuda.is_available():
            torch.cuda.manual_seed(self.args.seed + resume.step)

    # ---- What is written about a run ----

    def _handed(self) -> CustomOptimizers:
        """Optimizer and scheduler that are not the Trainer's: given to it, or made by an overridden method."""
        cls: Any = type(self)
        optimizer: Any = None if self._own_optimizer else self.optimizer
        optimizer = getattr(optimizer, "optimizer", optimizer)
        scheduler = self._given_scheduler
        name = type(optimizer).__name__ if optimizer is not None else ""
        if not name and _is_overridden(cls, "create_optimizer"):
            name = "create_optimizer"
        of_scheduler = type(scheduler).__name__ if scheduler is not None else ""
        if not of_scheduler and _is_overridden(cls, "create_scheduler"):
            of_scheduler = "create_scheduler"
        group = optimizer.param_groups[0] if optimizer is not None else None
        is_function = isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        return CustomOptimizers(
            name,
            of_scheduler,
            float(group.get("initial_lr", group["lr"])) if group is not None else None,
            scheduler.lr_lambdas[0] if is_function else None,
        )

    def _hyperparameters(self) -> dict[str, Any]:
        """Every training argument and the program's own options, as plain values."""
        found = hyperparameters_of(self.args, {**self._own_options, **self._handed().names()})
        if self._given_eval_batch:
            # As it was asked for: smaller ones are this process's answer to its memory.
            found["per_device_eval_batch_size"] = self._given_eval_batch
        return found

    def _bare_report(self, trial: Any, start_time: float) -> Any:
        """What an epoch gives to `_enter_training`, for a training that has no epoch left."""
        return partial(
            self._maybe_log_save_evaluate,
            model=self.model,
            trial=trial,
            epoch=self._progress.position.epoch,
            ignore_keys_for_eval=None,
            start_time=start_time,
        )


def _is_overridden(cls: type, name: str) -> bool:
    """Whether a class of the program has this method, on either side of the mixin."""
    return any(name in vars(one) for one in cls.__mro__ if one not in (Restoring, Trainer))


def goes_by_metrics(scheduler: Any) -> bool:
    """What validations have reduced is no function of the step, and has no length."""
    return isinstance(scheduler, METRIC_SCHEDULERS)


def _mapped(curve: Any, schedule: ScheduleMap) -> Any:
    def factor(step: int) -> float:
        return float(curve(schedule(step)))

    return factor
