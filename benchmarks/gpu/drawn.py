"""Models and prompts of random numbers, in the shapes and lengths of real ones: all that speed and memory ask for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from llamarec.ranker.prompts.training_samples import Sample

SEED: Final = 42
LETTER_IDS: Final = list(range(10, 30))
"""As many as there are candidates; which ones makes no difference."""
_FIRST_WORD: Final = 30
_PROMPTS_LOOKED_AT: Final = 1000


@dataclass(frozen=True)
class Shape:
    """A Llama, and the prompts that it is given.

    Attributes:
        name: For people.
        hidden: Width.
        layers: Decoder layers.
        heads: Of attention; as many for keys and values.
        intermediate: Width inside a layer.
        vocabulary: Tokens.
        mean_tokens: Of a prompt.
        p90_tokens: Nine of ten prompts have fewer.
        most_tokens: No prompt has more.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    mean_tokens: int
    p90_tokens: int
    most_tokens: int


# Lengths: Beauty's prompts under the recipe's limits. (By tokenizer the mean is 680, SmolLM2, to 757, Llama 2.)
LLAMA2_7B: Final = Shape("llama2-7b", 4096, 32, 32, 11008, 32000, 691, 990, 1536)
SMALL: Final = Shape("small", 1024, 8, 16, 2816, 32000, 691, 990, 1536)
TINY: Final = Shape("tiny", 64, 2, 4, 128, 256, 24, 34, 64)


# ---- Prompts ----


class DrawnPrompts(Dataset[Sample]):
    """In the place of training and evaluation samples; asked for by index or by (epoch, index).

    Attributes:
        lengths: [num_prompts] tokens of each.
    """

    def __init__(self, lengths: NDArray[np.int64], vocabulary: int) -> None:
        self.lengths, self._vocabulary = lengths, vocabulary

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        index = key[1] if isinstance(key, tuple) else key
        rng = np.random.default_rng([SEED, index])
        ids = rng.integers(_FIRST_WORD, self._vocabulary, size=int(self.lengths[index]))
        return {"input_ids": ids.tolist(), "label": int(rng.integers(len(LETTER_IDS)))}


def drawn_lengths(shape: Shape, count: int) -> NDArray[np.int64]:
    """[count] lengths from the log-normal distribution that has the shape's mean and 90% quantile."""
    z, spread = NormalDist().inv_cdf(0.9), math.log(shape.p90_tokens / shape.mean_tokens)
    # mean = exp(mu + sigma^2 / 2), p90 = exp(mu + z sigma)
    sigma = z - math.sqrt(z * z - 2 * spread)
    mu = math.log(shape.mean_tokens) - sigma * sigma / 2
    lengths = np.random.default_rng(SEED).lognormal(mu, sigma, size=count)
    return np.clip(lengths.round().astype(np.int64), shape.mean_tokens // 4, shape.most_tokens)


def lengths_in_data(shape: Shape, count: int, data_root: str) -> NDArray[np.int64] | None:
    """[count] lengths of Beauty's training prompts, or None where Beauty is not there.

    Counted with the embedded model's tokenizer and scaled to the shape's mean, so that figures with and without data
    are of as many tokens.
    """
    from benchmarks.ranker.workload import load

    if not (Path(data_root) / "beauty").is_dir():
        return None
    workload = load("beauty", data_root)
    found = np.array(workload.lengths(workload.order[:_PROMPTS_LOOKED_AT]))
    scaled = found[np.arange(count) % len(found)] * (shape.mean_tokens / found.mean())
    lengths: NDArray[np.int64] = np.minimum(scaled.round().astype(np.int64), shape.most_tokens)
    return lengths


# ---- Models ----


@contextlib.contextmanager
def drawn_models(shape: Shape, device: str) -> Iterator[None]:
    """Within, whoever asks for a pretrained causal model gets random weights of this shape, drawn on the device.

    So the product's own way of loading is what is measured, without a download.
    """

    def draw(_: str, **wanted: Any) -> Any:
        return draw_model(shape, device, **wanted)

    def configured(_: str, **__: Any) -> LlamaConfig:
        return _config(shape)

    with (
        mock.patch.object(AutoModelForCausalLM, "from_pretrained", draw),
        mock.patch.object(AutoConfig, "from_pretrained", configured),
    ):
        yield


def _config(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=4096,
        use_cache=False,
        tie_word_embeddings=False,
    )


def draw_model(
    shape: Shape,
    device: str,
    *,
    dtype: torch.dtype,
    quantization_config: Any = None,
    attn_implementation: str = "sdpa",
    local_files_only: bool = True,
    trust_remote_code: bool = False,
    **_: Any,
) -> Any:
    """A causal model with random weights on a device; arguments as `from_pretrained` has them."""
    config = _config(shape)
    kind: Any = AutoModelForCausalLM
    with torch.device(device):
        model = kind.from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    if quantization_config is not None:
        _pack(model, quantization_config, device)
    return model


def _pack(model: Any, wanted: Any, device: str) -> None:
    """Puts the layers' matrices into 4 bits, one after the other, as transformers does while it loads them."""
    from bitsandbytes import nn as bits

    untyped: Any = bits
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or name == "lm_head":
            continue
        packed = untyped.Linear4bit(
            module.in_features,
            module.out_features,
            bias=False,
            compute_dtype=wanted.bnb_4bit_compute_dtype,
            compress_statistics=wanted.bnb_4bit_use_double_quant,
            quant_type=wanted.bnb_4bit_quant_type,
            device="meta",
        )
        weight = untyped.Params4bit(module.weight.data, requires_grad=False, **packed.weight.__dict__)
        packed.weight = weight.to(device)
        model.set_submodule(name, packed)
    # What PEFT and accelerate look at.
    model.is_loaded_in_4bit = True
