"""What differs between the supported versions of transformers, and whether PEFT is there at all."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, TypeGuard

import torch
import transformers.optimization
from transformers import TrainingArguments

if TYPE_CHECKING:
    from peft import PeftModel

_PACKAGES: Final = ("torch", "transformers", "peft", "accelerate")

# GreedyLR came with transformers 5.4.
_GREEDY: Final = getattr(transformers.optimization, "GreedyLR", None)
METRIC_SCHEDULERS: Final[tuple[type, ...]] = (
    torch.optim.lr_scheduler.ReduceLROnPlateau,
    *([_GREEDY] if _GREEDY is not None else []),
)
"""Schedulers that validations move, not steps."""


def recomputes_activations(args: TrainingArguments) -> bool:
    """Whether activations are recomputed in the backward pass; the argument has had two names."""
    return any(bool(getattr(args, name, False)) for name in ("activation_checkpointing", "gradient_checkpointing"))


def multiprocessing_context(args: TrainingArguments) -> str | None:
    """How the processes that load data are started; None: as Python does, the only choice in older versions."""
    return getattr(args, "dataloader_multiprocessing_context", None)


def is_adapter(model: object) -> TypeGuard[PeftModel]:
    """Whether a model is PEFT's. Imports nothing: whoever made such a model has imported PEFT."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide how training goes, by name, where they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
