"""Every optimizer of the installed transformers, over all weights of a small Llama."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from transformers.training_args import OptimizerNames

from tests.resume.matrix.subjects import Subject, subject
from tests.tiny_llama import tiny_llama

TITLE: Final = "Optimizers of transformers (`--optim`)"

# Eight-bit states begin at tensors of 4,096 elements.
_WIDTH: Final = 64


def _llama() -> Any:
    return tiny_llama(
        vocab_size=_WIDTH,
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        num_hidden_layers=2,
        max_position_embeddings=32,
        tie_word_embeddings=False,
    )


def subjects() -> Iterator[Subject]:
    """One for each name, with the arguments that the optimizer cannot do without."""
    for name in OptimizerNames:
        arguments: dict[str, Any] = {"optim": name.value, "learning_rate": 1e-3}

        if name.value.startswith(("galore", "apollo")):
            arguments["optim_target_modules"] = [r".*self_attn.*", r".*mlp.*"]
            arguments["optim_args"] = "rank=4,update_proj_gap=3"

        if name.value.endswith("layerwise") or "lomo" in name.value:
            arguments["gradient_accumulation_steps"] = 1

        yield subject(name.value, _llama, **arguments)
