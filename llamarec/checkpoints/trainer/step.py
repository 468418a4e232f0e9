"""One optimizer step: gradients with as much memory as there is, and an update that happens whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn

from llamarec.checkpoints.trainer import out_of_memory
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.dataloader import TrainData
from llamarec.checkpoints.trainer.distributed.agreement import check_equal, most_in_any_process
from llamarec.checkpoints.trainer.distributed.channel import exchange
from llamarec.checkpoints.trainer.distributed.gradients import average_gradients, num_averaged, trained_digest
from llamarec.checkpoints.trainer.distributed.rounds import Rounds, Vote
from llamarec.checkpoints.trainer.distributed.sharded import Passes, passes_of
from llamarec.checkpoints.trainer.divergence import check_step
from llamarec.checkpoints.trainer.guards.system_randomness import SystemRandomness
from llamarec.checkpoints.trainer.guards.versions import recomputes_activations
from llamarec.checkpoints.trainer.run_state import RunState
from llamarec.checkpoints.trainer.samples.random_states import RandomStates
from llamarec.checkpoints.trainer.samples.sampling import Batch
from llamarec.checkpoints.trainer.signals import StopNowError, StopRequests
from llamarec.checkpoints.trainer.state.optimizer_state import goes_by_metrics
from llamarec.checkpoints.trainer.state.stateful import StatefulObjects
from llamarec.checkpoints.trainer.step_boundary import StateFields, StepBoundary
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, NumItems

Piece: TypeAlias = tuple[Batch, int]
"""A micro-batch, and its number of samples."""


class Step:
    """What is between two boundaries.

    Args:
        trainer: The live Trainer.
        run: Remembers the micro-batch that fits, and what the update was made with.
        boundary: Its buffers are put back before a second try.
        stateful: Put back likewise: a loss may count its samples.
        random: Put back likewise.
        data: Counts what the loss is the mean of.
        stop: Ends the step.
        console: For what did not fit, and for draws that no resume repeats.
        last_good: Path of the newest checkpoint, for messages.
    """

    def __init__(
        self,
        trainer: LiveTrainer,
        run: RunState,
        *,
        boundary: StepBoundary,
        stateful: StatefulObjects,
        random: RandomStates,
        data: TrainData,
        stop: StopRequests,
        console: Console,
        last_good: Callable[[], str],
    ) -> None:
        self._trainer, self._run, self._boundary, self._data = trainer, run, boundary, data
        self._stateful, self._random = stateful, random
        self._stop, self._console, self._last_good = stop, console, last_good
        self._system = SystemRandomness(console.warn)
        self._passes: Passes | None = None
        self._small: Batch = None

    # ---- Gradients ----

    def compute_gradients(self, model: nn.Module, pieces: list[Piece], num_samples: int) -> list[torch.Tensor]:
        """Gradients of the mean loss of a step.

        Args:
            model: Without a wrapper for several processes.
            pieces: This process's micro-batches.
            num_samples: Of the whole step, over all processes.

        Returns:
            The losses of the micro-batches, scaled so that their sum is the step's.

        Raises:
            DoesNotFitError: one sample alone does not fit into memory.
        """
        trainer, args = self._trainer, self._trainer.args
        self._begin(model)
        self._begin_passes(model, pieces)
        num_items = self._data.num_items([batch for batch, _ in pieces])
        random_states, states = self._random.capture(), self._stateful.copied()
        # A loss may count in it, as those of trl count tokens.
        fields = StateFields.of(trainer)

        while True:
            losses, vote = self._try_gradients(model, pieces, num_samples, num_items)
            if not (vote.failed or vote.again):
                break

            # The same samples again, from the same random state, in smaller pieces if these did not fit.
            self._clear_gradients(model)
            if vote.failed:
                out_of_memory.free_cached()
                self._reduce_micro_batch(pieces)
            self._random.put_back(random_states)
            self._boundary.restore_buffers()
            self._stateful.put_back(states)
            fields.put_into(trainer)

        is_mean = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
        count = num_averaged(args, num_items, loss_is_mean_of_items=is_mean)
        average_gradients(args, model, count)
        return losses

    def _begin(self, model: nn.Module) -> None:
        """All processes have come to the same step, with the same weights to train, or learn here that they have not.

        Raises:
            DisagreementError: names what differs.
        """
        trainer, args = self._trainer, self._trainer.args
        if args.world_size == 1:
            return

        step = trainer.state.global_step + 1
        rates = [float(group["lr"]) for group in trainer.optimizer.param_groups]
        common = {"trained tensors": trained_digest(model), "learning rates": rates}
        check_equal(args, f"the beginning of step {step}", {**common, "micro-batch": self._run.progress.micro_batch})

    def _begin_passes(self, model: nn.Module, pieces: list[Piece]) -> None:
        """Where the model is sharded: one sample, of another process if this one has none, for passes without one."""
        self._passes = passes_of(model)
        if self._passes is None:
            return

        args = self._trainer.args
        small = self._trainer.split_batch(*pieces[0], 1)[0][0] if pieces else None
        operation = f"a sample for processes without any, in step {self._trainer.state.global_step + 1}"
        has_some = exchange(args, operation, small is not None)
        if not all(has_some):
            first = args.process_index == has_some.index(True)
            small = exchange(args, f"{operation}: the sample", small if first else None)[has_some.index(True)]
        self._small = small

    def _pass_of_small(self, model: nn.Module) -> None:
        """A pass that other processes need and that counts for nothing here."""
        trainer = self._trainer
        random_states, states, fields = self._random.capture(), self._stateful.copied(), StateFields.of(trainer)
        model.train()
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, trainer._prepare_inputs(self._small))
        trainer.accelerator.backward(loss * 0)
        self._random.put_back(random_states)
        self._stateful.put_back(states)
        fields.put_into(trainer)

    def _clear_gradients(self, model: nn.Module) -> None:
        """Also those of weights beside the model: what a step adds to an old gradient is in no checkpoint."""
        model.zero_grad()
        self._trainer.optimizer.zero_grad()

    def _try_gradients(
        self, model: nn.Module, pieces: list[Piece], num_samples: int, num_items: NumItems
    ) -> tuple[list[torch.Tensor], Vote]:
        """Forward and backward of all pieces, and what all processes say of it after their last one.

        Raises:
            StopNowError: a request to stop has come, to any process.
        """
        args, losses = self._trainer.args, list[torch.Tensor]()
        limit = self._run.progress.micro_batch or max((size for _, size in pieces), default=1)
        share = num_samples / args.world_size
        parts = (part for piece, size in pieces for part in self._trainer.split_batch(piece, size, limit))
        rounds = Rounds(args, f"the micro-batches of step {self._trainer.state.global_step + 1}")

        def try_one(part: Piece | None) -> tuple[bool, Piece | None]:
            """A piece; says whether it is out of memory, and which one follows."""
            try:
                if part is not None:
                    batch, samples = part
                    losses.append(self._loss(model, batch, share / samples, num_items))
                return False, next(parts, None)
            except Exception as error:
                if not out_of_memory.is_out_of_memory(error):
                    raise

                return True, None

        failed, part = try_one(None)
        again, runs = False, False
        if self._passes is not None:
            # All run a pass, or none does.
            vote = rounds.vote(Vote(more=part is not None, failed=failed))
            if vote.failed:
                return losses, vote
            runs = vote.more

        while True:
            if part is not None:
                failed, part = try_one(part)
            elif runs:
                self._pass_of_small(model)
            if part is None:
                again = again or self._has_arrived()

            stop = self._stop.waits_for_vote(args.world_size)
            vote = rounds.vote(Vote(more=part is not None, stop=stop, failed=failed, again=again))
            if vote.stop and (vote.more or vote.failed):
                raise StopNowError
            if vote.failed or not vote.more:
                return losses, vote

    def _has_arrived(self) -> bool:
        """Whether computing the gradients has made what has its state in the checkpoint."""
        return any([self._random.begin_again(), self._stateful.held.begin_again()])

    def _loss(self, model: nn.Module, batch: Batch, divisor: float, num_items: NumItems) -> torch.Tensor:
        """Forward and backward of one piece."""
        trainer = self._trainer
        if self._stop.end_a_step(trainer.args.world_size):
            raise StopNowError

        # A mean over samples, however they are cut: the Trainer divides the loss of a micro-batch by this.
        trainer.current_gradient_accumulation_steps = divisor
        with self._system.watched():
            if self._passes is None:
                loss = trainer.training_step(model, batch, num_items)
            else:
                loss = self._passes.run(
                    lambda: trainer.training_step(model, batch, num_items), lambda: self._pass_of_small(model)
                )
        trainer.control = trainer.callback_handler.on_substep_end(trainer.args, trainer.state, trainer.control)
        return loss

    def _reduce_micro_batch(self, pieces: list[Piece]) -> None:
        trainer, args = self._trainer, self._trainer.args
        now = self._run.progress.micro_batch or args.train_batch_size
        # The same in all processes, of which some may have smaller pieces, or none, in a short step.
        largest = max((size for _, size in pieces), default=0)
        now = min(now, most_in_any_process(args, "the largest micro-batch", largest))
        use = out_of_memory.memory_use(args.device)

        # What a subclass cuts itself is not ours to cut again.
        if now == 1 or not self._data.is_cut_by_trainer:
            raise out_of_memory.does_not_fit(
                trainer.model,
                use,
                longest=_longest([batch for batch, _ in pieces]),
                checkpointing=recomputes_activations(args),
                last=self._last_good(),
                flags=trainer.memory_flags,
            )

        share = args.train_batch_size * args.gradient_accumulation_steps
        smaller, text = out_of_memory.halved(now, use, share)
        self._run.set_micro_batch(smaller)
        self._console.warn(text)

    # ---- Update ----

    def update(self, model: nn.Module, losses: list[torch.Tensor]) -> None:
        """The optimizer's step.

        Args:
            model: Without a wrapper for several processes.
            losses: What `compute_gradients` returned.

        Raises:
            DivergedError: a loss or gradient is not finite; nothing was updated.
            DoesNotFitError: it runs out of memory, twice.
        """
        trainer, args = self._trainer, self._trainer.args
        # Accelerate's wrapper steps only when told that the gradients are complete.
        trainer.accelerator.gradient_state._set_sync_gradients(True)
        clips = args.max_grad_norm is not None and args.max_grad_norm > 0
        grad_norm = trainer._get_grad_norm(model, grad_norm=trainer._clip_grad_norm(model) if clips else None)
        check_step(trainer, losses, grad_norm)
        trainer.control = trainer.callback_handler.on_pre_optimizer_step(args, trainer.state, trainer.control)

        rollback = out_of_memory.Rollback(trainer.optimizer)
        try:
            self._step_optimizer(rollback)
            trainer.control = trainer.callback_handler.on_optimizer_step(args, trainer.state, trainer.control)
        except BaseException:
            if not rollback.undo():
                self._boundary.mark_update_incomplete()
            raise

        # Until the step is counted, which takes a boundary.
        self._boundary.mark_update_incomplete()
        self._run.record_update(grad_norm, trainer._get_learning_rate())
        if not trainer.accelerator.optimizer_step_was_skipped and not goes_by_metrics(trainer.lr_scheduler):
            trainer.lr_scheduler.step()
        self._clear_gradients(model)

    def _step_optimizer(self, rollback: out_of_memory.Rollback) -> None:
        optimizer, args = self._trainer.optimizer, self._trainer.args
        try:
            optimizer.step()
            return
        except Exception as error:
            if not out_of_memory.is_out_of_memory(error) or args.world_size > 1:
                raise

        if rollback.undo():
            out_of_memory.free_cached()
            self._console.warn("out of memory inside the optimizer's step: undone, cache freed, trying once more")
            try:
                optimizer.step()
                return
            except Exception as error:
                if not out_of_memory.is_out_of_memory(error):
                    raise

        raise out_of_memory.optimizer_does_not_fit(out_of_memory.memory_use(args.device), self._last_good())


def _longest(batches: list[Batch]) -> int:
    """Tokens of the longest sample; 0 if unknown."""
    lengths = [
        int(batch["input_ids"].shape[-1]) for batch in batches if isinstance(batch, dict) and "input_ids" in batch
    ]
    return max(lengths, default=0)
