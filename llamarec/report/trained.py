"""The training in a report: curves, interruptions, checkpoints."""

from __future__ import annotations

from markupsafe import Markup

from llamarec.checkpoints.storage.readable_units import duration, readable
from llamarec.checkpoints.storage.summary import CheckpointSummary
from llamarec.command import typed
from llamarec.report.figures import training_figure
from llamarec.report.format import time_text, total
from llamarec.report.run import RunFacts
from llamarec.report.sessions import Interruption, interrupted


def training(run: RunFacts) -> dict[str, object]:
    """The curves, and a note on the vertical lines in them."""
    resumes = [one.from_step for one in run.interruptions]
    figure = training_figure(run.curves, resumes, run.best_step)
    note = "Dashed vertical line: a resume. " if resumes else ""
    note += f"Dotted vertical line: the best step, {run.best_step:,}. " if run.best_step else ""
    return {"figure": Markup(figure) if figure else None, "note": note}


def interruption(one: Interruption) -> dict[str, str]:
    """A row of the table of interruptions."""
    changes = ["extended after it had finished"] if one.was_finished else []
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
    """The time that all interruptions cost, and the time that checkpoints saved."""
    lost, saved = total(one.seconds_lost for one in found), total(one.seconds_saved for one in found)
    count = len(interrupted(found))
    text = f"{count} interruption{'' if count == 1 else 's'}. Trained twice: {duration(lost)}. Saved by checkpoints: "
    return f"{text}{duration(saved)}. Steps logged after the last checkpoint are lost; a stop that saves loses none."


def checkpoint(fact: CheckpointSummary, run: RunFacts) -> dict[str, str]:
    """A row of the table of checkpoints."""
    marks = {"best": fact.step == run.best_step, "latest": fact.step == run.latest_step}
    state: list[str] = [fact.verdict.health if fact.verdict.health != "good" else "sizes match"]
    state += [name for name, holds in marks.items() if holds] + (["before a restart"] if fact.is_superseded else [])
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
    """The note below the table of checkpoints."""
    names = {fact.metric_name for fact in run.facts if fact.metric_name}
    text = f"Metric: {', '.join(sorted(names))}. " if names else ""
    if run.best_model_step is not None:
        text += f"The best adapter is in the run's folder itself; it is from step {run.best_model_step:,}. "
    words = typed(["llamarec", "checkpoints", "verify", str(run.folder.path)])
    return f"{text}To check all hashes: {words}"
