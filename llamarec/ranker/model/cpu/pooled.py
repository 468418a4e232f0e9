"""Means of the hidden states of many short texts, several in a pass."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from llamarec.ranker.model.cpu.decoder import PromptPass, Workspace
from llamarec.ranker.model.cpu.form import Form
from llamarec.ranker.model.cpu.packed import angles_of_texts, no_head, packs_of
from llamarec.ranker.model.cpu.step import angles_of
from llamarec.ranker.model.cpu.thread_pool import at_once, on_all_cores

_TEXTS_AT_ONCE: Final = 2_048


@torch.no_grad()
def pooled_states(model: Any, form: Form, token_ids: Sequence[Sequence[int]]) -> Tensor:
    """[texts, D] means over the tokens of each text.

    Args:
        model: The causal language model.
        form: The layers to pass through.
        token_ids: Token ids of each text, none of them empty.
    """
    means_TD = torch.zeros(len(token_ids), model.get_decoder().embed_tokens.weight.shape[1])
    for start in range(0, len(token_ids), _TEXTS_AT_ONCE):
        some = _Texts(model, form, token_ids[start : start + _TEXTS_AT_ONCE])
        for rows, means_RD in some.means():
            means_TD[[start + row for row in rows]] = means_RD
    return means_TD


class _Texts:
    """Texts that are read together."""

    def __init__(self, model: Any, form: Form, token_ids: Sequence[Sequence[int]]) -> None:
        self._form, self._token_ids = form, token_ids
        decoder = model.get_decoder()
        self._embed = decoder.embed_tokens
        longest = max(map(len, token_ids), default=0)
        self._angles = angles_of(decoder, torch.zeros(1, longest, self._embed.weight.shape[1]))
        self._packs = packs_of([len(ids) for ids in token_ids])
        self._free: queue.SimpleQueue[Workspace] = queue.SimpleQueue()
        # Not those of the model, which have memory for all of its layers.
        for _ in range(at_once(len(self._packs))):
            self._free.put(Workspace(len(form.layers)))

    def means(self) -> Iterator[tuple[list[int], Tensor]]:
        """Rows of each pass, and their means."""
        return zip(self._packs, on_all_cores(self._pass, range(len(self._packs))), strict=True)

    def _pass(self, pack: int) -> Tensor:
        space = self._free.get()
        try:
            rows = self._packs[pack]
            lengths = tuple(len(self._token_ids[row]) for row in rows)
            one = PromptPass(
                self._form,
                angles_of_texts(self._angles, lengths),
                space,
                list(no_head(self._form)),
                queries=sum(lengths),
                generator=None,
                gradients=False,
                segments=lengths,
            )
            ids = torch.tensor([token for row in rows for token in self._token_ids[row]])
            hidden_LD = one.forward(self._embed(ids))
            return torch.stack([part.mean(dim=0) for part in hidden_LD.split(lengths)])
        finally:
            self._free.put(space)
