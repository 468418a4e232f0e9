"""Peak memory of fine-tuning with LoRA on frozen weights, counted tensor by tensor.

The bytes that autograd keeps per token and layer were measured with `torch.autograd.graph.saved_tensors_hooks` (torch
2.13, transformers 5.23, PEFT 0.21) and equal the sum below. `tests/planning/test_measured.py` compares the whole with
the peak of real training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llamarec.planning import per_prompt_memory
from llamarec.planning.setup import FLOAT32_BYTES, Setup
from llamarec.planning.shape import ModelShape

# NF4 with double quantisation: 4 bits, an 8-bit scale for 64 weights, a float32 scale for 256 of those.
NF4_BYTES: Final = (4 + 8 / 64 + 32 / (64 * 256)) / 8
# A trained weight: itself, its gradient and two moments, and two copies of weight and moments: one for undoing a step
# that ran out of memory, one for a save in the background.
_BYTES_PER_TRAINED: Final = 4 + 4 + 8 + 12 + 12
# The C library's heap keeps holes between long-lived and short-lived tensors: this share of what all layers save, with
# or without checkpointing. Fitted to peaks of training (docs/decisions/0007-plan.md).
_HOLES_ON_CPU: Final = 0.42
# CUDA's caching allocator rounds sizes up and splits blocks.
_SLACK_ON_GPU: Final = 0.10
# Python, torch and other libraries on a CPU; context and workspaces on a GPU.
_PROCESS_ON_CPU: Final = 500_000_000
_PROCESS_ON_GPU: Final = 700_000_000


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak of training or evaluation.

    Attributes:
        process: The process before it loads the model.
        weights: Frozen weights.
        trained: LoRA's weights, gradients, moments and copies.
        activations: What the forward pass keeps for the backward pass, and temporary tensors.
        slack: What the allocator holds beyond that.
    """

    process: int
    weights: int
    trained: int
    activations: int
    slack: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.process + self.weights + self.trained + self.activations + self.slack


def weight_bytes(shape: ModelShape, precision: str) -> int:
    """Bytes of the frozen weights: precision is nf4, bf16 or fp32."""
    if precision == "nf4":
        # PEFT's preparation for 4 bits puts all other weights into float32.
        return int(shape.linear_weights * NF4_BYTES + shape.other_weights * FLOAT32_BYTES)
    return shape.weights * (2 if precision == "bf16" else FLOAT32_BYTES)


def saved_bytes(shape: ModelShape, setup: Setup) -> int:
    """Bytes that one layer keeps of one token for the backward pass."""
    # The second norm; and gate, silu(gate), up. Frozen matrices keep no input.
    return _attention_bytes(shape, setup) + FLOAT32_BYTES * shape.hidden + 3 * setup.stream_bytes * shape.intermediate


def _attention_bytes(shape: ModelShape, setup: Setup) -> int:
    """Bytes per layer and token: norm, LoRA, queries, keys, values, their result, and a softmax number per head."""
    adapters = sum(_adapter_bytes(shape.linear[name][0], setup) for name in setup.lora_targets if name in shape.linear)
    products = setup.compute_bytes * 2 * (shape.attention_width + shape.kv_width)
    return FLOAT32_BYTES * shape.hidden + adapters + products + FLOAT32_BYTES * shape.heads


def _adapter_bytes(inputs: int, setup: Setup) -> int:
    # The dropout mask is one byte on a GPU and a float32 factor on a CPU.
    mask = (1 if setup.on_gpu else FLOAT32_BYTES) * inputs if setup.lora_dropout else 0
    return mask + setup.compute_bytes * (inputs + setup.lora_rank)


def training_peak(shape: ModelShape, setup: Setup, *, micro_batch: int, length: int, checkpointing: bool) -> Peak:
    """The peak of a step, at the start of the backward pass.

    Args:
        shape: Shape of the base model.
        setup: How the model is loaded.
        micro_batch: Prompts per forward pass.
        length: Tokens of each prompt, padding included.
        checkpointing: Layers keep only their inputs and are recomputed.
    """
    if setup.by_prompts(checkpointing=checkpointing):
        return _peak(
            shape, setup, *per_prompt_memory.training_bytes(shape, setup, micro_batch=micro_batch, length=length)
        )

    tokens = micro_batch * length
    layer = saved_bytes(shape, setup)

    # Gradients of three inner widths and of the stream, while their inputs still exist.
    passing = setup.stream_bytes * (3 * shape.intermediate + 2 * shape.hidden)
    whole_layers = shape.layers
    if shape.ends_at_answers:
        # The last layer has almost no feed-forward part, and is done before the layer below reaches its own.
        whole_layers, passing = whole_layers - 1, max(passing, _attention_bytes(shape, setup))

    kept = layer * whole_layers
    if checkpointing:
        kept = setup.stream_bytes * shape.hidden * shape.layers + layer

    activations = tokens * (kept + passing) + _dequantised(shape, setup)
    slack = activations * _SLACK_ON_GPU if setup.on_gpu else tokens * layer * whole_layers * _HOLES_ON_CPU
    return _peak(shape, setup, activations, int(slack))


def evaluation_peak(shape: ModelShape, setup: Setup, *, batch: int, length: int) -> Peak:
    """The peak of a validation or test; letter logits are only 20 numbers per prompt.

    Args:
        shape: Shape of the base model.
        setup: How the model is loaded.
        batch: Prompts per forward pass.
        length: Tokens of the longest prompt, padding included.
    """
    if setup.prompts_at_once:
        return _peak(shape, setup, *per_prompt_memory.evaluation_bytes(shape, setup, batch=batch, length=length))
    passing = setup.stream_bytes * (3 * shape.intermediate + 2 * shape.hidden) + FLOAT32_BYTES * shape.hidden
    activations = batch * length * passing + _dequantised(shape, setup)
    return _peak(shape, setup, activations, int(activations * (_SLACK_ON_GPU if setup.on_gpu else _HOLES_ON_CPU)))


def _dequantised(shape: ModelShape, setup: Setup) -> int:
    """Bytes of the largest matrix, unpacked for its product."""
    if setup.precision != "nf4":
        return 0
    return setup.compute_bytes * max(inputs * outputs for inputs, outputs in shape.linear.values())


def _peak(shape: ModelShape, setup: Setup, activations: int, slack: int) -> Peak:
    return Peak(
        process=_PROCESS_ON_GPU if setup.on_gpu else _PROCESS_ON_CPU,
        weights=weight_bytes(shape, setup.precision),
        trained=shape.lora_weights(setup.lora_rank, setup.lora_targets) * _BYTES_PER_TRAINED,
        activations=activations,
        slack=slack,
    )
