"""Evaluations: repeated in smaller batches where they run out of memory, and with generators that are keyed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import EvalLoopOutput

from llamarec.checkpoints.trainer import out_of_memory
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.distributed.agreement import any_process
from llamarec.checkpoints.trainer.distributed.control import agreed_metrics
from llamarec.checkpoints.trainer.distributed.evaluated import Rows, check_same_evaluation
from llamarec.checkpoints.trainer.distributed.rounds import Rounds, Vote
from llamarec.checkpoints.trainer.distributed.sharded import passes_of
from llamarec.checkpoints.trainer.program import Program
from llamarec.checkpoints.trainer.samples import rng
from llamarec.checkpoints.trainer.samples.generators import HeldGenerators
from llamarec.checkpoints.trainer.samples.random_states import RandomStates
from llamarec.checkpoints.trainer.samples.sampling import Batch
from llamarec.checkpoints.trainer.signals import StopNowError, StopRequests
from llamarec.checkpoints.trainer.state.stateful import StatefulObjects
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, temporarily
from llamarec.checkpoints.trainer.undo import Undo
from llamarec.checkpoints.trainer.worker_signals import leave_signals

Output = TypeVar("Output")
Prediction: TypeAlias = tuple[torch.Tensor | None, Any, Any]
"""Loss, logits and labels of a batch."""
Predict: TypeAlias = Callable[[Batch, bool], Prediction]
# Of the Trainer, and large where they are lists.
_DATA: Final = ("train_dataset", "eval_dataset")


class Evaluation:
    """Repeats an evaluation until it fits.

    Args:
        trainer: The live Trainer.
        program: Whether it cuts its evaluations into batches itself.
        stateful: Put back before a second try.
        random: Put back before an evaluation is repeated.
        stop: The request to stop.
        console: For what is tried.

    Attributes:
        given_batch: `per_device_eval_batch_size` as the user gave it, where a smaller one is used; else 0.
    """

    def __init__(
        self,
        trainer: LiveTrainer,
        program: Program,
        *,
        stateful: StatefulObjects,
        random: RandomStates,
        stop: StopRequests,
        console: Console,
    ) -> None:
        self._trainer, self._program, self._console = trainer, program, console
        self._stateful, self._random, self._stop = stateful, random, stop
        self._rounds: Rounds | None = None
        self.given_batch = 0

    def run(
        self,
        evaluate: Callable[[DataLoader[Batch]], EvalLoopOutput],
        dataloader: DataLoader[Batch],
        last_good: Callable[[], str],
    ) -> EvalLoopOutput:
        """Evaluates; out of memory, the same again in batches of half the size.

        Args:
            evaluate: The Trainer's loop.
            dataloader: What it evaluates on.
            last_good: Path of the newest checkpoint, for the message.

        Raises:
            DoesNotFitError: one sample alone does not fit.
            DisagreementError: another process evaluates something else.
        """
        operation = f"the evaluation after step {self._trainer.state.global_step}"
        check_same_evaluation(self._trainer, operation, dataloader)
        with temporarily(self, _rounds=Rounds(self._trainer.args, operation)):
            output = self._repeated(evaluate, dataloader, last_good)

        metrics = agreed_metrics(self._trainer, f"the metrics of {operation}", dict(output.metrics or {}))
        return output._replace(metrics=metrics)

    def predicted(self, predict: Predict, inputs: Batch, *, loss_only: bool, in_training: bool) -> Prediction:
        """A prediction step; several processes learn after each of them whether to go on.

        Args:
            predict: The Trainer's, of a batch, with the loss only or with everything.
            inputs: The batch; the last one of several processes may be filled up.
            loss_only: As the Trainer asks for it.
            in_training: Whether a request to stop ends the evaluation.

        Raises:
            StopNowError: a request to stop has come.
        """
        several = self._trainer.args.world_size > 1
        if in_training and not several and self._stop.received:
            raise StopNowError

        if not several or self._rounds is None:
            return predict(inputs, loss_only)

        # The mean of this process's own batch, as in one process: the Trainer would gather counts in between.
        with temporarily(self._trainer.args, average_tokens_across_devices=False):
            loss, logits, labels = self._pass(predict, inputs, loss_only)
            rows = Rows.of(self._trainer, inputs)
            own = rows.without_filling(self._trainer) if loss is not None else None
            if own is not None:
                loss = self._pass(predict, own, True)[0]
            elif loss is not None and rows.is_filled and passes_of(self._trainer.model) is not None:
                # Other processes compute theirs once more.
                self._pass(predict, inputs, True)

        stop = in_training and bool(self._stop.received)
        if self._rounds.vote(Vote(stop=stop)).stop:
            raise StopNowError
        return loss, logits, labels

    def _pass(self, predict: Predict, inputs: Batch, loss_only: bool) -> Prediction:
        """A forward pass; completed in every process where the model is sharded."""
        passes = passes_of(self._trainer.model)
        if passes is None:
            return predict(inputs, loss_only)

        count = find_batch_size(inputs) or 1
        small = self._trainer.split_batch(inputs, count, 1)[0][0]
        return passes.run(lambda: predict(inputs, loss_only), lambda: predict(small, True))

    def _repeated(
        self,
        evaluate: Callable[[DataLoader[Batch]], Output],
        dataloader: DataLoader[Batch],
        last_good: Callable[[], str],
    ) -> Output:
        may_repeat = self._may_repeat()
        random_states, sums = self._random.capture(), self._sums() if may_repeat else Undo()
        while True:
            try:
                return self._keyed(evaluate, dataloader, random_states, sums)
            except Exception as error:
                # Other processes would wait in a gathering that this one does not come to.
                if not out_of_memory.is_out_of_memory(error) or not may_repeat:
                    raise

            # After the handler: the traceback holds the tensors that did not fit.
            if sums.unknown:
                raise out_of_memory.evaluation_cannot_be_repeated(
                    sums.unknown, int(self._trainer.args.per_device_eval_batch_size), last_good()
                )

            sums.restore()
            dataloader = self._with_smaller_batches(dataloader, last_good)
            self._random.put_back(random_states)

    def _sums(self) -> Undo:
        """What the given functions, the Trainer's subclass and the callbacks add up from batch to batch."""
        trainer, known = self._trainer, self._stateful.values()
        undo, loosely = Undo(known), Undo(known)
        if trainer.args.batch_eval_metrics:
            # Otherwise it is called once, after the last batch.
            undo.remember(trainer.compute_metrics, "compute_metrics")
        undo.remember(trainer.preprocess_logits_for_metrics, "preprocess_logits_for_metrics")
        undo.remember(trainer.compute_loss_func, "compute_loss_func")

        for owner in (trainer, *trainer.callback_handler.callbacks):
            loosely.remember_surface(owner, skip=_DATA)

        undo.on_restore(loosely.restore)
        undo.on_restore(partial(self._stateful.put_back, self._stateful.copied()))
        return undo

    def _keyed(
        self,
        evaluate: Callable[[DataLoader[Batch]], Output],
        dataloader: DataLoader[Batch],
        random_states: rng.States,
        sums: Undo,
    ) -> Output:
        """Evaluates with the generators that the data hold keyed by the step: no resume restores their states."""
        trainer, args = self._trainer, self._trainer.args
        metrics = trainer.compute_metrics, trainer.preprocess_logits_for_metrics
        held = HeldGenerators((dataloader.dataset, dataloader.collate_fn, *metrics))
        key = args.seed, rng.EVALUATION_STREAM, trainer.state.global_step, args.process_index
        leave_signals(dataloader)

        with held.keyed(*key):
            output = evaluate(dataloader)
        if not any_process(args, "generators that the evaluation has made", held.are_others())[0]:
            return output

        # The evaluation made one of them on its way, and a later one would find it made.
        sums.restore()
        self._random.put_back(random_states)
        with held.keyed(*key):
            return evaluate(dataloader)

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
