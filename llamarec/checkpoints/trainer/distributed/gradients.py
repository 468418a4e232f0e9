"""Several processes on one step: what they count, and the mean of their gradients.

These are collectives of the training's own group, on its device. Each comes right after an exchange, so that all
processes have come to the same step, with the same trained weights.
"""

from __future__ import annotations

import zlib

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainingArguments

from llamarec.checkpoints.trainer.distributed.agreement import most_in_any_process
from llamarec.checkpoints.trainer.samples.sampling import Batch
from llamarec.checkpoints.trainer.state.tensors import is_shard
from llamarec.checkpoints.trainer.trainer_access import NumItems


def without_ddp(model: nn.Module) -> nn.Module:
    """The model without DistributedDataParallel: gradients are averaged here, once a step, when all is well."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        inner: nn.Module = model.module
        return inner

    return model


def padded_with_empty(args: TrainingArguments, batches: list[Batch], input_name: str) -> list[Batch]:
    """The batches, and empty ones where another process has more: the tokens of each one are gathered.

    Args:
        args: Say whether tokens are counted at all.
        batches: Of this process.
        input_name: Of the model's main input.
    """
    if args.world_size == 1 or args.include_num_input_tokens_seen == "no":
        return batches

    most = most_in_any_process(args, "the micro-batches whose tokens are counted", len(batches))
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

    if any(is_shard(p) for p in trained):
        # FSDP2 has reduced them to the mean over all processes.
        for p in trained:
            if p.grad is not None and num_processes != args.world_size:
                p.grad.mul_(args.world_size / num_processes)
        return

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


def trained_digest(model: nn.Module) -> int:
    """What must be equal for gradients to be averaged: which tensors are trained, and their sizes."""
    sizes = [p.numel() if p.requires_grad else 0 for p in model.parameters()]
    return zlib.crc32(repr(sizes).encode())
