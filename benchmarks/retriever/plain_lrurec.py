"""LRURec as one writes it down first: what the retriever's speed and its loss are compared with.

Sequences are padded on the left to one length, everything is computed at every place, the recurrence is a Hillis-Steele
scan on complex numbers, dropout is torch's, and the loss is F.cross_entropy over all items at every place, the padded
ones ignored. Parameters have the names of llamarec.retriever.model, so that weights can be exchanged.

    B batch, L length, D width, H = 2 D complex states, N items + 1
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from llamarec.retriever.config import RetrieverConfig
from llamarec.vocabulary import PADDING_ITEM


def padded(windows: Sequence[NDArray[np.int32]], length: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels [batch, length] of windows of at most length + 1 items."""
    inputs, labels = (np.full((len(windows), length), PADDING_ITEM, dtype=np.int64) for _ in range(2))
    for row, window in enumerate(windows):
        inputs[row, length - len(window) + 1 :], labels[row, length - len(window) + 1 :] = window[:-1], window[1:]
    return torch.from_numpy(inputs), torch.from_numpy(labels)


class PlainRecurrence(nn.Module):
    """x -> norm(x + dropout(real(C h)))."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.log_decay, self.log_phase, self.log_gain = (nn.Parameter(torch.zeros(2 * width)) for _ in range(3))
        self.into, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, is_item_BL: Tensor) -> Tensor:
        """[batch, length, width] -> the same; padding adds nothing to the states."""
        real_BLH, imaginary_BLH = self.into(x_BLD).chunk(2, dim=-1)
        inputs_BLH = torch.complex(real_BLH, imaginary_BLH) * torch.exp(self.log_gain) * is_item_BL[..., None]
        decay_H = torch.exp(torch.complex(-torch.exp(self.log_decay), torch.exp(self.log_phase)))
        states_BLH = _hillis_steele(inputs_BLH, decay_H)
        y_BLD = self.out(torch.cat([states_BLH.real, states_BLH.imag], dim=-1))
        return self.norm(x_BLD + self.dropout(y_BLD))  # type: ignore[no-any-return]


class PlainFeedForward(nn.Module):
    """x -> norm(x + dropout(W2 dropout(gelu(W1 x))))."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[batch, length, width] -> the same."""
        return self.norm(x_BLD + self.dropout(self.down(self.dropout(F.gelu(self.up(x_BLD))))))  # type: ignore[no-any-return]


class PlainLRURec(nn.Module):
    """The model on padded sequences."""

    def __init__(self, num_items: int, *, width: int, num_blocks: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_items + 1, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.recurrences = nn.ModuleList(PlainRecurrence(width, dropout) for _ in range(num_blocks))
        self.feed_forwards = nn.ModuleList(PlainFeedForward(width, dropout) for _ in range(num_blocks))
        self.item_bias = nn.Parameter(torch.zeros(num_items + 1))

    def forward(self, items_BL: Tensor) -> Tensor:
        """Scores of all items at every place: [batch, length] -> [batch, length, items + 1]."""
        x_BLD, is_item_BL = self.dropout(self.norm(self.embedding(items_BL))), items_BL != PADDING_ITEM
        for recurrence, feed_forward in zip(self.recurrences, self.feed_forwards, strict=True):
            x_BLD = feed_forward(recurrence(x_BLD, is_item_BL))
        scores: Tensor = x_BLD @ self.embedding.weight.T + self.item_bias
        return scores

    def loss(self, items_BL: Tensor, labels_BL: Tensor) -> Tensor:
        """Mean over the places that have a label."""
        return F.cross_entropy(self(items_BL).flatten(0, 1), labels_BL.flatten(), ignore_index=PADDING_ITEM)


class PlainTrainer:
    """Steps as the product's trainer makes them, on the plain model.

    Args:
        num_items: Padding not counted.
        config: The product's options.
        weights: The product's model's.
    """

    def __init__(self, num_items: int, config: RetrieverConfig, weights: dict[str, Tensor]) -> None:
        self._config = config
        self.model = PlainLRURec(
            num_items, width=config.hidden_size, num_blocks=config.num_blocks, dropout=config.dropout
        )
        self.model.load_state_dict(weights)
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def loss(self, windows: Sequence[NDArray[np.int32]]) -> Tensor:
        """Of one batch."""
        return self.model.loss(*padded(windows, self._config.max_length))

    def step(self, windows: Sequence[NDArray[np.int32]]) -> float:
        """One optimizer step; its loss."""
        loss = self.loss(windows)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self._config.max_grad_norm)
        self._optimizer.step()
        return loss.item()


def _hillis_steele(states_BLH: Tensor, decay_H: Tensor) -> Tensor:
    """After sweep k each state holds the last 2^k inputs."""
    reach = 1
    while reach < states_BLH.shape[1]:
        carried = states_BLH[:, reach:] + states_BLH[:, :-reach] * decay_H
        states_BLH = torch.cat([states_BLH[:, :reach], carried], dim=1)
        decay_H, reach = decay_H * decay_H, 2 * reach
    return states_BLH
