"""What a checkpoint says about itself: in its manifest, or in trainer_state.json where a plain Trainer saved it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage import shapes
from llamarec.checkpoints.storage.discovery import inspect, kept_of
from llamarec.checkpoints.storage.layout import TRAINER_STATE, RunFolder, step_of
from llamarec.checkpoints.storage.manifest import Manifest
from llamarec.checkpoints.storage.restart import is_superseded
from llamarec.checkpoints.storage.retention import SavedCheckpoint, newest_first
from llamarec.checkpoints.storage.shapes import ShapeError
from llamarec.checkpoints.storage.space import folder_bytes
from llamarec.checkpoints.storage.verification import Verdict

DEFAULT_KEEP: Final = 3
# How a verdict is written in a table: whether names, sizes, hashes or only the files' own formats were looked at.
_VERIFIED: Final = {("good", True): "hashes", ("good", False): "sizes", ("unverified", True): "formats"}


@dataclass(frozen=True, kw_only=True)
class CheckpointSummary:
    """One checkpoint.

    Attributes:
        verdict: What verification found, and how deep it looked.
        deep: Whether files were hashed.
        step: By the folder's name.
        epoch: Epochs done, as a fraction.
        loss: The last training loss.
        metric: What decides which is best, as validated at this step.
        metric_name: What that is called.
        num_bytes: On the disk.
        created: UTC; the time of the file where there is no manifest, None where nothing tells.
        kept: What retention needs.
        left_behind: It is of the run before a restart.
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
    kept: SavedCheckpoint
    left_behind: bool = False

    @property
    def verified(self) -> str:
        """In a word: hashes, sizes, formats, names, or NO."""
        if not self.verdict.is_resumable:
            return "NO"
        return _VERIFIED.get((self.verdict.health, self.deep), "names")


def gather(run: RunFolder, *, deep: bool) -> list[CheckpointSummary]:
    """Every checkpoint of a run, by step."""
    facts = [facts_of(verdict, deep=deep) for verdict in inspect(run, deep=deep)]
    behind = is_superseded(run, [fact.step for fact in facts])
    return [replace(fact, left_behind=behind[fact.step]) for fact in facts]


def facts_of(verdict: Verdict, *, deep: bool) -> CheckpointSummary:
    """From the manifest, or else from the Trainer's state."""
    manifest, size = verdict.manifest, folder_bytes(verdict.path)
    kept = kept_of(verdict)
    if manifest is None:
        return _from_state(verdict, trainer_state(verdict.path), deep, size, kept)
    name = str(manifest.metrics.get("metric_name") or "")
    return CheckpointSummary(
        verdict=verdict,
        deep=deep,
        step=kept.step,
        epoch=manifest.epoch,
        loss=number(manifest.metrics.get("loss")),
        metric=_metric(manifest, name),
        metric_name=name,
        num_bytes=size,
        created=parse_time(manifest.created),
        kept=kept,
    )


def trainer_state(checkpoint: Path) -> dict[str, Any]:
    """trainer_state.json, or nothing where it cannot be read."""
    try:
        return shapes.read_object(checkpoint / TRAINER_STATE)
    except (OSError, ShapeError):
        return {}


def number(value: Any) -> float | None:
    """A number as float; None for anything else, also for one that is too large."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def parse_time(text: str) -> datetime | None:
    """An ISO time, UTC where it names no zone."""
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def save_limit(facts: list[CheckpointSummary]) -> int | None:
    """How many checkpoints the run keeps (save_total_limit), by its newest manifest; None: all, or unknown."""
    for fact in newest(facts):
        if fact.verdict.manifest is not None:
            return shapes.whole(fact.verdict.manifest.hyperparameters.get("save_total_limit")) or None
    return None


def newest(facts: list[CheckpointSummary]) -> list[CheckpointSummary]:
    """Newest save first."""
    by_step = {fact.step: fact for fact in facts}
    return [by_step[kept.step] for kept in newest_first([fact.kept for fact in facts])]


def latest_and_best(facts: list[CheckpointSummary]) -> tuple[int | None, int | None]:
    """Steps of the newest good checkpoint, and of the best one that it knows."""
    good = [fact for fact in newest(facts) if fact.kept.is_good and not fact.left_behind]
    return (good[0].step, good[0].kept.best_step) if good else (None, None)


def _from_state(
    verdict: Verdict, state: Mapping[str, Any], deep: bool, size: int, kept: SavedCheckpoint
) -> CheckpointSummary:
    logged = state.get("log_history")
    history = [entry for entry in logged if isinstance(entry, dict)] if isinstance(logged, list) else []
    losses = [value for entry in history if (value := number(entry.get("loss"))) is not None]
    best_folder = step_of(Path(str(state.get("best_model_checkpoint") or "")))
    # A plain Trainer names the best checkpoint in its state only.
    best_step = shapes.whole(state.get("best_global_step")) or best_folder
    try:
        created = datetime.fromtimestamp((verdict.path / TRAINER_STATE).stat().st_mtime, UTC)
    except OSError:
        created = None
    is_best = best_step == kept.step
    return CheckpointSummary(
        verdict=verdict,
        deep=deep,
        step=kept.step,
        epoch=number(state.get("epoch")),
        loss=losses[-1] if losses else None,
        metric=number(state.get("best_metric")) if is_best else None,
        metric_name="",
        num_bytes=size,
        created=created,
        kept=replace(kept, best_step=best_step),
    )


def _metric(manifest: Manifest, name: str) -> float | None:
    """The metric at this very step: from its evaluation, or from being the best."""
    evaluation = manifest.metrics.get("evaluation")
    if name and isinstance(evaluation, dict) and evaluation.get("step", manifest.step) == manifest.step:
        # As in the Trainer: `loss` means eval_loss, never the training loss.
        value = number(evaluation.get(name if name.startswith("eval_") else f"eval_{name}"))
        if value is not None:
            return value
    if manifest.best_step == manifest.step:
        return number(manifest.metrics.get("best_metric"))
    return None
