"""Whether a folder is free for a training. Checkpoints of another run are never replaced unasked.

Reads, never writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llamarec.checkpoints.config import ProgramHints
from llamarec.checkpoints.storage.discovery import ResumeChoice, newest_manifest, of_this_run
from llamarec.checkpoints.storage.layout import MANIFEST, RunFolder, step_of
from llamarec.checkpoints.storage.manifest import MAX_SESSIONS, Manifest, Session
from llamarec.errors import CheckpointError


def check_can_start(
    run: RunFolder,
    beyond_flags: Mapping[str, object],
    allowed: frozenset[str] = frozenset(),
    hints: ProgramHints | None = None,
) -> None:
    """Raises if a training that starts at step 0 without --restart finds checkpoints in its folder.

    Args:
        run: The folder.
        beyond_flags: Fingerprints that do not follow from any flag of the command.
        allowed: Names of fingerprints that may differ.
        hints: The program's own advice.

    Raises:
        CheckpointError: there are checkpoints; the message says how to continue their run, if this command could.
    """
    existing = of_this_run(run)
    if not existing:
        return

    start_over = f"to start over: --restart, or {(hints or ProgramHints()).other_folder}"
    manifest, found = newest_manifest(existing), ", ".join(path.name for path in existing)
    before = manifest.fingerprints if manifest is not None else {}
    different = [name for name, value in beyond_flags.items() if name in before and before[name] != value]

    if different and not allowed & {*different, "all"}:
        # No flags make this command fit the run, so the advice is not to resume it.
        raise CheckpointError(
            f"{run.path} holds the checkpoints of another run, with different {', '.join(different)}",
            found=found,
            hint=[start_over, "to see what differs: --resume_from_checkpoint"],
        )
    raise CheckpointError(
        f"{run.path} holds the checkpoints of an earlier run; starting at step 0 would replace them",
        found=found,
        hint=["to continue: --resume_from_checkpoint (takes the newest)", start_over],
        retry_with=("--resume_from_checkpoint",),
    )


def check_can_resume(run: RunFolder, choice: ResumeChoice) -> None:
    """Raises if a checkpoint from another folder belongs to another run than the checkpoints in this one.

    Raises:
        CheckpointError: it does; the message names the folder of the checkpoint's own run.
    """
    path = choice.verdict.path
    home = path.resolve().parent
    existing = [] if home == run.path.resolve() else of_this_run(run)
    if not existing or _belongs_to(choice, existing):
        return

    raise CheckpointError(
        f"{run.path} holds the checkpoints of another run; resuming {path} there would replace them",
        found=", ".join(one.name for one in existing),
        hint=[
            f"--output_dir {home} continues that run.",
            "A new --output_dir starts a separate one.",
            "--resume_from_checkpoint without a path continues the run in this folder.",
        ],
        retry_with=("--output_dir", str(home)),
    )


def check_same_run(run: RunFolder, manifest: Manifest, source: str) -> None:
    """Raises if a copy belongs to another run than the checkpoints in the folder.

    Args:
        run: The folder to which the copy is restored.
        manifest: The copy's manifest.
        source: Address of the copy, for the message.

    Raises:
        CheckpointError: it does.
    """
    theirs = newest_manifest(of_this_run(run))
    if theirs is None or theirs.run_id == manifest.run_id:
        return

    raise CheckpointError(
        f"{source} belongs to a different run than the checkpoints in {run.path}",
        expected=f"a copy of run {theirs.run_id}",
        found=f"step {manifest.step:,} of run {manifest.run_id}",
        hint="restore it to another folder, for example "
        f"{run.path.parent.with_name(run.path.parent.name + '-2') / run.path.name}",
    )


def _belongs_to(choice: ResumeChoice, existing: list[Path]) -> bool:
    """Whether a chosen checkpoint belongs to the run of the existing ones."""
    ours, theirs = choice.verdict.manifest, newest_manifest(existing)
    if theirs is None:
        # A plain Trainer's checkpoints do not name their run; unreadable ones are not protected.
        return ours is None or all((path / MANIFEST).exists() for path in existing)
    if ours is None:
        return bool(theirs.sessions) and _began_with(theirs.sessions[0], choice)
    return ours.run_id == theirs.run_id and (_leads_to(ours, theirs) or _leads_to(theirs, ours))


def _began_with(session: Session, choice: ResumeChoice) -> bool:
    """Whether the run in the folder once resumed this same checkpoint of a plain Trainer."""
    path = choice.verdict.path
    return (session.resumed_from, session.from_step) == (path.name, step_of(path))


def _leads_to(earlier: Manifest, later: Manifest) -> bool:
    """Whether a later checkpoint descends from an earlier one, and not from a branch before it.

    The time of its start identifies a process.
    """
    if not earlier.sessions:
        return False

    starts = [session.started for session in later.sessions]
    if earlier.sessions[-1].started not in starts:
        # A run that is resumed very often keeps only its first and latest sessions.
        is_cut = len(starts) >= MAX_SESSIONS and earlier.sessions[0].started == starts[0]
        return is_cut and earlier.created <= later.created
    following = later.sessions[starts.index(earlier.sessions[-1].started) + 1 :]
    return not following or following[0].from_step >= earlier.step
