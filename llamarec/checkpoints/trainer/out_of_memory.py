"""Out of memory: recognised, answered with smaller micro-batches, undone in the middle of an update, explained."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import psutil  # type: ignore[import-untyped]
import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from llamarec.checkpoints.storage.readable_units import readable
from llamarec.checkpoints.trainer.samples.sampling import Batch
from llamarec.checkpoints.trainer.state.tensors import copy_of_tensor, num_own_bytes
from llamarec.errors import DoesNotFitError

# A copy of what the optimizer changes is kept through its step up to this size; LoRA of a 7B model takes 50 MB.
_ROLLBACK_LIMIT_BYTES: Final = 2**30
# What frees less of the used memory is not worth a hint.
_WORTH_NAMING: Final = 0.05
# Beside those that accelerate knows: of CUDA, ROCm and MPS; of cuBLAS; of the CPU on Windows; of oneDNN.
_TEXTS: Final = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: not enough memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory is short, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return bool(should_reduce_batch_size(error)) or any(text in str(error) for text in _TEXTS)


def free_cached() -> None:
    """Gives back what is cached, so that smaller pieces find room."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()  # type: ignore[no-untyped-call,unused-ignore]


def split(batch: Batch, num_samples: int, size: int) -> list[tuple[Batch, int]]:
    """A collated batch in pieces of at most `size` samples, each with its number of samples.

    Tensors and lists whose first dimension is the number of samples are cut; each piece gets everything else whole.

    Raises:
        DoesNotFitError: nothing in the batch can be cut.
    """
    if num_samples <= size:
        return [(batch, num_samples)]

    if not _is_cut(batch, num_samples):
        raise DoesNotFitError(
            f"a micro-batch of {num_samples} samples does not fit into memory and cannot be split",
            expected=f"tensors whose first dimension is {num_samples}",
            hint="a smaller --per_device_train_batch_size, or override split_batch",
        )

    starts = range(0, num_samples, size)
    return [(_cut(batch, num_samples, at, at + size), min(size, num_samples - at)) for at in starts]


def _is_cut(value: object, num_samples: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim > 0 and value.shape[0] == num_samples
    if isinstance(value, Mapping):
        return any(_is_cut(item, num_samples) for item in value.values())
    return isinstance(value, list | tuple) and len(value) == num_samples


def _cut(value: Batch, num_samples: int, start: int, end: int) -> Batch:
    if isinstance(value, Mapping):
        return {name: _cut(item, num_samples, start, end) for name, item in value.items()}
    return value[start:end] if _is_cut(value, num_samples) else value


@dataclass(frozen=True)
class MemoryUse:
    """Bytes on the training device.

    Attributes:
        used: Now: model, optimizer, gradients.
        peak: Since the last reset; 0 where the device cannot tell.
        total: Of the device.
        device: Its name.
    """

    used: int
    peak: int
    total: int
    device: str


def memory_use(device: torch.device) -> MemoryUse:
    """What the device reports; on a CPU, what the process uses of the machine's memory."""
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
        used, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
        return MemoryUse(used, peak, total, torch.cuda.get_device_name(device))

    used = int(psutil.Process().memory_info().rss)
    return MemoryUse(used, 0, int(psutil.virtual_memory().total), "this machine")


class Rollback:
    """What an optimizer's step changes, copied before it, so that one that fails half-way can be undone.

    Args:
        optimizer: A torch optimizer (or accelerate's wrapper of one).
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        state = self._optimizer.state
        tensors = [*parameters, *(t for p in parameters for t in _tensors(state.get(p, {})))]

        self.is_kept: bool = sum(map(num_own_bytes, tensors)) <= _ROLLBACK_LIMIT_BYTES
        self._parameters = [(p, p.detach().clone()) for p in parameters] if self.is_kept else []
        self._state = {p: _copied(state[p]) for p, _ in self._parameters if p in state}

    def undo(self) -> bool:
        """Puts everything back; False where the copies would have been too large to keep."""
        for parameter, before in self._parameters:
            parameter.data.copy_(before)
            if parameter in self._state:
                self._optimizer.state[parameter] = _copied(self._state[parameter])
            else:
                self._optimizer.state.pop(parameter, None)

        return self.is_kept


def _tensors(state: Mapping[str, object]) -> list[torch.Tensor]:
    return [value for value in state.values() if isinstance(value, torch.Tensor)]


def _copied(state: Mapping[str, object]) -> dict[str, object]:
    return {name: copy_of_tensor(value) if isinstance(value, torch.Tensor) else value for name, value in state.items()}


def halved(micro_batch: int, use: MemoryUse, share: int) -> tuple[int, str]:
    """Half the micro-batch, and the sentence that says so.

    Args:
        micro_batch: Samples per forward pass that did not fit.
        use: Measured right after the failure was cleared.
        share: Samples of a step that a process takes, in micro-batches one after the other.
    """
    smaller = max(micro_batch // 2, 1)
    steps = -(-share // smaller)
    return smaller, (
        f"out of memory with {micro_batch} samples per forward pass ({_measured(use)}): the same step again with "
        f"{smaller}. To begin with that: --per_device_train_batch_size {smaller} --gradient_accumulation_steps {steps}"
    )


def evaluated_in_halves(batch: int, use: MemoryUse) -> tuple[int, str]:
    """Half the batch of an evaluation, and the sentence that says so."""
    smaller = max(batch // 2, 1)
    return smaller, (
        f"out of memory in an evaluation with {batch} samples per forward pass ({_measured(use)}): the same evaluation "
        f"again with {smaller}. To begin with that: --per_device_eval_batch_size {smaller}"
    )


def evaluation_does_not_fit(use: MemoryUse, last: str) -> DoesNotFitError:
    """The error for an evaluation that does not fit one sample at a time."""
    return DoesNotFitError(
        "one sample alone does not fit into memory in an evaluation: --per_device_eval_batch_size is 1 already",
        expected=f"room for one sample, and for the predictions so far, beside {readable(use.used)}",
        found=_measured(use),
        hint="--eval_accumulation_steps 10 moves predictions off the device; use shorter samples, or end other "
        f"programs on the device; {_then_resume(last)}",
    )


def evaluation_cannot_be_repeated(counted: list[str], batch: int, last: str) -> DoesNotFitError:
    """The error for an evaluation that would count samples twice if it were repeated.

    Args:
        counted: Objects that may have counted some batches already, and cannot be put back.
        batch: Its batch size.
        last: The checkpoint that is good, or an empty text.
    """
    return DoesNotFitError(
        f"out of memory in an evaluation with {batch} samples per forward pass, which cannot be repeated with fewer: "
        "it would count some samples twice",
        expected="functions of an evaluation whose sums can be put back (numbers, containers, tensors, plain objects)",
        found=counted[:5],
        hint=f"--per_device_eval_batch_size {max(batch // 2, 1)}; {_then_resume(last)}",
    )


@dataclass(frozen=True, kw_only=True)
class MemoryFlags:
    """Flags of a program that save memory, as its user types them; empty where there is none.

    Attributes:
        four_bits: Loads the base model in 4 bits.
        shorter_samples: Makes samples shorter.
    """

    four_bits: str = ""
    shorter_samples: str = ""


def does_not_fit(
    model: nn.Module,
    use: MemoryUse,
    *,
    longest: int,
    checkpointing: bool,
    last: str,
    flags: MemoryFlags = MemoryFlags(),
) -> DoesNotFitError:
    """The error for one sample that does not fit: what was measured, and what would make how much room.

    Args:
        model: Whose weights could be smaller.
        use: Measured right after the failure was cleared.
        longest: Length of the sample in tokens; 0 if unknown.
        checkpointing: Whether activations are recomputed already.
        last: The checkpoint that is good, or an empty text.
        flags: Of the program.
    """
    hints = []
    if not checkpointing:
        layers = int(getattr(getattr(model, "config", None), "num_hidden_layers", 0) or 0)
        saved = f" (the activations of 1 layer of {layers} at a time instead of all)" if layers > 1 else ""
        hints.append(f"--gradient_checkpointing true{saved}")

    freed = bytes_freed_by_4_bits(model)
    if freed > _WORTH_NAMING * use.used:
        hints.append(f"the base model in 4 bits{_typed(flags.four_bits)}, which frees {readable(freed)}")
    if longest:
        hints.append(f"samples shorter than {longest:,} tokens{_typed(flags.shorter_samples)}")
    hints.append(_then_resume(last))

    return DoesNotFitError(
        "one sample alone does not fit into memory: --per_device_train_batch_size is 1 already, "
        "more --gradient_accumulation_steps cannot help",
        expected=f"room for the activations of one sample beside {readable(use.used)} of model and optimizer",
        found=_measured(use) + (f"; the longest sample of the step has {longest:,} tokens" if longest else ""),
        hint=hints,
    )


def _typed(flags: str) -> str:
    return f" ({flags})" if flags else ""


def _then_resume(last: str) -> str:
    return "then --resume_from_checkpoint" + (f" {last}, which is good" if last else "")


def optimizer_does_not_fit(use: MemoryUse, last: str) -> DoesNotFitError:
    """The error for an optimizer's step that runs out of memory, where smaller micro-batches cannot help."""
    return DoesNotFitError(
        "out of memory inside the optimizer's step, for the second time",
        expected="room for the moments of every trained weight, and for the step's own copies of them",
        found=_measured(use),
        hint="--optim adamw_8bit or --optim adafactor keeps smaller moments; "
        + (f"--resume_from_checkpoint {last} is good" if last else "there is no checkpoint yet"),
    )


def bytes_freed_by_4_bits(model: object) -> int:
    """Bytes that NF4 with double quantization would save on the frozen matrices of a model: 4.13 bits a weight remain.

    0 for what is no module.
    """
    if not isinstance(model, nn.Module):
        return 0

    frozen = [
        p
        for name, p in model.named_parameters()
        if not p.requires_grad and p.ndim == 2 and p.is_floating_point() and "embed" not in name and "head" not in name
    ]
    return int(sum(p.numel() * (p.element_size() - 4.127 / 8) for p in frozen))


def _measured(use: MemoryUse) -> str:
    peak = f"peak {readable(use.peak)}, " if use.peak else ""
    return f"{peak}{readable(use.used)} of model and optimizer, {readable(use.total)} in all on {use.device}"
