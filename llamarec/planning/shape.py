"""The shape of a Llama-like model, from its configuration: how many weights, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llamarec.errors import ModelError

PLAIN_DECODERS: Final = ("llama", "mistral", "qwen2")
"""`model_type` of the decoders that the ranker computes itself on a CPU, and whose last layer it cuts short."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes that memory and time depend on.

    Attributes:
        vocabulary: Number of tokens.
        hidden: Width of the residual stream.
        intermediate: Inner width of the gated feed-forward part.
        layers: Number of decoder layers.
        heads: Query heads of a layer.
        kv_heads: Key and value heads of a layer; fewer than `heads` in grouped-query attention.
        head_dim: Width of a head.
        tied: The output matrix is the embedding.
        ends_at_answers: The last feed-forward part runs at the answer's position only.
    """

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    ends_at_answers: bool = True

    @property
    def attention_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_dim

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Linear layers of one decoder layer by name: (inputs, outputs)."""
        return {
            "q_proj": (self.hidden, self.attention_width),
            "k_proj": (self.hidden, self.kv_width),
            "v_proj": (self.hidden, self.kv_width),
            "o_proj": (self.attention_width, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers: those that 4 bits apply to and that tokens are multiplied with."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear.values())

    @property
    def other_weights(self) -> int:
        """Embedding, output matrix and norms, which are never in 4 bits."""
        matrices = 1 if self.tied else 2
        return matrices * self.vocabulary * self.hidden + (2 * self.layers + 1) * self.hidden

    @property
    def weights(self) -> int:
        """All weights.

        >>> ModelShape(32000, 4096, 11008, 32, 32, 32, 128, False).weights  # Llama-2-7B
        6738415616
        """
        return self.linear_weights + self.other_weights

    def lora_weights(self, rank: int, targets: Sequence[str]) -> int:
        """Weights that LoRA adds to the linear layers of these names.

        >>> ModelShape(32000, 4096, 11008, 32, 32, 32, 128, False).lora_weights(8, ["q_proj", "v_proj"])
        4194304
        """
        sizes = [self.linear[name] for name in targets if name in self.linear]
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in sizes)

    def forward_operations(self, length: float) -> float:
        """Multiplications and additions per token in a forward pass over a prompt of `length` tokens."""
        # A token attends to half of the prompt on average: once for the scores, once for the values.
        attention = 2 * 2 * self.layers * self.attention_width * length / 2
        return 2.0 * self.linear_weights + attention


def shape_of(config: Mapping[str, Any], name: str) -> ModelShape:
    """The shape that the content of a config.json describes.

    Raises:
        ModelError: the content does not describe a Llama-like decoder.
    """
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    missing = [key for key in needed if not isinstance(config.get(key), int)]
    if missing:
        raise ModelError(
            f"the base model {name} cannot be planned for",
            expected="a Llama-like config.json",
            found=f"no {', '.join(missing)}",
        )

    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    return ModelShape(
        vocabulary=int(config["vocab_size"]),
        hidden=hidden,
        intermediate=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        tied=bool(config.get("tie_word_embeddings", False)),
        ends_at_answers=config.get("model_type") in PLAIN_DECODERS,
    )
