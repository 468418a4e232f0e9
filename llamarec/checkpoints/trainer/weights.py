"""Weights of a checkpoint, or of the best model, into the live model: verified, safe, and all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor
from transformers import PreTrainedModel, Trainer

from llamarec.checkpoints.resume.safe_load import load_weights
from llamarec.checkpoints.storage.discovery import best_in
from llamarec.checkpoints.storage.layout import RunFolder, weight_files
from llamarec.checkpoints.storage.verification import verify, verify_best
from llamarec.checkpoints.trainer.shared_state import SharedState
from llamarec.checkpoints.trainer.versions import is_adapter
from llamarec.errors import CheckpointError

_ANOTHER_MODEL: Final = "give the model the form that it had, or train the new one in another --output_dir"


class Weights(SharedState):
    """Mixin before `Trainer`: loading weights."""

    def _load_best_model(self) -> None:
        """The best model of this line of training, verified."""
        step = self.state.best_global_step
        if step is None:
            return
        folder = folder_of_best(self._run, step)
        if folder is None:
            self._say(f"WARNING: the best model (step {step:,}) is not there any more; the last one is used")
            return
        self._load_weights(folder)

    def _load_weights(self, folder: Path) -> None:
        """Weights of a checkpoint (or of the best model) into the live model.

        Raises:
            CheckpointError: they are damaged, hostile, or of another shape.
        """
        model = self._unwrapped()
        adapter = model.active_adapters[0] if is_adapter(model) else ""
        # Adapters of other names than the default one lie in folders of their own.
        folder = folder / adapter if adapter and weight_files(folder / adapter) else folder
        weights = load_weights(folder)
        if weights is None or (isinstance(model, PreTrainedModel) and not adapter):
            # Transformers knows how the files of its own models differ from what is in memory.
            Trainer._load_from_checkpoint(self, str(folder), self.model)  # type: ignore[arg-type]
            return
        put_weights(model, weights, folder, adapter)


def folder_of_best(run: RunFolder, step: int) -> Path | None:
    """Where the model of the best step lies as it was saved: the run's folder itself, or that step's checkpoint."""
    best, checkpoint = best_in(run), run.checkpoint(step)
    if best is not None and best.step == step and verify_best(run.path).health == "good":
        return run.path
    return checkpoint if verify(checkpoint).health == "good" else None


def put_weights(model: Any, weights: Mapping[str, Tensor], folder: Path, adapter: str = "") -> None:
    """Weights into a model, all of them.

    Args:
        model: With PEFT's adapter of this name, or a plain module.
        weights: What `load_weights` read.
        folder: Where from, for messages.
        adapter: Empty for a plain module.

    Raises:
        CheckpointError: they are of another shape, or not those of this model.
    """
    try:
        result: Any
        if is_adapter(model):
            from peft import set_peft_model_state_dict

            result = set_peft_model_state_dict(model, dict(weights), adapter_name=adapter)
            unexpected = list(result.unexpected_keys)
            missing = [name for name in result.missing_keys if "lora_" in name and f".{adapter}." in name]
        else:
            result = model.load_state_dict(weights, strict=False)
            unexpected, missing = list(result.unexpected_keys), list(result.missing_keys)
            ignored = set(getattr(model, "_tied_weights_keys", None) or []) | {"lm_head.weight"}
            missing = [name for name in missing if name not in ignored]
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        shown = [*lines[:3], *([f"and {len(lines) - 3} more"] if len(lines) > 3 else [])]
        raise CheckpointError(
            f"the weights in {folder} have another shape than this model's",
            expected="the model that was trained",
            found=("\n" + " " * 12).join(shown) or str(error).strip(),
            hint=_ANOTHER_MODEL,
        ) from error
    if unexpected or missing:
        raise CheckpointError(
            f"the weights in {folder} are not those of this model",
            expected=f"{len(missing)} more: {', '.join(missing[:3])}" if missing else None,
            found=f"{len(unexpected)} unknown: {', '.join(unexpected[:3])}" if unexpected else None,
            hint=_ANOTHER_MODEL,
        )
