"""The edges of a step: moments at which all state of a training belongs together, and the way back to the last one.

An exception or a stop may come anywhere in between: in a step, in a callback, in a validation. Weights, optimizer and
schedule change only inside the optimizer's step, which is undone if it fails. Everything else that a training keeps
book of is copied at each edge, and put back before it is saved, so that a resume does again what was begun.
"""

from __future__ import annotations

from typing import Final

from transformers.trainer_callback import ExportableState

from llamarec.checkpoints.trainer import rng
from llamarec.checkpoints.trainer.shared_state import SharedState
from llamarec.checkpoints.trainer.step_edge import BoundaryState

_REQUESTS: Final = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")
# Grows from edge to edge, or holds what is copied otherwise.
_NOT_COPIED: Final = ("log_history", "stateful_callbacks")
# Tables of constants can be large, and are not what this is for.
_BUFFERS_LIMIT_BYTES: Final = 2**24


class StepBoundary(SharedState):
    """Mixin before `Trainer`: takes edges and goes back to them."""

    def _take_edge(self, *, events_due: bool = False) -> None:
        """All state belongs together now."""
        progress = self._progress
        progress.events_due = events_due
        self._copy_buffers()
        remembered = [c for c in self.callback_handler.callbacks if isinstance(c, ExportableState)]
        self._edge = BoundaryState(
            rng=rng.capture(),
            state={name: value for name, value in vars(self.state).items() if name not in _NOT_COPIED},
            history_rows=len(self.state.log_history),
            requests={name: getattr(self.control, name) for name in _REQUESTS},
            callbacks=[(callback, dict(callback.state().get("attributes", {}))) for callback in remembered],
            loss_since_log=self._tr_loss.clone(),
            loss_total=self._total_loss_scalar,
            logged_step=self._globalstep_last_logged,
            flos=self.current_flos,
            position=progress.position,
            grad_norm=progress.grad_norm,
            learning_rate=progress.learning_rate,
            events_due=events_due,
        )

    def _return_to_edge(self) -> None:
        """Everything but weights, optimizer and schedule, which are as they were, is as it was at the last edge."""
        edge, progress = self._edge, self._progress
        if edge is None:
            return
        self._restore_buffers()
        vars(self.state).update(edge.state)
        del self.state.log_history[edge.history_rows :]
        for name, value in edge.requests.items():
            setattr(self.control, name, value)
        for callback, attributes in edge.callbacks:
            for name, value in attributes.items():
                setattr(callback, name, value)
        self._tr_loss.copy_(edge.loss_since_log)
        self._total_loss_scalar, self._globalstep_last_logged = edge.loss_total, edge.logged_step
        self.current_flos = edge.flos
        progress.position, progress.events_due = edge.position, edge.events_due
        progress.grad_norm, progress.learning_rate = edge.grad_norm, edge.learning_rate
        self._save_due = self._best_due = False

    def _copy_buffers(self) -> None:
        """What a forward pass changes beside the weights (the running means of a batch norm)."""
        buffers = dict(self.model.named_buffers())
        # Batch norm changes its own without raising their version, so nothing tells which ones to copy.
        small = sum(buffer.numel() * buffer.element_size() for buffer in buffers.values()) <= _BUFFERS_LIMIT_BYTES
        self._buffers = {name: buffer.detach().clone() for name, buffer in buffers.items()} if small else {}

    def _restore_buffers(self) -> None:
        for name, buffer in self.model.named_buffers():
            if name in self._buffers:
                buffer.data.copy_(self._buffers[name])
