"""Weights into and out of the live model: verified, safe, and all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.safe_load import load_weights
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.discovery import best_in
from llamarec.checkpoints.storage.layout import TRAINING_ARGS, RunFolder, weight_files
from llamarec.checkpoints.storage.verification import verify, verify_best
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.checkpoints.trainer.versions import is_adapter
from llamarec.errors import CheckpointError

_ANOTHER_MODEL: Final = "build the model as it was trained, or train the new one in another --output_dir"


class Weights:
    """The weights of a Trainer's model.

    Args:
        trainer: The live Trainer.
        config: The format of an adapter.
        console: For what is not found.
    """

    def __init__(self, trainer: LiveTrainer, config: CheckpointConfig, console: Console) -> None:
        self._trainer, self._config, self._console = trainer, config, console

    def load_best(self, run: RunFolder) -> None:
        """Loads the best model of this line of training, verified."""
        step = self._trainer.state.best_global_step
        if step is None:
            return

        folder = folder_of_best(run, step)
        if folder is None:
            self._console.warn(f"WARNING: the best model (step {step:,}) is gone; the last one is used")
            return

        self.load(folder)

    def load(self, folder: Path) -> None:
        """Loads the weights of a checkpoint (or of the best model) into the live model.

        Raises:
            CheckpointError: they are damaged, hostile, or of another shape.
        """
        model = unwrapped(self._trainer)
        adapter = model.active_adapters[0] if is_adapter(model) else ""
        # Adapters with another name than the default have folders of their own.
        folder = folder / adapter if adapter and weight_files(folder / adapter) else folder

        weights = load_weights(folder)
        if weights is None or (isinstance(model, PreTrainedModel) and not adapter):
            # Transformers knows how the files of its own models differ from what is in memory.
            Trainer._load_from_checkpoint(self._trainer, str(folder), self._trainer.model)  # type: ignore[arg-type]
            return

        put_weights(model, weights, folder, adapter)

    def save_as_bin(self, output_dir: str | None, state_dict: Mapping[str, Tensor] | None) -> bool:
        """Saves an adapter as adapter_model.bin; False where that is not asked for, and nothing was done."""
        trainer, model = self._trainer, unwrapped(self._trainer)
        if not is_adapter(model) or self._config.adapter_format == "safetensors":
            return False

        if trainer.args.should_save:
            folder = Path(output_dir or str(trainer.args.output_dir))
            durable.make_folders(folder)
            model.save_pretrained(str(folder), state_dict=state_dict, safe_serialization=False)
            processing = getattr(trainer, "processing_class", None)
            if processing is not None:
                processing.save_pretrained(folder)
            torch.save(trainer.args, folder / TRAINING_ARGS)

        return True


def folder_of_best(run: RunFolder, step: int) -> Path | None:
    """The folder with the intact model of the best step: the run's own, or that step's checkpoint."""
    best, checkpoint = best_in(run), run.checkpoint(step)
    if best is not None and best.step == step and verify_best(run.path).health == "good":
        return run.path

    return checkpoint if verify(checkpoint).health == "good" else None


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], folder: Path, adapter: str = "") -> None:
    """Puts weights into a model, all of them.

    Args:
        model: With PEFT's adapter of this name, or a plain module.
        weights: What `load_weights` read.
        folder: Where they come from, for messages.
        adapter: Empty for a plain module.

    Raises:
        CheckpointError: they are of another shape, or not those of this model.
    """
    try:
        missing, unexpected = _load_state(model, weights, adapter)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        shown = [*lines[:3], *([f"and {len(lines) - 3} more"] if len(lines) > 3 else [])]
        raise CheckpointError(
            f"the weights in {folder} have another shape than this model's",
            expected="the model that was trained",
            found=shown or str(error).strip(),
            hint=_ANOTHER_MODEL,
        ) from error

    if unexpected or missing:
        raise CheckpointError(
            f"the weights in {folder} are not those of this model",
            expected=f"{len(missing)} more: {', '.join(missing[:3])}" if missing else None,
            found=f"{len(unexpected)} unknown: {', '.join(unexpected[:3])}" if unexpected else None,
            hint=_ANOTHER_MODEL,
        )


def _load_state(model: nn.Module, weights: Mapping[str, Tensor], adapter: str) -> tuple[list[str], list[str]]:
    """Names that are missing from the weights, and names that the model does not have."""
    if is_adapter(model):
        from peft import set_peft_model_state_dict

        loaded: Any = set_peft_model_state_dict(model, dict(weights), adapter_name=adapter)
        missing = [name for name in loaded.missing_keys if "lora_" in name and f".{adapter}." in name]
        return missing, list(loaded.unexpected_keys)

    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = set(getattr(model, "_tied_weights_keys", None) or []) | {"lm_head.weight"}
    return [name for name in missing if name not in tied], list(unexpected)
