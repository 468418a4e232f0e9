"""LRURec: a linear recurrent unit over item embeddings, on sequences packed without padding.

The linear recurrent unit (Orvieto et al. 2023, arXiv 2303.06349, section 3) is h_t = lambda * h_(t-1) + gamma * B x_t
with a complex diagonal lambda of |lambda| < 1, which scan.py computes for all positions at once.

The sequences of a batch are concatenated on one axis; `positions` counts within each sequence. The scan reaches back
only as far as the position allows, which has the effect of a padding mask without the padding.

    T tokens of the batch, D width, H = 2 D complex states, N items + 1
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llamarec.retriever.dropout import Dropout, Masks
from llamarec.retriever.scan import scan

INIT_STD = 0.02
_RING = (0.8, 0.99)  # radii between which |lambda| starts (LRURec, section 4)


class LinearRecurrentUnit(nn.Module):
    """x -> norm(x + dropout(real(C h))), with h the recurrence over B x."""

    def __init__(self, width: int, dropout: Dropout) -> None:
        super().__init__()
        num_states = 2 * width
        low, high = _RING
        radii = torch.sqrt(torch.rand(num_states) * (high**2 - low**2) + low**2)
        self.log_decay = nn.Parameter(torch.log(-torch.log(radii)))
        self.log_phase = nn.Parameter(torch.log(2 * math.pi * torch.rand(num_states)))
        # gamma makes the size of the states independent of lambda (LRU, section 3.4).
        self.log_gain = nn.Parameter(0.5 * torch.log(1 - radii**2))
        self.into = nn.Linear(width, 2 * num_states)
        self.out = nn.Linear(2 * num_states, width)
        self.norm, self.dropout = nn.LayerNorm(width), dropout

    def forward(self, x_TD: Tensor, positions_T: Tensor) -> Tensor:
        """[tokens, width] -> [tokens, width]."""
        real_TH, imaginary_TH = self.into(x_TD).chunk(2, dim=-1)
        # float(): under autocast the products are bfloat16, which complex numbers do not have.
        inputs_TH = torch.complex(real_TH.float(), imaginary_TH.float()) * torch.exp(self.log_gain)
        states_TH = scan(inputs_TH, self.decay(), positions_T)
        y_TD = self.out(torch.cat([states_TH.real, states_TH.imag], dim=-1))
        return self.norm(x_TD + self.dropout(y_TD))  # type: ignore[no-any-return]

    def decay(self) -> Tensor:
        """lambda = exp(-exp(nu) + i exp(theta)): inside the unit circle whatever the parameters are. [states]"""
        return torch.exp(torch.complex(-torch.exp(self.log_decay), torch.exp(self.log_phase)))


class FeedForward(nn.Module):
    """Position-wise: x -> norm(x + dropout(W2 dropout(gelu(W1 x))))."""

    def __init__(self, width: int, dropout: Dropout) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm, self.dropout = nn.LayerNorm(width), dropout

    def forward(self, x_TD: Tensor) -> Tensor:
        """[tokens, width] -> [tokens, width]."""
        y_TD = self.down(self.dropout(F.gelu(self.up(x_TD))))
        return self.norm(x_TD + self.dropout(y_TD))  # type: ignore[no-any-return]


class LRURec(nn.Module):
    """The retriever: states of a user's sequence, and scores of all items from a state.

    Args:
        num_items: Items, padding not counted.
        width: Width of embeddings and states.
        num_blocks: Pairs of a recurrence and a feed-forward layer.
        dropout: Dropout of embeddings and blocks.
    """

    def __init__(self, num_items: int, *, width: int, num_blocks: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_items + 1, width)
        self.masks = Masks()
        self.norm, self.dropout = nn.LayerNorm(width), Dropout(dropout, self.masks)
        self.recurrences = nn.ModuleList(LinearRecurrentUnit(width, self.dropout) for _ in range(num_blocks))
        self.feed_forwards = nn.ModuleList(FeedForward(width, self.dropout) for _ in range(num_blocks))
        self.item_bias = nn.Parameter(torch.zeros(num_items + 1))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)

    def forward(self, items_T: Tensor, positions_T: Tensor) -> Tensor:
        """State after each item: [tokens] ids and positions -> [tokens, width]."""
        x_TD = self.dropout(self.norm(self.embedding(items_T)))
        for recurrence, feed_forward in zip(self.recurrences, self.feed_forwards, strict=True):
            x_TD = feed_forward(recurrence(x_TD, positions_T))
        return x_TD  # type: ignore[no-any-return]

    def scores(self, states_BD: Tensor) -> Tensor:
        """Scores of all items as the next one: [batch, width] -> [batch, items + 1]; column 0 is padding."""
        items_ND, bias_N = self.item_vectors()
        return states_BD @ items_ND.T + bias_N

    def item_vectors(self) -> tuple[Tensor, Tensor]:
        """Item vectors [items + 1, width] and biases [items + 1] that score a state."""
        return self.embedding.weight, self.item_bias
