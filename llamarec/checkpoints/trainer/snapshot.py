"""A step's state copied from memory, to be written while training continues."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from llamarec.checkpoints.trainer.versions import is_adapter

T = TypeVar("T")


def copied(value: T) -> T:
    """Tensors copied to the CPU, in new containers; everything else is the same object."""
    return cast(T, _copied(value))


def _copied(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]

    return tuple(_copied(item) for item in value) if type(value) is tuple else value


def num_bytes_of(value: object) -> int:
    """Size of the tensors in a value."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(num_bytes_of(item) for item in value.values())
    return sum(num_bytes_of(item) for item in value) if isinstance(value, list | tuple) else 0


def pickled(value: object) -> bytes:
    """As `torch.save` writes it, for small things."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pickling(value: object) -> Callable[[BinaryIO], None]:
    """A writer for `Staging.write_with`."""

    def write(file: BinaryIO) -> None:
        torch.save(value, file)

    return write


def model_state(model: nn.Module) -> dict[str, torch.Tensor] | None:
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
