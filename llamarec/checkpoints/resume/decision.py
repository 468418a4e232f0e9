"""From a chosen checkpoint and this process's arguments to how training continues; loads no model and no weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from transformers import TrainingArguments

from llamarec.checkpoints.resume.compatibility import Change, compare_fingerprints, compare_hyperparameters, refuse
from llamarec.checkpoints.resume.learning_rate import rates
from llamarec.checkpoints.resume.notes import remarks
from llamarec.checkpoints.resume.plan import HOW_TO_EXTEND, ResumePlan
from llamarec.checkpoints.resume.position import Geometry
from llamarec.checkpoints.resume.process import HANDED_AS_CLASS, OWN_OPTIMIZER, OWN_SCHEDULER, CurrentProcess
from llamarec.checkpoints.resume.progress import Progress, plain_progress, progress_in
from llamarec.checkpoints.resume.safe_load import refuse_hostile
from llamarec.checkpoints.resume.schedule import ScheduleMap, resumed
from llamarec.checkpoints.resume.trainer_state import read_trainer_state, stopped_early
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.storage.layout import TRAINER_STATE, step_of
from llamarec.checkpoints.storage.verification import PARTS

# A change of these moves the end of training, so an early stop no longer holds.
_LENGTHS = frozenset({"num_train_epochs", "max_steps"})
_CUTS = frozenset(
    {"per_device_train_batch_size", "gradient_accumulation_steps", "num_processes", "dataloader_drop_last"}
)
METRIC = frozenset({"metric_for_best_model", "greater_is_better"})
"""Arguments that decide what is best."""
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
        trainer_state: Content of its trainer_state.json; empty if that is lost.
        progress: Where training continues.
        plan: What is printed.
        stops: Whether the checkpoint's early stop still holds.
        new_optimizer: Whether the optimizer is of another kind, which cannot use the checkpoint's moments.
        num_epochs: The checkpoint's number, where nothing about the length has changed; 0 = to be counted.
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
        """Whether the checkpoint is the end of a training, as far as that was to go."""
        return not self.plan.steps_to_go_before or stopped_early(self.trainer_state)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.plan.step

    @property
    def steps_to_go(self) -> int:
        """Optimizer steps to the end, whether or not an early stop stands."""
        return self.progress.schedule.end - self.step if self.progress.schedule is not None else 0

    @property
    def applied_to_groups(self) -> frozenset[str]:
        """Keys of the optimizer's groups that follow this process's arguments; all of them without a manifest."""
        changed = self.plan.changed if self.choice.verdict.manifest is not None else frozenset(_GROUP_KEYS)
        return frozenset(key for name in changed for key in _GROUP_KEYS.get(name, ()))


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """The checkpoint's side of a resume.

    Attributes:
        choice: The checkpoint.
        content: Its trainer_state.json; empty if that is lost.
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
        geometry: How samples are taken now.
        is_same: Nothing that decides the length has changed.
        steps_to_go: Optimizer steps to the end, whether or not an early stop stands.
        old_map: The checkpoint's schedule.
        schedule: The schedule from here on.
    """

    geometry: Geometry
    is_same: bool
    steps_to_go: int
    old_map: ScheduleMap
    schedule: ScheduleMap


def decide(choice: ResumeChoice, now: CurrentProcess) -> Resume:
    """Decides how training continues from a checkpoint.

    Raises:
        CheckpointError: it belongs to another run, or one of its files cannot be read or is hostile.
    """
    saved = _read(choice, now)
    changes = _changes(choice, now)
    length = _length(saved, changes, now)

    was_finished = saved.step >= length.old_map.end
    changes = [_explained(change, now, was_finished=was_finished, steps_to_go=length.steps_to_go) for change in changes]
    stops = stopped_early(saved.content) and not _extends(changes)

    return Resume(
        choice=choice,
        trainer_state=saved.content,
        progress=_progress(saved.progress, length, changes),
        plan=_plan(saved, length, changes, now, stops=stops),
        stops=stops,
        new_optimizer=any(_is_new_optimizer(change) for change in changes),
        num_epochs=int(saved.content.get("num_train_epochs") or 0) if length.is_same else 0,
        new_scheduler=any(change.name == OWN_SCHEDULER for change in changes),
        has_own_scheduler=now.has_own_scheduler,
    )


def _read(choice: ResumeChoice, now: CurrentProcess) -> _Saved:
    path = choice.verdict.path
    refuse_hostile(path, now.allowed, is_preview=now.is_preview)

    content = {} if TRAINER_STATE in choice.verdict.missing else read_trainer_state(path)
    return _Saved(
        choice=choice,
        content=content,
        progress=_progress_before(content, now),
        step=int(content.get("global_step", step_of(path) or 0)),
    )


def _length(saved: _Saved, changes: list[Change], now: CurrentProcess) -> _Length:
    before, step = saved.progress, saved.step
    geometry = Geometry(now.num_samples or before.num_samples, now.batch)
    is_same = _is_same_length(saved.choice, changes, before, geometry)

    if is_same and before.schedule is not None:
        # Not counted again: a callback may have cut epochs short.
        steps_to_go = max(before.schedule.end - step, 0)
    else:
        steps_to_go = _steps_to_go(geometry, before, step, now.args)

    old_map = before.schedule or ScheduleMap(step + steps_to_go, step + steps_to_go)
    return _Length(
        geometry=geometry,
        is_same=is_same,
        steps_to_go=steps_to_go,
        old_map=old_map,
        schedule=_schedule(old_map, step, steps_to_go, before.batch, now),
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


def _plan(saved: _Saved, length: _Length, changes: list[Change], now: CurrentProcess, *, stops: bool) -> ResumePlan:
    choice, before, step = saved.choice, saved.progress, saved.step
    steps_to_go = 0 if stops else length.steps_to_go
    notes = remarks(
        choice, changes, before, length.old_map, now, step=step, steps_to_go=length.steps_to_go, stopped=stops
    )

    return ResumePlan(
        choice=choice,
        step=step,
        position=before.position,
        num_samples=length.geometry.num_samples,
        steps_to_go=steps_to_go,
        steps_to_go_before=max(length.old_map.end - step, 0),
        batch=(_batch_before(choice, before, now), now.batch),
        rate=rates(choice, now, length.schedule, step, changes) if steps_to_go else None,
        changes=tuple(changes),
        lost=tuple(f"{part}: {PARTS.get(part, '')} start over" for part in choice.verdict.missing),
        notes=tuple(notes),
        how_to_extend=_how_to_extend(step, now.args, stops=stops),
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


def _schedule(old_map: ScheduleMap, step: int, steps_to_go: int, batch_before: int, now: CurrentProcess) -> ScheduleMap:
    if now.has_own_scheduler:
        # Made for the length that training has now, as far as its maker knew: laid over it once, not twice.
        return ScheduleMap(step + steps_to_go, step + steps_to_go)
    return resumed(
        old_map,
        step,
        steps_to_go,
        warmup=now.args.get_warmup_steps(old_map.total),
        batch_before=batch_before,
        batch=now.batch,
    )


def _is_same_length(choice: ResumeChoice, changes: list[Change], before: Progress, geometry: Geometry) -> bool:
    names = {change.name for change in changes if change.decision == "applied"}
    same = before.num_samples == geometry.num_samples and before.batch == geometry.batch
    return choice.verdict.manifest is not None and same and not names & (_LENGTHS | _CUTS)


def _batch_before(choice: ResumeChoice, before: Progress, now: CurrentProcess) -> int:
    """How many micro-batches a plain Trainer added up stands in its program only."""
    is_unknown = choice.verdict.manifest is None and now.num_samples is None
    return now.batch if is_unknown else before.batch


def _explained(change: Change, now: CurrentProcess, *, was_finished: bool, steps_to_go: int) -> Change:
    """Why it is so in this run, where that is not what is true in general."""
    is_length, why = change.name in _LENGTHS, change.why
    if change.decision == "applied" and now.has_own_optimizer and change.name in _GROUP_KEYS:
        # What the program's own optimizer and scheduler make of a change is not ours to say.
        why = "as far as your own optimizer was made with it"
    elif change.decision == "applied" and now.has_own_scheduler and (is_length or change.name == "learning_rate"):
        why = "your own scheduler goes by optimizer steps as you made it; nothing is stretched"
    elif change.decision == "applied" and is_length and not steps_to_go:
        why = "that many are done already"
    elif is_length and was_finished and steps_to_go and not now.has_own_scheduler:
        # The curve of a finished run is used up, so more epochs do not merely stretch it.
        why = "the run was finished: see the note"
    return replace(change, why=why)


def _is_new_optimizer(change: Change) -> bool:
    """Of the AdamW of torch all variants (fused, ...) keep the same moments."""
    kinds = {str(name).removesuffix("_fused") for name in (change.old, change.new)}
    # What an overridden method makes is known when its state is loaded.
    # Of older checkpoints, too, where a class that was handed over had no name.
    unknown = "create_optimizer" in kinds or (not change.old and str(change.new).endswith(HANDED_AS_CLASS))
    return change.name in ("optim", OWN_OPTIMIZER) and len(kinds) > 1 and not unknown


def _changes(choice: ResumeChoice, now: CurrentProcess) -> list[Change]:
    manifest = choice.verdict.manifest
    if manifest is None:
        return []
    new = {**now.hyperparameters, "num_processes": now.args.world_size}
    old = {**manifest.hyperparameters, "num_processes": manifest.environment.get("num_processes", 1)}
    changes = compare_fingerprints(manifest.fingerprints, now.fingerprints, allowed=now.allowed)
    changes += compare_hyperparameters(old, new, kept=now.defaults, allowed=now.allowed)
    origins = now.origins
    if origins.run_id != manifest.run_id:
        origins = replace(origins, advice={})
    refuse(str(choice.verdict.path), changes, origins)
    return changes


def _progress_before(content: dict[str, Any], now: CurrentProcess) -> Progress:
    progress = progress_in(content)
    if progress is not None:
        return progress
    if not content:
        return Progress(num_samples=now.num_samples or 0, batch=now.batch)
    batch = int(content.get("train_batch_size") or now.args.train_batch_size) * now.args.gradient_accumulation_steps
    return plain_progress(content, now.num_samples or 1, batch * now.args.world_size)


def _steps_to_go(geometry: Geometry, before: Progress, step: int, args: TrainingArguments) -> int:
    if args.max_steps > 0:
        return max(int(args.max_steps) - step, 0)
    return geometry.steps_to_go(before.position, float(args.num_train_epochs))
