"""Export of a trained model: a folder for plain transformers and PEFT, and for vLLM as a LoRA module or a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, LoraModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from llamarec.checkpoints.resume.safe_load import load_json, load_weights
from llamarec.checkpoints.storage.layout import ADAPTER_CONFIG
from llamarec.checkpoints.trainer.state.into_model import put_weights
from llamarec.data.prepared import PreparedData, load_prepared
from llamarec.errors import ArtifactError, ConfigError
from llamarec.evaluation.fusion import FUSION_FILE
from llamarec.export.card import model_card
from llamarec.export.items import write_item_card, write_item_files
from llamarec.export.merge_check import checked_difference, letters, some_prompts
from llamarec.export.own_files import keep_own_files
from llamarec.files import replacing_folder, write_json, write_text
from llamarec.planning.shape import shape_of
from llamarec.ranker.model.base_models import explain_load_errors, load_configuration
from llamarec.ranker.model.foreign_code import configuration
from llamarec.ranker.options.config import ITEMS
from llamarec.ranker.prompts.template import LETTERS, PROMPT_FILE
from llamarec.ranker.trained.item_expert import TrainedItems, read_trained_items
from llamarec.ranker.trained.loading import Trained, read_trained, readout_of
from llamarec.ranker.trained.locations import folder_of
from llamarec.ranker.trained.serving import stored_fusion
from llamarec.report.run import read_run
from llamarec.retriever.published import check_published
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.vocabulary import Experiment


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        folder: The folder that was written.
        step: Step of the adapter.
        is_merged: Whether the folder has whole weights; otherwise it has the adapter alone.
        base_model: Model that the adapter was trained on, or the name given for it.
        is_portable: Whether that name exists on other machines; a local folder does not.
        difference: Largest difference between the letters' log-probabilities of adapter and merged model, in nats; None
            for an adapter.
    """

    folder: Path
    step: int
    is_merged: bool
    base_model: str
    is_portable: bool
    difference: float | None = None


def export_run(
    experiment: Experiment,
    target: Path,
    *,
    merged: bool = False,
    base_model: str = "",
    replace: bool = False,
    dtype: str = "auto",
) -> Exported:
    """Writes the best model of a run into a folder; after an error the folder is unchanged.

    Args:
        experiment: The run.
        target: A folder that is empty or does not exist.
        merged: Write whole weights that include the adapter, instead of the adapter.
        base_model: Base model to name in the adapter and the card; default: the one it was trained on.
        replace: Replace an earlier export in the folder; files that no export writes stay.
        dtype: Type of merged weights, as torch names it; auto is that of the base model.

    Raises:
        ConfigError: the folder is not empty, is not an earlier export, or belongs to the run itself.
        LlamarecError: the run cannot be read.
    """
    target = target.resolve()
    _check_target(target, experiment, replace=replace)
    check_published(experiment, rebuild_command(experiment))
    data = load_prepared(experiment.data)
    if readout_of(experiment) == ITEMS:
        return _export_items(experiment, data, target, merged=merged, base_model=base_model)

    trained = read_trained(experiment, data)
    name = base_model or trained.source

    with replacing_folder(target) as staging:
        difference = None
        if merged:
            difference = _write_merged(trained, staging, dtype, some_prompts(trained, data, experiment))
        else:
            _write_adapter(trained, staging, name)

        trained.tokenizer.save_pretrained(staging)
        write_json(staging / PROMPT_FILE, _prompt(trained))
        for weights in staging.glob("*.safetensors"):
            # safetensors creates files that only their owner can read.
            weights.chmod((staging / PROMPT_FILE).stat().st_mode)

        fusion = stored_fusion(experiment, trained.adapter)
        if fusion is not None:
            (staging / FUSION_FILE).write_bytes(fusion.as_bytes())

        run = read_run(folder_of(experiment), experiment)
        card = model_card(run, trained, data, merged=merged, base_model=name, difference=difference)
        write_text(staging / "README.md", card)
        keep_own_files(target, staging)

    return Exported(target, trained.adapter.step, merged, name, not Path(name).is_dir(), difference)


def _export_items(
    experiment: Experiment, data: PreparedData, target: Path, *, merged: bool, base_model: str
) -> Exported:
    if merged:
        raise ConfigError(
            "--merged: not with --readout items", expected="the adapter and the item vectors", hint="without --merged"
        )
    trained = read_trained_items(experiment, data)
    name = base_model or trained.source
    hidden_size = shape_of(load_configuration(trained.config.llm_base_model, trained.source), name).hidden

    with replacing_folder(target) as staging:
        _write_adapter(trained, staging, name)
        write_item_files(trained, data, hidden_size, staging)
        for weights in staging.glob("*.safetensors"):
            # safetensors creates files that only their owner can read.
            weights.chmod((staging / PROMPT_FILE).stat().st_mode)
        write_item_card(read_run(folder_of(experiment), experiment), trained, data, name, staging)
        keep_own_files(target, staging)

    return Exported(target, trained.adapter.step, False, name, not Path(name).is_dir())


def _check_target(target: Path, experiment: Experiment, *, replace: bool) -> None:
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--to {target}: this is a file", expected="a folder")

    folders = (experiment.ranker, folder_of(experiment).path, experiment.data, experiment.retriever)
    for folder in (folder.resolve() for folder in folders):
        if target == folder or target in folder.parents or folder in target.parents:
            raise ConfigError(
                f"--to {target}: this folder belongs to the run itself ({folder})", expected="a folder outside the run"
            )

    if not target.is_dir() or not any(target.iterdir()):
        return
    if not replace:
        raise ConfigError(
            f"--to {target}: the folder is not empty",
            hint="choose another folder, or replace an earlier export: --overwrite",
        )
    if not (target / PROMPT_FILE).is_file():
        raise ConfigError(
            f"--to {target}: the folder does not contain an export, so it is not replaced",
            expected=f"an earlier export (with {PROMPT_FILE}), or an empty folder",
            hint="choose another folder",
        )


def _prompt(trained: Trained) -> dict[str, object]:
    """Everything another program needs to build the prompts of training."""
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


def _write_adapter(trained: Trained | TrainedItems, folder: Path, base_model: str) -> None:
    weights = load_weights(trained.adapter.folder)
    if not weights:
        raise ArtifactError(f"{trained.adapter.folder}: this folder contains no adapter")

    tensors = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = load_json(trained.adapter.folder / ADAPTER_CONFIG)
    write_json(folder / ADAPTER_CONFIG, {**config, "base_model_name_or_path": base_model, "inference_mode": True})


def _write_merged(trained: Trained, folder: Path, dtype: str, prompts: list[list[int]]) -> float:
    """Whole weights, unquantized even after training in 4 bits: merging into rounded weights loses accuracy.

    Returns:
        How far the letters of the written model are from the adapter's, in nats.

    Raises:
        ConfigError: too far.
    """
    with explain_load_errors(trained.config.llm_base_model):
        configuration(trained.config.llm_base_model, trained.source)
        model = AutoModelForCausalLM.from_pretrained(trained.source, dtype=dtype, trust_remote_code=False)
    adapted = get_peft_model(model, LoraConfig.from_pretrained(str(trained.adapter.folder)))
    put_weights(adapted, load_weights(trained.adapter.folder) or {}, trained.adapter.folder, "default")

    assert isinstance(adapted.base_model, LoraModel)
    letter_ids = trained.encoder.letter_ids
    wanted = letters(adapted.base_model.model, prompts, letter_ids)

    _untie_if_adapted(adapted.base_model.model)
    merged = adapted.base_model.merge_and_unload()
    assert isinstance(merged, PreTrainedModel)
    merged.save_pretrained(folder)
    name = str(merged.dtype).removeprefix("torch.")
    del model, adapted, merged

    # As it was written: what is tied is written once.
    written = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False)
    return checked_difference(wanted, letters(written, prompts, letter_ids), name)


def _untie_if_adapted(model: Any) -> None:
    """Gives embeddings and output matrix weights of their own where the adapter changes one of them.

    Merged into shared weights, it would change both.
    """
    head: Any = model.get_output_embeddings()
    embeddings: Any = model.get_input_embeddings()
    if not any(isinstance(one, BaseTunerLayer) for one in (head, embeddings)):
        return

    base: Any = head
    if isinstance(head, BaseTunerLayer):
        base = head.get_base_layer()
    base.weight = torch.nn.Parameter(base.weight.detach().clone())
    model.config.tie_word_embeddings = False
