"""Training data: the order of its samples, and micro-batches of it from any position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from llamarec.checkpoints.resume.current_process import effective_batch
from llamarec.checkpoints.resume.position import Geometry
from llamarec.checkpoints.trainer import distributed
from llamarec.checkpoints.trainer.guards.versions import multiprocessing_context
from llamarec.checkpoints.trainer.samples.repeatable import check_repeatable
from llamarec.checkpoints.trainer.samples.sampling import (
    Batch,
    Collator,
    KeyedCollator,
    KeyedDataset,
    Samples,
    SliceSampler,
)
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, NumItems, temporarily
from llamarec.errors import ConfigError


class TrainData:
    """The training data of a Trainer.

    Args:
        trainer: The live Trainer; its `epoch_order` and `samples_by_epoch` count.
    """

    def __init__(self, trainer: LiveTrainer) -> None:
        self._trainer = trainer

    def geometry(self) -> Geometry:
        """Samples of an epoch and of a step."""
        args, num_samples = self._trainer.args, len(self._trainer.train_dataset)
        if args.dataloader_drop_last:
            num_samples -= num_samples % (args.train_batch_size * args.world_size)

        return Geometry(num_samples, effective_batch(args))

    def loader(self) -> DataLoader[Batch]:
        """Micro-batches of this process, from the position that the sampler is set to.

        Raises:
            ConfigError: there is no training data.
        """
        args = self._trainer.args
        dataset, collator = self._keyed()
        sampler = SliceSampler(
            self.geometry(),
            self._order(len(dataset)),
            args.train_batch_size,
            rank=args.process_index,
            num_processes=args.world_size,
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
            self._order(len(dataset)),
            dataset_name=f"train_dataset ({type(trainer.train_dataset).__name__})",
            collator_name=f"data_collator ({_name_of(trainer.data_collator)})",
        )

    def _keyed(self) -> tuple[KeyedDataset, KeyedCollator]:
        trainer, seed = self._trainer, self._trainer.args.seed
        if trainer.train_dataset is None:
            raise ConfigError("training needs a train_dataset")

        dataset, collator = self._with_needed_columns()
        return KeyedDataset(dataset, seed, by_epoch=trainer.samples_by_epoch), KeyedCollator(collator, seed)

    def _order(self, num_samples: int) -> Callable[[int], NDArray[np.int64]]:
        return lambda epoch: self._trainer.epoch_order(epoch, num_samples)

    def _with_needed_columns(self) -> tuple[Samples, Collator]:
        trainer = self._trainer
        if type(trainer.train_dataset).__module__.startswith("datasets."):
            needed = trainer._remove_unused_columns(trainer.train_dataset, description="Training")
            return needed, trainer.data_collator

        collator = trainer._get_collator_with_removed_columns(trainer.data_collator, description="Training")
        return trainer.train_dataset, collator

    def num_items(self, batches: list[Batch]) -> NumItems:
        """The Trainer's count of what a step's loss is the mean of, over all processes."""
        args = self._trainer.args
        if args.world_size == 1:
            return self._trainer._get_num_items_in_batch(batches, args.device)

        with temporarily(args, average_tokens_across_devices=False):
            count = self._trainer._get_num_items_in_batch(batches, args.device)
        return distributed.summed_items(args, count)


def _name_of(collator: object) -> str:
    """A function's own name, or an object's class."""
    return str(getattr(collator, "__name__", type(collator).__name__))


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
