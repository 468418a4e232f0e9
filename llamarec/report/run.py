"""Everything that a run left on the disk, read; whatever is missing is None or empty, and the page says less."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from llamarec.checkpoints.storage.discovery import best_in
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import is_locked
from llamarec.checkpoints.storage.manifest import Manifest, Session
from llamarec.checkpoints.storage.summary import CheckpointSummary, gather, latest_and_best, newest, trainer_state
from llamarec.data.prepared import PreparedData, load_prepared
from llamarec.errors import ArtifactError
from llamarec.files import read_json
from llamarec.report.curves import Curves, curves_of
from llamarec.report.sessions import Interruption, interruptions, seconds_a_step
from llamarec.vocabulary import DESCRIPTION, Experiment, RankerDescription, RankerMetrics


@dataclass(frozen=True)
class RunFacts:
    """A run of the ranker.

    Attributes:
        folder: Where its checkpoints lie.
        experiment: Of a run of the ranker; None for a Trainer of one's own.
        facts: Its checkpoints, by step.
        manifest: Of the newest good one.
        latest_step: Of that.
        best_step: Best so far.
        best_model_step: Of the model in the run's folder itself.
        curves: What was logged.
        interruptions: In their order.
        seconds_a_step: Of training, where something tells.
        metrics: metrics.json.
        ranker: ranker.json.
        test: test.parquet.
        data: Prepared histories and titles.
        is_running: A process holds the run's lock.
        read_at: UTC.
    """

    folder: RunFolder
    experiment: Experiment | None
    facts: list[CheckpointSummary]
    manifest: Manifest | None
    latest_step: int | None
    best_step: int | None
    best_model_step: int | None
    curves: Curves
    interruptions: list[Interruption]
    seconds_a_step: float | None
    metrics: dict[str, Any] | None
    ranker: dict[str, Any] | None
    test: pl.DataFrame | None
    data: PreparedData | None
    is_running: bool
    read_at: datetime

    @property
    def max_steps(self) -> int | None:
        """Where the run ends."""
        position = self.manifest.position if self.manifest is not None else {}
        steps = position.get("max_steps")
        return int(steps) if isinstance(steps, int | float) else None

    @property
    def step(self) -> int:
        """The last one that is logged or saved."""
        return max(self.curves.last_step, self.latest_step or 0)

    @property
    def is_tested(self) -> bool:
        """The figures are of this training, as far as it has come by now."""
        if self.metrics is None:
            return False
        manifest = self.manifest
        # Without checkpoints (--save_strategy no) nothing says otherwise.
        if manifest is None and self.facts:
            return False
        same = manifest is None or self.metrics.get("run_id") == manifest.run_id
        return same and self.metrics.get("step") == self.step


def read_run(folder: RunFolder, experiment: Experiment | None) -> RunFacts:
    """Reads a run, finished or not; writes nothing.

    Args:
        folder: Of the checkpoints.
        experiment: Of the ranker, for what lies elsewhere.

    Raises:
        ArtifactError: there is no run at all.
    """
    facts = gather(folder, deep=False) if folder.path.is_dir() else []
    ranker = read_json(experiment.ranker / DESCRIPTION, RankerDescription) if experiment is not None else None
    if not facts and ranker is None:
        raise ArtifactError(
            f"{folder.path}: there is no run to report on",
            expected="checkpoints, or ranker.json, which a run of the ranker writes when it starts",
            hint="llamarec checkpoints list, or another --experiment_root",
        )
    latest_step, best_step = latest_and_best(facts)
    of_latest = next((fact for fact in newest(facts) if fact.step == latest_step), None)
    manifest = of_latest.verdict.manifest if of_latest is not None else None
    state = trainer_state(of_latest.verdict.path) if of_latest is not None else {}
    sessions = manifest.sessions if manifest is not None else _since_restart(folder)
    logs = folder.path / "runs" if experiment is None else experiment.ranker / "logs"
    curves = curves_of(state, logs, sessions)
    seconds = seconds_a_step(sessions, facts, curves)
    best = best_in(folder) if folder.path.is_dir() else None
    return RunFacts(
        folder=folder,
        experiment=experiment,
        facts=facts,
        manifest=manifest,
        latest_step=latest_step,
        best_step=best_step,
        best_model_step=best.step if best is not None else None,
        curves=curves,
        interruptions=interruptions(sessions, facts, curves, seconds),
        seconds_a_step=seconds,
        metrics=None if experiment is None else read_json(experiment.ranker_metrics, RankerMetrics),
        ranker=ranker,
        test=None if experiment is None else _test(experiment.test),
        data=None if experiment is None else _data(experiment.data, (ranker or {}).get("data_fingerprint")),
        is_running=is_locked(folder),
        read_at=datetime.now(UTC),
    )


def _since_restart(folder: RunFolder) -> tuple[Session, ...]:
    """Of a run that saved nothing since its restart."""
    if not folder.restarted.is_file():
        return ()
    begun = datetime.fromtimestamp(folder.restarted.stat().st_mtime, UTC)
    return (Session(started=begun.isoformat(), from_step=0),)


def _test(path: Path) -> pl.DataFrame | None:
    try:
        return pl.read_parquet(path, glob=False) if path.is_file() else None
    except (pl.exceptions.PolarsError, OSError):
        return None


def _data(folder: Path, fingerprint: str | None) -> PreparedData | None:
    """Those that the run was made from; data that were prepared in another way since then would give other titles."""
    try:
        data = load_prepared(folder)
    except ArtifactError:
        return None
    return data if data.fingerprint == fingerprint else None
