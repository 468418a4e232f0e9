"""Everything that a run left on disk. What is missing is None or empty, and the page says less."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from llamarec.checkpoints.storage.discovery import best_in
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import is_locked
from llamarec.checkpoints.storage.manifest import Manifest, Session
from llamarec.checkpoints.storage.summary import CheckpointSummary, gather, latest_and_best, newest, trainer_state
from llamarec.command import TRAIN_RANKER, command_of, typed
from llamarec.data.lines import POLARS_ERRORS
from llamarec.data.prepared import PreparedData, load_prepared
from llamarec.errors import ArtifactError
from llamarec.files import read_json
from llamarec.report.curves import Curves, curves_of
from llamarec.report.sessions import Interruption, interruptions, seconds_a_step
from llamarec.vocabulary import DESCRIPTION, Experiment, RankerDescription, RankerMetrics

_TEST_AGAIN: Final = [
    "to test again and rewrite it:",
    f"{typed(command_of(TRAIN_RANKER))} ... --resume_from_checkpoint",
]


@dataclass(frozen=True)
class RunFacts:
    """A run of the ranker, or of a user's own Trainer.

    Attributes:
        folder: Folder of its checkpoints.
        experiment: The ranker's experiment; None for a user's own Trainer.
        facts: Its checkpoints, by step.
        manifest: Manifest of the newest good checkpoint.
        latest_step: Step of that checkpoint.
        best_step: Step of the best checkpoint so far.
        best_model_step: Step of the model in the run's folder itself.
        curves: Logged values.
        interruptions: Resumes, oldest first.
        seconds_a_step: Seconds per training step; None if unknown.
        metrics: Content of metrics.json.
        ranker: Content of ranker.json.
        test: Content of test.parquet.
        data: Prepared histories and titles.
        is_running: Whether a process holds the run's lock.
        read_at: Time of reading, UTC.
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
        """The step at which the run ends; None if unknown."""
        position = self.manifest.position if self.manifest is not None else {}
        steps = position.get("max_steps")
        return int(steps) if isinstance(steps, int | float) else None

    @property
    def step(self) -> int:
        """The last logged or saved step."""
        return max(self.curves.last_step, self.latest_step or 0)

    @property
    def is_tested(self) -> bool:
        """Whether the metrics belong to the newest state of this training."""
        if self.metrics is None:
            return False
        manifest = self.manifest
        # Without checkpoints (--save_strategy no) there is nothing to compare with.
        if manifest is None and self.facts:
            return False
        same = manifest is None or self.metrics.get("run_id") == manifest.run_id
        return same and self.metrics.get("step") == self.step


def read_run(folder: RunFolder, experiment: Experiment | None) -> RunFacts:
    """Reads a run, finished or not. Writes nothing.

    Args:
        folder: Folder of the checkpoints.
        experiment: The ranker's experiment, which holds the other files; None for a user's own Trainer.

    Raises:
        ArtifactError: there is no run.
    """
    facts = gather(folder, deep=False) if folder.path.is_dir() else []
    ranker = read_json(experiment.ranker / DESCRIPTION, RankerDescription) if experiment is not None else None
    if not facts and ranker is None:
        raise ArtifactError(
            f"{folder.path}: there is no run to report on",
            expected="checkpoints, or ranker.json, which a run of the ranker writes when it starts",
            hint=["name another --experiment_root, or list the runs:", "llamarec checkpoints list"],
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
        metrics=None if experiment is None else read_json(experiment.ranker_metrics, RankerMetrics, hint=_TEST_AGAIN),
        ranker=ranker,
        test=None if experiment is None else _test(experiment.test),
        data=None if experiment is None else _data(experiment.data, (ranker or {}).get("data_fingerprint")),
        is_running=is_locked(folder),
        read_at=datetime.now(UTC),
    )


def _since_restart(folder: RunFolder) -> tuple[Session, ...]:
    """The process of a run that has saved nothing since its restart."""
    if not folder.restarted.is_file():
        return ()
    begun = datetime.fromtimestamp(folder.restarted.stat().st_mtime, UTC)
    return (Session(started=begun.isoformat(), from_step=0),)


def _test(path: Path) -> pl.DataFrame | None:
    try:
        return pl.read_parquet(path, glob=False) if path.is_file() else None
    except (*POLARS_ERRORS, OSError):
        return None


def _data(folder: Path, fingerprint: str | None) -> PreparedData | None:
    """The data that the run was trained on; None if they were prepared differently since then."""
    try:
        data = load_prepared(folder)
    except ArtifactError:
        return None
    return data if data.fingerprint == fingerprint else None
