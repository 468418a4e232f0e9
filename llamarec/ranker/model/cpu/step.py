"""A batch of prompts: letter logits, and in training the loss with its gradients, prompt by prompt on all cores.

Gradients are computed together with the loss, so a prompt's activations are freed before those of the next: a batch of
twelve takes the memory of the prompts in work. The head that all prompts of a batch share is computed once.
"""

from __future__ import annotations

import queue
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from llamarec.ranker.model.cpu.decoder import Angles, PromptPass, Workspace
from llamarec.ranker.model.cpu.form import Form
from llamarec.ranker.model.cpu.thread_pool import at_once, on_all_cores

# A shorter head is not worth its own pass.
_SHORTEST_HEAD: Final = 8
_SEEDS: Final = 2**63 - 1

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """A batch of prompts.

    Attributes:
        input_ids: [B, padded L].
        answers: [B] position of each prompt's last token.
        labels: [B] letter of the right candidate (0 = A); None computes logits only.
        divisor: The loss is the sum over the batch divided by this.
    """

    input_ids: Tensor
    answers: Tensor
    labels: Tensor | None
    divisor: Tensor | int


def letter_scores(model: Any, form: Form, batch: Batch, score: Score) -> tuple[Tensor | None, Tensor]:
    """The differentiable loss (None without labels) and the logits [B, candidates].

    Args:
        model: The causal language model.
        form: Its weights.
        batch: The prompts.
        score: [1, D] hidden state at the answer -> [1, candidates] letter logits.
    """
    gradients = batch.labels is not None and torch.is_grad_enabled() and any(p.requires_grad for p in form.trained)
    with torch.no_grad():
        if not gradients and not form.drops and len(batch.input_ids) > 1:
            form = form.merged()
        step = _Step(model, form, batch, score, gradients=gradients)
        loss, logits, grads = step.run()
    if loss is None or not gradients:
        return loss, logits
    parts = torch.split(grads, [parameter.numel() for parameter in form.trained])
    shaped = [part.view(parameter.shape) for part, parameter in zip(parts, form.trained, strict=True)]
    return Computed.apply(loss, shaped, *form.trained), logits


class Computed(torch.autograd.Function):
    """A loss with known gradients."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: list[Tensor], *trained: Tensor) -> Tensor:
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, *(part * grad for part in ctx.grads)


@dataclass(frozen=True)
class _Row:
    """The result of one prompt.

    Attributes:
        logits_1C: Letter logits.
        loss: The prompt's part of the loss.
        grads: [numbers of all LoRA weights].
        dhead_N2GSK: Gradients of the common head's keys and values, by layer.
    """

    logits_1C: Tensor
    loss: Tensor | None = None
    grads: Tensor | None = None
    dhead_N2GSK: Tensor | None = None


class _Step:
    def __init__(self, model: Any, form: Form, batch: Batch, score: Score, *, gradients: bool) -> None:
        self._form, self._batch, self._score, self._gradients = form, batch, score, gradients
        self._lengths = [int(answer) + 1 for answer in batch.answers]
        decoder = model.get_decoder()
        self._x_BLD = decoder.embed_tokens(batch.input_ids)
        self._angles = angles_of(decoder, self._x_BLD)
        self._seeds = step_seeds(len(self._lengths)) if form.drops else None
        self._shared = _length_of_head(self._x_BLD, self._lengths)
        # One space belongs to the head.
        self._spaces = spaces_of(model, form, 1 + at_once(len(self._lengths)))

    def run(self) -> tuple[Tensor | None, Tensor, Tensor]:
        """Loss, logits [B, candidates], gradients [numbers of all LoRA weights]."""
        head, head_kv = None, [torch.empty(2, layer.groups, 0, layer.width) for layer in self._form.layers]
        if self._shared:
            head = self._prompt(self._spaces[0], head_kv, row=0, queries=0)
            head.forward(self._x_BLD[0, : self._shared])
            head_kv = head.kv
        free: queue.SimpleQueue[Workspace] = queue.SimpleQueue()
        for space in self._spaces[1:]:
            free.put(space)
        longest_first = sorted(range(len(self._lengths)), key=lambda row: -self._lengths[row])
        rows = on_all_cores(lambda row: self._row(row, head_kv, free), longest_first)
        logits_BC = torch.cat([row.logits_1C for row in rows])
        losses = [row.loss for row in rows if row.loss is not None]
        return sum(losses[1:], losses[0]) if losses else None, logits_BC, self._gradients_of(rows, head)

    def _row(self, row: int, head_kv: list[Tensor], free: queue.SimpleQueue[Workspace]) -> _Row:
        space = free.get()
        try:
            prompt = self._prompt(space, head_kv, row=row, queries=1)
            answer_1D = prompt.forward(self._x_BLD[row, self._shared : self._lengths[row]])
            labels = self._batch.labels
            if labels is None:
                return _Row(self._score(answer_1D))
            loss, logits_1C, grad_1D = self._loss(answer_1D, labels[row : row + 1])
            if not self._gradients:
                return _Row(logits_1C, loss)
            grads = torch.zeros(self._form.num_trained)
            dhead = torch.empty(len(head_kv), *head_kv[0].shape)
            prompt.backward(grad_1D, dhead, grads)
            return _Row(logits_1C, loss, grads, dhead)
        finally:
            free.put(space)

    def _loss(self, answer_1D: Tensor, label_1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The prompt's part of the loss, its letter logits, and the gradient of its hidden state."""
        with torch.enable_grad():
            answer_1D.requires_grad_(self._gradients)
            logits_1C = self._score(answer_1D)
            loss = F.cross_entropy(logits_1C, label_1, reduction="sum") / self._batch.divisor
        grad_1D = torch.autograd.grad(loss, answer_1D)[0] if self._gradients else answer_1D
        return loss.detach(), logits_1C.detach(), grad_1D.detach()

    def _gradients_of(self, rows: list[_Row], head: PromptPass | None) -> Tensor:
        # Added in the order of the prompts, not in that of their ends.
        grads = torch.zeros(self._form.num_trained)
        dheads = []
        for row in rows:
            if row.grads is not None and row.dhead_N2GSK is not None:
                grads += row.grads
                dheads.append(row.dhead_N2GSK)
        if head is not None and dheads:
            dhead = dheads[0]
            for other in dheads[1:]:
                dhead += other
            head.backward_of_head(dhead, grads, self._x_BLD.shape[2])
        return grads

    def _prompt(self, space: Workspace, head_kv: list[Tensor], *, row: int, queries: int) -> PromptPass:
        generator = None
        if self._seeds is not None:
            # The head belongs to the first prompt, whose own tokens draw other masks.
            generator = torch.Generator().manual_seed(self._seeds[row] + (0 if queries else 1))
        return PromptPass(
            self._form, self._angles, space, head_kv, queries=queries, generator=generator, gradients=self._gradients
        )


def angles_of(decoder: Any, x_BLD: Tensor) -> Angles:
    """Rotary angles of all positions of a batch."""
    cos, sin = decoder.rotary_emb(x_BLD, torch.arange(x_BLD.shape[1])[None])
    half = cos.shape[-1] // 2
    return Angles(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())


def step_seeds(count: int) -> list[int]:
    """Seeds from torch's own generator, whose state is in every checkpoint."""
    return [int(seed) for seed in torch.randint(_SEEDS, (count,))]


def _length_of_head(x_BLD: Tensor, lengths: list[int]) -> int:
    """Number of first tokens that all prompts share, without the last of each, by their (perhaps noisy) embeddings."""
    most = min(lengths) - 1
    if len(lengths) == 1:
        return 0
    same = (x_BLD[:, :most] == x_BLD[:1, :most]).all(dim=2).all(dim=0)
    length = int(same.long().cumprod(dim=0).sum())
    return length if length >= _SHORTEST_HEAD else 0


_SPACES: Final[weakref.WeakKeyDictionary[Any, list[Workspace]]] = weakref.WeakKeyDictionary()


def spaces_of(model: Any, form: Form, count: int) -> list[Workspace]:
    """Memory for so many passes at once, kept with the model."""
    spaces = _SPACES.setdefault(model, [])
    spaces.extend(Workspace(len(form.layers)) for _ in range(count - len(spaces)))
    return spaces[:count]
