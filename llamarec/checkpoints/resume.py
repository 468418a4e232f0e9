"""From a chosen checkpoint and this process's arguments to how training goes on; loads no model and no weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.optimization import get_scheduler

from llamarec.checkpoints.compatibility import Change, Origins, compare, compare_fingerprints, refuse
from llamarec.checkpoints.discovery import Choice
from llamarec.checkpoints.integrity import PARTS
from llamarec.checkpoints.layout import RNG_PATTERN, SCHEDULER, TRAINER_STATE, step_of
from llamarec.checkpoints.loading import load_json, load_pickled, refuse_hostile
from llamarec.checkpoints.plan import ResumePlan
from llamarec.checkpoints.position import Geometry
from llamarec.checkpoints.progress import Progress, plain_progress, progress_in
from llamarec.checkpoints.schedule import ScheduleMap, resumed

# After these the end of training is another one, so that an early stop does not stand.
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
OWN_OPTIMIZER, OWN_SCHEDULER = "own_optimizer", "own_scheduler"
"""Names, among the hyperparameters, of what the program made itself; empty where the Trainer made it."""


@dataclass(frozen=True)
class Handed:
    """What a program made itself instead of leaving it to the Trainer.

    Attributes:
        optimizer: Its class; empty: the Trainer's.
        scheduler: Its class; empty: the Trainer's.
        base_rate: The optimizer's learning rate as it was made; None where that is not known.
        curve: The scheduler's factor by optimizer step, where it is a function of that.
    """

    optimizer: str = ""
    scheduler: str = ""
    base_rate: float | None = None
    curve: Callable[[float], float] | None = None

    def names(self) -> dict[str, str]:
        """For the hyperparameters of a manifest."""
        return {OWN_OPTIMIZER: self.optimizer, OWN_SCHEDULER: self.scheduler}


@dataclass(frozen=True)
class Now:
    """This process, as far as a resume is concerned.

    Attributes:
        args: Its training arguments.
        num_samples: Of an epoch; None = as in the checkpoint.
        hyperparameters: Arguments and the program's own options, as plain values.
        defaults: Of this command, for what was taken over from the checkpoint instead.
        fingerprints: What identifies the run.
        allowed: Names that may differ.
        handed: What the program made itself; its names are among the hyperparameters too.
        origins: Of the fingerprints.
    """

    args: TrainingArguments
    num_samples: int | None
    hyperparameters: Mapping[str, Any]
    defaults: Mapping[str, Any]
    fingerprints: Mapping[str, Any]
    allowed: frozenset[str]
    handed: Handed = Handed()
    origins: Origins = field(default_factory=Origins)

    @property
    def has_own_scheduler(self) -> bool:
        """Whether the learning rate is the program's own business."""
        return bool(self.hyperparameters.get(OWN_SCHEDULER))

    @property
    def has_own_optimizer(self) -> bool:
        """Whether the optimizer is."""
        return bool(self.hyperparameters.get(OWN_OPTIMIZER))

    @property
    def batch(self) -> int:
        """Samples per optimizer step."""
        return effective_batch(self.args)


@dataclass(frozen=True)
class Resume:
    """A decided resume.

    Attributes:
        choice: The checkpoint.
        trainer_state: Content of its trainer_state.json; empty if that is lost.
        progress: Where training goes on.
        plan: What is printed.
        stops: The checkpoint's early stop stands.
        new_optimizer: The optimizer is one that cannot take over the moments of the checkpoint's.
        new_scheduler: The program's own scheduler is another one than the checkpoint's.
        has_own_scheduler: There is one.
        num_epochs: As the checkpoint had it, where nothing about the length has changed; 0 = to be counted.
    """

    choice: Choice
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
        return not self.plan.steps_to_go_before or _stopped_early(self.trainer_state)

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


def effective_batch(args: TrainingArguments) -> int:
    """Samples per optimizer step, over micro-batches and processes."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def hyperparameters_of(args: TrainingArguments, own_options: Mapping[str, Any]) -> dict[str, Any]:
    """Every training argument and a program's own options, as plain values."""
    content: dict[str, Any] = json.loads(args.to_json_string())
    return {**content, **json.loads(json.dumps(dict(own_options), default=str))}


def decide(choice: Choice, now: Now) -> Resume:
    """How training goes on from a checkpoint.

    Raises:
        CheckpointError: it is of another run, or a file of it cannot be read, or is hostile.
    """
    path, missing = choice.verdict.path, choice.verdict.missing
    refuse_hostile(path, now.allowed)
    content = {} if TRAINER_STATE in missing else load_json(path / TRAINER_STATE)
    changes = _changes(choice, now)
    before = _progress_before(choice, content, now)
    step = int(content.get("global_step", step_of(path) or 0))
    geometry = Geometry(now.num_samples or before.num_samples, now.batch)
    same_length = _is_same_length(choice, changes, before, geometry)
    if same_length and before.schedule is not None:
        # Not counted again: a callback may have cut epochs short.
        steps_to_go = max(before.schedule.end - step, 0)
    else:
        steps_to_go = _steps_to_go(geometry, before, step, now.args)
    old_map = before.schedule or ScheduleMap(step + steps_to_go, step + steps_to_go)
    schedule = _schedule(old_map, step, steps_to_go, before.batch, now)
    changes = [_explained(change, now, was_finished=step >= old_map.end, steps_to_go=steps_to_go) for change in changes]
    resets = "per_device_train_batch_size" in {change.name for change in changes}
    progress = Progress(
        position=before.position,
        num_samples=geometry.num_samples,
        batch=geometry.batch,
        micro_batch=0 if resets else before.micro_batch,
        schedule=schedule,
        loss_since_log=before.loss_since_log,
        loss_total=before.loss_total,
        logged_step=before.logged_step,
        grad_norm=before.grad_norm,
        learning_rate=before.learning_rate,
        events_due=before.events_due,
    )
    extends = any(change.name in _EXTENDING for change in changes if change.decision == "applied")
    stopped = _stopped_early(content) and not extends
    plan = ResumePlan(
        choice=choice,
        step=step,
        position=progress.position,
        num_samples=geometry.num_samples,
        steps_to_go=0 if stopped else steps_to_go,
        steps_to_go_before=max(old_map.end - step, 0),
        batch=(_batch_before(choice, before, now), now.batch),
        rate=_rates(choice, now, schedule, step, changes) if steps_to_go and not stopped else None,
        changes=tuple(changes),
        lost=tuple(f"{part}: {PARTS.get(part, '')} start anew" for part in missing),
        notes=(*_notes(choice, before, old_map, step, steps_to_go, stopped, now), *_not_compared(choice, changes, now)),
        how_to_extend="--early_stopping_patience with a larger number" if stopped else _EXTEND,
    )
    return Resume(
        choice,
        content,
        progress,
        plan,
        stopped,
        any(_is_new_optimizer(change) for change in changes),
        int(content.get("num_train_epochs") or 0) if same_length else 0,
        any(change.name == OWN_SCHEDULER for change in changes),
        now.has_own_scheduler,
    )


def _schedule(old_map: ScheduleMap, step: int, steps_to_go: int, batch_before: int, now: Now) -> ScheduleMap:
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


_EXTEND = "--num_train_epochs or --max_steps with a larger number"


def _is_same_length(choice: Choice, changes: list[Change], before: Progress, geometry: Geometry) -> bool:
    names = {change.name for change in changes if change.decision == "applied"}
    same = before.num_samples == geometry.num_samples and before.batch == geometry.batch
    return choice.verdict.manifest is not None and same and not names & (_LENGTHS | _CUTS)


def _batch_before(choice: Choice, before: Progress, now: Now) -> int:
    """How many micro-batches a plain Trainer added up stands in its program only."""
    is_unknown = choice.verdict.manifest is None and now.num_samples is None
    return now.batch if is_unknown else before.batch


def _explained(change: Change, now: Now, *, was_finished: bool, steps_to_go: int) -> Change:
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
    return change.name in ("optim", OWN_OPTIMIZER) and len(kinds) > 1 and "create_optimizer" not in kinds


def _changes(choice: Choice, now: Now) -> list[Change]:
    manifest = choice.verdict.manifest
    if manifest is None:
        return []
    new = {**now.hyperparameters, "num_processes": now.args.world_size}
    old = {**manifest.hyperparameters, "num_processes": manifest.environment.get("num_processes", 1)}
    changes = compare_fingerprints(manifest.fingerprints, now.fingerprints, allowed=now.allowed)
    changes += compare(old, new, kept=now.defaults, allowed=now.allowed)
    origins = now.origins
    if origins.run_id != manifest.run_id:
        origins = replace(origins, advice={})
    refuse(str(choice.verdict.path), changes, origins)
    return changes


def _progress_before(choice: Choice, content: dict[str, Any], now: Now) -> Progress:
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


def _stopped_early(content: dict[str, Any]) -> bool:
    """Whether patience ran out; what else a callback stops for (a time limit, ...) is over with its process."""
    states = content.get("stateful_callbacks") or {}
    stops = bool(((states.get("TrainerControl") or {}).get("args") or {}).get("should_training_stop"))
    entries = states.get("EarlyStoppingCallback") or []
    entries = entries if isinstance(entries, list) else [entries]
    patient = all(
        entry["attributes"]["early_stopping_patience_counter"] < entry["args"]["early_stopping_patience"]
        for entry in entries
    )
    return stops and not patient and int(content.get("global_step", 0)) < int(content.get("max_steps", 0))


def _notes(
    choice: Choice, before: Progress, old_map: ScheduleMap, step: int, steps_to_go: int, stopped: bool, now: Now
) -> list[str]:
    notes = []
    if stopped:
        notes.append("it had stopped early: the metric did not get better for --early_stopping_patience validations")
    elif step >= old_map.end and steps_to_go and not now.has_own_scheduler:
        notes.append(
            f"the run was finished, its learning-rate curve used up: it is laid over all {step + steps_to_go:,} steps"
        )
    if now.num_samples and before.num_samples and now.num_samples != before.num_samples:
        why = " (--dataloader_drop_last counts by the micro-batch)" if now.args.dataloader_drop_last else ""
        notes.append(f"an epoch has {now.num_samples:,} samples instead of {before.num_samples:,}{why}")
    if before.micro_batch:
        notes.append(f"micro-batches of {before.micro_batch}, found after an out of memory")
    saved = sum(1 for path in choice.verdict.path.iterdir() if RNG_PATTERN.fullmatch(path.name))
    if saved and saved != now.args.world_size:
        notes.append(
            f"{now.args.world_size} processes instead of {saved}: further random states are drawn from the seed"
        )
    return notes


def _not_compared(choice: Choice, changes: list[Change], now: Now) -> list[str]:
    """Where a plan knows less than the training will: changes that may make it another run."""
    manifest, notes = choice.verdict.manifest, []
    measured = sorted(change.name for change in changes if change.name in now.origins.measures)
    if measured:
        notes.append(
            f"the best model so far was validated with another {', '.join(measured)}: it is chosen anew from here on"
        )
    for change in changes:
        known = manifest.fingerprints.keys() - now.fingerprints.keys() if manifest is not None else set()
        names = [name for name in now.origins.of(change.name) if name in known and not now.allowed & {name, "all"}]
        if change.decision == "applied" and names:
            flag = f"--allow_changed {','.join(names)}"
            notes.append(f"--{change.name} decides {' and '.join(names)}: training refuses what differs without {flag}")
    return notes


def _rates(
    choice: Choice, now: Now, schedule: ScheduleMap, step: int, changes: list[Change]
) -> tuple[float, float] | None:
    """Learning rate of the first group as the checkpoint had it, and at the next step; None where that is not known."""
    if SCHEDULER in choice.verdict.missing:
        return None
    state = load_pickled(choice.verdict.path / SCHEDULER)
    if not isinstance(state, dict):
        return None
    rates = state.get("_last_lr")
    curve = now.handed.curve if now.has_own_scheduler else curve_of(now.args, schedule.total)
    base = _base_rate(state, now, changes)
    if curve is None or not rates or base is None:
        return None
    return float(rates[0]), base * curve(schedule(step))


def _base_rate(state: Any, now: Now, changes: list[Change]) -> float | None:
    if not now.has_own_optimizer:
        return float(now.args.learning_rate)
    names = {change.name for change in changes if change.decision == "applied"}
    if names & {"learning_rate", OWN_OPTIMIZER}:
        return now.handed.base_rate
    rates = state.get("base_lrs")
    return float(rates[0]) if rates else None


def curve_of(args: TrainingArguments, total: int) -> Any:
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
