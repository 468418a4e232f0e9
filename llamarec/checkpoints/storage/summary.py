"""A checkpoint's description of itself: its manifest, or trainer_state.json if a plain Trainer saved it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.discovery import inspect, saved_checkpoint
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.checkpoints.storage.layout import TRAINER_STATE, RunFolder, step_of
from llamarec.checkpoints.storage.manifest import Manifest
from llamarec.checkpoints.storage.restart import is_superseded
from llamarec.checkpoints.storage.retention import SavedCheckpoint, newest_first
from llamarec.checkpoints.storage.space import folder_bytes
from llamarec.checkpoints.storage.verification import Verdict

DEFAULT_KEEP: Final = 3
# Word for what was checked, by health and by whether files were read (deep).
_VERIFIED: Final = {("good", True): "hashes", ("good", False): "sizes", ("unverified", True): "formats"}


@dataclass(frozen=True, kw_only=True)
class CheckpointSummary:
    """One checkpoint.

    Attributes:
        verdict: What verification found.
        deep: Whether files were hashed.
        step: Step in the folder's name.
        epoch: Epochs done, as a fraction.
        loss: The last training loss.
        metric: Value at this step of the metric that decides which checkpoint is best.
        metric_name: Name of that metric.
        num_bytes: Size on the disk.
        created: Time in UTC: from the manifest, else of trainer_state.json; None if unknown.
        saved: The checkpoint as retention sees it.
        is_superseded: Whether it is from before a restart.
    """

    verdict: Verdict
    deep: bool
    step: int
    epoch: float | None
    loss: float | None
    metric: float | None
    metric_name: str
    num_bytes: int
    created: datetime | None
    saved: SavedCheckpoint
    is_superseded: bool = False

    @property
    def verified(self) -> str:
        """What was checked, in a word: hashes, sizes, formats or names; NO for one that cannot be resumed."""
        if not self.verdict.is_resumable:
            return "NO"
        return _VERIFIED.get((self.verdict.health, self.deep), "names")


def gather(run: RunFolder, *, deep: bool, with_restarts: bool = True) -> list[CheckpointSummary]:
    """Summaries of all checkpoints of a run, by step.

    Args:
        run: The run's folder.
        deep: Whether to hash the files.
        with_restarts: Whether to look up which are from before a restart.

    Raises:
        CheckpointError: the record of restarts cannot be read.
    """
    summaries = [summary_of(verdict, deep=deep) for verdict in inspect(run, deep=deep)]
    if not with_restarts:
        return summaries

    superseded = is_superseded(run, [summary.step for summary in summaries])
    return [replace(summary, is_superseded=superseded[summary.step]) for summary in summaries]


def summary_of(verdict: Verdict, *, deep: bool, num_bytes: int | None = None) -> CheckpointSummary:
    """Summary from the manifest; without one, from the Trainer's state.

    Args:
        verdict: What verification found.
        deep: Whether it read the files.
        num_bytes: Size of a checkpoint that is not on this machine's disks.
    """
    manifest, size = verdict.manifest, folder_bytes(verdict.path) if num_bytes is None else num_bytes
    saved = saved_checkpoint(verdict)
    if manifest is None:
        return _from_state(verdict, trainer_state(verdict.path), deep, size, saved)

    name = str(manifest.metrics.get("metric_name") or "")
    return CheckpointSummary(
        verdict=verdict,
        deep=deep,
        step=saved.step,
        epoch=manifest.epoch,
        loss=number(manifest.metrics.get("loss")),
        metric=_metric(manifest, name),
        metric_name=name,
        num_bytes=size,
        created=parse_time(manifest.created),
        saved=saved,
    )


def trainer_state(checkpoint: Path) -> dict[str, Any]:
    """The content of trainer_state.json; empty if it cannot be read."""
    try:
        return json_shapes.read_object(checkpoint / TRAINER_STATE)
    except (OSError, ShapeError):
        return {}


def number(value: object) -> float | None:
    """A number as float; None for anything else and for numbers that are too large."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def parse_time(text: str) -> datetime | None:
    """An ISO time in UTC; without a zone it is taken as UTC. None if it is not an ISO time."""
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def save_limit(summaries: list[CheckpointSummary]) -> int | None:
    """Number of checkpoints that the run keeps (save_total_limit), from its newest manifest; None if all or unknown."""
    for summary in newest(summaries):
        if summary.verdict.manifest is not None:
            return json_shapes.whole(summary.verdict.manifest.hyperparameters.get("save_total_limit")) or None
    return None


def newest(summaries: list[CheckpointSummary]) -> list[CheckpointSummary]:
    """Summaries in the order of the saves, newest first."""
    by_step = {summary.step: summary for summary in summaries}
    return [by_step[saved.step] for saved in newest_first([summary.saved for summary in summaries])]


def latest_and_best(summaries: list[CheckpointSummary]) -> tuple[int | None, int | None]:
    """Steps of the newest good checkpoint and of the best one that it records."""
    good = [summary for summary in newest(summaries) if summary.saved.is_good and not summary.is_superseded]
    return (good[0].step, good[0].saved.best_step) if good else (None, None)


def _from_state(
    verdict: Verdict, state: Mapping[str, object], deep: bool, size: int, saved: SavedCheckpoint
) -> CheckpointSummary:
    logged = state.get("log_history")
    history = [entry for entry in logged if isinstance(entry, dict)] if isinstance(logged, list) else []
    losses = [value for entry in history if (value := number(entry.get("loss"))) is not None]

    best_folder = step_of(Path(str(state.get("best_model_checkpoint") or "")))
    # A plain Trainer names the best checkpoint only in its state.
    best_step = json_shapes.whole(state.get("best_global_step")) or best_folder
    is_best = best_step == saved.step

    try:
        created = datetime.fromtimestamp((verdict.path / TRAINER_STATE).stat().st_mtime, UTC)
    except OSError:
        created = None

    return CheckpointSummary(
        verdict=verdict,
        deep=deep,
        step=saved.step,
        epoch=number(state.get("epoch")),
        loss=losses[-1] if losses else None,
        metric=number(state.get("best_metric")) if is_best else None,
        metric_name="",
        num_bytes=size,
        created=created,
        saved=replace(saved, best_step=best_step),
    )


def _metric(manifest: Manifest, name: str) -> float | None:
    """The metric at this step: from an evaluation at this step, or because it is the best step."""
    evaluation = manifest.metrics.get("evaluation")
    if name and isinstance(evaluation, dict) and evaluation.get("step", manifest.step) == manifest.step:
        # As in the Trainer, `loss` means eval_loss, never the training loss.
        value = number(evaluation.get(name if name.startswith("eval_") else f"eval_{name}"))
        if value is not None:
            return value
    if manifest.best_step == manifest.step:
        return number(manifest.metrics.get("best_metric"))
    return None
