"""Step boundaries: moments at which all state of a training belongs together, and the way back to the last one.

An exception or a stop may come anywhere in between: in a step, in a callback, in a validation. Weights and the
optimizer's moments change only inside the optimizer's step, which is undone if it fails. Everything else that a
training keeps track of, the schedule included, is copied at each boundary and put back before it is saved, so that a
resume repeats what was begun.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import torch
from transformers.trainer_callback import ExportableState

from llamarec.checkpoints.resume.position import Position
from llamarec.checkpoints.trainer.distributed.control import FLAGS
from llamarec.checkpoints.trainer.run_state import RunState, SaveRequests, SeenBatch
from llamarec.checkpoints.trainer.samples import rng
from llamarec.checkpoints.trainer.samples.random_states import RandomStates
from llamarec.checkpoints.trainer.state.rates import Rates
from llamarec.checkpoints.trainer.state.stateful import StatefulObjects, States
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, RunningTotals

# The first only grows; the second is copied by another way.
_NOT_COPIED: Final = ("log_history", "stateful_callbacks")
# Tables of constants can be large, and are not what this is for.
_BUFFERS_LIMIT_BYTES: Final = 2**24


class StateFields(NamedTuple):
    """The Trainer's state: its fields, without its history, and the length of that."""

    fields: dict[str, object]
    history_rows: int

    @classmethod
    def of(cls, trainer: LiveTrainer) -> Self:
        """As they are now."""
        fields = {name: value for name, value in vars(trainer.state).items() if name not in _NOT_COPIED}
        return cls(fields, len(trainer.state.log_history))

    def put_into(self, trainer: LiveTrainer) -> None:
        """Takes back what came since: counts of a loss, rows of the history."""
        vars(trainer.state).update(self.fields)
        del trainer.state.log_history[self.history_rows :]


@dataclass(frozen=True, kw_only=True)
class BoundaryState:
    """What a training keeps track of, copied at a boundary.

    Attributes:
        rng: Random states.
        rates: Options of the optimizer's groups, and the schedule.
        stateful: States of the objects that the program passed.
        state: Of the Trainer.
        requests: Flags of the Trainer's control.
        callbacks: Each callback that can be saved, and its attributes.
        totals: Sums of losses and operations.
        position: The next sample.
        grad_norm: See `Progress`.
        learning_rate: See `Progress`.
        events_due: The step is done, but its callbacks have not been called.
        recent: The micro-batches before.
    """

    rng: rng.States
    rates: Rates
    stateful: States
    state: StateFields
    requests: dict[str, bool]
    callbacks: list[tuple[ExportableState, dict[str, object]]]
    totals: RunningTotals
    position: Position
    grad_norm: torch.Tensor | float | None
    learning_rate: float | None
    events_due: bool
    recent: tuple[SeenBatch, ...]


class StepBoundary:
    """Takes boundaries and returns to the last one.

    Args:
        trainer: The live Trainer.
        run: The training.
        stateful: The objects that the program passed.
        random: Its random states.
        requests: Cleared by a return: what asked for a save is repeated after a resume.

    Attributes:
        last: The last boundary; None before the first one and after the last step.
        update_incomplete: The weights have left the last boundary and cannot be put back.
    """

    def __init__(
        self,
        trainer: LiveTrainer,
        run: RunState,
        *,
        stateful: StatefulObjects,
        random: RandomStates,
        requests: SaveRequests,
    ) -> None:
        self._trainer, self._run, self._requests = trainer, run, requests
        self._stateful, self._random = stateful, random
        self._buffers: dict[str, torch.Tensor] = {}
        self.last: BoundaryState | None = None
        self.update_incomplete = False

    @property
    def is_in_loop(self) -> bool:
        """Whether training is between its first boundary and its end."""
        return self.last is not None

    @property
    def mark(self) -> tuple[object, ...] | None:
        """What tells the last boundary from all others; None where there is none, or no way back to it."""
        last = self.last
        if last is None or self.update_incomplete:
            return None

        return last.state.fields["global_step"], last.position, last.events_due, tuple(last.requests.items())

    def take(self, *, events_due: bool = False) -> None:
        """Copies everything; all state belongs together now.

        Args:
            events_due: The step's callbacks, log, validation and save are still to come.
        """
        trainer, progress = self._trainer, self._run.progress
        self._run.mark_events(due=events_due)
        self._copy_buffers()
        remembered = [one for one in trainer.callback_handler.callbacks if isinstance(one, ExportableState)]

        self.last = BoundaryState(
            rng=self._random.capture(),
            rates=Rates.of(trainer),
            stateful=self._stateful.copied(),
            state=StateFields.of(trainer),
            requests={name: getattr(trainer.control, name) for name in FLAGS},
            callbacks=[(callback, deepcopy(callback.state().get("attributes", {}))) for callback in remembered],
            totals=RunningTotals.of(trainer),
            position=progress.position,
            grad_norm=progress.grad_norm,
            learning_rate=progress.learning_rate,
            events_due=events_due,
            recent=self._run.recent,
        )
        self.update_incomplete = False

    def mark_update_incomplete(self) -> None:
        """The optimizer has changed the weights, and the step is not counted yet (or never will be)."""
        self.update_incomplete = True

    def close(self) -> None:
        """Training is over: nothing returns here any more."""
        self.last, self._buffers = None, {}

    def return_to_last(self) -> None:
        """Puts back everything but weights and moments, which have not moved since."""
        trainer, last = self._trainer, self.last
        if last is None:
            return

        self.restore_buffers()
        last.rates.put_into(trainer)
        self._stateful.put_back(last.stateful)
        last.state.put_into(trainer)

        for name, value in last.requests.items():
            setattr(trainer.control, name, value)
        for callback, attributes in last.callbacks:
            for name, remembered in attributes.items():
                setattr(callback, name, deepcopy(remembered))

        last.totals.put_into(trainer)
        self._run.move_to(last.position)
        self._run.note_batches(last.recent)
        self._run.mark_events(due=last.events_due)
        self._run.record_update(last.grad_norm, last.learning_rate)
        self._requests.clear()

    def _copy_buffers(self) -> None:
        """What a forward pass changes beside the weights (the running means of a batch norm)."""
        buffers = dict(self._trainer.model.named_buffers())
        # Batch norm changes its own without raising their version, so nothing tells which ones to copy.
        small = sum(buffer.numel() * buffer.element_size() for buffer in buffers.values()) <= _BUFFERS_LIMIT_BYTES
        self._buffers = {name: buffer.detach().clone() for name, buffer in buffers.items()} if small else {}

    def restore_buffers(self) -> None:
        """Puts the model's buffers back."""
        for name, buffer in self._trainer.model.named_buffers():
            if name in self._buffers:
                buffer.data.copy_(self._buffers[name])
