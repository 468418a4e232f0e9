"""Title embeddings of the base model: mean-pooled hidden states, whitened.

The mean of a title's hidden states at two thirds of the depth says what the item is. Raw, a few directions have nearly
all of the variance and similarities are near 1. Whitened (Su et al. 2021, arXiv 2103.15316), all directions that are
kept count the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llamarec.ranker.model.cpu.form import form_of
from llamarec.ranker.model.cpu.pooled import pooled_states

NUM_FEATURES: Final = 256
_TITLES_AT_ONCE: Final = 64
# Of the largest variance: directions with less are noise, which whitening would blow up.
_LEAST_VARIANCE: Final = 1e-6


def title_features(model: Any, title_ids: Sequence[Sequence[int]]) -> Tensor:
    """[N, F] float16 features of titles, each row of length sqrt(F).

    Args:
        model: A causal language model, whose adapter does nothing yet.
        title_ids: [N] token ids; of an empty title the features are 0.
    """
    known = [row for row, ids in enumerate(title_ids) if len(ids)]
    pooled_ND = torch.zeros(len(title_ids), model.config.hidden_size)
    pooled_ND[known] = _pooled(model, [title_ids[row] for row in known])
    return whitened(pooled_ND).to(torch.float16)


@torch.no_grad()
def _pooled(model: Any, title_ids: Sequence[Sequence[int]]) -> Tensor:
    """[N, D] means of the hidden states of each title."""
    decoder = model.get_decoder()
    # Later layers are turned towards the next word.
    every, was_training = decoder.layers, model.training
    depth = max(len(every) * 2 // 3, 1)
    model.eval()
    try:
        form = form_of(model)
        if form is not None:
            return pooled_states(model, replace(form, layers=form.layers[:depth]), title_ids)
        decoder.layers = every[:depth]
        return _by_modules(model, title_ids)
    finally:
        decoder.layers = every
        model.train(was_training)


def _by_modules(model: Any, title_ids: Sequence[Sequence[int]]) -> Tensor:
    pooled_ND = torch.zeros(len(title_ids), model.config.hidden_size)
    by_length = np.argsort([len(ids) for ids in title_ids], kind="stable").tolist()
    for start in range(0, len(by_length), _TITLES_AT_ONCE):
        rows = by_length[start : start + _TITLES_AT_ONCE]
        lengths = torch.tensor([len(title_ids[row]) for row in rows])
        input_ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for at, row in enumerate(rows):
            input_ids[at, : len(title_ids[row])] = torch.tensor(title_ids[row])

        # Padding is on the right and attention causal, so no token sees it.
        decoder = model.get_decoder()
        hidden_BLD = decoder(input_ids=input_ids.to(model.device), use_cache=False).last_hidden_state.float().cpu()
        is_title_BL = torch.arange(input_ids.shape[1])[None] < lengths[:, None]
        pooled_ND[rows] = (hidden_BLD * is_title_BL[..., None]).sum(1) / lengths[:, None]
    return pooled_ND


def whitened(x_ND: Tensor) -> Tensor:
    """[N, F] the directions of most variance, each with the same variance; rows of length sqrt(F), or 0."""
    is_known = x_ND.any(dim=1)
    centred_ND = x_ND.double() - x_ND[is_known].double().sum(dim=0) / max(int(is_known.sum()), 1)
    covariance_DD = centred_ND[is_known].T @ centred_ND[is_known] / max(int(is_known.sum()), 1)
    variances, directions = torch.linalg.eigh(covariance_DD)

    size = min(NUM_FEATURES, len(variances))
    # Of titles that are all equal, or missing, none has any.
    least = max(_LEAST_VARIANCE * float(variances[-1]), torch.finfo(torch.float32).tiny)
    scales = variances[-size:].clamp(min=least).rsqrt()
    features_NF = centred_ND @ (directions[:, -size:] * scales)
    unit_NF: Tensor = F.normalize(features_NF, dim=1) * is_known[:, None]
    return (unit_NF * math.sqrt(size)).float()
