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

from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.dropout import Dropout, Masks
from llamarec.retriever.scan import scan
from llamarec.retriever.word_vectors import WordVectors

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
        words: [items + 1, words] sparse weights of the words whose vectors are added to those of the items; None: an
            item has only its own vector.
    """

    def __init__(
        self, num_items: int, *, width: int, num_blocks: int, dropout: float, words: Tensor | None = None
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_items + 1, width)
        self.words = None if words is None else WordVectors(words, width)
        self.masks = Masks()
        self.norm, self.dropout = nn.LayerNorm(width), Dropout(dropout, self.masks)
        self.recurrences = nn.ModuleList(LinearRecurrentUnit(width, self.dropout) for _ in range(num_blocks))
        self.feed_forwards = nn.ModuleList(FeedForward(width, self.dropout) for _ in range(num_blocks))
        self.item_bias = nn.Parameter(torch.zeros(num_items + 1))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)

    def forward(self, items_T: Tensor, positions_T: Tensor, vectors_ND: Tensor | None = None) -> Tensor:
        """State after each item: [tokens] ids and positions -> [tokens, width].

        Args:
            items_T: Item ids.
            positions_T: Positions within each sequence.
            vectors_ND: `vectors()`, where the caller has them.
        """
        vectors_ND = self.vectors() if vectors_ND is None else vectors_ND
        x_TD = self.dropout(self.norm(F.embedding(items_T, vectors_ND)))
        for recurrence, feed_forward in zip(self.recurrences, self.feed_forwards, strict=True):
            x_TD = feed_forward(recurrence(x_TD, positions_T))
        return x_TD  # type: ignore[no-any-return]

    def scores(self, states_BD: Tensor, vectors_ND: Tensor | None = None) -> Tensor:
        """Scores of all items as the next one: [batch, width] -> [batch, items + 1]; column 0 is padding.

        Args:
            states_BD: From `forward`.
            vectors_ND: `vectors()`, where the caller has them.
        """
        vectors_ND = self.vectors() if vectors_ND is None else vectors_ND
        return states_BD @ vectors_ND.T + self.item_bias

    def vectors(self) -> Tensor:
        """[items + 1, width] what the model reads of an item, and what scores a state."""
        own_ND = self.embedding.weight
        return own_ND if self.words is None else own_ND + self.words()

    def vectors_of(self, items_C: Tensor) -> Tensor:
        """[C, width] the same of some items alone."""
        own_CD = self.embedding(items_C)
        return own_CD if self.words is None else own_CD + self.words.of(items_C)  # type: ignore[no-any-return]

    def plain_state(self) -> dict[str, Tensor]:
        """Weights of a model without words that computes the same: each item's words are in its own vector."""
        state = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("words.")}
        return {**state, "embedding.weight": self.vectors().detach()}


def model_for(num_items: int, config: RetrieverConfig, words: Tensor | None = None) -> LRURec:
    """An untrained model of the width, depth and dropout of the options.

    Args:
        num_items: Items, padding not counted.
        config: Options.
        words: See `LRURec`.
    """
    return LRURec(
        num_items, width=config.hidden_size, num_blocks=config.num_blocks, dropout=config.dropout, words=words
    )
