"""report.html: one self-contained file, for light and dark themes and for wide and narrow screens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.readable_units import duration, readable
from llamarec.errors import ConfigError, printable
from llamarec.files import write_text
from llamarec.ranker.trained.retrain import training_command
from llamarec.report import tested, trained
from llamarec.report.examples import examples
from llamarec.report.format import total
from llamarec.report.run import RunFacts, read_run
from llamarec.report.sessions import interrupted
from llamarec.vocabulary import Experiment

REPORT_FILE: Final = "report.html"


def write_report(folder: RunFolder, experiment: Experiment | None, target: Path | None = None) -> Path:
    """Reads a run in its current state, writes its page and returns the path.

    Args:
        folder: Folder of the run's checkpoints.
        experiment: The ranker's experiment; None for a user's own Trainer.
        target: Path of the page; default: report.html beside metrics.json, or in `folder`.

    Raises:
        ArtifactError: there is no run.
    """
    path = target or (folder.path if experiment is None else experiment.ranker) / REPORT_FILE
    write_page(path, render(read_run(folder, experiment)))
    return path


def write_page(path: Path, text: str) -> None:
    """Writes a page, replacing an older one.

    Raises:
        ConfigError: the path cannot be written, or does not end in .html.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output {path}: the page is HTML", expected="a file name that ends in .html")
    try:
        write_text(path, text)
    except OSError as error:
        raise ConfigError(
            f"{path}: the page cannot be written", found=str(error), hint="write it to a folder of yours: --output FILE"
        ) from error


def render(run: RunFacts) -> str:
    """The page of a run, as HTML."""
    return filled("page.html.j2", _content(run))


def filled(template: str, content: Mapping[str, object]) -> str:
    """A template of this package, filled with content."""
    environment = Environment(
        loader=PackageLoader("llamarec", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=_without_controls,
    )
    return environment.get_template(template).render(**content)


def _without_controls(value: object) -> object:
    """A value as a page may show it; markup is the program's own."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _content(run: RunFacts) -> dict[str, object]:
    given = _given(run)
    return {
        "title": _title(run),
        "status": _status(run),
        "read_at": f"{run.read_at:%Y-%m-%d %H:%M:%S}",
        "verdict": tested.judgement(run),
        "cards": _cards(run),
        "is_ranker": run.experiment is not None,
        "test": tested.test(run),
        "training": trained.training(run),
        "interruptions": [trained.interruption(one) for one in run.interruptions],
        "interruptions_text": trained.interruptions_text(run.interruptions),
        "checkpoints": [trained.checkpoint(fact, run) for fact in run.facts],
        "checkpoints_note": trained.checkpoints_note(run),
        "breakdown": tested.breakdown(run),
        "orders": tested.orders(run),
        "examples": examples(run.test, run.data) if run.test is not None and run.data is not None else [],
        "command": training_command(given) if run.experiment is not None and given else "",
        "was_changed": any(one.changes for one in run.interruptions),
        "given": _shown(given),
        "details": _details(run, given),
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
        return f"Running: step {run.step:,}{of} was logged last"
    if run.experiment is None:
        return f"Step {run.step:,}{of}"
    if run.is_tested and (run.metrics or {}).get("stopped_early"):
        return (
            f"Stopped early at step {run.step:,}{of}: the metric did not improve for --early_stopping_patience "
            "validations"
        )
    if run.is_tested:
        return f"Finished at step {run.step:,}{of}"
    if run.max_steps and run.step >= run.max_steps:
        return (
            f"Trained to the end, step {run.step:,}. The test is running or was interrupted. To repeat it, add "
            "--resume_from_checkpoint"
        )

    saved = f"step {run.latest_step:,} is saved" if run.latest_step is not None else "nothing is saved"
    return f"Stopped at step {run.step:,}{of}; {saved}. To continue, add --resume_from_checkpoint"


def _cards(run: RunFacts) -> list[dict[str, str]]:
    cards = []
    if run.metrics is not None and run.is_tested:
        row = tested.overall_row(run.metrics)
        change = f"{row.difference / row.retriever:+.1%}" if row.retriever else "no hit"
        cards.append((f"overall ndcg@10, {tested.compared(run.metrics)}", change))

    of = f" of {run.max_steps:,}" if run.max_steps else ""
    cards.append(("optimizer steps", f"{run.step:,}{of}"))
    if run.seconds_a_step is not None:
        cards.append(("training time so far, with saves and validations", duration(run.step * run.seconds_a_step)))
    if run.best_step:
        cards.append(("best step, by validation", f"{run.best_step:,}"))

    count = len(interrupted(run.interruptions))
    cards.append(("interruption" if count == 1 else "interruptions", f"{count:,}"))
    saved = total(one.seconds_saved for one in run.interruptions)
    if saved:
        cards.append(("training time saved by checkpoints", duration(saved)))
    cards.append(("checkpoints on disk", readable(sum(fact.num_bytes for fact in run.facts))))

    return [{"name": name, "value": value} for name, value in cards]


# ---- How it was made ----


def _given(run: RunFacts) -> dict[str, object]:
    """Flags of the run, and of a later test, which saves no checkpoint."""
    if run.manifest is None:
        return {}
    then = run.manifest.hyperparameters
    config = (run.metrics or {}).get("config") or {} if run.is_tested else {}
    since = {name: value for name, value in config.items() if name in then and then[name] != value}
    return _without_secrets({**run.manifest.given, **since})


def _without_secrets(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if not name.endswith("_token")}


def _shown(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in sorted(values.items())}


def _details(run: RunFacts, given: Mapping[str, object]) -> dict[str, dict[str, str]]:
    manifest, ranker = run.manifest, run.ranker or {}
    found: dict[str, Mapping[str, object]] = {}
    if manifest is not None:
        known = _without_secrets(manifest.hyperparameters)
        others = {name: value for name, value in known.items() if name not in given}
        found = {
            "All other hyperparameters": others,
            "Retriever": (run.metrics or ranker).get("retriever_config") or {},
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
