"""How training continues from a chosen checkpoint, with this process's arguments; loads no model and no weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from transformers import TrainingArguments

from llamarec.checkpoints.resume.compatibility import Change, compare_fingerprints, compare_hyperparameters, refuse
from llamarec.checkpoints.resume.current_process import HANDED_AS_CLASS, OWN_OPTIMIZER, OWN_SCHEDULER, CurrentProcess
from llamarec.checkpoints.resume.learning_rate import rates
from llamarec.checkpoints.resume.plan import HOW_TO_EXTEND, ResumePlan
from llamarec.checkpoints.resume.plan_notes import remarks
from llamarec.checkpoints.resume.position import Geometry
from llamarec.checkpoints.resume.progress import Progress, plain_progress, progress_in
from llamarec.checkpoints.resume.safe_load import refuse_hostile
from llamarec.checkpoints.resume.schedule import ScheduleMap, resumed
from llamarec.checkpoints.resume.trainer_state import read_trainer_state, stopped_early
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.storage.layout import TRAINER_STATE, step_of
from llamarec.checkpoints.storage.verification import PARTS

# Changing one of these moves the end of training, so an early stop no longer holds.
_LENGTHS = frozenset({"num_train_epochs", "max_steps"})
_CUTS = frozenset(
    {"per_device_train_batch_size", "gradient_accumulation_steps", "num_processes", "dataloader_drop_last"}
)
METRIC = frozenset({"metric_for_best_model", "greater_is_better"})
"""Arguments that decide which checkpoint is best."""
_GROUP_KEYS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr", "initial_lr"),
    "weight_decay": ("weight_decay",),
    "adam_beta1": ("betas",),
    "adam_beta2": ("betas",),
    "adam_epsilon": ("eps",),
    "optim_args": ("betas", "eps", "momentum", "alpha", "nesterov", "amsgrad"),
}
_EXTENDING = _LENGTHS | {"early_stopping_patience"}


@dataclass(frozen=True, kw_only=True)
class Resume:
    """A decided resume.

    Attributes:
        choice: The checkpoint.
        trainer_state: Content of its trainer_state.json; empty if the file is missing.
        progress: Progress from which training continues.
        plan: The plan to print.
        stops: Whether the checkpoint's early stop still holds.
        new_optimizer: Whether the optimizer is of another kind, which cannot use the checkpoint's moments.
        num_epochs: The checkpoint's number of epochs if the length is unchanged; 0 = to be counted.
        new_scheduler: Whether the program's own scheduler differs from the checkpoint's.
        has_own_scheduler: Whether the program made its own scheduler.
    """

    choice: ResumeChoice
    trainer_state: dict[str, Any]
    progress: Progress
    plan: ResumePlan
    stops: bool = False
    new_optimizer: bool = False
    num_epochs: int = 0
    new_scheduler: bool = False
    has_own_scheduler: bool = False

    @property
    def is_of_another_length(self) -> bool:
        """Whether training ends at another step than the checkpoint said."""
        return self.plan.steps_to_go_before != self.steps_to_go

    @property
    def was_finished(self) -> bool:
        """Whether the checkpoint is the end of its training, planned or by early stopping."""
        return not self.plan.steps_to_go_before or stopped_early(self.trainer_state)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.plan.step

    @property
    def steps_to_go(self) -> int:
        """Optimizer steps to the end, regardless of an early stop."""
        return self.progress.schedule.end - self.step if self.progress.schedule is not None else 0

    @property
    def applied_to_groups(self) -> frozenset[str]:
        """Keys of the optimizer's groups that take this process's values; all keys without a manifest."""
        changed = self.plan.changed if self.choice.verdict.manifest is not None else frozenset(_GROUP_KEYS)
        return frozenset(key for name in changed for key in _GROUP_KEYS.get(name, ()))


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """The checkpoint's side of a resume.

    Attributes:
        choice: The checkpoint.
        content: Content of its trainer_state.json; empty if the file is missing.
        progress: Its progress.
        step: Optimizer steps done.
    """

    choice: ResumeChoice
    content: dict[str, Any]
    progress: Progress
    step: int


@dataclass(frozen=True, kw_only=True)
class _Length:
    """How far training goes from the checkpoint.

    Attributes:
        geometry: Samples per epoch and per step in this process.
        is_same: Whether nothing that determines the length has changed.
        steps_to_go: Optimizer steps to the end, regardless of an early stop.
        old_map: The checkpoint's schedule.
        schedule: The schedule from here on.
    """

    geometry: Geometry
    is_same: bool
    steps_to_go: int
    old_map: ScheduleMap
    schedule: ScheduleMap


def decide(choice: ResumeChoice, process: CurrentProcess) -> Resume:
    """Decides how training continues from a checkpoint.

    Raises:
        CheckpointError: it belongs to another run, or one of its files cannot be read or is hostile.
    """
    saved = _read(choice, process)
    changes = _changes(choice, process)
    length = _length(saved, changes, process)

    was_finished = saved.step >= length.old_map.end
    changes = [
        _explained(change, process, was_finished=was_finished, steps_to_go=length.steps_to_go) for change in changes
    ]
    stops = stopped_early(saved.content) and not _extends(changes)

    return Resume(
        choice=choice,
        trainer_state=saved.content,
        progress=_progress(saved.progress, length, changes),
        plan=_plan(saved, length, changes, process, stops=stops),
        stops=stops,
        new_optimizer=any(_is_new_optimizer(change) for change in changes),
        num_epochs=int(saved.content.get("num_train_epochs") or 0) if length.is_same else 0,
        new_scheduler=any(change.name == OWN_SCHEDULER for change in changes),
        has_own_scheduler=process.has_own_scheduler,
    )


def _read(choice: ResumeChoice, process: CurrentProcess) -> _Saved:
    path = choice.verdict.path
    refuse_hostile(path, process.allowed, is_preview=process.is_preview)

    content = {} if TRAINER_STATE in choice.verdict.missing else read_trainer_state(path)
    return _Saved(
        choice=choice,
        content=content,
        progress=_progress_before(content, process),
        step=int(content.get("global_step", step_of(path) or 0)),
    )


def _length(saved: _Saved, changes: list[Change], process: CurrentProcess) -> _Length:
    before, step = saved.progress, saved.step
    geometry = Geometry(process.num_samples or before.num_samples, process.batch)
    is_same = _is_same_length(saved.choice, changes, before, geometry)

    if is_same and before.schedule is not None:
        # Not counted again: a callback may have cut epochs short.
        steps_to_go = max(before.schedule.end - step, 0)
    else:
        steps_to_go = _steps_to_go(geometry, before, step, process.args)

    old_map = before.schedule or ScheduleMap(step + steps_to_go, step + steps_to_go)
    return _Length(
        geometry=geometry,
        is_same=is_same,
        steps_to_go=steps_to_go,
        old_map=old_map,
        schedule=_schedule(old_map, step, steps_to_go, before.batch, process),
    )


def _progress(before: Progress, length: _Length, changes: list[Change]) -> Progress:
    """The checkpoint's progress with this process's batch and schedule."""
    resets = "per_device_train_batch_size" in {change.name for change in changes}

    # `step` stays 0 until the first save, which sets it.
    return replace(
        before,
        step=0,
        num_samples=length.geometry.num_samples,
        batch=length.geometry.batch,
        micro_batch=0 if resets else before.micro_batch,
        schedule=length.schedule,
    )


def _plan(saved: _Saved, length: _Length, changes: list[Change], process: CurrentProcess, *, stops: bool) -> ResumePlan:
    choice, before, step = saved.choice, saved.progress, saved.step
    steps_to_go = 0 if stops else length.steps_to_go
    notes = remarks(
        choice, changes, before, length.old_map, process, step=step, steps_to_go=length.steps_to_go, stopped=stops
    )

    return ResumePlan(
        choice=choice,
        step=step,
        position=before.position,
        num_samples=length.geometry.num_samples,
        steps_to_go=steps_to_go,
        steps_to_go_before=max(length.old_map.end - step, 0),
        batch=(_batch_before(choice, before, process), process.batch),
        rate=rates(choice, process, length.schedule, step, changes) if steps_to_go else None,
        changes=tuple(changes),
        lost=tuple(f"{part}: {PARTS.get(part, '')} start over" for part in choice.verdict.missing),
        notes=tuple(notes),
        how_to_extend=_how_to_extend(step, process.args, stops=stops),
    )


def _how_to_extend(step: int, args: TrainingArguments, *, stops: bool) -> str:
    if stops:
        return "--early_stopping_patience with a larger number"
    if args.max_steps > 0:
        # Where it is given, the number of epochs does not count.
        return f"--max_steps above {step:,}" + (f", not {args.max_steps:,}" if args.max_steps < step else "")

    return HOW_TO_EXTEND


def _extends(changes: list[Change]) -> bool:
    """Whether the user asked for more training than the checkpoint's early stop allows."""
    return any(change.name in _EXTENDING for change in changes if change.decision == "applied")


def _schedule(
    old_map: ScheduleMap, step: int, steps_to_go: int, batch_before: int, process: CurrentProcess
) -> ScheduleMap:
    if process.has_own_scheduler:
        # The program made it for the present length, so it must not be stretched again.
        return ScheduleMap(step + steps_to_go, step + steps_to_go)
    return resumed(
        old_map,
        step,
        steps_to_go,
        warmup=process.args.get_warmup_steps(old_map.total),
        batch_before=batch_before,
        batch=process.batch,
    )


def _is_same_length(choice: ResumeChoice, changes: list[Change], before: Progress, geometry: Geometry) -> bool:
    names = {change.name for change in changes if change.decision == "applied"}
    same = before.num_samples == geometry.num_samples and before.batch == geometry.batch
    return choice.verdict.manifest is not None and same and not names & (_LENGTHS | _CUTS)


def _batch_before(choice: ResumeChoice, before: Progress, process: CurrentProcess) -> int:
    """Samples per step in the checkpoint; a plain Trainer's does not record its gradient accumulation."""
    is_unknown = choice.verdict.manifest is None and process.num_samples is None
    return process.batch if is_unknown else before.batch


def _explained(change: Change, process: CurrentProcess, *, was_finished: bool, steps_to_go: int) -> Change:
    """A change with its reason in this run, if that differs from the general one."""
    is_length, why = change.name in _LENGTHS, change.why
    if change.decision == "applied" and process.has_own_optimizer and change.name in _GROUP_KEYS:
        # The effect of a change depends on how the program made its own optimizer and scheduler.
        why = "only if your own optimizer was made with it"
    elif change.decision == "applied" and process.has_own_scheduler and (is_length or change.name == "learning_rate"):
        why = "your own scheduler follows optimizer steps as you made it; nothing is stretched"
    elif change.decision == "applied" and is_length and not steps_to_go:
        why = "that many are done already"
    elif is_length and was_finished and steps_to_go and not process.has_own_scheduler:
        # The curve of a finished run has ended, so more epochs cannot stretch the rest of it.
        why = "the run was finished: see the note"
    return replace(change, why=why)


def _is_new_optimizer(change: Change) -> bool:
    """Whether a change means another kind of optimizer; the variants of torch's AdamW (fused, ...) are one kind."""
    kinds = {str(name).removesuffix("_fused") for name in (change.old, change.new)}
    # Only loading the state shows what an overridden create_optimizer made. The same holds for older checkpoints,
    # which do not name a class that was handed over.
    unknown = "create_optimizer" in kinds or (not change.old and str(change.new).endswith(HANDED_AS_CLASS))
    return change.name in ("optim", OWN_OPTIMIZER) and len(kinds) > 1 and not unknown


def _changes(choice: ResumeChoice, process: CurrentProcess) -> list[Change]:
    manifest = choice.verdict.manifest
    if manifest is None:
        return []
    new = {**process.hyperparameters, "num_processes": process.args.world_size}
    old = {**manifest.hyperparameters, "num_processes": manifest.environment.get("num_processes", 1)}
    changes = compare_fingerprints(manifest.fingerprints, process.fingerprints, allowed=process.allowed)
    changes += compare_hyperparameters(old, new, kept=process.defaults, allowed=process.allowed)
    origins = process.origins
    if origins.run_id != manifest.run_id:
        origins = replace(origins, advice={})
    refuse(str(choice.verdict.path), changes, origins)
    return changes


def _progress_before(content: dict[str, Any], process: CurrentProcess) -> Progress:
    progress = progress_in(content)
    if progress is not None:
        return progress
    if not content:
        return Progress(num_samples=process.num_samples or 0, batch=process.batch)
    batch = (
        int(content.get("train_batch_size") or process.args.train_batch_size) * process.args.gradient_accumulation_steps
    )
    return plain_progress(content, process.num_samples or 1, batch * process.args.world_size)


def _steps_to_go(geometry: Geometry, before: Progress, step: int, args: TrainingArguments) -> int:
    if args.max_steps > 0:
        return max(int(args.max_steps) - step, 0)
    return geometry.steps_to_go(before.position, float(args.num_train_epochs))
