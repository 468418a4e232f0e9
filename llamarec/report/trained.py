"""How the training went: curves, interruptions, checkpoints."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from llamarec.checkpoints.storage.summary import CheckpointSummary
from llamarec.checkpoints.storage.units import duration, readable
from llamarec.command import typed
from llamarec.report.figures import training_figure
from llamarec.report.format import time_text, total
from llamarec.report.run import RunFacts
from llamarec.report.sessions import Interruption, interrupted


def training(run: RunFacts) -> dict[str, Any]:
    """Curves, and what marks in them mean."""
    resumes = [one.from_step for one in run.interruptions]
    figure = training_figure(run.curves, resumes, run.best_step)
    note = "Dashed: where a resume went on. " if resumes else ""
    note += f"Dotted: the best step, {run.best_step:,}. " if run.best_step else ""
    return {"figure": Markup(figure) if figure else None, "note": note}


def interruption(one: Interruption) -> dict[str, str]:
    """A row of the table of interruptions."""
    changes = ["it was finished, and was extended"] if one.was_finished else []
    return {
        "resumed": time_text(one.resumed),
        "from_step": f"{one.from_step:,}",
        "steps_lost": "?" if one.steps_lost is None else f"{one.steps_lost:,}",
        "time_lost": duration(one.seconds_lost),
        "time_saved": duration(one.seconds_saved),
        "host": one.host,
        "changes": "; ".join([*changes, *one.changes]),
    }


def interruptions_text(found: list[Interruption]) -> str:
    """What they cost and what checkpoints saved, together."""
    lost, saved = total(one.seconds_lost for one in found), total(one.seconds_saved for one in found)
    text = f"{len(interrupted(found))}. Trained twice: {duration(lost)}; not trained again thanks to checkpoints: "
    return f"{text}{duration(saved)}. Lost steps are those logged after the checkpoint; at a save nothing is lost."


def checkpoint(fact: CheckpointSummary, run: RunFacts) -> dict[str, str]:
    """A row of the table of checkpoints."""
    marks = {"best": fact.step == run.best_step, "latest": fact.step == run.latest_step}
    state: list[str] = [fact.verdict.health if fact.verdict.health != "good" else "sizes match"]
    state += [name for name, holds in marks.items() if holds] + (["before a restart"] if fact.left_behind else [])
    manifest = fact.verdict.manifest
    return {
        "step": f"{fact.step:,}",
        "epoch": "" if fact.epoch is None else f"{fact.epoch:.2f}",
        "saved": time_text(fact.created),
        "size": readable(fact.num_bytes),
        "loss": "" if fact.loss is None else f"{fact.loss:.4f}",
        "metric": "" if fact.metric is None else f"{fact.metric:.4f}",
        "reason": manifest.reason if manifest is not None else "plain Trainer",
        "state": ", ".join(state),
    }


def checkpoints_note(run: RunFacts) -> str:
    """Below that table."""
    names = {fact.metric_name for fact in run.facts if fact.metric_name}
    text = f"Metric: {', '.join(sorted(names))}. " if names else ""
    if run.best_model_step is not None:
        text += f"The best adapter, in the run's folder itself, is of step {run.best_model_step:,}. "
    words = typed(["llamarec", "checkpoints", "verify", str(run.folder.path)])
    return f"{text}Hashes: {words}"
