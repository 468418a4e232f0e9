"""A step's state copied from memory, to be written while training goes on."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from transformers import PreTrainedModel

from llamarec.checkpoints.trainer.versions import is_adapter


def copied(value: Any) -> Any:
    """Tensors as copies on the CPU, containers as new ones; everything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return tuple(copied(item) for item in value) if type(value) is tuple else value


def num_bytes_of(value: Any) -> int:
    """Size of the tensors in a value."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(num_bytes_of(item) for item in value.values())
    return sum(num_bytes_of(item) for item in value) if isinstance(value, list | tuple) else 0


def pickled(value: Any) -> bytes:
    """As `torch.save` writes it, for small things."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pickling(value: Any) -> Callable[[BinaryIO], None]:
    """A writer for `Staging.write_with`."""

    def write(file: BinaryIO) -> None:
        torch.save(value, file)

    return write


def model_state(model: Any) -> dict[str, torch.Tensor] | None:
    """The weights that a save needs, copied where training changes them; None where only the live model can be saved.

    Of a whole model frozen weights are copied too: a callback may change them (an average kept beside), and nothing
    tells when. Weights that are one in memory (tied embeddings) stay one.
    """
    if is_adapter(model):
        from peft import LoraConfig

        # Other kinds of adapters read what they save from the live model.
        configs = model.peft_config.values()
        if not all(isinstance(config, LoraConfig) and not config.trainable_token_indices for config in configs):
            return None
        state = {name: copied(p) for name, p in model.named_parameters() if p.requires_grad}
        # Whole modules that are trained beside: their frozen weights and buffers are saved too.
        others = [*model.named_parameters(), *model.named_buffers()]
        return state | {name: copied(value) for name, value in others if "modules_to_save." in name}
    if not isinstance(model, PreTrainedModel):
        return {name: copied(value) for name, value in model.state_dict().items()}
    live = model.state_dict(keep_vars=True)
    copies = {id(value): copied(value) for value in {id(value): value for value in live.values()}.values()}
    return {name: copies[id(value)] for name, value in live.items()}
