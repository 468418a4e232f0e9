"""A batch of histories with an answer after every item: user vectors, and in training the loss with its gradients.

A history has some fifty tokens, too few for products at full rate. So several share a pass, one behind the other, and
do not see each other. All histories of a step share the vectors of the catalogue, which are computed once; their
gradients are summed and go on through autograd.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from llamarec.ranker.model.cpu.decoder import Angles, PromptPass, Workspace
from llamarec.ranker.model.cpu.form import Form
from llamarec.ranker.model.cpu.step import Computed, angles_of, spaces_of, step_seeds
from llamarec.ranker.model.cpu.thread_pool import at_once, on_all_cores
from llamarec.ranker.model.items.head import Choices, ItemHead, loss_of, users_of

# Fewer make slower products (220: 7%); more make no faster ones, and take more memory.
_TOKENS_OF_PASS: Final = 448


@dataclass(frozen=True)
class Histories:
    """A batch of histories.

    Attributes:
        input_ids: [B, padded L].
        answers: [B, A] position at which each item ends, ascending; -1 behind the last.
        labels: [B, A] item ids that follow; None computes user vectors only.
        divisor: The loss is the sum over the labels divided by this.
    """

    input_ids: Tensor
    answers: Tensor
    labels: Tensor | None
    divisor: Tensor | int

    @property
    def lengths(self) -> list[int]:
        """[B] tokens of each row, up to its last answer."""
        return [int(last) + 1 for last in self.answers.amax(dim=1)]


class _Shared(NamedTuple):
    """What all histories of a batch share, and what trained weights lie behind it.

    Attributes:
        choices: Vectors of the catalogue.
        user_parameters: Parameters of the user vectors.
    """

    choices: Choices
    user_parameters: tuple[Tensor, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Tensors whose gradients are computed with the loss."""
        choices = self.choices
        return choices.vectors_CK, choices.bias_C, choices.log_scale, *self.user_parameters

    def apart(self) -> _Shared:
        """The same, to be differentiated apart from everything else."""
        vectors_CK, bias_C, log_scale, *users = (one.detach().requires_grad_() for one in self.inputs)
        own = self.choices._replace(vectors_CK=vectors_CK, bias_C=bias_C, log_scale=log_scale)
        return _Shared(own, tuple(users))


def item_scores(model: Any, form: Form, batch: Histories, head: ItemHead) -> tuple[Tensor | None, Tensor]:
    """The differentiable loss (None without labels) and the user vectors [B, K] at the last items.

    Args:
        model: The causal language model.
        form: Its weights.
        batch: The histories.
        head: User and item vectors.
    """
    gradients = batch.labels is not None and torch.is_grad_enabled() and any(p.requires_grad for p in form.trained)
    with torch.set_grad_enabled(gradients):
        choices = None if batch.labels is None else head.choices(batch.labels)
    with torch.no_grad():
        if not gradients and not form.drops and len(batch.input_ids) > 1:
            form = form.merged()
        shared = None if choices is None else _Shared(choices, head.user_parameters)
        loss, users_BK, grads, grads_of_shared = _Step(model, form, batch, head, shared, gradients=gradients).run()
    if loss is None or shared is None or not gradients:
        return loss, users_BK

    parts = torch.split(grads, [parameter.numel() for parameter in form.trained])
    shaped = [part.view(parameter.shape) for part, parameter in zip(parts, form.trained, strict=True)]
    return Computed.apply(loss, [*shaped, *grads_of_shared], *form.trained, *shared.inputs), users_BK


class _Result(NamedTuple):
    """The result of one pass."""

    users_RK: Tensor
    loss: Tensor | None = None
    grads: Tensor | None = None
    grads_of_shared: tuple[Tensor, ...] = ()


class _Step:
    def __init__(
        self, model: Any, form: Form, batch: Histories, head: ItemHead, shared: _Shared | None, *, gradients: bool
    ) -> None:
        self._form, self._batch, self._head, self._shared, self._gradients = form, batch, head, shared, gradients
        self._lengths = batch.lengths
        self._packs = packs_of(self._lengths)
        decoder = model.get_decoder()
        self._x_BLD = decoder.embed_tokens(batch.input_ids)
        self._angles = angles_of(decoder, self._x_BLD)
        self._seeds = step_seeds(len(self._packs)) if form.drops else None
        self._spaces = spaces_of(model, form, at_once(len(self._packs)))

    def run(self) -> tuple[Tensor | None, Tensor, Tensor, list[Tensor]]:
        """Loss, user vectors, gradients of LoRA (numbers of all weights), and of what is shared."""
        free: queue.SimpleQueue[Workspace] = queue.SimpleQueue()
        for space in self._spaces:
            free.put(space)

        longest_first = sorted(range(len(self._packs)), key=lambda pack: -sum(self._tokens(pack)))
        results = on_all_cores(lambda pack: self._pass(pack, free), longest_first)

        rows = torch.tensor([row for pack in self._packs for row in pack])
        users_BK = torch.cat([result.users_RK for result in results])[torch.argsort(rows)]
        losses = [result.loss for result in results if result.loss is not None]
        # Added in the order of the passes, not in that of their ends.
        grads = torch.zeros(self._form.num_trained)
        of_shared: list[Tensor] = []
        for result in results:
            if result.grads is not None:
                grads += result.grads
                of_shared = _sums(of_shared, result.grads_of_shared)
        return sum(losses[1:], losses[0]) if losses else None, users_BK, grads, of_shared

    def _tokens(self, pack: int) -> tuple[int, ...]:
        return tuple(self._lengths[row] for row in self._packs[pack])

    def _pass(self, pack: int, free: queue.SimpleQueue[Workspace]) -> _Result:
        space = free.get()
        try:
            rows, tokens = self._packs[pack], self._tokens(pack)
            one = self._prompt(space, pack, tokens)
            hidden_LD = one.forward(torch.cat([self._x_BLD[row, : self._lengths[row]] for row in rows]))

            starts = [sum(tokens[:at]) for at in range(len(tokens))]
            answers = [self._batch.answers[row] for row in rows]
            at_P = torch.cat([start + answer[answer >= 0] for start, answer in zip(starts, answers, strict=True)])
            last_R = torch.tensor([start + length - 1 for start, length in zip(starts, tokens, strict=True)])
            users_RK = self._head.users(hidden_LD[last_R])
            if self._shared is None or self._batch.labels is None:
                return _Result(users_RK)

            labels_P = torch.cat([self._batch.labels[row][self._batch.answers[row] >= 0] for row in rows])
            loss, grad_PD, of_shared = self._loss(hidden_LD[at_P], labels_P)
            if not self._gradients:
                return _Result(users_RK, loss)

            grads = torch.zeros(self._form.num_trained)
            grad_LD = torch.zeros_like(hidden_LD).index_copy_(0, at_P, grad_PD)
            one.backward(grad_LD, no_head(self._form), grads)
            return _Result(users_RK, loss, grads, of_shared)
        finally:
            free.put(space)

    def _loss(self, hidden_PD: Tensor, labels_P: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The pass's part of the loss, and the gradients of its hidden states and of what is shared."""
        assert self._shared is not None
        with torch.set_grad_enabled(self._gradients):
            shared = self._shared.apart() if self._gradients else self._shared
            hidden_PD.requires_grad_(self._gradients)
            users_PK = users_of(hidden_PD, *shared.user_parameters)
            loss = loss_of(users_PK, shared.choices, labels_P) / self._batch.divisor
        if not self._gradients:
            return loss, hidden_PD, ()
        grad_PD, *of_shared = torch.autograd.grad(loss, (hidden_PD, *shared.inputs))
        return loss.detach(), grad_PD, tuple(of_shared)

    def _prompt(self, space: Workspace, pack: int, tokens: tuple[int, ...]) -> PromptPass:
        generator = None if self._seeds is None else torch.Generator().manual_seed(self._seeds[pack])
        return PromptPass(
            self._form,
            angles_of_texts(self._angles, tokens),
            space,
            list(no_head(self._form)),
            queries=sum(tokens),
            generator=generator,
            gradients=self._gradients,
            segments=tokens,
        )


def no_head(form: Form) -> Tensor:
    """[layers, 2, G, 0, K] keys and values before the first text of a pass: none."""
    layer = form.layers[0]
    return torch.empty(len(form.layers), 2, layer.groups, 0, layer.width)


def angles_of_texts(angles: Angles, lengths: tuple[int, ...]) -> Angles:
    """Rotary angles of texts one behind the other, each from position 0 on."""
    cos, sin = (torch.cat([one[:length] for length in lengths]) for one in (angles.cos, angles.sin))
    return Angles(cos, sin)


def _sums(sums: list[Tensor], more: tuple[Tensor, ...]) -> list[Tensor]:
    return [one.add_(other) for one, other in zip(sums, more, strict=True)] if sums else list(more)


def packs_of(lengths: list[int]) -> list[list[int]]:
    """Rows of each pass: of about equal numbers of tokens, and an even number of passes, for two cores.

    A function of the lengths alone, so that sums are in the same order on every machine.
    """
    count = min(2 * max(1, round(sum(lengths) / (2 * _TOKENS_OF_PASS))), len(lengths))
    # The longest first into the pass with the fewest tokens.
    packs: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        at = totals.index(min(totals))
        packs[at].append(row)
        totals[at] += lengths[row]
    return packs
