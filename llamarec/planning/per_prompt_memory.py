"""Memory of prompt-by-prompt training, that is of the layers in llamarec/ranker/model/cpu/__init__.py.

Their buffers are reused, so there are no holes, and each buffer ends up as large as the longest prompt needs. Functions
count float32 numbers per token unless their docstring says otherwise.
"""

from __future__ import annotations

from typing import Final

from llamarec.planning.setup import FLOAT32_BYTES, Setup
from llamarec.planning.shape import ModelShape

QUERIES_PER_BLOCK: Final = 48
"""Queries of a block of attention. Fewer mean more calls; more mean more scores above the diagonal, and fewer that stay
in a core's cache."""
# Share that the C library and torch keep in addition, for temporary copies of weights and products.
_SLACK: Final = 0.05
# A layer's buffer is in huge pages of 2 MB; the last page is half empty on average.
_PAGES: Final = 2**20


def training_bytes(shape: ModelShape, setup: Setup, *, micro_batch: int, length: int) -> tuple[int, int]:
    """Bytes of activations and slack in a step; a larger micro-batch only costs embeddings."""
    kept = length * _kept(shape, setup, length) * (shape.layers - 1) + length * _kept_by_last(shape, setup)
    passing = length * _passing(shape, setup) + 3 * _block(shape, length)
    # The gradients of each prompt wait for their sum.
    waiting = micro_batch * shape.lora_weights(setup.lora_rank, setup.lora_targets)
    activations, slack = _bytes(
        setup.prompts_at_once * (kept + passing) + waiting + micro_batch * length * shape.hidden
    )
    return activations, slack + setup.prompts_at_once * (shape.layers + 1) * _PAGES


def evaluation_bytes(shape: ModelShape, setup: Setup, *, batch: int, length: int) -> tuple[int, int]:
    """Bytes of activations and slack in a batch, with LoRA merged into copies of its weights."""
    widths = 4 * shape.attention_width + 3 * shape.kv_width + 4 * shape.hidden + 2 * shape.intermediate
    merged = shape.layers * sum(inputs * outputs for inputs, outputs in _adapted(shape, setup))
    return _bytes(
        setup.prompts_at_once * (length * widths + 2 * _block(shape, length)) + merged + batch * length * shape.hidden
    )


def _bytes(numbers: float) -> tuple[int, int]:
    return int(numbers * FLOAT32_BYTES), int(numbers * FLOAT32_BYTES * _SLACK)


def _kept(shape: ModelShape, setup: Setup, length: int) -> float:
    """Numbers that a layer keeps for its backward pass."""
    widths: float = shape.attention_width + 2 * shape.kv_width + 2 * shape.hidden + 2 * shape.intermediate
    # Attention probabilities up to a token's block, kept where they are no more than the rest.
    probabilities = shape.heads * (length + QUERIES_PER_BLOCK) / 2
    widths += probabilities if probabilities <= 3 * shape.hidden + 2 * shape.intermediate else 0
    # Other names are refused when the model is loaded.
    for name in (name for name in setup.lora_targets if name in shape.linear):
        widths += _mask(shape, setup, name) + setup.lora_rank
        widths += shape.linear[name][0] if name in ("o_proj", "down_proj") else 0
    return widths


def _kept_by_last(shape: ModelShape, setup: Setup) -> float:
    """Numbers that the last layer keeps: only its keys and values cover all tokens."""
    keys = [name for name in setup.lora_targets if name in ("k_proj", "v_proj")]
    return 2 * shape.kv_width + sum(_mask(shape, setup, name) + setup.lora_rank for name in keys)


def _passing(shape: ModelShape, setup: Setup) -> float:
    """Numbers of temporary tensors, which all layers share."""
    widths = 5 * shape.attention_width + 3 * shape.kv_width + 3 * shape.hidden + 2 * shape.intermediate
    adapted = [inputs for inputs, _ in _adapted(shape, setup)]
    # The dropped input, its mask and its random bits (16 per number).
    return widths + (2.5 * max(adapted) if adapted and setup.lora_dropout else max(adapted, default=0))


def _mask(shape: ModelShape, setup: Setup, name: str) -> float:
    return shape.linear[name][0] / FLOAT32_BYTES if setup.lora_dropout else 0


def _adapted(shape: ModelShape, setup: Setup) -> list[tuple[int, int]]:
    return [shape.linear[name] for name in setup.lora_targets if name in shape.linear]


def _block(shape: ModelShape, length: int) -> int:
    """Scores in one block of attention."""
    return QUERIES_PER_BLOCK * shape.heads * length
