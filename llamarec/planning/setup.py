"""The part of a run's options that memory and time depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FLOAT32_BYTES: Final = 4
# Unpacking a 4-bit weight for its product takes as long as the products of this many tokens.
_UNPACKING_TOKENS: Final = 256


@dataclass(frozen=True)
class Setup:
    """How a model is loaded and trained.

    Attributes:
        precision: Precision of the frozen linear layers: nf4, bf16 or fp32.
        computes_bf16: Products are in bfloat16.
        lora_rank: Rank of LoRA.
        lora_targets: Names of the linear layers with LoRA.
        lora_dropout: Whether LoRA has dropout.
        on_gpu: The model is in a GPU's memory, not in that of the process.
        prompts_at_once: Prompts computed at the same time by layers with a backward pass of their own
            (llamarec/ranker/model/cpu/__init__.py); 0 means batches and autograd.
    """

    precision: str
    computes_bf16: bool
    lora_rank: int = 8
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    lora_dropout: bool = True
    on_gpu: bool = True
    prompts_at_once: int = 0

    def by_prompts(self, *, checkpointing: bool) -> bool:
        """Whether training goes prompt by prompt; with activation checkpointing the modules compute batches."""
        return self.prompts_at_once > 0 and not checkpointing

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number in a product's result."""
        return 2 if self.computes_bf16 else FLOAT32_BYTES

    @property
    def stream_bytes(self) -> int:
        """Bytes of a number in the residual stream, which 4-bit models keep in float32 with norms and embedding."""
        return FLOAT32_BYTES if self.precision == "nf4" else self.compute_bytes

    @property
    def unpacking_tokens(self) -> int:
        """Tokens whose products take as long as unpacking the weights of a pass."""
        return _UNPACKING_TOKENS if self.precision == "nf4" else 0
