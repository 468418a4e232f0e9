"""How a model is loaded and trained, as far as memory and time depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_FLOAT32: Final = 4


@dataclass(frozen=True)
class Setup:
    """How a model is loaded and trained.

    Attributes:
        precision: Of the frozen linear layers: nf4, bf16 or fp32.
        computes_bf16: Products are in bfloat16.
        lora_rank: Rank of LoRA.
        lora_targets: Names of the linear layers with LoRA.
        lora_dropout: Whether LoRA's input is dropped out.
        on_gpu: Otherwise in the process's own memory.
        prompts_at_once: Prompts go one by one through layers with a backward pass of their own (ranker/rows), so many
            at the same time; 0: a batch, by autograd.
    """

    precision: str
    computes_bf16: bool
    lora_rank: int = 8
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    lora_dropout: bool = True
    on_gpu: bool = True
    prompts_at_once: int = 0

    def by_prompts(self, *, checkpointing: bool) -> bool:
        """Whether training goes prompt by prompt: with activations computed again it is the modules' business."""
        return self.prompts_at_once > 0 and not checkpointing

    @property
    def compute_bytes(self) -> int:
        """Of a number that a product gives."""
        return 2 if self.computes_bf16 else _FLOAT32

    @property
    def stream_bytes(self) -> int:
        """Of a number of the residual stream: 4-bit models keep norms and embedding, and so the stream, in float32."""
        return _FLOAT32 if self.precision == "nf4" else self.compute_bytes
