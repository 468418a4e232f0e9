"""The model card: what the model is, its quality with intervals, its training, and how to use it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from llamarec import __version__
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.comparison import Row
from llamarec.evaluation.fusion import FUSION_FILE, Fusion
from llamarec.evaluation.tables import first_stage_name, without_model
from llamarec.export.markdown import Verbatim, as_yaml, cell, fence, one_line
from llamarec.files import stored
from llamarec.ranker.trained.loading import Trained
from llamarec.report.run import RunFacts
from llamarec.report.sessions import Interruption, interrupted
from llamarec.vocabulary import METRICS_FILE

_SHOWN = ("ndcg@10", "recall@10", "mrr@10", "recall@1")
_HYPERPARAMETERS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "seed",
    "hard_negatives",
    "hard_negatives_at",
    "quantization",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "bf16",
)


def model_card(
    run: RunFacts,
    trained: Trained,
    data: PreparedData,
    *,
    merged: bool,
    base_model: str,
    difference: float | None = None,
) -> str:
    """README.md of an exported folder.

    Args:
        run: Metrics, manifest and interruptions of the run.
        trained: The model.
        data: Data set that it was trained on.
        merged: Whether the folder has whole weights; otherwise it has the adapter.
        base_model: Model that the adapter was trained on.
        difference: Of a merged model: how far its letters are from the adapter's, in nats.
    """
    count = min(trained.config.num_candidates, data.num_items)
    history = list(range(count + 1, min(count + 4, data.num_items + 1))) or [1]
    # A local folder means nothing to others, and its path may be private.
    is_portable = not Path(base_model).is_dir()
    prompt = trained.encoder.text(history, list(range(1, count + 1)))
    content = {
        **training_of_card(run),
        "dataset_code": data.dataset_code,
        "base_model": base_model if is_portable else trained.config.llm_base_model,
        "merged": merged,
        "difference": None if difference is None else f"{difference:.2g}",
        "is_portable": is_portable,
        "has_fusion": (trained.adapter.folder / FUSION_FILE).is_file(),
        "num_users": f"{data.num_users:,}",
        "num_items": f"{data.num_items:,}",
        "num_interactions": f"{data.num_interactions:,}",
        "step": f"{trained.adapter.step:,}",
        "is_best": trained.adapter.is_best,
        "metrics": metrics_of_card(run),
        "num_candidates": trained.config.num_candidates,
        "is_shuffled": trained.config.candidate_order == "shuffled",
        "prompt": Verbatim(prompt),
        "fence": fence(prompt),
        "letter_ids": trained.encoder.letter_ids,
        "rank": trained.config.lora_r,
    }
    return filled_card("card.md.j2", content)


def training_of_card(run: RunFacts) -> dict[str, object]:
    """What a card says of a run's training."""
    values = run.manifest.hyperparameters if run.manifest is not None else {}
    return {
        "version": __version__,
        "hyperparameters": [
            (name, cell(values[name])) for name in _HYPERPARAMETERS if values.get(name) not in (None, "")
        ],
        "num_interruptions": len(interrupted(run.interruptions)),
        "interruptions": [_interruption(one) for one in run.interruptions],
    }


def metrics_of_card(run: RunFacts) -> dict[str, object] | None:
    """What a card says of a run's test; None where it was not tested."""
    return _metrics(run.metrics) if run.is_tested and run.metrics is not None else None


def filled_card(template: str, content: Mapping[str, object]) -> str:
    """A card of this package, filled with content."""
    environment = Environment(
        loader=PackageLoader("llamarec", "export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=one_line,
    )
    environment.filters |= {"yaml": as_yaml, "shell": shlex.quote}
    return environment.get_template(template).render(**content)


def _metrics(metrics: Mapping[str, Any]) -> dict[str, object]:
    return {
        "overall": _rows(metrics.get("overall")),
        "subset": _rows(metrics.get("subset")),
        "users": f"{metrics['num_users']:,}",
        "covered": f"{metrics['num_covered']:,}",
        "letters": bool(metrics["fusion"]["letters"]),
        "alpha": f"{metrics['fusion']['alpha']:.2f}",
        "titles": bool(metrics["fusion"].get("title_weight")),
        "first_stage": first_stage_name(stored(metrics["fusion"], Fusion, METRICS_FILE)),
        "without_model": without_model(metrics),
    }


def _rows(content: object) -> list[list[str]]:
    rows = stored(content, list[Row], METRICS_FILE)
    return [
        [
            row.metric,
            f"{row.retriever:.4f}",
            f"{row.ranker:.4f}",
            f"{row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f})",
        ]
        for row in rows
        if row.metric in _SHOWN
    ]


def _interruption(one: Interruption) -> str:
    lost = "" if one.steps_lost is None else f", at least {one.steps_lost:,} steps trained twice (according to the log)"
    changed = f"; changed: {', '.join(one.changes)}" if one.changes else ""
    how = "extended after its end" if one.was_finished else "resumed"
    return f"{how} from step {one.from_step:,}{lost}{changed}"
