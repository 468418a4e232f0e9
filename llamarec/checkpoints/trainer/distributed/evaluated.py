"""An evaluation in several processes: the same one in all of them, without the rows that fill up its last batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import find_batch_size

from llamarec.checkpoints.trainer.distributed.agreement import check_equal
from llamarec.checkpoints.trainer.samples.sampling import Batch
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer


def check_same_evaluation(trainer: LiveTrainer, operation: str, dataloader: DataLoader[Batch]) -> None:
    """Refuses processes that evaluate something else: their tensors are gathered, and would wait for ever.

    Args:
        trainer: The live Trainer.
        operation: As messages name it.
        dataloader: Of this process.

    Raises:
        DisagreementError: names what differs.
    """
    args = trainer.args
    if args.world_size == 1:
        return

    data = dataloader.dataset
    values = {
        "samples to evaluate": len(data) if hasattr(data, "__len__") else "unknown",
        "batches to evaluate": _num_batches(dataloader),
        "compute_metrics": trainer.compute_metrics is not None,
        "preprocess_logits_for_metrics": trainer.preprocess_logits_for_metrics is not None,
        "prediction_loss_only": args.prediction_loss_only,
    }
    check_equal(args, operation, values)


def _num_batches(dataloader: DataLoader[Batch]) -> int | str:
    try:
        return len(dataloader)
    except TypeError:
        return "unknown"


@dataclass(frozen=True)
class Rows:
    """The rows of a batch of this process.

    Attributes:
        batch: As it was collated.
        count: Rows in it.
        real: Those of this process that are not there to fill up the last batch.
        is_filled: The batch is filled up in some process.
    """

    batch: Batch
    count: int
    real: int
    is_filled: bool = False

    @classmethod
    def of(cls, trainer: LiveTrainer, batch: Batch) -> Self:
        """Counted as accelerate counts them, which leaves the others out of what it gathers."""
        count, remainder = find_batch_size(batch) or 0, trainer.accelerator.gradient_state.remainder
        if not trainer.accelerator.gradient_state.end_of_dataloader or remainder <= 0:
            return cls(batch, count, count)

        before = count * trainer.args.process_index
        return cls(batch, count, min(max(remainder - before, 0), count), is_filled=True)

    def without_filling(self, trainer: LiveTrainer) -> Batch | None:
        """The real rows alone; None where that is all, or nothing.

        Accelerate keeps as many copies of a batch's mean loss as it has real rows, and that mean would be of all rows.
        """
        if self.real in (0, self.count):
            return None

        cut: Batch = trainer.split_batch(self.batch, self.count, self.real)[0][0]
        return cut
