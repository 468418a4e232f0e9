"""How a training ends before its time: stopped from outside, by an exception, or by early stopping."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from transformers import EarlyStoppingCallback

from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.distributed.agreement import any_process, from_first_process
from llamarec.checkpoints.trainer.distributed.channel import lost_in
from llamarec.checkpoints.trainer.distributed.endings import can_all_save, tell
from llamarec.checkpoints.trainer.run_state import RunState
from llamarec.checkpoints.trainer.saves.saver import CheckpointSaver
from llamarec.checkpoints.trainer.saves.writer import CheckpointWriter
from llamarec.checkpoints.trainer.signals import EndNow, Interrupted, StopNowError, StopRequests
from llamarec.checkpoints.trainer.step_boundary import StepBoundary
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer
from llamarec.checkpoints.trainer.worker_signals import WORKER_ENDED
from llamarec.errors import EXIT_INTERRUPTED, EXIT_SAVE_FAILED, DisagreementError, DivergedError


class Stopping:
    """Saves what can be saved before a training ends.

    Args:
        trainer: The live Trainer.
        run: The training.
        boundary: What is saved is its last one.
        saver: Saves it.
        writer: Waited for, and asked what failed.
        stop: The request, if there is one.
        console: Where the end is announced.
    """

    def __init__(
        self,
        trainer: LiveTrainer,
        run: RunState,
        *,
        boundary: StepBoundary,
        saver: CheckpointSaver,
        writer: CheckpointWriter,
        stop: StopRequests,
        console: Console,
    ) -> None:
        self._trainer, self._run, self._boundary = trainer, run, boundary
        self._saver, self._writer, self._stop, self._console = saver, writer, stop, console

    @contextlib.contextmanager
    def saved_whatever_happens(self) -> Iterator[None]:
        """A stop inside a step, and an exception anywhere, are saved as of the last boundary.

        Raises:
            Interrupted: training was stopped.
        """
        try:
            yield
        except StopNowError:
            self._return_and_stop()
        except (EndNow, Interrupted):
            raise
        except BaseException as found:
            if self._is_of_the_stop(found):
                self._return_and_stop()
            # sys.exit() and Ctrl-C in a callback too.
            lost = lost_in(self._trainer.args, found)
            if found is not self._writer.fatal:
                self._save_after(lost or found)
            if lost is not None:
                raise lost from found
            raise

    def _is_of_the_stop(self, error: BaseException) -> bool:
        """Whether the signal ended a process that loads data too, and that is all that happened."""
        is_worker = isinstance(error, RuntimeError) and str(error).startswith(WORKER_ENDED)
        can_save = self._boundary.is_in_loop and not self._boundary.update_incomplete
        return is_worker and can_save and self._stop.end_a_step(self._trainer.args.world_size)

    def _return_and_stop(self) -> None:
        self._trainer.model.zero_grad()
        self._boundary.return_to_last()
        self.save_and_stop()

    def save_and_stop(self) -> None:
        """Saves where that is still to be done, and ends training.

        Raises:
            Interrupted: always.
        """
        name, step = self._stop.received, self._trainer.state.global_step
        own = self._has_open_requests() or self._saver.last_saved_step != step or bool(self._writer.last_error)
        if any_process(self._trainer.args, f"whether to save step {step}, and stop", own)[0]:
            self._saver.save("signal")
        self._writer.finish_all()

        path, code = self._saver.last_good, EXIT_SAVE_FAILED if self._writer.owed else EXIT_INTERRUPTED
        # Nobody ends before the first process has written: their end would have it killed.
        path, code = from_first_process(self._trainer.args, "the checkpoint that was saved", (path, code))

        saved = f"saved: --resume_from_checkpoint {path}" if path else "nothing could be saved"
        who = name or "a stop in another process"
        self._console.warn(f"{who}: stopped after step {step:,}; {saved} (exit code {code})")
        raise Interrupted(path, name, code)

    def _save_after(self, error: BaseException) -> None:
        args, kind, step = self._trainer.args, type(error).__name__, self._trainer.state.global_step
        is_known = tell(args, error, step)
        # Not where the processes disagree: which of their states is the training's, nobody knows.
        is_worth = not isinstance(error, DivergedError) and type(error) is not DisagreementError
        can_save = is_known and can_all_save(args, self._boundary.mark if is_worth else None)
        if not self._boundary.is_in_loop:
            return

        if isinstance(error, DivergedError):
            # What led here is not worth continuing.
            self._writer.wait()
            self._console.warn(f"{kind} after step {step:,}; not saved; last good: {self._saver.last_good or 'none'}")
            return

        _explain_missing_folder(error, self._run.folder.checkpoint(step))
        if not can_save:
            good = self._saver.last_good or "no checkpoint yet"
            self._console.warn(f"{kind} after step {step:,}; this step cannot be saved; last good: {good}")
            return

        try:
            self._boundary.return_to_last()
            step = self._trainer.state.global_step
            own = self._saver.last_saved_step != step or self._has_open_requests()
            if any_process(args, f"whether to save step {step}, and end", own)[0]:
                self._saver.save("exception")

            self._writer.wait()
            self._console.warn(f"{kind} after step {step:,}; saved: {self._saver.last_good or 'nothing'}")
        except Exception as second:
            self._console.warn(f"the state at step {step:,} could not be saved: {second}")

    def _has_open_requests(self) -> bool:
        """Whether something of the last step is still to be done after a resume."""
        control = self._trainer.control
        return bool(self._run.progress.events_due or control.should_evaluate or control.should_save)


def _explain_missing_folder(error: BaseException, checkpoint: Path) -> None:
    """An `on_save` that was written for a plain Trainer expects the checkpoint to be there."""
    named = Path(str(error.filename or "")) if isinstance(error, FileNotFoundError) else Path()
    if checkpoint.name in named.parts and not checkpoint.exists():
        error.add_note(
            f"{checkpoint.name} is published after every on_save has run. To use it, give after_save=... to the "
            "Trainer; to add files to it, make the folder first (os.makedirs)"
        )


def stopped_early(trainer: LiveTrainer) -> bool:
    """Whether training has ended because the metric stopped improving."""
    patience = [one for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
    is_over = any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in patience)
    return is_over and trainer.state.global_step < trainer.state.max_steps


def announce_early_stop(trainer: LiveTrainer, console: Console) -> None:
    """Says that training stopped early, and how to continue."""
    if not stopped_early(trainer):
        return

    state = trainer.state
    console.print(
        f"stopped early at step {state.global_step:,} of {state.max_steps:,}: no better "
        f"{trainer.args.metric_for_best_model} since step {state.best_global_step or 0:,}. "
        "To continue: a larger --early_stopping_patience (0 = never stop early)"
    )
