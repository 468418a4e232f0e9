"""Writes a folder that plain transformers and PEFT load, and that vLLM takes as a LoRA module or a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from llamarec.checkpoints.resume.safe_load import load_json, load_weights
from llamarec.checkpoints.storage.layout import ADAPTER_CONFIG
from llamarec.checkpoints.trainer.weights import put_weights
from llamarec.command import options_from
from llamarec.data.prepared import load_prepared
from llamarec.errors import ArtifactError, ConfigError
from llamarec.evaluation.fusion import FUSION_FILE
from llamarec.export.card import model_card
from llamarec.files import replacing_folder, write_json, write_text
from llamarec.ranker.model.base_models import said_clearly
from llamarec.ranker.prompts.template import LETTERS, PROMPT_FILE
from llamarec.ranker.trained.loading import Trained, read_trained
from llamarec.ranker.trained.locations import folder_of
from llamarec.ranker.trained.serving import stored_fusion
from llamarec.report.run import read_run
from llamarec.vocabulary import Experiment


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        step: Of the adapter.
        is_merged: Whole weights, or the adapter alone.
        base_model: That the adapter belongs on.
        is_portable: Whether that name means something on another machine.
    """

    folder: Path
    step: int
    is_merged: bool
    base_model: str
    is_portable: bool


def export_run(
    experiment: Experiment, target: Path, *, merged: bool = False, base_model: str = "", replace: bool = False
) -> Exported:
    """Writes the best model of a run into a folder, all of it or nothing.

    Args:
        experiment: Of the run.
        target: A folder that is not there yet, or empty.
        merged: Whole weights with the adapter in them, instead of the adapter.
        base_model: Name of the base model to write into adapter and card; default: as it was trained on.
        replace: Replace what is in the folder.

    Raises:
        ConfigError: there is something in the folder.
        LlamarecError: the run cannot be read; says what to type.
    """
    target = target.resolve()
    _check_target(target, experiment, replace=replace)
    data = load_prepared(experiment.data)
    trained = read_trained(experiment, data)
    name = base_model or trained.source
    with replacing_folder(target) as staging:
        if merged:
            _write_merged(trained, staging)
        else:
            _write_adapter(trained, staging, name)
        trained.tokenizer.save_pretrained(staging)
        write_json(staging / PROMPT_FILE, _prompt(trained))
        for weights in staging.glob("*.safetensors"):
            # safetensors makes files that only their owner reads.
            weights.chmod((staging / PROMPT_FILE).stat().st_mode)
        fusion = stored_fusion(experiment, trained.adapter)
        if fusion is not None:
            (staging / FUSION_FILE).write_bytes(fusion.as_bytes())
        run = read_run(folder_of(experiment), experiment)
        write_text(staging / "README.md", model_card(run, trained, data, merged=merged, base_model=name))
    return Exported(target, trained.adapter.step, merged, name, not Path(name).is_dir())


def _check_target(target: Path, experiment: Experiment, *, replace: bool) -> None:
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--to {target}: is a file", expected="a folder")
    places = (experiment.ranker, folder_of(experiment).path, experiment.data, experiment.retriever)
    for place in (place.resolve() for place in places):
        if target == place or target in place.parents or place in target.parents:
            raise ConfigError(f"--to {target}: the run itself is there ({place})", expected="a folder of its own")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not replace:
        raise ConfigError(
            f"--to {target}: there is something in it",
            hint="another folder, or --overwrite to replace an earlier export",
        )
    if not (target / PROMPT_FILE).is_file():
        raise ConfigError(
            f"--to {target}: what is in it is no export, and is not replaced",
            expected=f"an earlier export (with {PROMPT_FILE}), or an empty folder",
            hint="another folder",
        )


def _prompt(trained: Trained) -> dict[str, Any]:
    """All that another program needs to ask as training did."""
    config = trained.config
    return {
        **trained.encoder.template.as_dict(),
        "letters": LETTERS[: config.num_candidates],
        "letter_ids": trained.encoder.letter_ids,
        "num_candidates": config.num_candidates,
        "max_history": config.max_history,
        "max_title_tokens": config.max_title_tokens,
        "max_prompt_tokens": config.max_prompt_tokens,
    }


def _write_adapter(trained: Trained, folder: Path, base_model: str) -> None:
    weights = load_weights(trained.adapter.folder)
    if not weights:
        raise ArtifactError(f"{trained.adapter.folder}: there is no adapter in it")
    tensors = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = load_json(trained.adapter.folder / ADAPTER_CONFIG)
    write_json(folder / ADAPTER_CONFIG, {**config, "base_model_name_or_path": base_model, "inference_mode": True})


def _write_merged(trained: Trained, folder: Path) -> None:
    """Into whole weights, also where training had them in 4 bits: rounded ones would lose what was learned."""
    with said_clearly(trained.config.llm_base_model):
        model = AutoModelForCausalLM.from_pretrained(trained.source, dtype="auto")
    config = load_json(trained.adapter.folder / ADAPTER_CONFIG)
    adapted: Any = get_peft_model(model, options_from(LoraConfig, config))
    put_weights(adapted, load_weights(trained.adapter.folder) or {}, trained.adapter.folder, "default")
    adapted.merge_and_unload().save_pretrained(folder)
