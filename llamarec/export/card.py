"""The model card: what it is, what it is worth with intervals, how it was trained, how to ask it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from llamarec import __version__
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.fusion import FUSION_FILE, Fusion
from llamarec.evaluation.tables import first_stage_name, without_model
from llamarec.ranker.trained.loading import Trained
from llamarec.report.run import RunFacts
from llamarec.report.sessions import interrupted

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


def model_card(run: RunFacts, trained: Trained, data: PreparedData, *, merged: bool, base_model: str) -> str:
    """README.md of an exported folder.

    Args:
        run: What the run left.
        trained: The model.
        data: That it was made from.
        merged: Whole weights, or the adapter.
        base_model: That it was trained on.
    """
    metrics = run.metrics if run.is_tested else None
    manifest = run.manifest
    values = manifest.hyperparameters if manifest is not None else {}
    count = min(trained.config.num_candidates, data.num_items)
    history = list(range(count + 1, min(count + 4, data.num_items + 1))) or [1]
    # A folder of this machine means nothing to others, and is nobody's business.
    is_portable = not Path(base_model).is_dir()
    content = {
        "version": __version__,
        "dataset_code": data.dataset_code,
        "base_model": base_model if is_portable else trained.config.llm_base_model,
        "merged": merged,
        "is_portable": is_portable,
        "has_fusion": (trained.adapter.folder / FUSION_FILE).is_file(),
        "num_users": f"{data.num_users:,}",
        "num_items": f"{data.num_items:,}",
        "num_interactions": f"{data.num_interactions:,}",
        "step": f"{trained.adapter.step:,}",
        "is_best": trained.adapter.is_best,
        "metrics": _metrics(metrics),
        "hyperparameters": [(name, values[name]) for name in _HYPERPARAMETERS if values.get(name) not in (None, "")],
        "num_interruptions": len(interrupted(run.interruptions)),
        "interruptions": [_interruption(one) for one in run.interruptions],
        "num_candidates": trained.config.num_candidates,
        "prompt": trained.encoder.text(history, list(range(1, count + 1))),
        "letter_ids": trained.encoder.letter_ids,
        "rank": trained.config.lora_r,
    }
    environment = Environment(
        loader=PackageLoader("llamarec", "export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template("card.md.j2").render(**content)


def _metrics(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if metrics is None:
        return None
    tables = {name: [_row(row) for row in metrics[name] if row["metric"] in _SHOWN] for name in ("overall", "subset")}
    return {
        **tables,
        "users": f"{metrics['num_users']:,}",
        "covered": f"{metrics['num_covered']:,}",
        "letters": bool(metrics["fusion"]["letters"]),
        "alpha": f"{metrics['fusion']['alpha']:.2f}",
        "titles": bool(metrics["fusion"].get("title_weight")),
        "first_stage": first_stage_name(Fusion.from_stored(metrics["fusion"])),
        "without_model": without_model(metrics),
    }


def _row(row: Mapping[str, Any]) -> list[str]:
    interval = f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
    return [row["metric"], f"{row['retriever']:.4f}", f"{row['ranker']:.4f}", interval]


def _interruption(one: Any) -> str:
    lost = "" if one.steps_lost is None else f", {one.steps_lost:,} steps or more trained twice (as far as logged)"
    changed = f"; changed: {', '.join(one.changes)}" if one.changes else ""
    how = "finished, and extended" if one.was_finished else "resumed"
    return f"{how} from step {one.from_step:,}{lost}{changed}"
