"""All layers over one prompt, after the head that it shares with other prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from llamarec.ranker.model.cpu.buffers import Buffers
from llamarec.ranker.model.cpu.form import Form
from llamarec.ranker.model.cpu.layer import Pass, PassContext


class Workspace:
    """The memory of one prompt at a time: that of each layer, and that of temporary tensors."""

    def __init__(self, num_layers: int) -> None:
        self.layers: Final = [Buffers() for _ in range(num_layers)]
        self.work: Final = Buffers()

    def begin(self) -> None:
        """Prepares the memory for another prompt."""
        for buffers in (self.work, *self.layers):
            buffers.begin()

    @property
    def num_bytes(self) -> int:
        """Bytes of all buffers."""
        return self.work.num_bytes + sum(layer.num_bytes for layer in self.layers)


@dataclass(frozen=True)
class Angles:
    """Rotary angles by position.

    Attributes:
        cos: [positions, K / 2].
        sin: [positions, K / 2].
    """

    cos: Tensor
    sin: Tensor


class PromptPass:
    """One prompt in the decoder: `forward`, then `backward` at most once.

    Args:
        form: The decoder.
        angles: Rotary angles of all positions.
        space: Memory of this prompt, which no other prompt may use meanwhile.
        head: Keys and values of the tokens before this prompt's own, by layer: [2, G, S, K].
        queries: Queries of the last layer: 1 (the answer), 0 for the head of other prompts, or all.
        generator: Source of dropout masks; None drops nothing.
        gradients: Whether a backward pass follows.
        segments: Tokens of each of several texts in one pass, which do not see each other; empty for one text.
    """

    def __init__(
        self,
        form: Form,
        angles: Angles,
        space: Workspace,
        head: list[Tensor],
        *,
        queries: int,
        generator: torch.Generator | None,
        gradients: bool,
        segments: tuple[int, ...] = (),
    ) -> None:
        self._segments = segments
        self._form, self._angles, self._space, self._head = form, angles, space, head
        self._queries, self._generator, self._gradients = queries, generator, gradients
        # Tensors that are read later need separate memory for each layer.
        self._keeps = gradients or not queries
        self._passes: list[Pass] = []
        space.begin()

    def forward(self, x_LD: Tensor) -> Tensor:
        """[L, D] embeddings -> [queries, D], normed."""
        length = len(x_LD)
        for index, layer in enumerate(self._form.layers):
            queries = self._queries if index == len(self._form.layers) - 1 else length
            one = Pass(layer, self._context(index, length, queries))
            out_QD = self._output(index, queries, x_LD.shape[1])
            one.forward(x_LD, out_QD)
            self._passes.append(one)
            x_LD = out_QD
        self._last_QD = x_LD
        normed_QD = torch.empty_like(x_LD)
        self._inverse = self._form.norm.forward(x_LD, normed_QD)
        return normed_QD

    def backward(self, grad_QD: Tensor, dhead_N2GSK: Tensor, grads: Tensor) -> None:
        """Gradients of LoRA and of the head.

        Args:
            grad_QD: Gradient of what `forward` returned; overwritten.
            dhead_N2GSK: Receives the gradients of the head's keys and values, by layer.
            grads: [numbers of all LoRA weights], added to.
        """
        d_QD = torch.zeros_like(grad_QD)
        self._form.norm.backward(grad_QD, self._last_QD, self._inverse, d_QD)
        for index in reversed(range(len(self._passes))):
            one = self._passes[index]
            dkv = self._space.work.take("dkv", *one.kv_2GTK.shape).zero_()
            d_QD = self._one_back(index, d_QD, dkv, grads)
            dhead_N2GSK[index] = dkv[:, :, : dhead_N2GSK.shape[3]]

    def backward_of_head(self, dkv_N2GLK: Tensor, grads: Tensor, width: int) -> None:
        """Gradients of LoRA through a head whose keys and values other prompts have read.

        Args:
            dkv_N2GLK: Gradients of keys and values, by layer; overwritten.
            grads: [numbers of all LoRA weights], added to.
            width: D.
        """
        d_QD = dkv_N2GLK.new_empty(0, width)
        for index in reversed(range(len(self._passes))):
            d_QD = self._one_back(index, d_QD, dkv_N2GLK[index], grads)

    @property
    def kv(self) -> list[Tensor]:
        """Keys and values by layer, [2, G, T, K], after `forward` of a head or with gradients."""
        return [one.kv_2GTK for one in self._passes]

    def _one_back(self, index: int, d_QD: Tensor, dkv_2GTK: Tensor, grads: Tensor) -> Tensor:
        one = self._passes[index]
        # The embedding below the first layer is frozen.
        into_LD = None
        if index:
            same = len(d_QD) == one.tokens
            into_LD = d_QD if same else self._space.work.take("d", one.tokens, d_QD.shape[1])
        one.backward(d_QD, dkv_2GTK, grads, into_LD)
        return d_QD if into_LD is None else into_LD

    def _context(self, index: int, length: int, queries: int) -> PassContext:
        head = self._head[index]
        first = head.shape[2]
        return PassContext(
            segments=self._segments or (length,),
            queries=queries,
            cos_LK=self._angles.cos[first : first + length],
            sin_LK=self._angles.sin[first : first + length],
            head_kv_2GSK=head,
            saved=self._space.layers[index] if self._keeps else self._space.work,
            work=self._space.work,
            generator=self._generator,
            gradients=self._gradients,
        )

    def _output(self, index: int, queries: int, width: int) -> Tensor:
        if self._keeps:
            return self._space.layers[index].take("out", queries, width)
        # One tensor is read while the other is written.
        return self._space.work.take(("out", index % 2), queries, width)
