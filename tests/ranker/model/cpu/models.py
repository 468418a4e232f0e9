"""Small models of every kind that is computed prompt by prompt, and prompts for them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llamarec.ranker.model.dropout import replace_dropout
from llamarec.ranker.model.letter_model import LetterForward, as_letter_model

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SIZES = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
_HEADS = {"num_attention_heads": 4, "head_dim": 8}
_KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "llama with biases": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
}
KINDS = tuple(_KINDS)


def small_model(
    kind: str = "llama",
    *,
    targets: tuple[str, ...] = ("q_proj", "v_proj"),
    dropout: float = 0.0,
    key_heads: int = 2,
    **sizes: Any,
) -> Any:
    """A model that scores 20 letters, with LoRA that does something; in training mode."""
    model = plain_model(kind, key_heads=key_heads, **sizes)
    return adapted(as_letter_model(model, list(range(20))), targets=targets, dropout=dropout)


def plain_model(kind: str = "llama", *, key_heads: int = 2, **sizes: Any) -> Any:
    """A causal language model with random weights."""
    torch.manual_seed(0)
    config, cls, more = _KINDS[kind]
    model = cls(config(**{**_SIZES, **_HEADS, "num_key_value_heads": key_heads, **more, **sizes}))
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            # Fresh ones are 0 and 1, with which much that is wrong looks right.
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model


def adapted(model: Any, *, targets: tuple[str, ...], dropout: float = 0.0) -> Any:
    """A model with LoRA that does something; in training mode."""
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=list(targets), lora_dropout=dropout, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        made = get_peft_model(model, lora)
    replace_dropout(made)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return made.train()


def prompts(lengths: tuple[int, ...] = (130, 70, 131, 21, 90), *, shared: int = 12) -> dict[str, Tensor]:
    """A padded batch whose prompts begin with the same `shared` tokens."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, 300, (len(lengths), max(lengths)), generator=generator)
    input_ids[:, :shared] = input_ids[0, :shared]
    labels = torch.randint(0, 20, (len(lengths),), generator=generator)
    return {"input_ids": input_ids, "answer_positions": torch.tensor(lengths) - 1, "labels": labels}


@contextmanager
def by_modules() -> Iterator[None]:
    """The modules' own forward pass, and autograd's backward pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LetterForward, "goes_by_prompts", False)
        yield


def loss_and_gradients(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, logits, gradients by name."""
    model.zero_grad()
    out = model(**batch)
    out["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return out["loss"].detach(), out["logits"].detach(), gradients
