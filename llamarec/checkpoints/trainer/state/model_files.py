"""Which of a model's tensors lie in which weights file, under which key: asked of the library that writes the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from llamarec.checkpoints.trainer.guards.versions import is_adapter
from llamarec.errors import ConfigError

_DEFAULT: Final = "default"
_NATIVE_PREFIX: Final = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """One file with weights, as `save_pretrained` of the live model would write it.

    Attributes:
        folder: Where it is inside the checkpoint; empty for the checkpoint itself.
        adapter: Name of the adapter that it holds; empty for a whole model.
        names: Names in the model's state, by key in the file.
        computed: Keys whose tensors are made for the file (a prompt from its encoder, a cut rank).
    """

    folder: str = ""
    adapter: str = ""
    names: Mapping[str, str]
    computed: tuple[str, ...] = ()


def weights_files(model: nn.Module) -> list[WeightsFile]:
    """The weights files of a model, without the embedding layers that PEFT adds where they were resized.

    Args:
        model: Without wrappers.
    """
    live = model.state_dict(keep_vars=True)
    if is_adapter(model):
        return [_adapter_file(model, live, name) for name in model.peft_config]
    if is_native_adapter(model):
        return [_native_file(model, live)]

    return [WeightsFile(names={name: name for name in live})]


def sources_of(model: nn.Module, file: WeightsFile) -> dict[str, torch.Tensor]:
    """What the computed tensors of an adapter's file are made from: all parameters of the adapter, by name."""
    kept, component = set(file.names.values()), f".{file.adapter}."
    return {name: value for name, value in model.named_parameters() if name in kept or component in f".{name}."}


def check_can_be_saved(model: nn.Module) -> None:
    """Refuses a model whose `save_pretrained` would raise at the first save.

    Raises:
        ConfigError: several adapters of transformers' own are active, which it cannot save.
    """
    active = cast(PreTrainedModel, model).active_adapters() if is_native_adapter(model) else []
    if len(active) > 1:
        raise ConfigError(
            f"transformers saves one adapter of model.add_adapter, and {len(active)} are active",
            expected="one active adapter",
            found=", ".join(active),
            hint="train them with PEFT, which saves each: peft.get_peft_model(model, config), then add_adapter",
        )


def is_native_adapter(model: nn.Module) -> bool:
    """Whether a model of transformers holds adapters by itself (`model.add_adapter`)."""
    return isinstance(model, PreTrainedModel) and bool(getattr(model, "_hf_peft_config_loaded", False))


def _adapter_file(model: nn.Module, live: Mapping[str, torch.Tensor], adapter: str) -> WeightsFile:
    folder = "" if adapter == _DEFAULT else adapter
    return _asked(model, live, adapter=adapter, folder=folder, prefix="")


def _native_file(model: nn.Module, live: Mapping[str, torch.Tensor]) -> WeightsFile:
    # Transformers writes the active adapter only, under PEFT's names.
    active = cast(PreTrainedModel, model).active_adapters()[0]
    return _asked(model, live, adapter=active, folder="", prefix=_NATIVE_PREFIX)


def _asked(
    model: nn.Module, live: Mapping[str, torch.Tensor], *, adapter: str, folder: str, prefix: str
) -> WeightsFile:
    """Has PEFT choose from stand-ins that share the live tensors' memory, and recognises them by identity."""
    from peft import get_peft_model_state_dict

    stand_ins = {name: value.detach() for name, value in live.items() if isinstance(value, torch.Tensor)}
    name_of = {id(value): name for name, value in stand_ins.items()}
    with torch.no_grad():
        chosen = get_peft_model_state_dict(
            model, state_dict=stand_ins, adapter_name=adapter, save_embedding_layers=False
        )

    return WeightsFile(
        folder=folder,
        adapter=adapter,
        names={f"{prefix}{key}": name_of[id(value)] for key, value in chosen.items() if id(value) in name_of},
        computed=tuple(f"{prefix}{key}" for key, value in chosen.items() if id(value) not in name_of),
    )
