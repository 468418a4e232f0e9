"""The models that are computed prompt by prompt, and their weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from llamarec.ranker.model.cpu.layer import Layer
from llamarec.ranker.model.cpu.ops import Norm
from llamarec.ranker.model.cpu.projection import LoraWeights, Projection
from llamarec.ranker.model.dropout import drops
from llamarec.ranker.model.known_layers import config_difference, decoder_difference


@dataclass(frozen=True)
class Form:
    """The weights of a decoder.

    Attributes:
        layers: Layers in order.
        norm: Norm after the last layer.
        trained: LoRA's weights, in the order of their gradients.
    """

    layers: list[Layer]
    norm: Norm
    trained: list[nn.Parameter]

    @property
    def num_trained(self) -> int:
        """Number of entries of all weights in `trained`."""
        return sum(parameter.numel() for parameter in self.trained)

    @property
    def drops(self) -> bool:
        """Whether any projection has dropout."""
        return any(projection.drops for layer in self.layers for projection in layer.projections)

    def merged(self) -> Form:
        """The same decoder for scoring, with LoRA merged into copies of its weights."""
        return replace(self, layers=[layer.merged() for layer in self.layers])


def goes_by_prompts(config: Mapping[str, object]) -> bool:
    """Whether a model with this config.json is computed prompt by prompt, in float32 on a CPU."""
    return config_difference(config) is None


def why_by_modules(model: Any) -> str | None:
    """What keeps a float32 model on a CPU from being computed prompt by prompt; None where nothing does.

    Args:
        model: A causal language model.
    """
    decoder = model.get_decoder()
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    return decoder_difference(decoder)


class _UnfitError(Exception):
    """The model cannot be computed prompt by prompt."""


def form_of(model: Any, beside: Iterable[nn.Parameter] = ()) -> Form | None:
    """The weights of a causal language model; None if its own modules must compute it.

    That is the case on another device than a CPU, in another precision than float32, with quantised weights, activation
    checkpointing, hooks, trained weights other than LoRA's, or layers that are not known (`known_layers`).

    Args:
        model: A causal language model.
        beside: Trained weights that are no part of the decoder.
    """
    decoder = model.get_decoder()
    if torch.is_autocast_enabled("cpu"):
        return None
    if getattr(decoder, "gradient_checkpointing", False) and decoder.training:
        return None
    if decoder_difference(decoder) is not None or (decoder.training and decoder.config.attention_dropout):
        return None
    try:
        reader = _Reader()
        form = Form([reader.layer(layer) for layer in decoder.layers], reader.norm(decoder.norm), reader.trained)
    except (_UnfitError, AttributeError):
        return None
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    known = {id(parameter) for parameter in (*form.trained, *beside)}
    return form if trained <= known else None


class _Reader:
    def __init__(self) -> None:
        self.trained: list[nn.Parameter] = []
        self._count = 0

    def layer(self, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        _without_hooks(layer, attention, mlp)
        q, k = self._projection("q", attention.q_proj), self._projection("k", attention.k_proj)
        width = int(attention.head_dim)
        groups = len(k.weight_MN) // width
        return Layer(
            norm_1=self.norm(layer.input_layernorm),
            norm_2=self.norm(layer.post_attention_layernorm),
            q=q,
            k=k,
            v=self._projection("v", attention.v_proj),
            o=self._projection("o", attention.o_proj),
            gate=self._projection("gate", mlp.gate_proj),
            up=self._projection("up", mlp.up_proj),
            down=self._projection("down", mlp.down_proj),
            groups=groups,
            heads=len(q.weight_MN) // width // groups,
            width=width,
            scale=float(attention.scaling),
        )

    def norm(self, norm: Any) -> Norm:
        _without_hooks(norm)
        return Norm(_plain(norm.weight), float(norm.variance_epsilon))

    def _projection(self, name: str, module: Any) -> Projection:
        if type(module) is nn.Linear:
            _without_hooks(module)
            return Projection(name, _plain(module.weight), None if module.bias is None else _plain(module.bias))
        if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear:
            raise _UnfitError
        base = self._projection(name, module.base_layer)
        _without_hooks(module)
        if module.disable_adapters or module.merged:
            return base
        return Projection(name, base.weight_MN, base.bias_M, self._adapter(module))

    def _adapter(self, module: Any) -> LoraWeights | None:
        names = [name for name in module.active_adapters if name in module.lora_A]
        if not names:
            return None
        if len(names) > 1 or getattr(module, "lora_variant", None):
            raise _UnfitError
        (name,) = names
        down, up, dropout = module.lora_A[name], module.lora_B[name], module.lora_dropout[name]
        if down.bias is not None or up.bias is not None:
            raise _UnfitError
        _without_hooks(down, up, dropout)
        share = float(getattr(dropout, "p", 0.0)) if module.training else 0.0
        if share > 0.5 and not drops(share):
            # All inputs are dropped.
            raise _UnfitError
        return LoraWeights(
            _plain(down.weight, trained=True),
            _plain(up.weight, trained=True),
            float(module.scaling[name]),
            share,
            (self._offset_of(down.weight), self._offset_of(up.weight)),
        )

    def _offset_of(self, parameter: nn.Parameter) -> int:
        offset = self._count
        self.trained.append(parameter)
        self._count += parameter.numel()
        return offset


def _plain(tensor: Tensor, *, trained: bool = False) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise _UnfitError
    if tensor.requires_grad and not trained:
        raise _UnfitError
    return tensor.detach()


def _without_hooks(*modules: Any) -> None:
    for module in modules:
        if any(_hooks(module)):
            raise _UnfitError


def _hooks(module: nn.Module) -> Iterator[Any]:
    yield module._forward_hooks
    yield module._forward_pre_hooks
    yield module._backward_hooks
    yield module._backward_pre_hooks
