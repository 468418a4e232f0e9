"""A trained run, read and checked: options, prompt, tokenizer and best adapter, but no base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamarec.checkpoints.storage.discovery import best_in, folder_of_best, latest
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.data.prepared import PreparedData, check_same_data
from llamarec.errors import ArtifactError, Lines
from llamarec.files import read_json, stored
from llamarec.ranker.model.base_models import base_model_source, load_tokenizer
from llamarec.ranker.options.config import LETTERS, RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder, encoder_for
from llamarec.ranker.prompts.template import PromptTemplate
from llamarec.ranker.trained.locations import folder_of
from llamarec.ranker.trained.retrain import experiment_flags, retrain_command, training_command
from llamarec.vocabulary import DESCRIPTION, Experiment, RankerDescription


@dataclass(frozen=True)
class AdapterLocation:
    """The folder of an adapter's weights.

    Attributes:
        folder: A checkpoint, or the run's folder with the best adapter.
        step: Training step.
        is_best: Whether it is the best adapter on validation.
    """

    folder: Path
    step: int
    is_best: bool


@dataclass(frozen=True)
class Trained:
    """A trained run.

    Attributes:
        description: The content of ranker.json.
        config: Model, LoRA and prompt options.
        source: Argument for `from_pretrained` of the base model.
        tokenizer: Tokenizer of the base model.
        encoder: Encoder of prompts, as in training.
        adapter: The best adapter, or else the newest.
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
        experiment: Experiment of the run.
        data: Data it was trained on.

    Raises:
        ArtifactError: there is no run, it was trained on other data, or it has no adapter yet.
        ModelError: its tokenizer cannot be loaded.
    """
    ranker = described_run(experiment, data)
    described_by = experiment.ranker / DESCRIPTION
    config = stored(ranker.get("config") or {}, RankerConfig, described_by)
    if config.readout != LETTERS:
        raise ArtifactError(
            f"{experiment.ranker}: this run has no letters, it was trained with --readout {config.readout}",
            hint=retrain_command(experiment, readout=LETTERS),
        )
    adapter = adapter_of(experiment, ranker)
    source = base_model_source(config.llm_base_model, data, experiment.ranker)
    tokenizer = load_tokenizer(config.llm_base_model, source)
    template = stored(ranker.get("prompt"), PromptTemplate, described_by)
    encoder = encoder_for(tokenizer, data.titles, template, config, experiment.ranker)
    _check_letters(experiment, ranker, encoder, config.llm_base_model)
    return Trained(ranker, config, source, tokenizer, encoder, adapter)


def readout_of(experiment: Experiment) -> str:
    """The readout of a run; letters if there is no run, or an older one."""
    config = (read_json(experiment.ranker / DESCRIPTION, RankerDescription) or {}).get("config") or {}
    return str(config.get("readout", LETTERS))


def described_run(experiment: Experiment, data: PreparedData) -> dict[str, Any]:
    """The content of ranker.json.

    Raises:
        ArtifactError: there is no run, or it was trained on other data.
    """
    path = experiment.ranker / DESCRIPTION
    ranker = read_json(path, RankerDescription)
    if ranker is None:
        raise ArtifactError(
            f"{experiment.ranker}: there is no run of the ranker", hint=training_command(experiment_flags(experiment))
        )

    ways = [f"to train it again: {retrain_command(experiment)}", "or prepare the data as they were then"]
    check_same_data(f"{path}: this ranker was", ranker.get("data_fingerprint"), data, ways)
    return ranker


def check_same_retriever(experiment: Experiment, then: str, now: str, hint: Lines) -> None:
    """Refuses another retriever; runs of earlier versions do not record theirs.

    Args:
        experiment: Experiment of the run.
        then: Digest of the retriever that the ranker was trained with.
        now: Digest of the present one.
        hint: What to type.

    Raises:
        ArtifactError: they differ.
    """
    if then and then != now:
        raise ArtifactError(
            f"{experiment.retriever}: the retriever was trained again after the ranker",
            expected=f"weights with SHA-256 {then[:12]}, whose scores the ranker's weights were fitted on",
            found=f"SHA-256 {now[:12]}",
            hint=hint,
        )


def adapter_in(run: RunFolder, run_id: str = "") -> AdapterLocation | None:
    """The best adapter of a run, or else that of its newest valid checkpoint; None if there is none yet.

    Args:
        run: Folder of the run.
        run_id: Only adapters of this run count, not those from before --restart. Empty accepts any.
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


def adapter_of(experiment: Experiment, ranker: Mapping[str, Any]) -> AdapterLocation:
    """The best adapter of a run, or else the newest.

    Args:
        experiment: Experiment of the run.
        ranker: The content of ranker.json.

    Raises:
        ArtifactError: the run has none yet.
    """
    run, run_id = folder_of(experiment), str(ranker.get("run_id") or "")
    found = adapter_in(run, run_id)
    if found is not None:
        return found
    before = adapter_in(run)
    if before is not None:
        raise ArtifactError(
            f"{run.path}: the run after --restart has no adapter yet",
            expected=f"the best adapter or a checkpoint of run {run_id}",
            found=f"{before.folder.name} (step {before.step:,}), of the run before --restart",
            hint=[
                "wait for its first checkpoint, or continue it with --resume_from_checkpoint;",
                f"the run before continues with --resume_from_checkpoint {run.checkpoint(before.step)}",
            ],
        )
    raise ArtifactError(
        f"{run.path}: there is no trained adapter",
        expected="the best adapter, or a checkpoint",
        hint="wait for the first checkpoint, or resume the training",
    )


def _check_letters(experiment: Experiment, ranker: Mapping[str, Any], encoder: PromptEncoder, name: str) -> None:
    trained = ranker.get("letter_ids")
    if trained != encoder.letter_ids:
        raise ArtifactError(
            f"{experiment.ranker / DESCRIPTION}: the letters have other tokens in {name} than in training",
            expected=f"token ids {trained}",
            found=str(encoder.letter_ids),
            hint="install the versions of transformers and tokenizers that ranker.json names",
        )
