"""The last decoder layer, with a feed-forward part that runs at the answer's position only.

Only the last hidden state at the answer is read, and a feed-forward block mixes no positions. At other positions it
would be wasted: 2.5% of SmolLM2-135M's multiplications, 2% of Llama 2 7B's, forward and backward. The attention still
needs keys and values of all positions, so it does not change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llamarec.ranker.model.known_layers import layer_difference


class AnswerOnly:
    """Put before a decoder layer's class."""

    def forward(self, hidden_states: Tensor, *args: Any, answer_positions: Tensor, **kwargs: Any) -> Tensor:
        """[batch, length, width] -> [batch, 1, width]: the layer's output at each prompt's answer position."""
        layer: Any = self
        attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        answer_B1D = (hidden_states + attended)[rows, answer_positions][:, None, :]
        return answer_B1D + layer.mlp(layer.post_attention_layernorm(answer_B1D))  # type: ignore[no-any-return]


def read_answers_only(model: Any) -> bool:
    """Cuts the last layer of a causal language model short; False, and no change, if its layers are not known."""
    layers = getattr(model.get_decoder(), "layers", None)
    if not layers or layer_difference(layers[-1], str(model.config.model_type)) is not None:
        return False

    last, cls = layers[-1], type(layers[-1])
    members = {"__module__": cls.__module__, "library_class": cls}
    last.__class__ = type(cls.__name__, (AnswerOnly, cls), members)
    return True
