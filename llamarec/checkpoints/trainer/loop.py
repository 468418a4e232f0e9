"""The training loop in samples: a step is a slice of the epoch's order, and every save is made at a step boundary.

`Trainer._run_epoch` is replaced as a whole, since its position is a number of batches; everything else of the Trainer's
loop stays. At a boundary all state belongs together: weights, optimizer, schedule, random states, position, history. A
signal, an exception or the clock is answered there, or with the last boundary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from llamarec.checkpoints.resume.position import Position, step_slices
from llamarec.checkpoints.trainer.distributed.agreement import any_process, check_equal, in_first_process
from llamarec.checkpoints.trainer.distributed.control import agree_on_control
from llamarec.checkpoints.trainer.distributed.gradients import padded_with_empty, without_ddp
from llamarec.checkpoints.trainer.guards.structure import ModelStructure
from llamarec.checkpoints.trainer.restoring import Restorer
from llamarec.checkpoints.trainer.run_state import RunState, SaveRequests
from llamarec.checkpoints.trainer.samples.recent_batches import RecentBatches
from llamarec.checkpoints.trainer.samples.sampler_order import check_same_order
from llamarec.checkpoints.trainer.samples.sampling import Batch, SliceSampler
from llamarec.checkpoints.trainer.saves.saver import CheckpointSaver
from llamarec.checkpoints.trainer.signals import StopRequests
from llamarec.checkpoints.trainer.state.unsaved import UnsavedState
from llamarec.checkpoints.trainer.step import Piece, Step
from llamarec.checkpoints.trainer.step_boundary import StepBoundary
from llamarec.checkpoints.trainer.stopping import Stopping
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer
from llamarec.checkpoints.trainer.worker_signals import batches_of

Event: TypeAlias = Callable[[TrainingArguments, TrainerState, TrainerControl], TrainerControl]
"""Of the callback handler: has every callback answer."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Arguments with which the Trainer logs, evaluates and saves.

    Attributes:
        model: As the Trainer prepared it.
        trial: Of a hyperparameter search.
        epoch: The current one.
        ignore_keys_for_eval: Of the model's output.
        start_time: Of training.
    """

    model: nn.Module
    trial: object
    epoch: int
    ignore_keys_for_eval: list[str] | None
    start_time: float


class StepLoop:
    """The loop over the steps of an epoch, from boundary to boundary.

    Args:
        trainer: The live Trainer.
        run: The training; the loop moves its position on.
        boundary: Taken between steps.
        step: What is between two boundaries.
        requests: Saves that are due.
        saver: Makes them.
        restorer: Restores what must come last.
        unsaved: Observed before the first step.
        structure: Likewise.
        recent: Micro-batches, which are drawn again at a save.
        stopping: Ends training.
        stop: The request to stop.
    """

    def __init__(
        self,
        trainer: LiveTrainer,
        run: RunState,
        *,
        boundary: StepBoundary,
        step: Step,
        requests: SaveRequests,
        saver: CheckpointSaver,
        restorer: Restorer,
        unsaved: UnsavedState,
        structure: ModelStructure,
        recent: RecentBatches,
        stopping: Stopping,
        stop: StopRequests,
    ) -> None:
        self._trainer, self._run = trainer, run
        self._boundary, self._step, self._requests, self._saver = boundary, step, requests, saver
        self._restorer, self._unsaved, self._recent = restorer, unsaved, recent
        self._structure = structure
        self._stopping, self._stop = stopping, stop

    def run_epoch(self, train_dataloader: DataLoader[Batch], report: Report) -> None:
        """One epoch, from the position to its end."""
        trainer, run = self._trainer, self._run
        self.enter(report)
        agree_on_control(trainer, f"the beginning of epoch {report.epoch}")
        if not (trainer.control.should_training_stop or trainer.control.should_epoch_stop):
            self._run_steps(train_dataloader, report)

        if trainer.control.should_epoch_stop or run.progress.position.sample >= run.progress.num_samples:
            # Not where training ends inside an epoch: more epochs later continue from there.
            run.move_to(Position(report.epoch + 1, 0))

        self._ask(trainer.callback_handler.on_epoch_end)
        self._log_evaluate_save(report)
        self._reach_boundary()

    def enter(self, report: Report) -> None:
        """Once, after all callbacks of the start: what is restored last, and what the checkpoint left to be done."""
        if self._boundary.is_in_loop:
            return

        self._restorer.restore_last()
        self._unsaved.observe()
        self._structure.observe()
        events_due, control = self._run.progress.events_due, self._trainer.control
        self._boundary.take(events_due=events_due)
        agree_on_control(self._trainer, "the beginning of training")

        if events_due:
            control = self._ask(self._trainer.callback_handler.on_step_end)
        if events_due or control.should_evaluate or control.should_save:
            self._log_evaluate_save(report)
            self._reach_boundary()

    def open_epoch(self) -> None:
        """Before any other callback of a new epoch: what they draw belongs to it, and is drawn again on resume."""
        if self._run.progress.position.sample == 0:
            self.enter(self.report_without_epoch(None, time.time()))
            self._boundary.take()

    def report_without_epoch(self, trial: object, start_time: float) -> Report:
        """What an epoch would give to `enter`, for a training that has no epoch left."""
        return Report(
            model=self._trainer.model,
            trial=trial,
            epoch=self._run.progress.position.epoch,
            ignore_keys_for_eval=None,
            start_time=start_time,
        )

    def _run_steps(self, train_dataloader: DataLoader[Batch], report: Report) -> None:
        trainer = self._trainer
        model = without_ddp(report.model)
        sampler = cast(SliceSampler, train_dataloader.batch_sampler)
        sampler.position = self._run.progress.position
        geometry, batches = sampler.geometry, None
        self._check_order(sampler)
        in_first_process(
            trainer.args,
            f"the micro-batches before the resume, in epoch {report.epoch}",
            partial(self._recent.check_after_resume, report.epoch),
        )

        for samples in step_slices(geometry, sampler.position.sample):
            if trainer.state.global_step >= trainer.state.max_steps:
                return

            self._reach_boundary(taken=samples.start == 0)
            # Made late, so that an epoch without steps starts no workers.
            batches = batches_of(train_dataloader) if batches is None else batches
            pieces = self._recent.noted(report.epoch, [(piece, next(batches)) for piece in sampler.pieces(samples)])

            self._ask(trainer.callback_handler.on_step_begin)
            losses = self._step.compute_gradients(model, pieces, len(samples))
            self._step.update(model, losses)
            self._count(losses, pieces, Position(report.epoch, samples.stop), geometry.num_samples)

            control = self._ask(trainer.callback_handler.on_step_end)
            self._log_evaluate_save(report)
            if control.should_epoch_stop or control.should_training_stop:
                break

        self._reach_boundary()

    def _check_order(self, sampler: SliceSampler) -> None:
        digest, progress = sampler.order_digest(), self._run.progress
        if progress.position.sample > 0:
            check_same_order(progress.order, digest, progress.position.epoch)

        epoch = progress.position.epoch
        check_equal(self._trainer.args, f"the samples of epoch {epoch}", {f"order of epoch {epoch}": digest})
        self._run.set_order(digest)

    def _count(self, losses: list[torch.Tensor], pieces: list[Piece], position: Position, num_samples: int) -> None:
        """Everything that says that the step is done; then it is a boundary, with the callbacks still to come."""
        trainer, state, args = self._trainer, self._trainer.state, self._trainer.args
        for loss in losses:
            if args.logging_nan_inf_filter and not torch.isfinite(loss):
                trainer._tr_loss += trainer._tr_loss / (1 + state.global_step - trainer._globalstep_last_logged)
            else:
                trainer._tr_loss += loss

        batches = [batch for batch, _ in pieces]
        # A float in every process, also where a short step left nothing to do: they are gathered.
        trainer.current_flos = float(trainer.current_flos)
        for batch in batches:
            trainer.current_flos += float(trainer.floating_point_ops(batch))
        input_name = str(getattr(trainer.model, "main_input_name", "input_ids"))
        for batch in padded_with_empty(args, batches, input_name):
            trainer._track_num_input_tokens(batch)

        state.global_step += 1
        state.epoch = position.epoch + position.sample / num_samples
        self._run.move_to(position)
        self._boundary.take(events_due=True)

    def _ask(self, event: Event) -> TrainerControl:
        """Has all callbacks answer an event; their answer becomes the Trainer's control."""
        trainer = self._trainer
        trainer.control = event(trainer.args, trainer.state, trainer.control)
        return trainer.control

    def _log_evaluate_save(self, report: Report) -> None:
        """Has the Trainer log, evaluate and save what the callbacks asked for, in any process."""
        trainer, progress = self._trainer, self._run.progress
        control = trainer.control
        agree_on_control(trainer, f"what follows step {trainer.state.global_step}")
        does_something = control.should_log or control.should_evaluate or control.should_save
        trainer._maybe_log_save_evaluate(
            trainer._tr_loss,
            progress.grad_norm,
            report.model,
            report.trial,
            report.epoch,
            report.ignore_keys_for_eval,
            report.start_time,
            learning_rate=progress.learning_rate,
        )
        if does_something:
            # Callbacks have answered its events.
            agree_on_control(trainer, f"what has followed step {trainer.state.global_step}")

    def _reach_boundary(self, *, taken: bool = False) -> None:
        """All state belongs together here: saves what is due, and ends training if that was asked for.

        Args:
            taken: The boundary was taken before, at the beginning of the epoch.
        """
        if not taken:
            self._boundary.take()

        args, saver, step = self._trainer.args, self._saver, self._trainer.state.global_step
        # An epoch's boundary follows its last step's: saved again for the clock, that one would count as passing.
        is_new = saver.last_saved_step != step
        saves = args.save_strategy != SaveStrategy.NO
        time_due = saver.is_time_due and is_new and saves
        # An early stop comes at a validation, which need not be a save.
        if self._trainer.control.should_training_stop and is_new and saves:
            self._requests.scheduled()

        own = saver.is_hopeless(), bool(self._stop.received), time_due, *self._requests.flags
        hopeless, stops, by_time, scheduled, best = any_process(args, f"the boundary after step {step}", *own)
        if hopeless:
            raise saver.hopeless_error()
        self._requests.take_over(scheduled=scheduled, best=best)

        if reason := self._requests.reason or ("time" if by_time and not stops else ""):
            in_first_process(args, f"the micro-batches of the save at step {step}", self._recent.check_at_save)
            saver.save(reason)

        if stops:
            self._stopping.save_and_stop()


class OpensEpochs(TrainerCallback):
    """The first of all callbacks; tells the loop that an epoch begins.

    Args:
        open_epoch: Called before any other callback.
    """

    def __init__(self, open_epoch: Callable[[], None]) -> None:
        self._open_epoch = open_epoch

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        """See there."""
        self._open_epoch()
