"""A merged model compared with its adapter: log-probabilities of the letters on some of the test's prompts."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError
from llamarec.ranker.trained.loading import Trained
from llamarec.retriever.candidates import read_candidates
from llamarec.vocabulary import Experiment

LARGEST_DIFFERENCE: Final = 0.2
"""Nats; a merge that moves a letter further may change orders, and is refused."""
_NUM_PROMPTS: Final = 8


def some_prompts(trained: Trained, data: PreparedData, experiment: Experiment) -> list[list[int]]:
    """Token ids of prompts for test users, spread over all of them."""
    config, encoder = trained.config, trained.encoder
    users, lists = _users_and_lists(data, experiment, encoder.num_candidates)
    spread = np.linspace(0, len(users) - 1, _NUM_PROMPTS) if len(users) else np.zeros(0)
    chosen: list[int] = np.unique(spread.astype(np.int64)).tolist()
    histories = [data.sequences.history(int(users[row]), "test")[-config.max_history :] for row in chosen]
    return [
        encoder.encode(history.tolist(), lists[row].tolist()) for history, row in zip(histories, chosen, strict=True)
    ]


def letters(model: Any, prompts: list[list[int]], letter_ids: list[int]) -> Tensor:
    """[prompts, letters] log-probabilities, from the output matrix as in training.

    Args:
        model: A causal language model of transformers, with or without LoRA layers.
        prompts: Token ids.
        letter_ids: Token ids of the letters.
    """
    model.eval()
    head = model.get_output_embeddings()
    bias = None if getattr(head, "bias", None) is None else head.bias[letter_ids].float()
    rows = []
    with torch.no_grad():
        for ids in prompts:
            hidden = model.get_decoder()(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
            logits = F.linear(hidden.float(), head.weight[letter_ids].float(), bias)
            rows.append(torch.log_softmax(logits, dim=0))
    return torch.stack(rows) if rows else torch.zeros(0, len(letter_ids))


def checked_difference(adapter: Tensor, merged: Tensor, dtype: str) -> float:
    """The largest difference of a log-probability, in nats.

    Raises:
        ConfigError: it is above `LARGEST_DIFFERENCE`; names the type of weights to choose.
    """
    difference = float((adapter - merged).abs().max()) if adapter.numel() else 0.0
    if difference <= LARGEST_DIFFERENCE:
        return difference

    is_exact = dtype == "float32"
    raise ConfigError(
        f"--merged: the merged model (weights in {dtype}) does not answer like the adapter",
        expected=f"log-probabilities of the letters within {LARGEST_DIFFERENCE} nats",
        found=f"{difference:.2f} nats on {len(adapter)} of the test's prompts",
        hint="export the adapter: leave out --merged" if is_exact else "--dtype float32, or leave out --merged",
        retry_with=() if is_exact else ("--dtype", "float32"),
    )


def _users_and_lists(
    data: PreparedData, experiment: Experiment, num_candidates: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Test users and their candidates; drawn ones where the retriever's are not there any more."""
    if experiment.candidates.is_file():
        test = read_candidates(experiment)["test"]
        return test.user_ids, test.item_ids[:, :num_candidates]

    users = data.sequences.users_with_label("test")
    count = min(num_candidates, data.num_items)
    rng = np.random.default_rng(0)
    drawn = [rng.choice(data.num_items, count, replace=False) + 1 for _ in users]
    return users, np.array(drawn, dtype=np.int32).reshape(len(users), count)
