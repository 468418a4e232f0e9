"""The Hugging Face Trainer as this room uses it: every attribute and method of it that is read, written or called.

The objects that a `ResumableMixin` holds know the Trainer as a `LiveTrainer` only, so mypy keeps these lists complete.
`Read`, `Written` and `Called` name what belongs to `transformers.Trainer`. `SubclassHooks` names what a user's class
may override. The overridden hooks themselves are the methods of `ResumableMixin`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer
from numpy.typing import NDArray
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState

from llamarec.checkpoints.config import ProgramHints
from llamarec.checkpoints.resume.compatibility import FingerprintSources
from llamarec.checkpoints.trainer.out_of_memory import MemoryFlags
from llamarec.checkpoints.trainer.samples.sampling import Batch, Collator, Samples

if TYPE_CHECKING:
    from accelerate import Accelerator

NumItems: TypeAlias = torch.Tensor | int | None
"""What a step's loss is the mean of (tokens, samples); None where the Trainer does not count."""


class Read(Protocol):
    """Attributes of the Trainer that are read only."""

    args: TrainingArguments
    accelerator: Accelerator
    callback_handler: CallbackHandler
    lr_scheduler: LRScheduler
    train_dataset: Samples
    data_collator: Collator
    processing_class: PreTrainedTokenizerBase | None
    compute_loss_func: Callable[..., torch.Tensor] | None
    compute_metrics: Callable[..., dict[str, float]] | None
    preprocess_logits_for_metrics: Callable[..., torch.Tensor] | None
    model_accepts_loss_kwargs: bool
    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, object]] | None
    model_init: Callable[..., nn.Module] | None
    hp_search_backend: object | None
    is_deepspeed_enabled: bool


class Written(Protocol):
    """Attributes of the Trainer that are read and set."""

    state: TrainerState
    control: TrainerControl
    model: nn.Module
    optimizer: torch.optim.Optimizer
    current_flos: float
    is_fsdp_enabled: bool
    current_gradient_accumulation_steps: float
    _tr_loss: torch.Tensor
    _total_loss_scalar: float
    _globalstep_last_logged: int
    _initial_global_step: int
    _train_batch_size: int


class Called(Protocol):
    """Methods of the Trainer that are called. A subclass may have overridden them."""

    def compute_loss_context_manager(self) -> AbstractContextManager[None]: ...

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: NumItems = None
    ) -> torch.Tensor: ...

    def _prepare_inputs(self, inputs: Batch) -> Batch: ...

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: NumItems = None) -> torch.Tensor: ...

    def floating_point_ops(self, inputs: Batch) -> int: ...

    def store_flos(self) -> None: ...

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None: ...

    def get_train_dataloader(self) -> DataLoader[Batch]: ...

    def get_test_dataloader(self, test_dataset: Samples) -> DataLoader[Batch]: ...

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None: ...

    def call_model_init(self, trial: object = None) -> nn.Module: ...

    def _hp_search_setup(self, trial: object) -> None: ...

    def _get_output_dir(self, trial: object) -> str: ...

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> NumItems: ...

    def _remove_unused_columns(self, dataset: Samples, description: str | None = None) -> Samples: ...

    def _get_collator_with_removed_columns(
        self, data_collator: Collator, description: str | None = None
    ) -> Collator: ...

    def _track_num_input_tokens(self, inputs: Batch) -> None: ...

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor: ...

    def _get_grad_norm(
        self, model: nn.Module, grad_norm: torch.Tensor | float | None = None
    ) -> torch.Tensor | float | None: ...

    def _get_learning_rate(self) -> float: ...

    def _maybe_log_save_evaluate(
        self,
        tr_loss: torch.Tensor,
        grad_norm: torch.Tensor | float | None,
        model: nn.Module,
        trial: object,
        epoch: float,
        ignore_keys_for_eval: list[str] | None,
        start_time: float,
        learning_rate: float | None = None,
    ) -> None: ...


class SubclassHooks(Protocol):
    """What a subclass of `ResumableMixin` may override; explained there."""

    samples_by_epoch: bool
    beyond_flags: tuple[str, ...]
    origins: FingerprintSources
    memory_flags: MemoryFlags
    program_hints: ProgramHints
    ends_when_diverged: bool

    def epoch_order(self, epoch: int, num_samples: int) -> NDArray[np.int64]: ...

    def split_batch(self, batch: Batch, num_samples: int, size: int) -> list[tuple[Batch, int]]: ...

    def files_beside_model(self) -> dict[str, bytes]: ...


class LiveTrainer(Read, Written, Called, SubclassHooks, Protocol):
    """A Trainer with a `ResumableMixin`, as the objects see it that the mixin holds."""


# Under these names, wrappers hold the model.
_WRAPPED: Final = ("module", "_orig_mod")


def unwrapped(trainer: LiveTrainer) -> nn.Module:
    """The model without wrappers for several processes or compilation."""
    bare = trainer.model
    # Asked several times per step: accelerate would look for compiled layers in every layer.
    if not any(name in vars(bare) or name in bare._modules for name in _WRAPPED):
        return bare

    model: nn.Module = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    return model


def unwrapped_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer without accelerate's wrapper."""
    inner: torch.optim.Optimizer = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    return inner


@dataclass(frozen=True)
class RunningTotals:
    """The Trainer's sums between two logs.

    Attributes:
        loss_since_log: Tensor of one: sum of the steps' losses that are not logged yet.
        loss_total: Sum of those that are.
        logged_step: Step of the last log.
        flos: Floating-point operations not yet added to the state's.
    """

    loss_since_log: torch.Tensor
    loss_total: float
    logged_step: int
    flos: float

    @staticmethod
    def of(trainer: LiveTrainer) -> RunningTotals:
        """A copy of them."""
        return RunningTotals(
            trainer._tr_loss.clone(),
            trainer._total_loss_scalar,
            trainer._globalstep_last_logged,
            trainer.current_flos,
        )

    def put_into(self, trainer: LiveTrainer) -> None:
        """Makes them the Trainer's."""
        trainer._tr_loss.copy_(self.loss_since_log)
        trainer._total_loss_scalar = self.loss_total
        trainer._globalstep_last_logged = self.logged_step
        trainer.current_flos = self.flos


@contextlib.contextmanager
def temporarily(target: object, **values: object) -> Iterator[None]:
    """Sets attributes of an object within, and puts the old values back, whatever happens.

    >>> from types import SimpleNamespace
    >>> args = SimpleNamespace(workers=2)
    >>> with temporarily(args, workers=0):
    ...     print(args.workers)
    0
    >>> args.workers
    2
    """
    before = {name: getattr(target, name) for name in values}
    try:
        for name, value in values.items():
            setattr(target, name, value)

        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)
