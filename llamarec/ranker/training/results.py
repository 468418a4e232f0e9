"""Files that a run leaves beside its checkpoints: ranker.json and metrics.json."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from llamarec.data.prepared import PreparedData
from llamarec.evaluation.catalogue import CatalogueOutcome
from llamarec.evaluation.outcome import Outcome
from llamarec.files import write_json
from llamarec.ranker.training.build import Ranker
from llamarec.ranker.training.items.build import ItemRanker
from llamarec.retriever.published import DIGEST, intact_metrics, weights_digest
from llamarec.vocabulary import DESCRIPTION, Experiment

_PACKAGES: Final = ("llamarec", "torch", "transformers", "peft", "accelerate")


def write_description(ranker: Ranker | ItemRanker, data: PreparedData, output_dir: str) -> None:
    """Writes ranker.json: what loading and serving the run needs."""
    experiment = ranker.experiment
    write_json(
        experiment.ranker / DESCRIPTION,
        {
            "config": asdict(ranker.config),
            "dataset_code": data.dataset_code,
            "run_id": ranker.trainer.run_id,
            "prepared_data": str(experiment.data.resolve()),
            "checkpoints": str(Path(output_dir).resolve()),
            "prompt": ranker.encoder.template.as_dict() if isinstance(ranker, Ranker) else {},
            "letter_ids": ranker.encoder.letter_ids if isinstance(ranker, Ranker) else [],
            "data_fingerprint": data.fingerprint,
            DIGEST: weights_digest(experiment),
            "retriever_config": _retriever_config(experiment),
            "versions": _versions(),
        },
    )


def write_metrics(ranker: Ranker | ItemRanker, data: PreparedData, outcome: Outcome | CatalogueOutcome) -> None:
    """Writes metrics.json: the figures of the test, with the options that led to them."""
    state, config = ranker.trainer.state, ranker.config
    content = {
        "dataset_code": data.dataset_code,
        "llm_base_model": config.llm_base_model,
        "split": "test",
        "run_id": ranker.trainer.run_id,
        "step": state.global_step,
        "best_step": state.best_global_step,
        "tested_step": ranker.trainer.tested_step,
        "best_validation": state.best_metric,
        "max_steps": state.max_steps,
        "stopped_early": ranker.trainer.stopped_early,
        "seed": ranker.trainer.args.seed,
        "learning_rate": ranker.trainer.args.learning_rate,
        "config": asdict(config),
        "retriever_config": _retriever_config(ranker.experiment),
        "versions": _versions(),
        **outcome.as_dict(),
    }
    write_json(ranker.experiment.ranker_metrics, content)


def _retriever_config(experiment: Experiment) -> Any:
    return intact_metrics(experiment).get("config")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}
