"""A model sharded by FSDP2: every forward and backward pass is one of all processes, also of those that have no sample.

Each pass gathers weights and reduces gradients layer by layer. A process that fails in the middle, out of memory for
instance, would leave the others waiting in a layer. So the collectives are counted: the failed process runs the pass
of one sample, skips as many of them as it had done, and takes part in the rest. What that computes is thrown away.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from llamarec.checkpoints.trainer import out_of_memory
from llamarec.checkpoints.trainer.state.tensors import is_shard

Output = TypeVar("Output")

# Under torch's newer names, where it has them.
_GATHER: Final[Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_REDUCE: Final[Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 holds parameters of a model."""
    return any(is_shard(parameter) for parameter in model.parameters())


class Collectives:
    """Of one pass: how many are done, and how many of the next are not to be done again.

    Attributes:
        done: Since the beginning of the pass.
        skip: Of those that follow.
    """

    def __init__(self) -> None:
        self.done = self.skip = 0

    def begin(self, *, skip: int = 0) -> None:
        """A pass begins."""
        self.done, self.skip = 0, skip

    def is_due(self) -> bool:
        """Whether the next collective is still to be done."""
        if self.skip:
            self.skip -= 1
            return False
        return True

    def count(self) -> None:
        """One was issued."""
        self.done += 1


class _Comm:
    """What FSDP2 asks of a collective."""

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Memory for it."""
        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_Comm):
    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, async_op: bool = False
    ) -> Any:
        if not self._collectives.is_due():
            output_tensor.zero_()
            return None

        work = _GATHER(output_tensor, input_tensor, group=group, async_op=async_op)
        self._collectives.count()
        return work


class _Reduce(_Comm):
    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, op: Any, async_op: bool = False
    ) -> Any:
        if not self._collectives.is_due():
            output_tensor.zero_()
            return None

        work = _REDUCE(output_tensor, input_tensor, op=op, group=group, async_op=async_op)
        self._collectives.count()
        return work


class Passes:
    """Passes of a sharded model, each completed in every process whatever happens in one.

    Args:
        model: Sharded, as the Trainer prepared it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._collectives = Collectives()
        for module in model.modules():
            one: Any = module
            if hasattr(one, "set_custom_all_gather"):
                one.set_custom_all_gather(_Gather(self._collectives))
                one.set_custom_reduce_scatter(_Reduce(self._collectives))

    def run(self, compute: Callable[[], Output], small: Callable[[], object]) -> Output:
        """A pass.

        Args:
            compute: Forward, and backward in training.
            small: The same of one sample, whose results count for nothing; run where `compute` fails.

        Raises:
            Exception: what `compute` raised, once the other processes can go on.
        """
        self._collectives.begin()
        try:
            return compute()
        except Exception as found:
            error = found

        # The frames hold the tensors that did not fit.
        traceback.clear_frames(error.__traceback__)
        out_of_memory.free_cached()
        done = self._collectives.done
        model: Any = self._model()
        if hasattr(model, "reset_iter_state"):
            model.reset_iter_state()
            self._collectives.begin(skip=done)
            small()
        raise error


_PASSES: Final[weakref.WeakKeyDictionary[nn.Module, Passes]] = weakref.WeakKeyDictionary()


def passes_of(model: nn.Module) -> Passes | None:
    """Those of a model, the same for training and evaluation; None where it is not sharded."""
    if model not in _PASSES and is_sharded(model):
        _PASSES[model] = Passes(model)
    return _PASSES.get(model)
