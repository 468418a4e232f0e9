"""report.html: one file without anything from elsewhere, for a light and a dark screen, wide and narrow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llamarec.checkpoints.facts import Facts
from llamarec.checkpoints.layout import RunFolder
from llamarec.checkpoints.space import readable
from llamarec.command import typed
from llamarec.errors import ArtifactError, ConfigError
from llamarec.evaluation.comparison import Row
from llamarec.evaluation.fusion import Fusion
from llamarec.evaluation.orders import OrderRow
from llamarec.evaluation.tables import fusion_text, main_row, verdict, without_model
from llamarec.files import write_text
from llamarec.report.breakdown import by_history, by_popularity
from llamarec.report.examples import examples
from llamarec.report.figures import breakdown_figure, difference_figure, orders_figure, training_figure
from llamarec.report.run import RunFacts, read_run
from llamarec.report.sessions import Interruption
from llamarec.vocabulary import Experiment

REPORT_FILE: Final = "report.html"
# What belongs to one resume, not to the run.
_NOT_REPRODUCED: Final = ("resume_from_checkpoint", "restart", "allow_changed", "allow_partial_resume")


def write_report(folder: RunFolder, experiment: Experiment | None, target: Path | None = None) -> Path:
    """Reads a run as it is now and writes its page; returns where.

    Args:
        folder: Of the run's checkpoints.
        experiment: Of a run of the ranker.
        target: Default: report.html beside metrics.json, or in the folder.

    Raises:
        ArtifactError: there is no run.
    """
    path = target or (folder.path if experiment is None else experiment.ranker) / REPORT_FILE
    run = read_run(folder, experiment)
    try:
        text = render(run)
    except (KeyError, TypeError, ValueError) as error:
        if run.metrics is None:
            raise
        raise ArtifactError(
            f"{experiment.ranker / 'metrics.json' if experiment else path}: of another version of llamarec",
            found=f"{type(error).__name__}: {error}",
            hint="python train_ranker.py ... --resume_from_checkpoint tests again and writes it anew",
        ) from error
    write_page(path, text)
    return path


def write_page(path: Path, text: str) -> None:
    """Replaces a page.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise ConfigError(
            f"{path}: the page cannot be written", found=str(error), hint="--output FILE, a file in a folder of yours"
        ) from error


def render(run: RunFacts) -> str:
    """The page."""
    return filled("page.html.j2", _content(run))


def filled(template: str, content: Mapping[str, Any]) -> str:
    """A template of this package with its content."""
    environment = Environment(
        loader=PackageLoader("llamarec", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**content)


def _content(run: RunFacts) -> dict[str, Any]:
    manifest = run.manifest
    given = _without_secrets(manifest.given) if manifest is not None else {}
    return {
        "title": _title(run),
        "status": _status(run),
        "read_at": f"{run.read_at:%Y-%m-%d %H:%M:%S}",
        "verdict": _verdict(run),
        "cards": _cards(run),
        "is_ranker": run.experiment is not None,
        "test": _test(run),
        "training": _training(run),
        "interruptions": [_interruption(one) for one in run.interruptions],
        "interruptions_text": _interruptions_text(run.interruptions),
        "checkpoints": [_checkpoint(fact, run) for fact in run.facts],
        "checkpoints_note": _checkpoints_note(run),
        "breakdown": _breakdown(run),
        "orders": _orders(run),
        "examples": examples(run.test, run.data) if run.test is not None and run.data is not None else [],
        "command": _command(given) if run.experiment is not None else "",
        "was_changed": any(one.changes for one in run.interruptions),
        "given": _shown(given),
        "details": _details(run),
    }


# ---- Head ----


def _title(run: RunFacts) -> str:
    return f"{_name(run)}: {_base_model(run)}" if run.experiment is not None else _name(run)


def _name(run: RunFacts) -> str:
    return run.experiment.dataset_code if run.experiment is not None else str(run.folder.path)


def _base_model(run: RunFacts) -> str:
    for content in (run.metrics or {}, (run.ranker or {}).get("config", {})):
        if content.get("llm_base_model"):
            return str(content["llm_base_model"])
    return "ranker"


def _status(run: RunFacts) -> str:
    of = f" of {run.max_steps:,}" if run.max_steps else ""
    if run.is_running:
        return f"Running: step {run.step:,}{of}, as far as is logged"
    if run.experiment is None:
        return f"Step {run.step:,}{of}"
    if run.is_tested:
        return f"Finished at step {run.step:,}{of}"
    if run.max_steps and run.step >= run.max_steps:
        return (
            f"Trained to the end, step {run.step:,}. The test is running, or was cut off: then "
            "--resume_from_checkpoint does it again"
        )
    saved = f"{run.latest_step:,} is saved" if run.latest_step is not None else "nothing is saved"
    return f"Stopped at step {run.step:,}{of}; {saved}. It goes on with --resume_from_checkpoint"


def _verdict(run: RunFacts) -> dict[str, str] | None:
    if run.metrics is None or not run.is_tested:
        return None
    row = _main_row(run.metrics)
    kind = "better" if row.low > 0 else "worse" if row.high < 0 else "same"
    return {"kind": kind, "text": verdict(row, int(run.metrics["num_users"]), _fusion(run.metrics))}


def _fusion(metrics: Mapping[str, Any]) -> Fusion:
    return Fusion.from_stored(metrics["fusion"])


def _main_row(metrics: Mapping[str, Any]) -> Row:
    return main_row(_rows(metrics["overall"]))


def _cards(run: RunFacts) -> list[dict[str, str]]:
    cards = []
    if run.metrics is not None and run.is_tested:
        row = _main_row(run.metrics)
        change = f"{row.difference / row.retriever:+.1%}" if row.retriever else "no retriever hit"
        cards.append(("overall ndcg@10, ranker against retriever", change))
    of = f" of {run.max_steps:,}" if run.max_steps else ""
    cards.append(("optimizer steps", f"{run.step:,}{of}"))
    if run.seconds_a_step is not None:
        cards.append(("training so far, saves and validations included", _duration(run.step * run.seconds_a_step)))
    if run.best_step:
        cards.append(("best step, by validation", f"{run.best_step:,}"))
    cards.append(("interruptions", f"{len(run.interruptions):,}"))
    saved = _total(one.seconds_saved for one in run.interruptions)
    if saved:
        cards.append(("training saved by checkpoints", _duration(saved)))
    cards.append(("checkpoints on the disk", readable(sum(fact.num_bytes for fact in run.facts))))
    return [{"name": name, "value": value} for name, value in cards]


# ---- Test ----


def _rows(content: list[Mapping[str, Any]]) -> list[Row]:
    return [Row(**row) for row in content]


def _test(run: RunFacts) -> dict[str, Any] | None:
    if run.metrics is None:
        return None
    metrics = run.metrics
    stale = "" if run.is_tested else f"These figures are of an earlier end, at step {metrics.get('step', '?')}. "
    users, covered = int(metrics["num_users"]), int(metrics["num_covered"])
    subset, overall = _rows(metrics["subset"]), _rows(metrics["overall"])
    fusion = _fusion(metrics)
    return {
        "about": f"{stale}{users:,} users; for {covered:,} of them ({metrics['coverage']:.1%}) the next item is among "
        "the candidates, and only those can a ranker help. For everybody else both stages count as a miss.",
        "fusion": fusion_text(fusion).rstrip("."),
        "without_model": without_model(metrics),
        "figure": Markup(difference_figure(subset)),
        "users": f"{users:,}",
        "covered": f"{covered:,}",
        "subset": subset,
        "overall": overall,
        "letters_subset": _rows(metrics["letters"]["subset"]),
        "letters_overall": _rows(metrics["letters"]["overall"]),
    }


def _breakdown(run: RunFacts) -> list[Markup]:
    fusion = _fusion(run.metrics) if run.metrics else None
    if run.test is None or run.data is None or fusion is None or not (fusion.letters or fusion.title_weight):
        # Of the retriever's own order there is nothing to tell.
        return []
    kinds = {
        "length of history": by_history(run.test, run.data),
        "how often the item was taken before": by_popularity(run.test, run.data),
    }
    return [Markup(breakdown_figure(bins, what)) for what, bins in kinds.items() if bins]


def _orders(run: RunFacts) -> dict[str, Any] | None:
    orders = (run.metrics or {}).get("orders")
    if not orders:
        return None
    rows = [OrderRow(**row) for row in orders["rows"]]
    columns = ("in_order", "letters", "calibrated", "final")
    table = [[row.order, *(f"{getattr(row, column):.4f}" for column in columns)] for row in rows]
    table.append(["best − worst", *(f"{orders['spread'][column]:.4f}" for column in columns)])
    table.append(["same first item in two orders", "", *(f"{share:.1%}" for share in orders["kept_first"])])
    averaged = [f"{orders['averaged']:.4f}", f"{orders['averaged_final']:.4f}"]
    table.append([f"mean of {orders['num_averaged']} shuffles", "", "", *averaged])
    return {
        "about": f"ndcg@10 of the same {orders['num_prompts']:,} prompts in five orders. A, B, C…: taking the "
        "candidates as they stand. Raw letters: with the model's liking for letters as such. Each figure "
        f"is good to about ±{1.96 * orders['error']:.3f} (95%), so with few prompts some spread is chance.",
        "figure": Markup(orders_figure(rows)),
        "rows": table,
    }


# ---- Training ----


def _training(run: RunFacts) -> dict[str, Any]:
    resumes = [one.from_step for one in run.interruptions]
    figure = training_figure(run.curves, resumes, run.best_step)
    note = "Dashed: resumed after an interruption. " if resumes else ""
    note += f"Dotted: the best step, {run.best_step:,}. " if run.best_step else ""
    return {"figure": Markup(figure) if figure else None, "note": note}


def _interruption(one: Interruption) -> dict[str, str]:
    return {
        "resumed": _time(one.resumed),
        "from_step": f"{one.from_step:,}",
        "steps_lost": "?" if one.steps_lost is None else f"{one.steps_lost:,}",
        "time_lost": _duration(one.seconds_lost),
        "time_saved": _duration(one.seconds_saved),
        "host": one.host,
        "changes": "; ".join(one.changes),
    }


def _interruptions_text(found: list[Interruption]) -> str:
    lost, saved = _total(one.seconds_lost for one in found), _total(one.seconds_saved for one in found)
    text = f"{len(found)}. Trained twice: {_duration(lost)}; not trained again thanks to checkpoints: "
    return f"{text}{_duration(saved)}. Lost steps are those logged after the checkpoint; at a save nothing is lost."


def _checkpoint(fact: Facts, run: RunFacts) -> dict[str, str]:
    marks = {"best": fact.step == run.best_step, "latest": fact.step == run.latest_step}
    state: list[str] = [fact.verdict.health if fact.verdict.health != "good" else "sizes match"]
    state += [name for name, holds in marks.items() if holds] + (["before a restart"] if fact.left_behind else [])
    manifest = fact.verdict.manifest
    return {
        "step": f"{fact.step:,}",
        "epoch": "" if fact.epoch is None else f"{fact.epoch:.2f}",
        "saved": _time(fact.created),
        "size": readable(fact.num_bytes),
        "loss": "" if fact.loss is None else f"{fact.loss:.4f}",
        "metric": "" if fact.metric is None else f"{fact.metric:.4f}",
        "reason": manifest.reason if manifest is not None else "plain Trainer",
        "state": ", ".join(state),
    }


def _checkpoints_note(run: RunFacts) -> str:
    names = {fact.metric_name for fact in run.facts if fact.metric_name}
    text = f"Metric: {', '.join(sorted(names))}. " if names else ""
    if run.best_model_step is not None:
        text += f"The best adapter, in the run's folder itself, is of step {run.best_model_step:,}. "
    words = typed(["llamarec", "checkpoints", "verify", str(run.folder.path)])
    return f"{text}Hashes: {words}"


# ---- How it was made ----


def _command(given: Mapping[str, Any]) -> str:
    words = ["python", "train_ranker.py"]
    for name, value in sorted(given.items(), key=lambda item: (item[0] != "dataset_code", item[0])):
        if name not in _NOT_REPRODUCED and value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return typed(words) if given else ""


def _without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.endswith("_token")}


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in sorted(values.items())}


def _details(run: RunFacts) -> dict[str, dict[str, str]]:
    manifest, ranker = run.manifest, run.ranker or {}
    found: dict[str, Mapping[str, Any]] = {}
    if manifest is not None:
        known = _without_secrets(manifest.hyperparameters)
        others = {name: value for name, value in known.items() if name not in manifest.given}
        found = {
            "All other hyperparameters": others,
            "Environment": manifest.environment,
            "Fingerprints": manifest.fingerprints,
        }
    if ranker.get("prompt"):
        found["Prompt"] = ranker["prompt"]
    if run.data is not None:
        found["Data"] = {
            "users": f"{run.data.num_users:,}",
            "items": f"{run.data.num_items:,}",
            "interactions": f"{run.data.num_interactions:,}",
            "fingerprint": run.data.fingerprint,
        }
    return {name: _shown(values) for name, values in found.items() if values}


# ---- Text ----


def _time(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time is not None else "?"


def _total(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _duration(seconds: float | None) -> str:
    """In the two greatest units.

    >>> [_duration(value) for value in (None, 0, 59.4, 61, 3700, 90000)]
    ['?', '0 s', '59 s', '1 min 1 s', '1 h 1 min', '25 h 0 min']
    """
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
