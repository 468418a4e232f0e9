"""The edge of a step: a moment at which all state of a training belongs together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from llamarec.checkpoints.resume.position import Position


@dataclass(frozen=True)
class BoundaryState:
    """What a training keeps book of, as it was at an edge.

    Attributes:
        rng: Random states.
        state: Fields of the Trainer's state but its history.
        history_rows: Length of the history.
        requests: Flags of the Trainer's control.
        callbacks: What each callback that can be saved remembers.
        loss_since_log: Tensor of one.
        loss_total: See `Progress`.
        logged_step: See `Progress`.
        flos: Not yet added to the state's.
        position: The next sample.
        grad_norm: See `Progress`.
        learning_rate: See `Progress`.
        events_due: The step is done, its callbacks have not been called.
    """

    rng: dict[str, Any]
    state: dict[str, Any]
    history_rows: int
    requests: dict[str, bool]
    callbacks: list[tuple[Any, dict[str, Any]]]
    loss_since_log: torch.Tensor
    loss_total: float
    logged_step: int
    flos: float
    position: Position
    grad_norm: Any
    learning_rate: float | None
    events_due: bool
