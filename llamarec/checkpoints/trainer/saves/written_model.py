"""What a thread writes a model's files from: its live modules under configurations of their own.

`save_pretrained` sets fields of the configuration that it writes, for a moment (`inference_mode` in PEFT) or for good
(`architectures`). A training that goes on beside it must not see that, nor may a file show what a callback sets later.
"""

from __future__ import annotations

import contextlib
from copy import deepcopy
from typing import TypeVar

from torch import nn
from transformers import GenerationConfig, PretrainedConfig

from llamarec.checkpoints.trainer.guards.versions import is_adapter
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped

T = TypeVar("T")


def trainer_of_copy(trainer: LiveTrainer) -> LiveTrainer:
    """A Trainer whose `_save` writes configurations as they are now; everything else is the live one's.

    Args:
        trainer: The live Trainer, whose class does not override how weights are written.
    """
    other = _shallow(trainer)
    other.model = with_own_configurations(unwrapped(trainer))
    return other


def with_own_configurations(model: nn.Module) -> nn.Module:
    """The same modules and weights, with copies of what describes them."""
    other = _shallow(model)
    if is_adapter(model):
        # PEFT keeps the adapters' configurations one level below.
        other._modules = {**model._modules, "base_model": with_own_configurations(model.base_model)}

    for name, value in vars(model).items():
        if _is_configuration(value):
            # One that holds what cannot be copied is written as it is then.
            with contextlib.suppress(Exception):
                vars(other)[name] = deepcopy(value)
    return other


def _is_configuration(value: object) -> bool:
    if type(value) is dict:
        return bool(value) and all(map(_is_configuration, value.values()))
    return isinstance(value, PretrainedConfig | GenerationConfig) or (
        # Without importing PEFT, which not everybody has.
        type(value).__module__.startswith("peft.") and hasattr(value, "peft_type")
    )


def _shallow(value: T) -> T:
    """Another object of the same class with the same attributes; nothing of the class is called."""
    other = object.__new__(type(value))
    vars(other).update(vars(value))
    return other
