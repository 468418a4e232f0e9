"""The lines `note` of a resume plan."""

from __future__ import annotations

from llamarec.checkpoints.resume.compatibility import Change
from llamarec.checkpoints.resume.current_process import CurrentProcess
from llamarec.checkpoints.resume.progress import Progress
from llamarec.checkpoints.resume.schedule import ScheduleMap
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.storage.layout import RNG_PATTERN


def remarks(
    choice: ResumeChoice,
    changes: list[Change],
    before: Progress,
    old_map: ScheduleMap,
    process: CurrentProcess,
    *,
    step: int,
    steps_to_go: int,
    stopped: bool,
) -> list[str]:
    """All notes of a plan.

    Args:
        choice: The checkpoint.
        changes: Differences from the checkpoint.
        before: The checkpoint's progress.
        old_map: The checkpoint's schedule.
        process: The process that resumes.
        step: Optimizer steps done.
        steps_to_go: Optimizer steps to the end.
        stopped: Whether the checkpoint's early stop still holds.
    """
    return [
        *_of_training(choice, before, old_map, step, steps_to_go, stopped, process),
        *_of_best(changes, process),
        *_of_unknown(choice, changes, process),
    ]


def _of_training(
    choice: ResumeChoice,
    before: Progress,
    old_map: ScheduleMap,
    step: int,
    steps_to_go: int,
    stopped: bool,
    process: CurrentProcess,
) -> list[str]:
    notes = []

    if stopped:
        notes.append("the run stopped early: the metric did not improve for --early_stopping_patience validations")
    elif step >= old_map.end and steps_to_go and not process.has_own_scheduler:
        notes.append(
            f"the run was finished, its learning-rate curve ended: the curve now spans all {step + steps_to_go:,} steps"
        )

    if process.num_samples and before.num_samples and process.num_samples != before.num_samples:
        why = " (--dataloader_drop_last counts by the micro-batch)" if process.args.dataloader_drop_last else ""
        notes.append(f"an epoch has {process.num_samples:,} samples instead of {before.num_samples:,}{why}")
    if before.micro_batch:
        notes.append(f"micro-batches of {before.micro_batch}, found after an out-of-memory error")
    saved = sum(1 for path in choice.verdict.path.iterdir() if RNG_PATTERN.fullmatch(path.name))
    if saved and saved != process.args.world_size:
        notes.append(
            f"{process.args.world_size} processes instead of {saved}: the other random states come from the seed"
        )
    return notes


def _of_best(changes: list[Change], process: CurrentProcess) -> list[str]:
    measured = sorted(change.name for change in changes if change.name in process.origins.measures)
    what = ", ".join(measured)
    text = f"the best model so far was validated with a different {what}: the best is chosen again from here on"
    return [text] if measured else []


def _of_unknown(choice: ResumeChoice, changes: list[Change], process: CurrentProcess) -> list[str]:
    """Changes that may make it another run, which only the training, not the plan, can tell."""
    manifest, notes = choice.verdict.manifest, []
    unknown = manifest.fingerprints.keys() - process.fingerprints.keys() if manifest is not None else set()
    for change in changes:
        names = [
            name for name in process.origins.of(change.name) if name in unknown and not process.allowed & {name, "all"}
        ]
        if change.decision == "applied" and names:
            flag = f"--allow_changed {','.join(names)}"
            notes.append(f"--{change.name} decides {' and '.join(names)}: training refuses a difference without {flag}")
    return notes
