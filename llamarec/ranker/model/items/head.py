"""Vectors of users and items, and the likelihood of the next item.

    user = unit(U norm(h))                        h: hidden state at the end of an item
    item = unit(W features + free)                features: of its title; free: a vector of its own
    logit = scale x user . item + bias            bias: starts as half the log of its share of all interactions

The softmax is over the whole catalogue. Beyond `MOST_ITEMS` it is over the labels of a step and sampled items, whose
logits are corrected for the probability of being drawn (logQ; Bengio and Senecal 2008), so that its sum estimates that
over the catalogue.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llamarec.vocabulary import PADDING_ITEM

WIDTH: Final = 128
MOST_ITEMS: Final = 200_000
"""Items of a full softmax, at most."""
NUM_SAMPLED: Final = 8_192
NO_LABEL: Final = -100
"""In the place of a label where a row has fewer items than the longest."""

# Fresh weights need larger steps than LoRA's. With an optimizer like Adam, a weight in this unit moves so many times as
# far as one of LoRA, and the Trainer keeps one learning rate.
_UNIT: Final = 4.0
_FIRST_SCALE: Final = 10.0
_ITEMS_AT_ONCE: Final = 65_536


class Choices(NamedTuple):
    """Items that a softmax is over.

    Attributes:
        vectors_CK: Unit vectors.
        bias_C: Added to the logits.
        log_scale: Log of the factor of the products.
        labels_C: [C] item ids of which each is a choice only for positions with that label; 0 = a choice for all.
            None: the whole catalogue in the order of item ids.
        drawn_C: [C] item ids of the sampled ones, which are no choice for positions with that label; 0 otherwise.
    """

    vectors_CK: Tensor
    bias_C: Tensor
    log_scale: Tensor
    labels_C: Tensor | None = None
    drawn_C: Tensor | None = None


class FixedItems(NamedTuple):
    """The items of a head that is not trained any more, or not at the moment: their vectors, computed once.

    Attributes:
        vectors_NK: Unit vectors of items 1 to N.
        bias_N: Added to the logits.
        scale: Factor of the products.
    """

    vectors_NK: Tensor
    bias_N: Tensor
    scale: Tensor

    @torch.no_grad()
    def logits(self, users_PK: Tensor) -> Tensor:
        """[P, N] logits of all items."""
        return (users_PK * self.scale) @ self.vectors_NK.T + self.bias_N


def head_weights(num_items: int, num_features: int, hidden_size: int) -> int:
    """Trained weights of a head.

    Args:
        num_items: Of the catalogue.
        num_features: Of an item's title.
        hidden_size: Of the base model.
    """
    return WIDTH * (hidden_size + num_features + 2 + num_items) + num_items + 1


class ItemHead(nn.Module):
    """What is trained beside LoRA.

    Args:
        features_NF: Features of the titles of items 1 to N.
        counts_N: Interactions of these items in training.
        hidden_size: D.
    """

    features_NF: Tensor
    frequencies_N: Tensor

    def __init__(self, features_NF: Tensor, counts_N: Tensor, hidden_size: int) -> None:
        super().__init__()
        num_items, num_features = features_NF.shape
        counts = counts_N.double() + 1
        shares = counts / counts.sum()
        # Kept in a file of their own: training does not move them.
        self.register_buffer("features_NF", features_NF, persistent=False)
        self.register_buffer("frequencies_N", (0.5 * shares + 0.5 / num_items).float(), persistent=False)

        self.user_map = nn.Parameter(_first(WIDTH, hidden_size))
        self.user_bias = nn.Parameter(torch.zeros(WIDTH))
        self.item_map = nn.Parameter(_first(WIDTH, num_features))
        self.item_bias = nn.Parameter(torch.zeros(WIDTH))
        self.free = nn.Parameter(torch.zeros(num_items, WIDTH))
        self.bias = nn.Parameter((0.5 * shares.log()).float() / _UNIT)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE) / _UNIT))

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.features_NF)

    @property
    def user_parameters(self) -> tuple[Tensor, Tensor]:
        """The parameters that `users_of` takes."""
        return self.user_map, self.user_bias

    def users(self, hidden_PD: Tensor) -> Tensor:
        """[P, K] unit vectors of users."""
        return users_of(hidden_PD, *self.user_parameters)

    def items(self, rows: Tensor | None = None) -> Tensor:
        """[C, K] unit vectors of items; of all N without `rows` (item ids minus 1)."""
        features_CF, free_CK = (one if rows is None else one[rows] for one in (self.features_NF, self.free))
        return F.normalize(
            F.linear(features_CF.float(), _UNIT * self.item_map) + _UNIT * (free_CK + self.item_bias), dim=1
        )

    def choices(self, labels: Tensor) -> Choices:
        """What the softmax of a batch is over.

        Args:
            labels: Item ids of the batch, in any shape; others than items are ignored.
        """
        if not self.training or self.num_items <= MOST_ITEMS:
            return Choices(self.items(), _UNIT * self.bias, _UNIT * self.log_scale)

        own = labels[labels > PADDING_ITEM].unique()
        drawn = 1 + torch.multinomial(self.frequencies_N, NUM_SAMPLED, replacement=True)
        rows = torch.cat([own, drawn]) - 1
        nothing = [torch.zeros_like(one) for one in (own, drawn)]
        correction = torch.log(NUM_SAMPLED * self.frequencies_N[drawn - 1])
        bias_C = _UNIT * self.bias[rows] - torch.cat([torch.zeros(len(own), device=rows.device), correction])
        labels_C, drawn_C = torch.cat([own, nothing[1]]), torch.cat([nothing[0], drawn])
        return Choices(self.items(rows), bias_C, _UNIT * self.log_scale, labels_C, drawn_C)

    @torch.no_grad()
    def fixed(self) -> FixedItems:
        """The vectors of all items as they are now."""
        starts = range(0, self.num_items, _ITEMS_AT_ONCE)
        rows = torch.arange(self.num_items, device=self.bias.device)
        vectors = [self.items(rows[start : start + _ITEMS_AT_ONCE]) for start in starts]
        return FixedItems(torch.cat(vectors), _UNIT * self.bias, torch.exp(_UNIT * self.log_scale))

    def logits(self, users_PK: Tensor) -> Tensor:
        """[P, N] logits of all items."""
        return self.fixed().logits(users_PK)

    @torch.no_grad()
    def as_plain(self) -> dict[str, Tensor]:
        """What another program needs for the logits, in units of its own: see llamarec/export/items.py."""
        return {
            "user_map": _UNIT * self.user_map,
            "user_bias": _UNIT * self.user_bias,
            "item_vectors": self.items(),
            "bias": _UNIT * self.bias,
            "scale": torch.exp(_UNIT * self.log_scale),
        }


def users_of(hidden_PD: Tensor, user_map: Tensor, user_bias: Tensor) -> Tensor:
    """[P, K] unit vectors of users, from hidden states and the parameters of the head."""
    normed_PD = F.layer_norm(hidden_PD, hidden_PD.shape[-1:])
    return F.normalize(F.linear(normed_PD, _UNIT * user_map, _UNIT * user_bias), dim=-1)


def loss_of(users_PK: Tensor, choices: Choices, labels_P: Tensor) -> Tensor:
    """Sum of the cross-entropies of the next items.

    Args:
        users_PK: Unit vectors of users.
        choices: What the softmax is over.
        labels_P: Item ids.
    """
    logits_PC = torch.addmm(choices.bias_C, users_PK * torch.exp(choices.log_scale), choices.vectors_CK.T)
    if choices.labels_C is None or choices.drawn_C is None:
        return F.cross_entropy(logits_PC, labels_P - 1, reduction="sum")

    is_other_label = (choices.labels_C > PADDING_ITEM) & (choices.labels_C != labels_P[:, None])
    is_own_again = choices.drawn_C == labels_P[:, None]
    logits_PC = logits_PC.masked_fill(is_other_label | is_own_again, -torch.inf)
    # The labels come first, sorted.
    of_label = torch.searchsorted(choices.labels_C[choices.labels_C > PADDING_ITEM], labels_P)
    return F.cross_entropy(logits_PC, of_label, reduction="sum")


def _first(outputs: int, inputs: int) -> Tensor:
    """[outputs, inputs] first weights of a linear layer, as torch's own, in `_UNIT`."""
    bound = inputs**-0.5 / _UNIT
    return torch.empty(outputs, inputs).uniform_(-bound, bound)
