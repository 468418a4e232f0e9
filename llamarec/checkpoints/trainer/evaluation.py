"""Evaluations that run out of memory: repeated in smaller batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch.utils.data import DataLoader
from transformers import TrainerCallback

from llamarec.checkpoints.trainer import out_of_memory, rng
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.program import Program
from llamarec.checkpoints.trainer.sampling import Batch
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer

Output = TypeVar("Output")


class Evaluation:
    """Repeats an evaluation until it fits.

    Args:
        trainer: The live Trainer.
        program: Whether it cuts its evaluations into batches itself.
        console: For what is tried.

    Attributes:
        given_batch: `per_device_eval_batch_size` as the user gave it, where a smaller one is used; else 0.
    """

    def __init__(self, trainer: LiveTrainer, program: Program, console: Console) -> None:
        self._trainer, self._program, self._console = trainer, program, console
        self.given_batch = 0

    def run(
        self,
        evaluate: Callable[[DataLoader[Batch]], Output],
        dataloader: DataLoader[Batch],
        last_good: Callable[[], str],
    ) -> Output:
        """Evaluates; out of memory, the same again in batches of half the size.

        Args:
            evaluate: The Trainer's loop.
            dataloader: What it evaluates on.
            last_good: Path of the newest checkpoint, for the message.

        Raises:
            DoesNotFitError: one sample alone does not fit.
        """
        random_states = rng.capture()
        while True:
            try:
                return evaluate(dataloader)
            except Exception as error:
                # Other processes would wait in a gathering that this one does not come to.
                if not out_of_memory.is_out_of_memory(error) or not self._may_repeat():
                    raise

            # After the handler: the traceback holds the tensors that did not fit.
            dataloader = self._with_smaller_batches(dataloader, last_good)
            rng.set_states(random_states)

    def _may_repeat(self) -> bool:
        cuts_itself = any(map(self._program.overrides, ("get_eval_dataloader", "get_test_dataloader")))
        return self._trainer.args.world_size == 1 and not cuts_itself

    def _with_smaller_batches(self, dataloader: DataLoader[Batch], last_good: Callable[[], str]) -> DataLoader[Batch]:
        args = self._trainer.args
        out_of_memory.free_cached()
        now, use = int(args.per_device_eval_batch_size), out_of_memory.memory_use(args.device)
        if now == 1:
            raise out_of_memory.evaluation_does_not_fit(use, last_good())

        self.given_batch = self.given_batch or now
        args.per_device_eval_batch_size, text = out_of_memory.evaluated_in_halves(now, use)
        self._console.warn(text)

        for callback in self._trainer.callback_handler.callbacks:
            _close_bar(callback)
        return self._trainer.get_test_dataloader(dataloader.dataset)


def _close_bar(callback: TrainerCallback) -> None:
    """The progress bar of the evaluation that was given up."""
    bar = getattr(callback, "prediction_bar", None)
    if bar is not None:
        bar.close()
        vars(callback)["prediction_bar"] = None
