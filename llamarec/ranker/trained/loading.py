"""What a run of the ranker left, read and checked: options, prompt, tokenizer, best adapter; no base model yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamarec.checkpoints.storage.discovery import best_in, latest
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.trainer.weights import folder_of_best
from llamarec.data.prepared import PreparedData, check_same_data
from llamarec.errors import ArtifactError
from llamarec.files import read_json, stored
from llamarec.ranker.model.base_models import base_model_source, load_tokenizer
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder, encoder_for
from llamarec.ranker.prompts.template import PromptTemplate
from llamarec.ranker.trained.locations import folder_of
from llamarec.ranker.trained.retrain import named, retrain_command, training_command
from llamarec.vocabulary import DESCRIPTION, Experiment, RankerDescription


@dataclass(frozen=True)
class AdapterLocation:
    """Where the weights lie.

    Attributes:
        folder: A checkpoint, or the run's folder with the best adapter.
        step: Of training.
        is_best: Whether it is the best on validation.
    """

    folder: Path
    step: int
    is_best: bool


@dataclass(frozen=True)
class Trained:
    """A run that can be used.

    Attributes:
        description: The content of ranker.json.
        config: Model, LoRA, prompt.
        source: What `from_pretrained` takes for the base model.
        tokenizer: Its own.
        encoder: What makes prompts, as in training.
        adapter: The best, or else the newest.
    """

    description: Mapping[str, Any]
    config: RankerConfig
    source: str
    tokenizer: Any
    encoder: PromptEncoder
    adapter: AdapterLocation


def read_trained(experiment: Experiment, data: PreparedData) -> Trained:
    """Reads a run of the ranker.

    Args:
        experiment: Of the run.
        data: That it was made from.

    Raises:
        ArtifactError: there is no run, it is of other data, or has no adapter yet.
        ModelError: its tokenizer cannot be had.
    """
    ranker = _description(experiment, data)
    described_by = experiment.ranker / DESCRIPTION
    config = stored(ranker.get("config") or {}, RankerConfig, described_by)
    adapter = _adapter(folder_of(experiment), str(ranker.get("run_id") or ""))
    source = base_model_source(config.llm_base_model, data, experiment.ranker)
    tokenizer = load_tokenizer(config.llm_base_model, source)
    template = stored(ranker.get("prompt"), PromptTemplate, described_by)
    encoder = encoder_for(tokenizer, data.titles, template, config, experiment.ranker)
    _check_letters(experiment, ranker, encoder, config.llm_base_model)
    return Trained(ranker, config, source, tokenizer, encoder, adapter)


def _description(experiment: Experiment, data: PreparedData) -> dict[str, Any]:
    path = experiment.ranker / DESCRIPTION
    ranker = read_json(path, RankerDescription)
    if ranker is None:
        raise ArtifactError(
            f"{experiment.ranker}: there is no run of the ranker", hint=training_command(named(experiment))
        )
    anew = f"to train it anew: {retrain_command(experiment)}\n            or prepare the data as they were"
    check_same_data(f"{path}: this ranker was", ranker.get("data_fingerprint"), data, anew)
    return ranker


def adapter_in(run: RunFolder, run_id: str = "") -> AdapterLocation | None:
    """The best adapter of a run, or else that of its newest checkpoint, verified; None where there is none yet.

    Args:
        run: Its folder.
        run_id: What lies there of another run, the one before --restart, does not count. Empty: whichever.
    """
    best = best_in(run) if run.path.is_dir() else None
    if best is not None and run_id and best.run_id != run_id:
        best = None
    folder = folder_of_best(run, best.step) if best is not None else None
    if best is not None and folder is not None:
        return AdapterLocation(folder, best.step, is_best=True)
    newest = latest(run) if run.path.is_dir() else None
    if newest is None or newest.verdict.manifest is None or (run_id and newest.verdict.manifest.run_id != run_id):
        return None
    return AdapterLocation(newest.verdict.path, newest.verdict.manifest.step, is_best=False)


def _adapter(run: RunFolder, run_id: str) -> AdapterLocation:
    found = adapter_in(run, run_id)
    if found is not None:
        return found
    before = adapter_in(run)
    if before is not None:
        raise ArtifactError(
            f"{run.path}: the run that was begun anew has no adapter yet",
            expected=f"the best adapter or a checkpoint of run {run_id}",
            found=f"{before.folder.name} (step {before.step:,}), of the run before --restart",
            hint="wait for its first checkpoint, or go on with it (--resume_from_checkpoint); to go on with the run\n"
            f"            before: --resume_from_checkpoint {run.checkpoint(before.step)}",
        )
    raise ArtifactError(
        f"{run.path}: there is no trained adapter",
        expected="the best adapter, or a checkpoint",
        hint="wait for the first checkpoint of the training, or resume it",
    )


def _check_letters(experiment: Experiment, ranker: Mapping[str, Any], encoder: PromptEncoder, name: str) -> None:
    trained = ranker.get("letter_ids")
    if trained != encoder.letter_ids:
        raise ArtifactError(
            f"{experiment.ranker / DESCRIPTION}: the tokenizer of {name} writes other letters than in training",
            expected=f"token ids {trained}",
            found=str(encoder.letter_ids),
            hint="install the versions of transformers and tokenizers that ranker.json names",
        )
