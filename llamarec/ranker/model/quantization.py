"""Base models in 4 bits (NF4, arXiv 2305.14314) through bitsandbytes."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

import torch
from peft import prepare_model_for_kbit_training
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from llamarec.errors import ModelError
from llamarec.requirements import supported_range

_REPACKS_ON_CPU: Final = "support_avx512bf16_for_cpu"


def nf4(dtype: torch.dtype, *, sharded: bool = False) -> BitsAndBytesConfig:
    """4 bits with double quantisation.

    Args:
        dtype: Products are computed in it.
        sharded: FSDP2 shards the weights; accelerate leaves those out that are stored as whole numbers. The bits are
            the same.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if sharded else torch.uint8,
    )


def prepare_for_training(model: PreTrainedModel) -> None:
    """Freezes a model in 4 bits, puts its norms into float32 and keeps the layout of its weights. In place.

    Raises:
        ModelError: the installed bitsandbytes may repack the weights on this CPU.
    """
    # The Trainer switches activation checkpointing on, where it is wanted.
    prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    keep_one_layout(model)


def keep_one_layout(model: nn.Module) -> None:
    """Keeps bitsandbytes from repacking weights at the first validation on a CPU with AVX512-BF16.

    The packed product has no gradient, so every later training step would go wrong without an error. It also rounds the
    weights' scales, so a resumed run would differ. (bitsandbytes 0.50)

    Raises:
        ModelError: a 4-bit layer on the CPU lacks the switch for this, so it cannot be said what would happen.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for name, module in model.named_modules():
        if hasattr(module, _REPACKS_ON_CPU):
            setattr(module, _REPACKS_ON_CPU, False)
        elif isinstance(module, Linear4bit) and module.weight.device.type == "cpu":
            raise _unknown_layout(name)


def _unknown_layout(layer: str) -> ModelError:
    supported = f"bitsandbytes{supported_range('bitsandbytes', 'ranker')}"
    return ModelError(
        f"bitsandbytes {version('bitsandbytes')} cannot train a 4-bit model on a CPU: its gradients may be wrong",
        expected=f"{supported}, whose Linear4bit has {_REPACKS_ON_CPU}",
        found=f"{layer} without it",
        hint=[f'pip install "{supported}"', "or train in whole weights: --quantization none"],
    )
