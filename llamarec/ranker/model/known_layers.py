"""Which decoder layers this package knows well enough to compute itself.

`cpu/` re-implements the layers of Llama, Mistral and Qwen2, and `last_layer` cuts the last one short. A class name does
not prove that a layer still is what these two assume: a later transformers, a library that patches it, or a model's own
code may add a norm, a scale or another activation. So all that a layer consists of is compared: classes and where they
are defined, parts and their widths, the settings of each part, and the options that the model's code reads. A layer
that differs in any of them is computed by its own modules.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from types import CodeType
from typing import Any, Final

from torch import nn

from llamarec.planning.shape import PLAIN_DECODERS

_ACTIVATIONS: Final = ("silu", "swish")
_ACTIVATION_CLASSES: Final = ("SiLU", "SiLUActivation")
_MASKED_ATTENTION: Final = ("sdpa", "eager")
"""Implementations of causal attention that are the same function."""

# The parts of a layer by path: class suffix, names of its own parts, and its settings.
_PARTS: Final[dict[str, tuple[str, frozenset[str], frozenset[str]]]] = {
    "": (
        "DecoderLayer",
        frozenset({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}),
        frozenset({"hidden_size", "layer_idx", "attention_type", "gradient_checkpointing"}),
    ),
    "self_attn": (
        "Attention",
        frozenset({"q_proj", "k_proj", "v_proj", "o_proj"}),
        frozenset(
            {
                *("config", "layer_idx", "hidden_size", "num_heads", "head_dim", "num_key_value_heads"),
                *("num_key_value_groups", "scaling", "attention_dropout", "is_causal", "layer_type", "sliding_window"),
            }
        ),
    ),
    "mlp": (
        "MLP",
        frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"}),
        frozenset({"config", "hidden_size", "intermediate_size"}),
    ),
    "input_layernorm": ("RMSNorm", frozenset(), frozenset({"variance_epsilon"})),
    "post_attention_layernorm": ("RMSNorm", frozenset(), frozenset({"variance_epsilon"})),
}
_DECODER_PARTS: Final = frozenset({"embed_tokens", "layers", "norm", "rotary_emb"})

# Options of a config.json whose effect is known: read from the modules, or checked in `config_difference`.
_KNOWN_OPTIONS: Final = frozenset(
    {
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "attention_bias", "mlp_bias"),
        *("attention_dropout", "rope_parameters", "rope_theta", "rope_scaling", "max_position_embeddings"),
        *("partial_rotary_factor", "sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
        *("model_type", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings", "initializer_range"),
        *("use_cache", "dtype", "torch_dtype", "pretraining_tp", "output_attentions", "output_hidden_states"),
        *("return_dict", "use_return_dict", "num_labels", "id2label", "label2id", "problem_type", "architectures"),
    }
)


def config_difference(config: Mapping[str, object]) -> str | None:
    """How a config.json describes another decoder than the known ones; None where it describes one of them.

    Args:
        config: The content of config.json, defaults included.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in PLAIN_DECODERS:
        return f"model_type is {kind}"
    if config.get("hidden_act") not in _ACTIVATIONS:
        return f"hidden_act is {config.get('hidden_act')}"

    layer_types = config.get("layer_types")
    if isinstance(layer_types, list) and set(layer_types) - {"full_attention"}:
        return f"layer_types are {', '.join(sorted(set(layer_types)))}"
    if config.get("sliding_window") and config.get("use_sliding_window") is not False:
        return f"sliding_window is {config['sliding_window']}"
    if config.get("partial_rotary_factor") not in (None, 1.0):
        return f"partial_rotary_factor is {config['partial_rotary_factor']}"

    # What a config.json says besides matters where the model's code reads it.
    read = _names_in_code_of(kind)
    unknown = [name for name, value in config.items() if name in read - _KNOWN_OPTIONS and not _is_neutral(name, value)]
    return f"{unknown[0]} is {config[unknown[0]]}" if unknown else None


def decoder_difference(decoder: Any) -> str | None:
    """How a decoder differs from the known ones, in words; None where it is one of them.

    Args:
        decoder: What `get_decoder` of a causal language model returns.
    """
    config = decoder.config
    different = config_difference(config.to_dict())
    if different is not None:
        return different

    kind = str(config.model_type)
    attention = getattr(config, "_attn_implementation", "sdpa")
    if attention not in _MASKED_ATTENTION:
        return f"attention is {attention}"
    if _names(decoder) != _DECODER_PARTS:
        return _other_parts(decoder, _DECODER_PARTS)
    if len(decoder.layers) != config.num_hidden_layers:
        return f"{len(decoder.layers)} layers, but num_hidden_layers is {config.num_hidden_layers}"

    differences = [
        _class_difference(decoder, kind, "Model"),
        _class_difference(decoder.rotary_emb, kind, "RotaryEmbedding"),
        None if type(decoder.embed_tokens) is nn.Embedding else f"embed_tokens is {_name_of(decoder.embed_tokens)}",
        _part_difference(decoder.norm, kind, *_PARTS["input_layernorm"]),
        *(layer_difference(layer, kind) for layer in decoder.layers),
    ]
    return next((text for text in differences if text is not None), None)


def layer_difference(layer: Any, kind: str) -> str | None:
    """How one decoder layer differs from the known ones, in words; None where it is one of them.

    Args:
        layer: With or without LoRA, in any precision.
        kind: The `model_type` of its configuration.
    """
    if kind not in PLAIN_DECODERS:
        return f"model_type is {kind}"

    for path, known in _PARTS.items():
        part = layer.get_submodule(path)
        different = _part_difference(part, kind, *known)
        if different is not None:
            return different

    activation = layer.mlp.act_fn
    if type(activation).__name__ not in _ACTIVATION_CLASSES or "forward" in vars(activation):
        return f"the activation is {_name_of(activation)}"
    return _width_difference(layer)


def _part_difference(
    part: nn.Module, kind: str, suffix: str, parts: frozenset[str], settings: frozenset[str]
) -> str | None:
    different = _class_difference(part, kind, suffix)
    if different is not None:
        return different
    if _names(part) != parts:
        return _other_parts(part, parts)

    own = {name for name, value in [*part._parameters.items(), *part._buffers.items()] if value is not None}
    if own != ({"weight"} if suffix == "RMSNorm" else set()):
        return f"{_name_of(part)} has weights of its own: {', '.join(sorted(own))}"

    known = settings | _MODULE_ATTRIBUTES
    for name, value in vars(part).items():
        if name not in known and not name.startswith("_") and not _is_neutral(name, value):
            return f"{_name_of(part)} has an unknown setting {name}"
    return None


def _class_difference(module: nn.Module, kind: str, suffix: str) -> str | None:
    """Whether the class and its forward pass are those of transformers."""
    # `last_layer` puts a class of its own before the library's.
    cls = getattr(type(module), "library_class", type(module))
    home = _home_of(kind)
    # "Qwen2" + "MLP"; `forward` may be decorated, which keeps its module.
    if (cls.__name__, cls.__module__) != (kind.capitalize() + suffix, home):
        return f"{cls.__name__} is defined in {cls.__module__}"
    if "forward" in vars(module) or inspect.unwrap(cls.forward).__module__ != home:
        return f"the forward pass of {cls.__name__} is replaced"
    return None


def _width_difference(layer: Any) -> str | None:
    """Whether the linear layers have the widths that follow from each other."""
    attention, mlp = layer.self_attn, layer.mlp
    q, k, v, o = (_widths(getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
    gate, up, down = (_widths(getattr(mlp, name)) for name in ("gate_proj", "up_proj", "down_proj"))
    width = layer.input_layernorm.weight.shape[0]

    fits = (
        q[0] == k[0] == v[0] == o[1] == gate[0] == up[0] == down[1] == width
        and q[1] == o[0]
        and k[1] == v[1]
        and gate[1] == up[1] == down[0]
        and k[1] % attention.head_dim == 0
        and q[1] % k[1] == 0
        and layer.post_attention_layernorm.weight.shape[0] == width
    )
    return None if fits else f"the linear layers of {_name_of(layer)} have unknown widths"


def _widths(linear: Any) -> tuple[int, int]:
    """(inputs, outputs); a packed 4-bit weight does not have them as its shape."""
    return int(linear.in_features), int(linear.out_features)


def _names(module: nn.Module) -> set[str]:
    return {name for name, part in module._modules.items() if part is not None}


def _other_parts(module: nn.Module, known: frozenset[str]) -> str:
    names = _names(module)
    texts = [
        f"{verb} {', '.join(sorted(some))}"
        for verb, some in (("also has", names - known), ("lacks", known - names))
        if some
    ]
    return f"{_name_of(module)} {' and '.join(texts)}"


def _name_of(module: nn.Module) -> str:
    return type(module).__name__


_MODULE_ATTRIBUTES: Final = frozenset(vars(nn.Module()))


def _is_neutral(name: str, value: object) -> bool:
    """Whether an option that is not known is switched off."""
    if value is None or value is False or (isinstance(value, str | list | tuple | dict) and not value):
        return True
    return name.endswith(("multiplier", "scale", "scaling", "factor")) and value is not True and value == 1


def _home_of(kind: str) -> str:
    return f"transformers.models.{kind}.modeling_{kind}"


@cache
def _names_in_code_of(kind: str) -> frozenset[str]:
    """Every name and every word that the functions of a model's module use."""
    module = importlib.import_module(_home_of(kind))
    owned = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    members = [
        member for value in owned for member in ([value] if not isinstance(value, type) else vars(value).values())
    ]

    names: set[str] = set()
    for member in members:
        function = getattr(member, "__func__", member)
        code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
        if isinstance(code, CodeType):
            names.update(_names_in(code))
    return frozenset(names)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _names_in(constant)
