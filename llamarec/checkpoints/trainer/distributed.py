"""Several processes on one step: what they agree on, count and average."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from llamarec.checkpoints.trainer.shared_state import SharedState


class Distributed(SharedState):
    """Mixin before `Trainer`: its processes agree at the edges of a step, and exchange gradients once in it."""

    def _single(self, model: Any) -> Any:
        """The model without DistributedDataParallel: gradients are averaged here, once a step, when all is well."""
        wrapped = isinstance(model, torch.nn.parallel.DistributedDataParallel)
        return model.module if wrapped else model

    def _any_process(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set in any process."""
        if self.args.world_size == 1:
            return list(flags)
        votes = torch.tensor([int(flag) for flag in flags], device=self.args.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return [bool(vote) for vote in votes.tolist()]

    def _from_first_process(self, value: Any) -> Any:
        """The first process's value, in all of them; they wait for it."""
        if self.args.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def _most_in_any_process(self, count: int) -> int:
        if self.args.world_size == 1:
            return count
        most = torch.tensor(count, device=self.args.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most)

    def _as_many_in_all_processes(self, batches: list[Any]) -> list[Any]:
        """The batches, and empty ones where another process has more: each one's tokens are gathered."""
        if self.args.world_size == 1 or self.args.include_num_input_tokens_seen == "no":
            return batches
        most = self._most_in_any_process(len(batches))
        empty = torch.zeros(0, dtype=torch.int64, device=self.args.device)
        name = getattr(self.model, "main_input_name", "input_ids")
        return [*batches, *[{name: empty, "attention_mask": empty}] * (most - len(batches))]

    def _num_averaged(self, num_items: Any) -> int:
        """Processes whose gradients the step's are the mean of.

        Where each one's loss is a mean of its own tokens, one without samples in a short step is none of them.
        """
        size = int(self.args.world_size)
        if size == 1 or self.args.average_tokens_across_devices:
            return size
        divides = self.model_accepts_loss_kwargs or self.compute_loss_func is not None  # type: ignore[attr-defined]
        count = torch.tensor(int(divides and num_items is not None), device=self.args.device)
        dist.all_reduce(count)
        return int(count) or size

    def _average_gradients(self, model: Any, num_averaged: int) -> None:
        if self.args.world_size == 1:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        for p in trained:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for dtype in {p.grad.dtype for p in trained if p.grad is not None}:
            grads = [p.grad for p in trained if p.grad is not None and p.grad.dtype == dtype]
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            dist.all_reduce(flat)
            flat /= num_averaged
            for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))
