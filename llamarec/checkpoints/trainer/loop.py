"""The training loop in samples: a step is a slice of the epoch's order, and every save lies at the edge of a step.

`Trainer._run_epoch` is replaced as a whole, since its position is a number of batches; everything else of the Trainer's
loop stays. At an edge all state belongs together: weights, optimizer, schedule, random states, position, history. What
a signal, an exception or the clock asks for is answered there, or with what was the last edge.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from llamarec.checkpoints.resume.position import Position, step_slices
from llamarec.checkpoints.trainer import out_of_memory, rng
from llamarec.checkpoints.trainer.distributed import Distributed
from llamarec.checkpoints.trainer.evaluation import Evaluation, StopNowError
from llamarec.checkpoints.trainer.restoring import goes_by_metrics
from llamarec.checkpoints.trainer.sampling import SliceSampler
from llamarec.checkpoints.trainer.versions import recomputes_activations


class StepLoop(Evaluation, Distributed):
    """Mixin before `Trainer`: the loop over the steps of an epoch."""

    def _run_epoch(self, model: Any, epoch: int, train_dataloader: Any, **rest: Any) -> None:
        """One epoch, from the position to its end; as `Trainer._run_epoch`, which is called with the same arguments."""
        report = partial(
            self._maybe_log_save_evaluate,
            model=model,
            trial=rest["trial"],
            epoch=epoch,
            ignore_keys_for_eval=rest["ignore_keys_for_eval"],
            start_time=rest["start_time"],
        )
        self._enter_training(report)
        if not (self.control.should_training_stop or self.control.should_epoch_stop):
            self._run_steps(self._single(model), epoch, train_dataloader, report)
        if self.control.should_epoch_stop or self._progress.position.sample >= self._progress.num_samples:
            # Not where training ends inside an epoch: more epochs later go on from there.
            self._progress.position = Position(epoch + 1, 0)
        self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        self._report(report)
        self._reach_edge()

    def _report(self, report: Any) -> None:
        """Logs, evaluates and saves what the callbacks asked for."""
        report(self._tr_loss, self._progress.grad_norm, learning_rate=self._progress.learning_rate)

    def _enter_training(self, report: Any) -> None:
        """Once, after all callbacks of the start: what is restored last, and what the checkpoint left to be done."""
        if self._in_loop:
            return
        self._in_loop = True
        self._restore_last()
        events_due = self._progress.events_due
        self._take_edge(events_due=events_due)
        if events_due:
            self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        if events_due or self.control.should_evaluate or self.control.should_save:
            self._report(report)
            self._reach_edge()

    def _open_epoch(self) -> None:
        """Before any other callback hears of a new epoch: what they draw belongs to it, and is drawn after a resume."""
        if self._progress.position.sample == 0:
            self._enter_training(self._bare_report(None, time.time()))
            self._take_edge()

    def _run_steps(self, model: Any, epoch: int, train_dataloader: Any, report: Any) -> None:
        sampler: SliceSampler = train_dataloader.batch_sampler
        sampler.position = self._progress.position
        geometry, batches = sampler.geometry, None
        for step in step_slices(geometry, sampler.position.sample):
            if self.state.global_step >= self.state.max_steps:
                return
            self._reach_edge(taken=step.start == 0)
            # Made late, so that an epoch without steps starts no workers.
            batches = iter(train_dataloader) if batches is None else batches
            pieces = [(next(batches), len(piece)) for piece in sampler.pieces(step)]
            self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)
            losses = self._compute_gradients(model, pieces, len(step))
            self._update(model)
            self._count(losses, pieces, Position(epoch, step.stop), geometry.num_samples)
            self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
            self._report(report)
            if self.control.should_epoch_stop or self.control.should_training_stop:
                break
        self._reach_edge()

    # ---- Inside a step ----

    def _compute_gradients(self, model: Any, pieces: list[tuple[Any, int]], num_samples: int) -> list[torch.Tensor]:
        """Gradients of the mean loss of a step, with as much memory as there is.

        Args:
            model: Without a wrapper for several processes.
            pieces: This process's micro-batches, each with its number of samples.
            num_samples: Of the whole step, over all processes.

        Returns:
            The losses of the micro-batches, scaled so that their sum is the step's.
        """
        num_items = self._num_items_in_step([batch for batch, _ in pieces])
        random_states = rng.capture()
        while True:
            losses, failure = self._try_gradients(model, pieces, num_samples, num_items)
            if not self._any_process(bool(failure))[0]:
                break
            # The same samples again, from the same random state, in smaller pieces.
            model.zero_grad()
            out_of_memory.free_cached()
            self._reduce_micro_batch(pieces)
            rng.set_states(random_states)
            self._restore_buffers()
        self._average_gradients(model, self._num_averaged(num_items))
        return losses

    def _try_gradients(
        self, model: Any, pieces: list[tuple[Any, int]], num_samples: int, num_items: Any
    ) -> tuple[list[torch.Tensor], str]:
        """Forward and backward of all pieces; the second value says what went out of memory, or is empty."""
        losses = []
        limit = self._progress.micro_batch or max((size for _, size in pieces), default=1)
        share = num_samples / self.args.world_size
        try:
            for piece, size in pieces:
                for batch, samples in self.split_batch(piece, size, limit):
                    if self._stops_here():
                        raise StopNowError
                    # A mean over samples, however they are cut: the Trainer divides the loss of a micro-batch by this.
                    self.current_gradient_accumulation_steps = share / samples
                    losses.append(self.training_step(model, batch, num_items))
                    self.control = self.callback_handler.on_substep_end(self.args, self.state, self.control)
        except Exception as error:
            if not out_of_memory.is_out_of_memory(error):
                raise
            # Only the text: the traceback holds the tensors that did not fit.
            return [], str(error).partition("\n")[0] or type(error).__name__
        return losses, ""

    def split_batch(self, batch: Any, num_samples: int, size: int) -> list[tuple[Any, int]]:
        """A collated micro-batch in pieces of at most `size` samples, each with its number of samples.

        Override it where a batch is more than tensors with one row per sample.
        """
        return out_of_memory.split(batch, num_samples, size)

    def _reduce_micro_batch(self, pieces: list[tuple[Any, int]]) -> None:
        now = self._progress.micro_batch or self.args.train_batch_size
        # The same in all processes, of which some may have smaller pieces, or none, in a short step.
        now = min(now, self._most_in_any_process(max((size for _, size in pieces), default=0)))
        use = out_of_memory.memory_use(self.args.device)
        if now == 1:
            raise out_of_memory.does_not_fit(
                self.model,
                use,
                longest=_longest([batch for batch, _ in pieces]),
                checkpointing=recomputes_activations(self.args),
                last=self._last_good_path(),
            )
        share = self.args.train_batch_size * self.args.gradient_accumulation_steps
        self._progress.micro_batch, text = out_of_memory.halved(now, use, share)
        self._say(text)

    def _update(self, model: Any) -> None:
        """The optimizer's step; whole, or not at all."""
        # Accelerate's wrapper steps only when told that the gradients are complete.
        self.accelerator.gradient_state._set_sync_gradients(True)
        clips = self.args.max_grad_norm is not None and self.args.max_grad_norm > 0
        grad_norm = self._clip_grad_norm(model) if clips else None
        grad_norm = self._get_grad_norm(model, grad_norm=grad_norm)
        self.control = self.callback_handler.on_pre_optimizer_step(self.args, self.state, self.control)
        rollback = out_of_memory.Rollback(self.optimizer)
        try:
            self._optimizer_step(rollback)
            self.control = self.callback_handler.on_optimizer_step(self.args, self.state, self.control)
        except BaseException:
            self._torn = not rollback.undo()
            raise
        # Until the step is counted.
        self._torn = True
        self._progress.grad_norm = grad_norm
        self._progress.learning_rate = self._get_learning_rate()
        if not self.accelerator.optimizer_step_was_skipped and not goes_by_metrics(self.lr_scheduler):
            self.lr_scheduler.step()
        model.zero_grad()

    def _optimizer_step(self, rollback: out_of_memory.Rollback) -> None:
        try:
            self.optimizer.step()
            return
        except Exception as error:
            if not out_of_memory.is_out_of_memory(error) or self.args.world_size > 1:
                raise
        if rollback.undo():
            out_of_memory.free_cached()
            self._say("out of memory inside the optimizer's step: undone, the cache freed, and once more")
            try:
                self.optimizer.step()
                return
            except Exception as error:
                if not out_of_memory.is_out_of_memory(error):
                    raise
        raise out_of_memory.optimizer_does_not_fit(out_of_memory.memory_use(self.args.device), self._last_good_path())

    def _count(
        self, losses: list[torch.Tensor], pieces: list[tuple[Any, int]], position: Position, num_samples: int
    ) -> None:
        """Everything that says that the step is done; then it is an edge, with the step's callbacks still to come."""
        for loss in losses:
            if self.args.logging_nan_inf_filter and not torch.isfinite(loss):
                self._tr_loss += self._tr_loss / (1 + self.state.global_step - self._globalstep_last_logged)
            else:
                self._tr_loss += loss
        # A float in every process, also where a short step left nothing to do: they are gathered.
        self.current_flos = float(self.current_flos)
        for batch, _ in pieces:
            self.current_flos += float(self.floating_point_ops(batch))
        for batch in self._as_many_in_all_processes([batch for batch, _ in pieces]):
            self._track_num_input_tokens(batch)
        self.state.global_step += 1
        self.state.epoch = position.epoch + position.sample / num_samples
        self._progress.position = position
        self._take_edge(events_due=True)
        self._torn = False

    # ---- Edges ----

    def _reach_edge(self, *, taken: bool = False) -> None:
        """All state belongs together here: saves what is due; ends the training if that was asked for.

        Args:
            taken: The edge was taken before, at the beginning of the epoch.
        """
        if not taken:
            self._take_edge()
        seconds = self._config.save_seconds
        time_due = bool(seconds) and time.monotonic() - self._last_save_time >= seconds
        # An epoch's edge follows its last step's: saved again for the clock, that one would count as passing.
        time_due = time_due and self._last_saved_step != self.state.global_step
        time_due = time_due and self.args.save_strategy != SaveStrategy.NO
        stops, by_time = self._any_process(bool(self._stop.received), time_due)
        # An early stop lies at a validation, which need not be a save.
        ends = self.control.should_training_stop and self.args.save_strategy != SaveStrategy.NO
        if ends and self._last_saved_step != self.state.global_step:
            self._save_due = True
        if self._save_due or self._best_due:
            self._save_at_edge("scheduled" if self._save_due else "best")
        elif by_time and not stops:
            self._save_at_edge("time")
        if stops:
            self._save_and_stop()


class OpensEpochs(TrainerCallback):
    """The first of all callbacks; tells the loop that an epoch begins."""

    def __init__(self, loop: StepLoop) -> None:
        self._loop = loop

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._loop._open_epoch()


def _longest(batches: list[Any]) -> int:
    lengths = [
        int(batch["input_ids"].shape[-1]) for batch in batches if isinstance(batch, dict) and "input_ids" in batch
    ]
    return max(lengths, default=0)
