"""What a resume plan says beside its figures: the lines `note`."""

from __future__ import annotations

from llamarec.checkpoints.resume.compatibility import Change
from llamarec.checkpoints.resume.process import CurrentProcess
from llamarec.checkpoints.resume.progress import Progress
from llamarec.checkpoints.resume.schedule import ScheduleMap
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.storage.layout import RNG_PATTERN


def remarks(
    choice: ResumeChoice,
    changes: list[Change],
    before: Progress,
    old_map: ScheduleMap,
    now: CurrentProcess,
    *,
    step: int,
    steps_to_go: int,
    stopped: bool,
) -> list[str]:
    """All of them.

    Args:
        choice: The checkpoint.
        changes: Against it.
        before: Where its training was.
        old_map: Its schedule.
        now: This process.
        step: Optimizer steps done.
        steps_to_go: From here to the end.
        stopped: Its early stop stands.
    """
    return [
        *_of_training(choice, before, old_map, step, steps_to_go, stopped, now),
        *_of_best(changes, now),
        *_of_unknown(choice, changes, now),
    ]


def _of_training(
    choice: ResumeChoice,
    before: Progress,
    old_map: ScheduleMap,
    step: int,
    steps_to_go: int,
    stopped: bool,
    now: CurrentProcess,
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


def _of_best(changes: list[Change], now: CurrentProcess) -> list[str]:
    measured = sorted(change.name for change in changes if change.name in now.origins.measures)
    what = ", ".join(measured)
    text = f"the best model so far was validated with another {what}: it is chosen anew from here on"
    return [text] if measured else []


def _of_unknown(choice: ResumeChoice, changes: list[Change], now: CurrentProcess) -> list[str]:
    """Where a plan knows less than the training will: changes that may make it another run."""
    manifest, notes = choice.verdict.manifest, []
    unknown = manifest.fingerprints.keys() - now.fingerprints.keys() if manifest is not None else set()
    for change in changes:
        names = [name for name in now.origins.of(change.name) if name in unknown and not now.allowed & {name, "all"}]
        if change.decision == "applied" and names:
            flag = f"--allow_changed {','.join(names)}"
            notes.append(f"--{change.name} decides {' and '.join(names)}: training refuses what differs without {flag}")
    return notes
