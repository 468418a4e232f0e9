"""A frozen linear layer with its LoRA (arXiv 2106.09685), forward and backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llamarec.ranker.model.cpu.buffers import Buffers
from llamarec.ranker.model.dropout import draw_kept, drops, num_words, scale_of


@dataclass(frozen=True)
class LoraWeights:
    """LoRA of one linear layer.

    Attributes:
        a_RN: Matrix down to the rank.
        b_MR: Matrix up from the rank.
        scale: Scale of the result (alpha / rank).
        dropout: Share of the inputs that is dropped.
        grads: Offsets of the two gradients among those of a prompt.
    """

    a_RN: Tensor
    b_MR: Tensor
    scale: float
    dropout: float
    grads: tuple[int, int]


@dataclass(frozen=True)
class Projection:
    """x -> x W^T + bias + gain * dropped(x) A^T B^T.

    Attributes:
        name: Name for its buffers.
        weight_MN: Frozen weight.
        bias_M: Frozen bias, if there is one.
        adapter: LoRA, if there is one.
    """

    name: str
    weight_MN: Tensor
    bias_M: Tensor | None = None
    adapter: LoraWeights | None = None

    @property
    def drops(self) -> bool:
        """Whether some of LoRA's input is dropped."""
        return self.adapter is not None and drops(self.adapter.dropout)

    def merged(self) -> Projection:
        """The same function without dropout, with LoRA merged into a copy of the weight."""
        if self.adapter is None:
            return self
        weight_MN = torch.addmm(self.weight_MN, self.adapter.b_MR, self.adapter.a_RN, alpha=self.adapter.scale)
        return Projection(self.name, weight_MN, self.bias_M)

    def forward(
        self, x_LN: Tensor, out_LM: Tensor, saved: Buffers, work: Buffers, generator: torch.Generator | None
    ) -> Tensor:
        """Writes the output into `out_LM`.

        Args:
            x_LN: Input.
            out_LM: Receives the output.
            saved: Memory for what the backward pass needs.
            work: Memory for temporary tensors.
            generator: Source of dropout masks; needed with dropout.
        """
        torch.mm(x_LN, self.weight_MN.t(), out=out_LM)
        if self.bias_M is not None:
            out_LM.add_(self.bias_M)
        if self.adapter is not None:
            x_LN, gain = self._dropped(x_LN, saved, work, generator)
            u_LR = torch.mm(
                x_LN, self.adapter.a_RN.t(), out=saved.take((self.name, "u"), len(x_LN), len(self.adapter.a_RN))
            )
            out_LM.addmm_(u_LR, self.adapter.b_MR.t(), alpha=gain)
        return out_LM

    def backward(
        self,
        grad_LM: Tensor,
        x_LN: Tensor | None,
        saved: Buffers,
        work: Buffers,
        grads: Tensor,
        into_LN: Tensor | None,
        *,
        add: bool,
    ) -> None:
        """Gradients of LoRA and of the input.

        Args:
            grad_LM: Gradient of the output.
            x_LN: Input; needed with LoRA only.
            saved: Memory of the forward pass.
            work: Memory for temporary tensors.
            grads: [numbers of all LoRA weights], added to.
            into_LN: Receives the gradient of the input; None skips it.
            add: Add to `into_LN` instead of overwriting it.
        """
        if into_LN is not None:
            into_LN.addmm_(grad_LM, self.weight_MN, beta=int(add))
        if self.adapter is None:
            return
        assert x_LN is not None
        adapter, length = self.adapter, len(grad_LM)
        rank = len(adapter.a_RN)
        u_LR = saved.take((self.name, "u"), length, rank)
        keep_LN, gain = self._kept(x_LN, saved, work)
        _at(grads, adapter.grads[1], adapter.b_MR).addmm_(grad_LM.t(), u_LR, alpha=gain)
        du_LR = torch.mm(grad_LM, adapter.b_MR, out=work.take("du", length, rank)).mul_(gain)
        if keep_LN is not None:
            x_LN = torch.mul(x_LN, keep_LN, out=work.take("dropped", *x_LN.shape))
        _at(grads, adapter.grads[0], adapter.a_RN).addmm_(du_LR.t(), x_LN)
        if into_LN is None:
            return
        if keep_LN is None:
            into_LN.addmm_(du_LR, adapter.a_RN)
        else:
            into_LN.addcmul_(torch.mm(du_LR, adapter.a_RN, out=work.take("dropped", *into_LN.shape)), keep_LN)

    def _dropped(
        self, x_LN: Tensor, saved: Buffers, work: Buffers, generator: torch.Generator | None
    ) -> tuple[Tensor, float]:
        adapter = self.adapter
        assert adapter is not None
        if not self.drops:
            return x_LN, adapter.scale
        words = work.take("words", num_words(x_LN.numel()), dtype=torch.int64)
        draw_kept(adapter.dropout, words, saved.take((self.name, "keep"), *x_LN.shape, dtype=torch.bool), generator)
        kept, gain = self._kept(x_LN, saved, work)
        assert kept is not None
        return torch.mul(x_LN, kept, out=work.take("dropped", *x_LN.shape)), gain

    def _kept(self, x_LN: Tensor, saved: Buffers, work: Buffers) -> tuple[Tensor | None, float]:
        """1 where an input was kept and 0 where it was dropped, and the factor of LoRA's result."""
        adapter = self.adapter
        assert adapter is not None
        if not self.drops:
            return None, adapter.scale
        keep = saved.take((self.name, "keep"), *x_LN.shape, dtype=torch.bool)
        return work.take("kept", *x_LN.shape).copy_(keep), adapter.scale * scale_of(adapter.dropout)


def _at(grads: Tensor, first: int, like: Tensor) -> Tensor:
    return grads[first : first + like.numel()].view(like.shape)
