"""A frozen decoder layer with LoRA over one prompt, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llamarec.ranker.model.cpu import attention, ops
from llamarec.ranker.model.cpu.buffers import Buffers
from llamarec.ranker.model.cpu.ops import Norm
from llamarec.ranker.model.cpu.projection import Projection


@dataclass(frozen=True)
class Layer:
    """Weights and sizes of a layer.

    Attributes:
        norm_1: Norm before the attention.
        norm_2: Norm before the feed-forward part.
        q: Projection to queries; likewise k, v, o, gate, up, down.
        groups: Number of heads with keys and values.
        heads: Query heads of each group.
        width: Width of a head.
        scale: Scale of the scores.
    """

    norm_1: Norm
    norm_2: Norm
    q: Projection
    k: Projection
    v: Projection
    o: Projection
    gate: Projection
    up: Projection
    down: Projection
    groups: int
    heads: int
    width: int
    scale: float

    @property
    def projections(self) -> tuple[Projection, ...]:
        """All linear layers."""
        return (self.q, self.k, self.v, self.o, self.gate, self.up, self.down)

    def merged(self) -> Layer:
        """The layer with LoRA merged into copies of its weights."""
        return replace(
            self,
            q=self.q.merged(),
            k=self.k.merged(),
            v=self.v.merged(),
            o=self.o.merged(),
            gate=self.gate.merged(),
            up=self.up.merged(),
            down=self.down.merged(),
        )


@dataclass(frozen=True)
class PassContext:
    """Tokens of a pass, and its memory.

    Attributes:
        segments: Tokens of each text of the pass; their sum is L.
        queries: Q.
        cos_LK: [L, K / 2] cosines of the tokens' angles.
        sin_LK: [L, K / 2] sines.
        head_kv_2GSK: Keys and values of the common head before the tokens; S may be 0.
        saved: Memory of this layer until the backward pass; without gradients, the same as `work`.
        work: Memory for temporary tensors.
        generator: Source of dropout masks; None drops nothing.
        gradients: Whether a backward pass follows.
    """

    segments: tuple[int, ...]
    queries: int
    cos_LK: Tensor
    sin_LK: Tensor
    head_kv_2GSK: Tensor
    saved: Buffers
    work: Buffers
    generator: torch.Generator | None
    gradients: bool

    @property
    def tokens(self) -> int:
        """L."""
        return sum(self.segments)

    @property
    def head(self) -> int:
        """S."""
        return self.head_kv_2GSK.shape[2]


class Pass:
    """One layer over one prompt: `forward`, then `backward` at most once.

    Attributes:
        kv_2GTK: After `forward`, keys and values of all tokens, the head included.
        tokens: L.
    """

    kv_2GTK: Tensor

    def __init__(self, layer: Layer, context: PassContext) -> None:
        self._layer, self._context, self.tokens = layer, context, context.tokens
        self._segments = attention.segments_of(context.queries, context.head, context.segments, layer.heads)

    # ---- Forward ----

    def forward(self, x_LD: Tensor, out_QD: Tensor) -> None:
        """Writes the layer's output into `out_QD`; without queries only keys and values are computed."""
        layer, context = self._layer, self._context
        self._x_LD = x_LD
        n_LD = context.work.take("normed", *x_LD.shape)
        self._inverse_1 = layer.norm_1.forward(x_LD, n_LD)
        self._keys_and_values(n_LD)
        if context.queries:
            self._attend(n_LD[-context.queries :])
            self._feed_forward(out_QD)

    def _keys_and_values(self, n_LD: Tensor) -> None:
        layer, context = self._layer, self._context
        shape = (context.tokens, layer.groups * layer.width)
        self.kv_2GTK = context.saved.take("kv", 2, layer.groups, context.head + context.tokens, layer.width)
        self.kv_2GTK[:, :, : context.head] = context.head_kv_2GSK
        for projection, into_GLK in zip((layer.k, layer.v), self.kv_2GTK[:, :, context.head :], strict=True):
            raw_LM = projection.forward(
                n_LD, context.work.take("raw kv", *shape), context.saved, context.work, context.generator
            )
            raw_GLK = raw_LM.view(context.tokens, layer.groups, layer.width).transpose(0, 1)
            if projection is layer.k:
                ops.rotate(raw_GLK, context.cos_LK, context.sin_LK, into_GLK)
            else:
                into_GLK.copy_(raw_GLK)

    def _attend(self, n_QD: Tensor) -> None:
        layer, context = self._layer, self._context
        shape = (context.queries, layer.groups, layer.heads, layer.width)
        raw = context.work.take("raw q", context.queries, layer.groups * layer.heads * layer.width)
        layer.q.forward(n_QD, raw, context.saved, context.work, context.generator)
        by_group = (shape[1], shape[0], *shape[2:])
        self._query_angles = cos, sin = self._angles_with_scale()
        self._q = ops.rotate(raw.view(shape).transpose(0, 1), cos, sin, context.saved.take("q", *by_group))
        self._probabilities = self._room_for_probabilities()
        attended = context.work.take("attended", *by_group)
        k, v = self.kv_2GTK
        for one in self._segments:
            kept = one.of_scores(self._probabilities, layer.groups)
            out = one.of_queries(attended)
            attention.forward(
                one.blocks, one.of_queries(self._q), one.of_keys(k), one.of_keys(v), out, context.work, kept
            )
        keeps = context.saved if layer.o.adapter else context.work
        self._attended_QM = keeps.take("attended by token", *raw.shape)
        self._attended_QM.view(shape).copy_(attended.transpose(0, 1))
        self._h_QD = context.saved.take("h", *n_QD.shape)
        layer.o.forward(self._attended_QM, self._h_QD, context.saved, context.work, context.generator)
        self._h_QD.add_(self._x_LD[-context.queries :])

    def _angles_with_scale(self) -> tuple[Tensor, Tensor]:
        """[Q, 1, K / 2] cosines and sines of the queries, times the scale of the scores."""
        context, scale = self._context, self._layer.scale
        return tuple(angles[-context.queries :, None] * scale for angles in (context.cos_LK, context.sin_LK))  # type: ignore[return-value]

    def _room_for_probabilities(self) -> Tensor | None:
        """Memory for the probabilities if they take no more than all else; for longer prompts they are recomputed."""
        layer, context = self._layer, self._context
        if not context.gradients:
            return None
        size = sum(one.blocks.scores_per_group for one in self._segments)
        others = context.queries * (3 * len(layer.o.weight_MN) + 2 * len(layer.gate.weight_MN))
        return context.saved.take("probabilities", layer.groups * size) if layer.groups * size <= others else None

    def _feed_forward(self, out_QD: Tensor) -> None:
        layer, context = self._layer, self._context
        n_QD = context.work.take("normed", *self._h_QD.shape)
        self._inverse_2 = layer.norm_2.forward(self._h_QD, n_QD)
        shape = (context.queries, len(layer.gate.weight_MN))
        gate = layer.gate.forward(
            n_QD, context.saved.take("gate", *shape), context.saved, context.work, context.generator
        )
        keeps = context.saved if layer.down.adapter else context.work
        up = layer.up.forward(n_QD, keeps.take("inner", *shape), context.saved, context.work, context.generator)
        slope = context.saved.take("slope", *shape) if context.gradients else None
        self._slopes = gate, slope
        self._inner = ops.gate(gate, up, slope)
        layer.down.forward(self._inner, out_QD, context.saved, context.work, context.generator).add_(self._h_QD)

    # ---- Backward ----

    def backward(self, grad_QD: Tensor, dkv_2GTK: Tensor, grads: Tensor, into_LD: Tensor | None) -> None:
        """Gradients of LoRA, of keys and values, and of the input.

        Args:
            grad_QD: Gradient of the output; overwritten.
            dkv_2GTK: Gradients of keys and values from other readers; complete afterwards.
            grads: [numbers of all LoRA weights], added to.
            into_LD: Receives the gradient of the input; None skips it. May be `grad_QD`.
        """
        context = self._context
        dq = None
        if context.queries:
            self._feed_forward_backward(grad_QD, grads)
            dq = self._attend_backward(grad_QD, dkv_2GTK, grads)
        self._inputs_backward(dq, dkv_2GTK[:, :, context.head :], grads, grad_QD, into_LD)

    def _feed_forward_backward(self, grad_QD: Tensor, grads: Tensor) -> None:
        layer, context = self._layer, self._context
        work = context.work
        n_QD = self._normed_again(layer.norm_2, self._h_QD, self._inverse_2, layer.gate, layer.up)
        d_inner = work.take("d inner", *self._inner.shape)
        self._back(layer.down, grad_QD, self._inner, grads, d_inner)
        for_up, for_gate = self._slopes
        assert for_gate is not None
        dn_QD = work.take("normed", *grad_QD.shape)
        self._back(layer.gate, for_gate.mul_(d_inner), n_QD, grads, dn_QD)
        self._back(layer.up, for_up.mul_(d_inner), n_QD, grads, dn_QD, add=True)
        layer.norm_2.backward(dn_QD, self._h_QD, self._inverse_2, grad_QD)

    def _attend_backward(self, grad_QD: Tensor, dkv_2GTK: Tensor, grads: Tensor) -> Tensor:
        """Adds to the gradients of keys and values; returns [Q, G * H * K], those of the queries before rotation."""
        layer, context, work = self._layer, self._context, self._context.work
        by_group = self._q.shape
        shape = (by_group[1], by_group[0], *by_group[2:])
        d_attended = work.take("d attended", *self._attended_QM.shape)
        self._back(layer.o, grad_QD, self._attended_QM, grads, d_attended)
        grad = work.take("attended", *by_group).copy_(d_attended.view(shape).transpose(0, 1))
        dq = work.take("dq", *by_group)
        k, v = self.kv_2GTK
        for one in self._segments:
            kept = one.of_scores(self._probabilities, layer.groups)
            into = (one.of_queries(dq), one.of_keys(dkv_2GTK[0]), one.of_keys(dkv_2GTK[1]))
            of_grad, of_q, of_k, of_v = one.of_queries(grad), one.of_queries(self._q), one.of_keys(k), one.of_keys(v)
            attention.backward(one.blocks, of_grad, of_q, of_k, of_v, into, work, kept)
        cos, sin = self._query_angles
        raw = work.take("raw q", context.queries, d_attended.shape[1])
        ops.rotate(dq, cos, -sin, raw.view(shape).transpose(0, 1))
        return raw

    def _inputs_backward(
        self, dq_QM: Tensor | None, dkv_2GLK: Tensor, grads: Tensor, grad_QD: Tensor, into_LD: Tensor | None
    ) -> None:
        layer, context, work = self._layer, self._context, self._context.work
        n_LD = self._normed_again(layer.norm_1, self._x_LD, self._inverse_1, layer.q, layer.k, layer.v)
        dn_LD = None if into_LD is None else work.take("normed", *self._x_LD.shape)
        shape = (context.tokens, layer.groups, layer.width)
        raw_LM = work.take("raw kv", context.tokens, layer.groups * layer.width)
        by_group = raw_LM.view(shape).transpose(0, 1)
        ops.rotate(dkv_2GLK[0], context.cos_LK, -context.sin_LK, by_group)
        self._back(layer.k, raw_LM, n_LD, grads, dn_LD)
        by_group.copy_(dkv_2GLK[1])
        self._back(layer.v, raw_LM, n_LD, grads, dn_LD, add=True)
        if dq_QM is not None:
            last = slice(context.tokens - context.queries, None)
            self._back(
                layer.q,
                dq_QM,
                None if n_LD is None else n_LD[last],
                grads,
                None if dn_LD is None else dn_LD[last],
                add=True,
            )
        if into_LD is None or dn_LD is None:
            return
        if into_LD is not grad_QD:
            into_LD[: context.tokens - context.queries].zero_()
            into_LD[context.tokens - context.queries :] = grad_QD
        layer.norm_1.backward(dn_LD, self._x_LD, self._inverse_1, into_LD)

    def _normed_again(self, norm: Norm, x: Tensor, inverse: Tensor, *readers: Projection) -> Tensor | None:
        """The normed input again, if LoRA of a reader needs it: a second pass is cheaper than memory."""
        if not any(reader.adapter for reader in readers):
            return None
        return norm.again(x, inverse, self._context.work.take("normed again", *x.shape))

    def _back(
        self,
        projection: Projection,
        grad: Tensor,
        x: Tensor | None,
        grads: Tensor,
        into: Tensor | None,
        *,
        add: bool = False,
    ) -> None:
        context = self._context
        projection.backward(grad, x, context.saved, context.work, grads, into, add=add)
