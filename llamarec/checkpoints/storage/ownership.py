"""Whether a folder is free for a training: the checkpoints of another one are not replaced unasked.

Standard library only; reads, never writes.
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
    """A training that starts at step 0 without --restart needs a folder without checkpoints.

    Args:
        run: The folder.
        beyond_flags: Fingerprints that no flag of the command could turn into those of another run.
        allowed: Names that may differ.
        hints: The program's own advice.

    Raises:
        CheckpointError: says how to continue the run in the folder, if this command could.
    """
    start_over = f"to start over: --restart, or {(hints or ProgramHints()).other_folder}"
    there = of_this_run(run)
    if not there:
        return
    manifest, found = newest_manifest(there), ", ".join(path.name for path in there)
    then = manifest.fingerprints if manifest is not None else {}
    other = [name for name, value in beyond_flags.items() if name in then and then[name] != value]
    if other and not allowed & {*other, "all"}:
        # To resume it is no advice.
        raise CheckpointError(
            f"{run.path} holds the checkpoints of another run, of other data ({', '.join(other)})",
            found=found,
            hint=[
                start_over,
                "to see what differs: --resume_from_checkpoint",
            ],
        )
    raise CheckpointError(
        f"{run.path} holds the checkpoints of an earlier run; starting at step 0 would replace them",
        found=found,
        hint=[
            "to continue: --resume_from_checkpoint (takes the newest)",
            start_over,
        ],
        retry_with=("--resume_from_checkpoint",),
    )


def check_can_resume(run: RunFolder, choice: ResumeChoice) -> None:
    """A checkpoint from elsewhere must be one of the run whose checkpoints lie in the folder, if there are any.

    Raises:
        CheckpointError: names the folder that the checkpoint's own run has.
    """
    path = choice.verdict.path
    home = path.resolve().parent
    there = [] if home == run.path.resolve() else of_this_run(run)
    if not there or _is_of_that_run(choice, there):
        return
    raise CheckpointError(
        f"{run.path} holds the checkpoints of another run; going on there from {path} would replace them",
        found=", ".join(one.name for one in there),
        hint=[
            f"--output_dir {home} continues that run.",
            "A new --output_dir starts a separate one.",
            "--resume_from_checkpoint without a path continues the run in this folder.",
        ],
        retry_with=("--output_dir", str(home)),
    )


def check_same_run(run: RunFolder, manifest: Manifest, source: str) -> None:
    """A copy is brought back to the run that it was made of.

    Raises:
        CheckpointError: the checkpoints there are of another one.
    """
    theirs = newest_manifest(of_this_run(run))
    if theirs is None or theirs.run_id == manifest.run_id:
        return
    raise CheckpointError(
        f"{source} is of another run than the checkpoints in {run.path}",
        expected=f"a copy of run {theirs.run_id}",
        found=f"step {manifest.step:,} of run {manifest.run_id}",
        hint="give it a folder of its own instead of that one, for example "
        f"{run.path.parent.with_name(run.path.parent.name + '-2') / run.path.name}",
    )


def _is_of_that_run(choice: ResumeChoice, there: list[Path]) -> bool:
    ours, theirs = choice.verdict.manifest, newest_manifest(there)
    if theirs is None:
        # Of plain Trainers nothing says whose they are; what cannot be read is nobody's to protect.
        return ours is None or all((path / MANIFEST).exists() for path in there)
    if ours is None:
        return bool(theirs.sessions) and _began_with(theirs.sessions[0], choice)
    return ours.run_id == theirs.run_id and (_leads_to(ours, theirs) or _leads_to(theirs, ours))


def _began_with(session: Session, choice: ResumeChoice) -> bool:
    """Whether the run here went on from this very checkpoint of a plain Trainer before."""
    path = choice.verdict.path
    return (session.resumed_from, session.from_step) == (path.name, step_of(path))


def _leads_to(earlier: Manifest, later: Manifest) -> bool:
    """Whether a checkpoint lies on the way to another one; what branched off before does not.

    A process is known by the moment of its start.
    """
    if not earlier.sessions:
        return False
    starts = [session.started for session in later.sessions]
    if earlier.sessions[-1].started not in starts:
        # The list of a run that is started again for ever is cut in the middle.
        is_cut = len(starts) >= MAX_SESSIONS and earlier.sessions[0].started == starts[0]
        return is_cut and earlier.created <= later.created
    following = later.sessions[starts.index(earlier.sessions[-1].started) + 1 :]
    return not following or following[0].from_step >= earlier.step
