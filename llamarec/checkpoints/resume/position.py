"""The position of a training in its data: a number of samples, whatever the batch sizes. Standard library only.

An epoch is one order of all samples, a pure function of (seed, epoch). An optimizer step takes the next `batch`
samples of it; the last step of an epoch takes what is left. Micro-batches, accumulation and processes only cut a step
into pieces. So another batch size on resume moves nothing: every sample is seen once per epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

# num_train_epochs is a float; 0.1 + 0.2 epochs must not become a step more.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Position:
    """The next sample.

    Attributes:
        epoch: 0-based.
        sample: Index in the epoch's order, 0 to num_samples; at num_samples the epoch is done but not yet closed.
    """

    epoch: int = 0
    sample: int = 0


@dataclass(frozen=True)
class Geometry:
    """Samples per epoch and per optimizer step.

    Attributes:
        num_samples: Samples per epoch.
        batch: Samples per optimizer step, over all processes, micro-batches and accumulation.
    """

    num_samples: int
    batch: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return max(math.ceil(self.num_samples / self.batch), 1)

    def steps_left(self, sample: int) -> int:
        """Optimizer steps from an index in an epoch to its end."""
        return math.ceil((self.num_samples - sample) / self.batch)

    def steps_to_go(self, position: Position, num_train_epochs: float) -> int:
        """Optimizer steps from a position to the end of training, which may be inside an epoch.

        >>> Geometry(num_samples=80, batch=8).steps_to_go(Position(0, 40), 2.0)
        15
        """
        whole = math.floor(num_train_epochs + _ROUNDING)
        rest = math.ceil((num_train_epochs - whole) * self.steps_per_epoch - _ROUNDING * self.steps_per_epoch)
        rest = max(rest, 0)
        if position.epoch < whole:
            return self.steps_left(position.sample) + (whole - position.epoch - 1) * self.steps_per_epoch + rest
        if position.epoch == whole:
            return max(rest - math.ceil(position.sample / self.batch), 0)
        return 0

    def last_epoch(self, position: Position, steps: int) -> int:
        """Number of epochs entered when `steps` more steps are done from a position."""
        beyond = steps - self.steps_left(position.sample)
        return position.epoch + 1 + (math.ceil(beyond / self.steps_per_epoch) if beyond > 0 else 0)


def step_slices(geometry: Geometry, sample: int) -> Iterator[range]:
    """Indices in an epoch's order that each optimizer step takes, from an index to the epoch's end."""
    for start in range(sample, geometry.num_samples, geometry.batch):
        yield range(start, min(start + geometry.batch, geometry.num_samples))


def micro_batches(step: range, micro_batch: int, rank: int = 0, num_processes: int = 1) -> list[range]:
    """The pieces of a step that one process takes, in order. It may be none, at the end of an epoch.

    A full step is dealt out as accelerate does it: micro-batch by micro-batch, one process after the other. A step that
    is too short for that is shared out evenly, so that as few processes as possible stand by.

    >>> micro_batches(range(0, 8), 2, rank=1, num_processes=2)
    [range(2, 4), range(6, 8)]
    >>> micro_batches(range(96, 101), 4, rank=1, num_processes=2)
    [range(99, 101)]
    """
    if len(step) % (micro_batch * num_processes) == 0 or num_processes == 1:
        pieces = [step[at : at + micro_batch] for at in range(0, len(step), micro_batch)]
        return pieces[rank::num_processes]
    share, more = divmod(len(step), num_processes)
    start = rank * share + min(rank, more)
    own = step[start : start + share + (rank < more)]
    return [own[at : at + micro_batch] for at in range(0, len(own), micro_batch)]
