"""What a training is fed: the order of its samples, and micro-batches of it from any position."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from llamarec.checkpoints.resume.compatibility import FingerprintSources
from llamarec.checkpoints.resume.position import Geometry
from llamarec.checkpoints.resume.process import effective_batch
from llamarec.checkpoints.trainer.sampling import KeyedCollator, KeyedDataset, SliceSampler
from llamarec.checkpoints.trainer.shared_state import SharedState
from llamarec.checkpoints.trainer.temporarily import temporarily
from llamarec.checkpoints.trainer.versions import multiprocessing_context
from llamarec.errors import ConfigError


class TrainData(SharedState):
    """Mixin before `Trainer`: its training data."""

    samples_by_epoch = False
    """The training data set is asked for (epoch, index) instead of for the index."""
    beyond_flags: tuple[str, ...] = ()
    """Fingerprints that no flag of a command decides: where they differ, to resume is no advice."""
    origins = FingerprintSources()
    """Of the program's own fingerprints, for what is said where they differ."""

    def epoch_order(self, epoch: int, num_samples: int) -> NDArray[np.int64]:
        """The order of samples in an epoch: a permutation of [num_samples], a function of (seed, epoch) alone.

        The default is what a plain Trainer draws, so that either can go on in the other's epoch.
        """
        if self.args.train_sampling_strategy == "sequential":
            return np.arange(num_samples)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        generator = torch.Generator().manual_seed(seed + epoch)
        return torch.randperm(num_samples, generator=generator).numpy()

    def _geometry(self) -> Geometry:
        dataset: Any = self.train_dataset  # type: ignore[attr-defined]
        num_samples = len(dataset)
        if self.args.dataloader_drop_last:
            num_samples -= num_samples % (self.args.train_batch_size * self.args.world_size)
        return Geometry(num_samples, effective_batch(self.args))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Micro-batches of this process, from the position that the sampler is set to."""
        args, dataset, seed = self.args, self.train_dataset, self.args.seed  # type: ignore[attr-defined]
        if dataset is None:
            raise ConfigError("training needs a train_dataset")
        dataset, collator = self._with_needed_columns(dataset)
        sampler = SliceSampler(
            self._geometry(),
            lambda epoch: self.epoch_order(epoch, len(dataset)),
            args.train_batch_size,
            rank=args.process_index,
            num_processes=args.world_size,
        )
        workers: dict[str, Any] = {}
        if args.dataloader_num_workers:
            workers = {
                "persistent_workers": args.dataloader_persistent_workers,
                "prefetch_factor": args.dataloader_prefetch_factor,
                "multiprocessing_context": multiprocessing_context(args),
            }
        return DataLoader(
            KeyedDataset(dataset, seed, by_epoch=self.samples_by_epoch),
            batch_sampler=sampler,
            collate_fn=KeyedCollator(collator, seed),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            # Its own, so that beginning an epoch takes nothing from dropout's stream.
            generator=torch.Generator().manual_seed(seed),
            **workers,
        )

    def _with_needed_columns(self, dataset: Any) -> tuple[Any, Any]:
        if type(dataset).__module__.startswith("datasets."):
            return self._remove_unused_columns(dataset, description="Training"), self.data_collator  # type: ignore[attr-defined]
        return dataset, self._get_collator_with_removed_columns(self.data_collator, description="Training")  # type: ignore[attr-defined]

    def _num_items_in_step(self, batches: list[Any]) -> Any:
        """The Trainer's count of what a step's loss is the mean of, over all processes."""
        args = self.args
        if args.world_size == 1:
            return self._get_num_items_in_batch(batches, args.device)  # type: ignore[attr-defined]
        # A process without a sample in a short step counts too, which the Trainer's own gathering does not foresee.
        across = args.average_tokens_across_devices
        with temporarily(args, average_tokens_across_devices=False):
            count = self._get_num_items_in_batch(batches, args.device)  # type: ignore[attr-defined]
        counts = torch.tensor([-1.0 if count is None else float(count)], device=args.device)
        if across:
            counted = torch.clamp(counts, min=0)
            dist.all_reduce(counted)
            return counted[0] if counted[0] > 0 else None
        return count
