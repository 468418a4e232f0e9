"""Memory of prompts that go one by one through layers with a backward pass of their own: what `ranker/rows` takes.

Its buffers are kept and used again, so there are no holes, and in the end they all are as large as the longest prompt
needs them. In numbers of 4 bytes, for one token unless it says otherwise.
"""

from __future__ import annotations

from typing import Final

from llamarec.planning.setup import Setup
from llamarec.planning.shape import ModelShape

_FLOAT32: Final = 4
# Queries of a block of attention.
QUERIES_AT_ONCE: Final = 48
# What the C library and torch keep beside: copies of the merged weights come and go, and so do a product's own.
_SLACK: Final = 0.05
# A layer's block is in huge pages of 2 MB, of which the last is half empty on the average.
_PAGES: Final = 2**20


def training_bytes(shape: ModelShape, setup: Setup, *, micro_batch: int, length: int) -> tuple[int, int]:
    """Activations and slack of a step; the micro-batch costs its embeddings only."""
    kept = length * _kept(shape, setup, length) * (shape.layers - 1) + length * _kept_by_last(shape, setup)
    passing = length * _passing(shape, setup) + 3 * _block(shape, length)
    # The gradients of every prompt wait for their sum.
    waiting = micro_batch * shape.lora_weights(setup.lora_rank, setup.lora_targets)
    activations, slack = _bytes(
        setup.prompts_at_once * (kept + passing) + waiting + micro_batch * length * shape.hidden
    )
    return activations, slack + setup.prompts_at_once * (shape.layers + 1) * _PAGES


def evaluation_bytes(shape: ModelShape, setup: Setup, *, batch: int, length: int) -> tuple[int, int]:
    """Activations and slack of a batch, with LoRA in copies of the weights that have it."""
    widths = 4 * shape.attention_width + 3 * shape.kv_width + 4 * shape.hidden + 2 * shape.intermediate
    merged = shape.layers * sum(inputs * outputs for inputs, outputs in _adapted(shape, setup))
    return _bytes(
        setup.prompts_at_once * (length * widths + 2 * _block(shape, length)) + merged + batch * length * shape.hidden
    )


def _bytes(numbers: float) -> tuple[int, int]:
    return int(numbers * _FLOAT32), int(numbers * _FLOAT32 * _SLACK)


def _kept(shape: ModelShape, setup: Setup, length: int) -> float:
    """By a layer, for its backward pass."""
    widths: float = shape.attention_width + 2 * shape.kv_width + 2 * shape.hidden + 2 * shape.intermediate
    # Probabilities of the keys up to a token's block: kept where they are no more than the rest.
    probabilities = shape.heads * (length + QUERIES_AT_ONCE) / 2
    widths += probabilities if probabilities <= 3 * shape.hidden + 2 * shape.intermediate else 0
    for name in setup.lora_targets:
        widths += _mask(shape, setup, name) + setup.lora_rank
        widths += shape.linear[name][0] if name in ("o_proj", "down_proj") else 0
    return widths


def _kept_by_last(shape: ModelShape, setup: Setup) -> float:
    """By the last layer, of which only keys and values are of all tokens."""
    keys = [name for name in setup.lora_targets if name in ("k_proj", "v_proj")]
    return 2 * shape.kv_width + sum(_mask(shape, setup, name) + setup.lora_rank for name in keys)


def _passing(shape: ModelShape, setup: Setup) -> float:
    """By all layers in turn."""
    widths = 5 * shape.attention_width + 3 * shape.kv_width + 3 * shape.hidden + 2 * shape.intermediate
    adapted = [inputs for inputs, _ in _adapted(shape, setup)]
    # Where an input is kept, with it, and its random bits: 16 a number.
    return widths + (2.5 * max(adapted) if adapted and setup.lora_dropout else max(adapted, default=0))


def _mask(shape: ModelShape, setup: Setup, name: str) -> float:
    return shape.linear[name][0] / _FLOAT32 if setup.lora_dropout else 0


def _adapted(shape: ModelShape, setup: Setup) -> list[tuple[int, int]]:
    return [shape.linear[name] for name in setup.lora_targets if name in shape.linear]


def _block(shape: ModelShape, length: int) -> int:
    """Scores of one block of attention."""
    return QUERIES_AT_ONCE * shape.heads * length
