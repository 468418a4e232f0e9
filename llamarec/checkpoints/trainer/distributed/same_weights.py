"""Trained weights and moments, which every process changes by itself and all alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import torch

from llamarec.checkpoints.trainer.distributed.agreement import check_equal
from llamarec.checkpoints.trainer.distributed.channel import exchange
from llamarec.checkpoints.trainer.state.tensors import bytes_of, is_made_of_tensors, is_shard, parts_of, some_values
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.errors import DisagreementError

# Beyond this, some values of each tensor are compared: hashing all would take longer than loading them.
_HASHED_BYTES: Final = 2**28
_VALUES_PER_TENSOR: Final = 1024
_DIGITS: Final = 16
# At a save: values of each tensor, and what they may differ by.
_SAMPLED: Final = 4
_RELATIVE: Final = 0.05
_ABSOLUTE: Final = 1e-4


def check_same_weights(trainer: LiveTrainer, operation: str, *, beside: object = None) -> None:
    """Refuses processes whose trained weights or moments differ: their mean gradient would belong to no model.

    Args:
        trainer: The live Trainer.
        operation: As messages name it.
        beside: What else must be equal.

    Raises:
        DisagreementError: says which.
    """
    if trainer.args.world_size == 1:
        return

    model, optimizer = unwrapped(trainer), trainer.optimizer
    trained = [p for p in model.parameters() if p.requires_grad]
    values: dict[str, object] = {"weights": _digest(trained), "beside": beside}
    if optimizer is not None:
        groups = [p for group in optimizer.param_groups for p in group["params"]]
        moments = [
            optimizer.state[p][name] for p in groups if p in optimizer.state for name in sorted(optimizer.state[p])
        ]
        values |= {
            "optimized tensors": _digest(groups),
            "moments": _digest([one for one in moments if isinstance(one, torch.Tensor)]),
            "learning rates": [float(group["lr"]) for group in optimizer.param_groups],
        }
    check_equal(trainer.args, operation, values)


def check_close_weights(trainer: LiveTrainer, operation: str) -> None:
    """Refuses to save where a callback has changed the weights of some processes only.

    Some values of each tensor are compared, to rounding: machines of two kinds round differently.

    Args:
        trainer: The live Trainer.
        operation: As messages name it.

    Raises:
        DisagreementError: names the first tensor that differs.
    """
    args = trainer.args
    if args.world_size == 1:
        return

    named = [(name, p) for name, p in unwrapped(trainer).named_parameters()]
    named = [(name, p) for name, p in named if p.requires_grad and not is_shard(p)]
    found = exchange(args, operation, torch.cat([_sample(p) for _, p in named]) if named else torch.zeros(0))
    first = found[0]
    for rank, other in enumerate(found):
        if torch.allclose(first, other, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True):
            continue

        place = int((~torch.isclose(first, other, rtol=_RELATIVE, atol=_ABSOLUTE)).nonzero()[0])
        raise DisagreementError(
            f"the weights of rank {rank} are not those of rank 0",
            expected=f"equal weights in all processes: {operation}",
            found=f"{named[place // _SAMPLED][0]}: {first[place]:g} of rank 0, {other[place]:g} of rank {rank}",
            hint="look for callbacks that change weights in some processes only",
        )


def _sample(value: torch.Tensor) -> torch.Tensor:
    """Always as many values [_SAMPLED], so that their number tells the tensor."""
    some = some_values(value, _SAMPLED).to(device="cpu", dtype=torch.float32)
    return torch.nn.functional.pad(some, (0, _SAMPLED - len(some)))


def _digest(tensors: Sequence[torch.Tensor]) -> str:
    size = sum(one.numel() * one.element_size() for one in tensors)
    digest = hashlib.sha256(str([tuple(one.shape) for one in tensors]).encode())
    for one in (part for tensor in tensors for part in _plain_parts(tensor)):
        values = one if size <= _HASHED_BYTES else some_values(one, _VALUES_PER_TENSOR)
        digest.update(bytes_of(values).tobytes())
    return digest.hexdigest()[:_DIGITS]


def _plain_parts(value: torch.Tensor) -> list[torch.Tensor]:
    if is_shard(value):
        # Each process has another part of the one tensor.
        return []
    if not is_made_of_tensors(value):
        return [value]

    return [part for one in parts_of(value) for part in _plain_parts(one)]
