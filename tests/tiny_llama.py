"""The tiny Llama that tests train."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    """A Llama of a few thousand weights, drawn from torch's global generator: seed it where the weights matter.

    Args:
        changes: Other values of `LlamaConfig`.
    """
    sizes = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "use_cache": False,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))
