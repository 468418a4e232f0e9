"""Which checkpoints a run has, and which one the user means. Reads, never writes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.best_model import read_best
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.checkpoints.storage.layout import TRAINER_STATE, RunFolder, step_of
from llamarec.checkpoints.storage.manifest import Manifest, read_manifest
from llamarec.checkpoints.storage.restart import is_superseded, sequence_of
from llamarec.checkpoints.storage.retention import SavedCheckpoint, newest_first
from llamarec.checkpoints.storage.verification import Check, Verdict, checked, verify, verify_again, verify_best
from llamarec.errors import CheckpointError

LATEST: Final = "latest"
BEST: Final = "best"
_FLAG: Final = "--resume_from_checkpoint"


@dataclass(frozen=True)
class ResumeChoice:
    """The checkpoint to resume.

    Attributes:
        verdict: What verification found.
        passed_over: Newer checkpoints that cannot be resumed, newest first.
        why: How it was chosen: latest, best or given.
        others: Other checkpoints that were verified on the way to this one.
    """

    verdict: Verdict
    passed_over: tuple[Verdict, ...] = ()
    why: str = "given"
    others: tuple[Verdict, ...] = ()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All verdicts behind this choice."""
        return (self.verdict, *self.passed_over, *self.others)


def inspect(run: RunFolder, *, deep: bool = False) -> list[Verdict]:
    """Verdicts on all checkpoints of a run, lowest step first."""
    return [verify(path, deep=deep) for path in run.checkpoints()]


def saved_checkpoint(verdict: Verdict) -> SavedCheckpoint:
    """A verified checkpoint as retention and `latest` see it."""
    manifest = verdict.manifest
    step = step_of(verdict.path)
    if manifest is None:
        return SavedCheckpoint(step or 0, -1, verdict.is_resumable, best_step=_best_step_of_plain(verdict.path))

    # A checkpoint saved with save_only_model lacks what a resume needs, but nothing of it is lost.
    return SavedCheckpoint(
        step=manifest.step if step is None else step,
        sequence=manifest.sequence,
        is_good=verdict.is_resumable or verdict.health == "incomplete",
        reason=manifest.reason,
        best_step=manifest.best_step,
    )


def _best_step_of_plain(checkpoint: Path) -> int | None:
    """The best step in a plain Trainer's state, the only file that names it."""
    try:
        state = json_shapes.read_object(checkpoint / TRAINER_STATE)
    except (OSError, ShapeError):
        return None
    return json_shapes.whole(state.get("best_global_step")) or None


def order_of_saves(run: RunFolder) -> list[Path]:
    """A run's checkpoints, newest save first, according to their manifests; hashes no files."""
    by_step = {saved.step: saved for saved in (_claimed(path) for path in run.checkpoints())}
    return [run.checkpoint(saved.step) for saved in newest_first(list(by_step.values()))]


def _claimed(path: Path) -> SavedCheckpoint:
    """A checkpoint as its manifest describes it, taken for good."""
    step = step_of(path) or 0
    return SavedCheckpoint(step, sequence_of(RunFolder(path.parent), step), is_good=True)


def newest_manifest(newest_first: Sequence[Path]) -> Manifest | None:
    """The manifest of the newest checkpoint that has a readable one; hashes no files."""
    for path in newest_first:
        try:
            manifest = read_manifest(path)
        except CheckpointError:
            continue
        if manifest is not None:
            return manifest
    return None


def next_sequence(run: RunFolder) -> int:
    """The number of the next save."""
    return 1 + max((_claimed(path).sequence for path in run.checkpoints()), default=-1)


def latest(run: RunFolder, known: Sequence[Verdict] = (), check: Check | None = None) -> ResumeChoice | None:
    """The newest checkpoint that verifies, and the newer ones that do not; None in a run without checkpoints.

    Checkpoints from before a restart do not count.

    Args:
        run: The run's folder.
        known: Earlier verdicts; files unchanged since then are not hashed again.
        check: A further condition; a checkpoint that fails it is passed over too.

    Raises:
        CheckpointError: there are checkpoints, but none verifies.
        HostileError: `check` found code in one.
    """
    passed_over: list[Verdict] = []
    for path in of_this_run(run):
        verdict = checked(_verified(path, known), check)
        if verdict.is_resumable:
            return ResumeChoice(verdict, tuple(passed_over), LATEST)
        passed_over.append(verdict)

    if passed_over:
        raise CheckpointError(
            f"none of the {len(passed_over)} checkpoints in {run.path} can be resumed",
            found=_listed(passed_over),
            hint=_instead_of_latest(passed_over),
            retry_with=next((_partially(verdict) for verdict in passed_over if can_resume_partially(verdict)), ()),
        )
    return None


def _instead_of_latest(verdicts: Sequence[Verdict]) -> str | list[str]:
    partial = [verdict for verdict in verdicts if can_resume_partially(verdict)]
    if partial:
        return f"{' '.join(_partially(partial[0]))} continues without: {', '.join(partial[0].missing)}"
    return ["restore one from a backup: llamarec checkpoints restore", "or start over in another --output_dir"]


def _partially(verdict: Verdict) -> tuple[str, ...]:
    return (_FLAG, str(verdict.path), "--allow_partial_resume")


def can_resume_partially(verdict: Verdict) -> bool:
    """Whether a checkpoint lacks parts, but none that training cannot continue without."""
    return verdict.is_partly_there and bool(verdict.missing)


def of_this_run(run: RunFolder) -> list[Path]:
    """The checkpoints of `order_of_saves` without those from before a restart.

    Raises:
        CheckpointError: restarted.json cannot be read.
    """
    order = order_of_saves(run)
    superseded = is_superseded(run, run.steps())
    return [path for path in order if not superseded[step_of(path) or 0]]


def _verified(path: Path, known: Sequence[Verdict]) -> Verdict:
    earlier = next((verdict for verdict in known if verdict.path == path), None)
    return verify(path) if earlier is None else verify_again(earlier)


def best(run: RunFolder, known: Sequence[Verdict] = (), check: Check | None = None) -> ResumeChoice:
    """The checkpoint of the best step, according to the newest good checkpoint.

    Args:
        run: The run's folder.
        known: As in `latest`.
        check: As in `latest`.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    newest = latest(run, known, check)
    if newest is None:
        beside = [path.name for path in run.path.parent.glob("*") if path.is_dir() and RunFolder(path).steps()]
        near = difflib.get_close_matches(run.path.name, beside, n=1)

        raise CheckpointError(
            f"there is no checkpoint in {run.path}",
            expected="a run's folder (--output_dir); the data set's own folder if you omit that flag",
            hint=f"--output_dir {run.path.parent / near[0]}" if near else "llamarec checkpoints list",
            retry_with=("--output_dir", str(run.path.parent / near[0])) if near else (),
        )

    manifest = newest.verdict.manifest
    step = manifest.best_step if manifest is not None else None
    if step is None:
        raise CheckpointError(
            f"no best checkpoint is known in {run.path}",
            expected="a run with validation and --load_best_model_at_end true",
            found=_listed(inspect(run)) or "no checkpoint",
            hint=f"{_FLAG} {LATEST}",
            retry_with=(_FLAG, LATEST),
        )

    # The newest is often the best one.
    verdict = resumable(run, run.checkpoint(step), known=(*known, newest.verdict))
    return ResumeChoice(verdict, (), BEST, others=newest.verdicts)


def choose_checkpoint(
    run: RunFolder,
    wanted: str | Path | bool,
    *,
    allow_partial: bool = False,
    earlier: ResumeChoice | None = None,
    check: Check | None = None,
) -> ResumeChoice | None:
    """The checkpoint that `--resume_from_checkpoint` means.

    Args:
        run: Where `latest` and `best` look; an error lists its checkpoints.
        wanted: latest (or True), best, or a path.
        allow_partial: Accept a checkpoint with missing parts.
        earlier: An earlier choice of this process. Checkpoints whose files are unchanged since (names, sizes, inodes,
            times) are not hashed again.
        check: A condition beyond hashes, for `latest` and `best`. A path is taken at its word; reading it says what is
            wrong.

    Returns:
        None if `latest` was wanted and there is no checkpoint yet.

    Raises:
        CheckpointError: the checkpoint does not exist or cannot be resumed; the message names one that can.
    """
    known = earlier.verdicts if earlier is not None else ()

    if isinstance(wanted, str) and not wanted.strip():
        # As a path it would be the working folder.
        raise CheckpointError(
            f"{_FLAG} has an empty value (a variable of your shell that is not set?)",
            expected=f"a folder checkpoint-{{step}}, {LATEST} or {BEST}",
            hint=f"{_FLAG} {LATEST}, or leave {_FLAG} out to start at step 0",
            retry_with=(_FLAG, LATEST),
        )

    if wanted is True or wanted == LATEST:
        return latest(run, known, check)
    if wanted == BEST and not Path(BEST).is_dir():
        return best(run, known, check)
    return ResumeChoice(resumable(run, Path(str(wanted)), allow_partial=allow_partial, known=known))


def resumable(run: RunFolder, path: Path, *, allow_partial: bool = False, known: Sequence[Verdict] = ()) -> Verdict:
    """Verifies a checkpoint that the user named.

    Args:
        run: As in `choose_checkpoint`.
        path: The checkpoint.
        allow_partial: As in `choose_checkpoint`.
        known: As in `latest`.

    Raises:
        CheckpointError: it does not exist, is damaged, or (without `allow_partial`) is incomplete.
    """
    if not path.is_dir():
        raise not_found(run, path)
    if not (path / TRAINER_STATE).is_file() and RunFolder(path).steps():
        raise _is_a_run(RunFolder(path))

    verdict = _verified(path, known)
    if verdict.is_resumable or (allow_partial and can_resume_partially(verdict)):
        return verdict

    others = [v for v in inspect(RunFolder(path.resolve().parent), deep=True) if v.is_resumable]
    newest = _newest(others)
    hints = [f"{_FLAG} {newest.path} (step {step_of(newest.path)}, verified)"] if newest else []
    retry = (_FLAG, str(newest.path)) if newest else _partially(verdict) if can_resume_partially(verdict) else ()
    if can_resume_partially(verdict):
        hints.append("or add --allow_partial_resume to continue without: " + ", ".join(verdict.missing))
    raise CheckpointError(
        f"{path} cannot be resumed: it is {verdict.health}",
        expected="a checkpoint whose files are complete and unchanged since the save",
        found=verdict.reason,
        hint=hints or ["restore it from a backup: llamarec checkpoints restore", "or start over with --restart"],
        retry_with=retry,
    )


def _is_a_run(run: RunFolder) -> CheckpointError:
    verdicts = inspect(run)
    newest = _newest([verdict for verdict in verdicts if verdict.is_resumable])
    return CheckpointError(
        f"{run.path} is a run's folder, not a checkpoint",
        expected=f"a folder checkpoint-{{step}}; or {LATEST} or {BEST} with this --output_dir",
        found=_listed(verdicts),
        hint=f"{_FLAG} {newest.path}" if newest else None,
        retry_with=(_FLAG, str(newest.path)) if newest else (),
    )


def not_found(run: RunFolder, path: Path) -> CheckpointError:
    """The error for a checkpoint that does not exist; it lists the existing ones and proposes the nearest."""
    beside = RunFolder(path.parent) if step_of(path) is not None and path.parent.is_dir() else run
    verdicts = inspect(beside, deep=True) or inspect(run, deep=True)
    word = difflib.get_close_matches(str(path), (LATEST, BEST), n=1)
    near = nearest(verdicts, path)
    retry = (_FLAG, word[0] if word else str(near.path)) if near else ()
    return CheckpointError(
        f"checkpoint not found: {path}",
        expected=f"a folder checkpoint-{{step}}, {LATEST} or {BEST}",
        found=_listed(verdicts) or f"no checkpoint in {beside.path}",
        hint=" ".join(retry) or f"start without {_FLAG}",
        retry_with=retry,
    )


def nearest(verdicts: Sequence[Verdict], path: Path) -> Verdict | None:
    """The resumable checkpoint that was probably meant: the nearest lower step, or the newest without a number."""
    good = {verdict.path.name: verdict for verdict in verdicts if verdict.is_resumable}
    if not good:
        return None

    step = step_of(path)
    digits = re.findall(r"\d+", path.name)
    if step is None and digits:
        step = int(digits[-1])
    if step is not None:
        steps = sorted(found for name in good if (found := step_of(Path(name))) is not None)
        below = [found for found in steps if found <= step]
        return good[f"checkpoint-{below[-1] if below else steps[0]}"]
    return _newest(list(good.values()))


def best_in(run: RunFolder) -> Manifest | None:
    """The manifest of the best model in the run's folder itself; None if it is missing or damaged."""
    try:
        return read_best(run.path)
    except CheckpointError:
        return None


def folder_of_best(run: RunFolder, step: int) -> Path | None:
    """The folder with the intact model of the best step: the run's own, or that step's checkpoint; None without one."""
    best, checkpoint = best_in(run), run.checkpoint(step)
    if best is not None and best.step == step and verify_best(run.path).health == "good":
        return run.path

    return checkpoint if verify(checkpoint).health == "good" else None


def _newest(verdicts: Sequence[Verdict]) -> Verdict | None:
    order = newest_first([saved_checkpoint(verdict) for verdict in verdicts])
    by_step = {saved_checkpoint(verdict).step: verdict for verdict in verdicts}
    return by_step[order[0].step] if order else None


def _listed(verdicts: Sequence[Verdict]) -> list[str]:
    rows = []
    for verdict in verdicts:
        state = "verified" if verdict.health == "good" else verdict.reason
        rows.append(f"{verdict.path.name} (step {step_of(verdict.path)}, {state})")
    return rows
