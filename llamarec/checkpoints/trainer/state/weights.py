"""Weights into and out of the live model: verified, safe, and all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.safe_load import load_json, load_weights, weights_in
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.discovery import folder_of_best
from llamarec.checkpoints.storage.layout import ADAPTER_CONFIG, TRAINING_ARGS, RunFolder, weight_files
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.guards.versions import is_adapter
from llamarec.checkpoints.trainer.state.extra_state import ExtraState, read_extra_state
from llamarec.checkpoints.trainer.state.into_model import ANOTHER_MODEL, load_part, put_adapter, refuse_other_names
from llamarec.checkpoints.trainer.state.model_files import WeightsFile, is_native_adapter, sources_of, weights_files
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.errors import CheckpointError


class Weights:
    """The weights of a Trainer's model.

    Args:
        trainer: The live Trainer.
        config: The format of an adapter.
        console: For what is not found.
        extra: What the weights files do not hold.
    """

    def __init__(self, trainer: LiveTrainer, config: CheckpointConfig, console: Console, extra: ExtraState) -> None:
        self._trainer, self._config, self._console, self._extra = trainer, config, console, extra

    def load_best(self, run: RunFolder) -> bool:
        """Loads the best model of this line of training, verified; False where it is gone."""
        step = self._trainer.state.best_global_step
        if step is None:
            return True

        folder = folder_of_best(run, step)
        if folder is None:
            self._console.warn(f"WARNING: the best model (step {step:,}) is gone; the last one is used")
            return False

        self.load(folder)
        return True

    def load(self, folder: Path) -> None:
        """Loads the weights of a checkpoint (or of the best model) into the live model, every adapter under its name.

        Raises:
            CheckpointError: they are damaged, hostile, of another shape, or not all of this model's.
        """
        extra = read_extra_state(folder)
        self._take_over(folder, extra, check_only=False)
        self._extra.put_into_model(extra, folder)
        if self._trainer.optimizer is not None:
            self._extra.put_into_optimizer(extra, folder)

    def check(self, folder: Path) -> None:
        """Whether `load` would take these weights; changes nothing.

        Raises:
            CheckpointError: as `load` would.
        """
        self._take_over(folder, read_extra_state(folder), check_only=True)

    def _take_over(self, folder: Path, extra: Mapping[str, Tensor], *, check_only: bool) -> None:
        model = unwrapped(self._trainer)
        if not (is_adapter(model) or is_native_adapter(model)):
            self._take_whole(model, folder, check_only=check_only)
            return

        files = weights_files(model)
        for file in files:
            path = _folder_of(file, folder, is_only=len(files) == 1)
            weights = load_weights(path)
            if weights is None:
                raise _missing(path, file)

            if not _is_in_extra(model, file, extra):
                put_adapter(model, weights, path, file, check_only=check_only)
            elif not check_only:
                _take_ranks(model, file.adapter, path)

    def _take_whole(self, model: nn.Module, folder: Path, *, check_only: bool) -> None:
        if getattr(model, "hf_quantizer", None) is not None:
            # Transformers knows how the files of such models differ from what is in memory.
            if not check_only:
                Trainer._load_from_checkpoint(self._trainer, str(folder), self._trainer.model)  # type: ignore[arg-type]
            return

        seen: set[str] = set()
        for weights in weights_in(folder):
            seen |= weights.keys()
            if not check_only:
                load_part(model, weights, folder)

        if not seen:
            raise CheckpointError(f"{folder} holds no weights", expected="model.safetensors or its shards")
        refuse_other_names(model, seen, folder)

    def save_as_bin(
        self, trainer: LiveTrainer, output_dir: str | None, state_dict: Mapping[str, Tensor] | None
    ) -> bool:
        """Saves an adapter as adapter_model.bin; False where that is not asked for, and nothing was done."""
        model = unwrapped(trainer)
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


# ---- Adapters in their folders ----


def _folder_of(file: WeightsFile, folder: Path, *, is_only: bool) -> Path:
    """Where an adapter is; the only one may have another name than it was saved under."""
    own = folder / file.folder
    return folder if is_only and not weight_files(own) else own


def _missing(path: Path, file: WeightsFile) -> CheckpointError:
    return CheckpointError(
        f"{path} holds no weights of the adapter {file.adapter}",
        expected="adapter_model.safetensors or adapter_model.bin",
        hint=ANOTHER_MODEL,
    )


def _is_in_extra(model: nn.Module, file: WeightsFile, extra: Mapping[str, Tensor]) -> bool:
    """Whether all of an adapter is in the extra state, its file being computed from it."""
    names = {*file.names.values(), *(sources_of(model, file) if file.computed else ())}
    return bool(names) and names <= extra.keys()


def _take_ranks(model: nn.Module, adapter: str, path: Path) -> None:
    """The ranks that AdaLoRA has come to, which are part of its configuration."""
    config: Any = model.peft_config[adapter]  # type: ignore[index]
    if hasattr(config, "rank_pattern") and hasattr(config, "target_r"):
        config.rank_pattern = load_json(path / ADAPTER_CONFIG).get("rank_pattern")
