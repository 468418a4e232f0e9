"""Several processes on one step: what they agree on, count and average. Pure functions of the arguments and tensors."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainingArguments

from llamarec.checkpoints.trainer.samples.sampling import Batch
from llamarec.checkpoints.trainer.trainer_access import NumItems
from llamarec.errors import CheckpointError

T = TypeVar("T")


def without_ddp(model: nn.Module) -> nn.Module:
    """The model without DistributedDataParallel: gradients are averaged here, once a step, when all is well."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        inner: nn.Module = model.module
        return inner

    return model


def any_process(args: TrainingArguments, *flags: bool) -> list[bool]:
    """For each flag, whether it is set in any process."""
    if args.world_size == 1:
        return list(flags)

    votes = torch.tensor([int(flag) for flag in flags], device=args.device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes.tolist()]


def from_first_process(args: TrainingArguments, value: T) -> T:
    """The first process's value, in all of them; they wait for it."""
    if args.world_size == 1:
        return value

    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def from_all_processes(args: TrainingArguments, value: T) -> list[T]:
    """Every process's value, in all of them, by rank."""
    if args.world_size == 1:
        return [value]

    values: list[T] = [value] * args.world_size
    dist.all_gather_object(values, value)
    return values


def in_first_process(args: TrainingArguments, action: Callable[[], object]) -> None:
    """Runs an action in the first process only.

    Raises:
        Exception: what the action raised, with its class, in every process.
    """
    error: Exception | None = None
    if args.process_index == 0:
        try:
            action()
        except Exception as found:
            error = found

    if args.world_size > 1:
        shared = from_first_process(args, _portable(error))
        error = error or shared

    if error is not None:
        raise error


def _portable(error: Exception | None) -> Exception | None:
    """The error as other processes can unpickle it; one of a local class becomes a `CheckpointError` with its text."""
    if error is None:
        return None

    with contextlib.suppress(Exception):
        if type(pickle.loads(pickle.dumps(error))) is type(error):  # noqa: S301 - it has just been pickled here
            return error

    return CheckpointError(f"{type(error).__name__}: {error}")


def most_in_any_process(args: TrainingArguments, count: int) -> int:
    """The largest count of all processes."""
    if args.world_size == 1:
        return count

    most = torch.tensor(count, device=args.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)


def padded_with_empty(args: TrainingArguments, batches: list[Batch], input_name: str) -> list[Batch]:
    """The batches, and empty ones where another process has more: the tokens of each one are gathered.

    Args:
        args: Say whether tokens are counted at all.
        batches: Of this process.
        input_name: Of the model's main input.
    """
    if args.world_size == 1 or args.include_num_input_tokens_seen == "no":
        return batches

    most = most_in_any_process(args, len(batches))
    empty = torch.zeros(0, dtype=torch.int64, device=args.device)
    return [*batches, *[{input_name: empty, "attention_mask": empty}] * (most - len(batches))]


def num_averaged(args: TrainingArguments, num_items: NumItems, *, loss_is_mean_of_items: bool) -> int:
    """How many processes a step's gradients are the mean of.

    Where the loss of each one is a mean of its own tokens, one without samples in a short step does not count.
    """
    size = int(args.world_size)
    if size == 1 or args.average_tokens_across_devices:
        return size

    count = torch.tensor(int(loss_is_mean_of_items and num_items is not None), device=args.device)
    dist.all_reduce(count)
    return int(count) or size


def average_gradients(args: TrainingArguments, model: nn.Module, num_processes: int) -> None:
    """Replaces every gradient by the sum over all processes divided by `num_processes`."""
    if args.world_size == 1:
        return

    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        if p.grad is None:
            p.grad = torch.zeros_like(p)

    for dtype in {p.grad.dtype for p in trained if p.grad is not None}:
        grads = [p.grad for p in trained if p.grad is not None and p.grad.dtype == dtype]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= num_processes

        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def summed_items(args: TrainingArguments, count: NumItems) -> NumItems:
    """The step's items over all processes where the loss is averaged over them, else those of this process.

    A process without a sample in a short step counts too, which the Trainer's own gathering does not foresee.
    """
    counts = torch.tensor([-1.0 if count is None else float(count)], device=args.device)
    if not args.average_tokens_across_devices:
        return count

    counted = torch.clamp(counts, min=0)
    dist.all_reduce(counted)
    return counted[0] if counted[0] > 0 else None
