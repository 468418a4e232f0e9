"""Training data: the order of its samples, and micro-batches of it from any position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from llamarec.checkpoints.resume.position import Geometry
from llamarec.checkpoints.trainer.distributed.gradients import summed_items
from llamarec.checkpoints.trainer.guards.versions import multiprocessing_context
from llamarec.checkpoints.trainer.program import Program
from llamarec.checkpoints.trainer.run_state import SeenBatch
from llamarec.checkpoints.trainer.samples.repeatable import check_repeatable
from llamarec.checkpoints.trainer.samples.sampler_order import Sampler, SamplerOrder
from llamarec.checkpoints.trainer.samples.sampling import (
    Batch,
    Collator,
    KeyedCollator,
    KeyedDataset,
    Samples,
    SliceSampler,
)
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, NumItems, temporarily
from llamarec.checkpoints.trainer.worker_signals import LeaveSignals
from llamarec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoaderRequest:
    """What `get_train_dataloader` of the Trainer, or of a subclass, asks for.

    Attributes:
        dataset: To draw from.
        batch_size: Samples that the model's step is handed at once, in one process.
        make_sampler: From a data set to its sampler; None leaves the order to the Trainer.
    """

    dataset: Samples
    batch_size: int
    make_sampler: Callable[[Samples], Sampler] | None


class TrainData:
    """The training data of a Trainer.

    Args:
        trainer: The live Trainer; its `get_train_dataloader`, `_get_train_sampler`, `epoch_order` and
            `samples_by_epoch` count.
        program: Which of these it overrides.
    """

    def __init__(self, trainer: LiveTrainer, program: Program) -> None:
        self._trainer, self._program = trainer, program
        self._request: LoaderRequest | None = None
        self._own_order: SamplerOrder | None = None

    def forget(self) -> None:
        """Asks the Trainer again: it has another data set, or other arguments."""
        self._request = None

    # ---- How much ----

    def geometry(self) -> Geometry:
        """Samples of an epoch and of a step.

        Raises:
            ConfigError: there is no training data.
        """
        args, request, own = self._trainer.args, self._asked(), self._own_order
        batch_size = request.batch_size
        num_samples = len(request.dataset) if own is None else own.num_samples()
        if args.dataloader_drop_last:
            num_samples -= num_samples % (batch_size * args.world_size)

        return Geometry(num_samples, batch_size * int(args.gradient_accumulation_steps) * args.world_size)

    @property
    def is_cut_by_trainer(self) -> bool:
        """Whether micro-batches are the Trainer's, so that a part of one is a smaller one."""
        return not self._program.overrides("get_train_dataloader")

    def _asked(self) -> LoaderRequest:
        trainer = self._trainer
        if trainer.train_dataset is None:
            raise ConfigError("training needs a train_dataset")

        if self._request is None:
            # The arguments may have changed since the Trainer was made.
            trainer._train_batch_size = trainer.args.train_batch_size
            # Leads to `loader`, unless a subclass makes its own.
            check_is_ours(trainer.get_train_dataloader())
        if self._request is None:
            raise _own_loader()

        return self._request

    # ---- Micro-batches ----

    def loader(self, request: LoaderRequest) -> DataLoader[Batch]:
        """Micro-batches of this process, from the position that the sampler is set to."""
        self._request, self._own_order, args = request, self._order_of_sampler(request), self._trainer.args
        dataset, collator = self._keyed()
        sampler = SliceSampler(
            self.geometry(),
            self._order(),
            request.batch_size,
            rank=args.process_index,
            num_processes=args.world_size,
            is_own_order=self._own_order is not None,
        )

        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            # Its own, so that beginning an epoch takes nothing from dropout's stream.
            generator=torch.Generator().manual_seed(args.seed),
            persistent_workers=bool(args.dataloader_num_workers and args.dataloader_persistent_workers),
            prefetch_factor=args.dataloader_prefetch_factor if args.dataloader_num_workers else None,
            worker_init_fn=LeaveSignals(),
            multiprocessing_context=multiprocessing_context(args) if args.dataloader_num_workers else None,
        )

    def check(self) -> None:
        """Draws a little of the data twice.

        Raises:
            ConfigError: the two differ, so that no resume can repeat them; or there is no training data.
        """
        trainer, (dataset, collator) = self._trainer, self._keyed()
        check_repeatable(
            dataset,
            collator,
            self._order(),
            dataset_name=f"train_dataset ({type(trainer.train_dataset).__name__})",
            collator_name=f"data_collator ({_name_of(trainer.data_collator)})",
        )

    def not_looked_at(self) -> list[str]:
        """Paths in the data set and the collator at which the search for generators ended."""
        dataset, collator = self._keyed()
        found = {
            "train_dataset": dataset.generators.not_looked_at(),
            "data_collator": collator.generators.not_looked_at(),
        }
        return [path if path[:1] == "@" else name + path for name, paths in found.items() for path in paths]

    def drawn_again(self, seen: SeenBatch) -> Batch:
        """A micro-batch, drawn once more in this process."""
        dataset, collator = self._keyed()
        order = self._order()(seen.epoch)
        return collator([dataset[(seen.epoch, int(index))] for index in order[seen.start : seen.stop]])

    def _keyed(self) -> tuple[KeyedDataset, KeyedCollator]:
        trainer, seed = self._trainer, self._trainer.args.seed
        dataset, collator = self._with_needed_columns(self._asked().dataset)
        return KeyedDataset(dataset, seed, by_epoch=trainer.samples_by_epoch), KeyedCollator(collator, seed)

    def _with_needed_columns(self, dataset: Samples) -> tuple[Samples, Collator]:
        trainer = self._trainer
        if type(dataset).__module__.startswith("datasets."):
            return trainer._remove_unused_columns(dataset, description="Training"), trainer.data_collator

        return dataset, trainer._get_collator_with_removed_columns(trainer.data_collator, description="Training")

    # ---- The order ----

    def _order(self) -> Callable[[int], NDArray[np.int64]]:
        num_samples = len(self._asked().dataset)
        return self._own_order or (lambda epoch: self._trainer.epoch_order(epoch, num_samples))

    def _order_of_sampler(self, request: LoaderRequest) -> SamplerOrder | None:
        """That of the program's sampler; None where `epoch_order` gives it."""
        # No sampler can be made for a dataset without samples, which the start refuses in words.
        if request.make_sampler is None or not len(request.dataset) or self._program.overrides("epoch_order"):
            return None

        order = SamplerOrder(partial(request.make_sampler, request.dataset), self._trainer.args.seed)
        return None if order.is_of_trainer() else order

    def num_items(self, batches: list[Batch]) -> NumItems:
        """The Trainer's count of what a step's loss is the mean of, over all processes."""
        args = self._trainer.args
        if args.world_size == 1:
            return self._trainer._get_num_items_in_batch(batches, args.device)

        with temporarily(args, average_tokens_across_devices=False):
            count = self._trainer._get_num_items_in_batch(batches, args.device)
        return summed_items(args, count)


def _name_of(collator: object) -> str:
    """A function's own name, or an object's class."""
    return str(getattr(collator, "__name__", type(collator).__name__))


def check_is_ours(loader: object) -> SliceSampler:
    """The sampler of a training loader.

    Raises:
        ConfigError: a subclass made the loader itself.
    """
    sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(sampler, SliceSampler):
        raise _own_loader()

    return sampler


def _own_loader() -> ConfigError:
    return ConfigError(
        "get_train_dataloader makes a loader of its own, whose position no resume can restore",
        expected="a loader that self._get_dataloader(..., is_training=True) or super().get_train_dataloader() returns",
        hint="override _get_train_sampler for another order, or pass another train_dataset or data_collator",
    )


def default_order(args: TrainingArguments, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """The order of samples that a plain Trainer draws, so that either can continue the other's epoch.

    Returns:
        A permutation of [num_samples].
    """
    if args.train_sampling_strategy == "sequential":
        return np.arange(num_samples)

    seed = args.seed if args.data_seed is None else args.data_seed
    generator = torch.Generator().manual_seed(seed + epoch)
    order: NDArray[np.int64] = torch.randperm(num_samples, generator=generator).numpy()
    return order
