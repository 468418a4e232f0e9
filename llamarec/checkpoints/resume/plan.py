"""The resume plan that is printed before the first step. Pure: values in, text out."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamarec.checkpoints.resume.compatibility import Change
from llamarec.checkpoints.resume.position import Position
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.storage.readable_units import readable

_NAME_WIDTH = 13
HOW_TO_EXTEND = "--num_train_epochs or --max_steps with a larger number"
"""Flags that extend a finished run."""


@dataclass(frozen=True, kw_only=True)
class ResumePlan:
    """Everything about a resume that the user may not expect.

    Attributes:
        choice: The checkpoint, and those passed over.
        step: Optimizer steps done.
        position: The next sample.
        num_samples: Samples per epoch.
        steps_to_go: Optimizer steps to the end.
        steps_to_go_before: Optimizer steps to the end, according to the checkpoint.
        batch: Samples per step, in the checkpoint and in this process.
        rate: Learning rate in the checkpoint and at the next step; None if the curve is not a function.
        changes: Hyperparameters and fingerprints that differ.
        lost: Missing parts, each with its effect.
        notes: Lines for anything else.
        how_to_extend: Advice if no steps are left.
    """

    choice: ResumeChoice
    step: int
    position: Position
    num_samples: int
    steps_to_go: int
    steps_to_go_before: int
    batch: tuple[int, int]
    rate: tuple[float, float] | None = None
    changes: tuple[Change, ...] = ()
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    how_to_extend: str = HOW_TO_EXTEND

    @property
    def changed(self) -> frozenset[str]:
        """Names of the values that are applied."""
        return frozenset(change.name for change in self.changes if change.decision == "applied")

    def lines(self) -> list[str]:
        """The plan as text, one entry a line."""
        rows = [("resume", self._resume())]
        rows += [("passed over", f"{verdict.path.name}: {verdict.reason}") for verdict in self.choice.passed_over]
        rows += [("lost", text) for text in self.lost]

        rows.append(("next", self._next()))
        rows.append(("to go", self._to_go()))
        if self.batch[0] != self.batch[1]:
            rows.append(("step", f"{self.batch[0]} -> {self.batch[1]} samples per optimizer step"))
        if self.rate is not None:
            rows.append(("rate", self._rate(*self.rate)))
        rows += [("note", text) for text in self.notes]
        return [f"{name + ':':<{_NAME_WIDTH}}{text}" for name, text in rows] + self._changes()

    def as_dict(self) -> dict[str, object]:
        """The plan as JSON values."""
        verdict = self.choice.verdict

        return {
            "checkpoint": str(verdict.path),
            "why": self.choice.why,
            "health": verdict.health,
            "verification_seconds": verdict.seconds,
            "passed_over": [{"checkpoint": str(v.path), "why": v.reason} for v in self.choice.passed_over],
            "step": self.step,
            "epoch": self.position.epoch,
            "sample": self.position.sample,
            "num_samples": self.num_samples,
            "steps_to_go": self.steps_to_go,
            "samples_per_step": {"old": self.batch[0], "new": self.batch[1]},
            "learning_rate": {"old": self.rate[0], "new": self.rate[1]} if self.rate else None,
            "changes": [vars(change) for change in self.changes],
            "lost": list(self.lost),
            "notes": list(self.notes),
        }

    def _resume(self) -> str:
        verdict = self.choice.verdict
        if verdict.manifest is None:
            return (
                f"{verdict.path} ({self.choice.why}; no manifest, saved by a plain Trainer: its content cannot be "
                f"verified; scanned in {verdict.seconds:.1f} s)"
            )
        manifest = verdict.manifest
        return (
            f"{verdict.path} ({self.choice.why}; {len(manifest.files)} files, {readable(manifest.num_bytes)} "
            f"verified in {verdict.seconds:.1f} s)"
        )

    def _next(self) -> str:
        epoch, sample = self.position.epoch, self.position.sample
        if sample >= self.num_samples:
            epoch, sample = epoch + 1, 0
        if self.steps_to_go == 0:
            return f"nothing: this run is finished at step {self.step:,}. To continue: {self.how_to_extend}"
        return f"sample {sample + 1:,} of {self.num_samples:,}, epoch {epoch + 1} (step {self.step + 1:,})"

    def _to_go(self) -> str:
        before = f" (was {self.steps_to_go_before:,})" if self.steps_to_go_before != self.steps_to_go else ""
        return f"{self.steps_to_go:,} steps{before}"

    def _rate(self, before: float, after: float) -> str:
        if before == after:
            return f"{after:.6g} at the next step, unchanged"
        return f"{before:.6g} -> {after:.6g} at the next step"

    def _changes(self) -> list[str]:
        if not self.changes:
            return [f"{'changes:':<{_NAME_WIDTH}}none: every hyperparameter is as in the checkpoint"]
        width = max(len(change.name) for change in self.changes)
        lines = []
        for change in self.changes:
            old, new = (value if value != "" else "(none)" for value in (change.old, change.new))
            values = f"{old}" if change.decision == "kept" else f"{old} -> {new}"
            why = f" ({change.why})" if change.why else ""
            lines.append(f"{change.decision + ':':<{_NAME_WIDTH}}{change.name:<{width}}  {values}{why}")
        return lines
