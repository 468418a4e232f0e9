"""The learning rate follows the share of the training that is done. Standard library only.

A scheduler is a function of a step number in a training of known length. When a resume changes the length (other
epochs, another batch size), the steps that are left are stretched over what was left of that function: the rate goes
on from where it was and reaches the end of its curve at the new end. Warm-up is not stretched by more epochs: it takes
as many samples as it would have. Without a change the map is the identity, and the rates are those of a plain Trainer.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScheduleMap:
    """From optimizer steps to steps of the scheduler's curve.

    Attributes:
        total: Length of the curve, in its own steps.
        end: Optimizer step at which training ends.
        knots: (optimizer step, step on the curve), linear between them; empty = identity.
    """

    total: int
    end: int
    knots: tuple[tuple[float, float], ...] = ()

    def __call__(self, step: float) -> float:
        """The step on the curve."""
        if not self.knots:
            return step
        if step <= self.knots[0][0]:
            return self.knots[0][1]
        for (step0, curve0), (step1, curve1) in zip(self.knots, self.knots[1:], strict=False):
            if step < step1:
                return curve0 + (curve1 - curve0) * (step - step0) / (step1 - step0)
        return self.knots[-1][1] + (step - self.knots[-1][0])

    def slope_at(self, step: float) -> float:
        """Steps on the curve per optimizer step."""
        for (step0, curve0), (step1, curve1) in zip(self.knots, self.knots[1:], strict=False):
            if step < step1:
                return (curve1 - curve0) / (step1 - step0)
        return 1.0

    def as_dict(self) -> dict[str, object]:
        """The map as JSON values; floats survive JSON exactly."""
        return {"total": self.total, "end": self.end, "knots": [list(knot) for knot in self.knots]}


def resumed(
    before: ScheduleMap, step: int, steps_to_go: int, *, warmup: float, batch_before: int, batch: int
) -> ScheduleMap:
    """The map of a resumed training.

    Args:
        before: The checkpoint's map.
        step: Optimizer steps done.
        steps_to_go: Optimizer steps that are left.
        warmup: Length of the warm-up on the curve.
        batch_before: Samples per step until now.
        batch: Samples per step from now on.
    """
    if batch == batch_before and step + steps_to_go == before.end:
        return before
    if step >= before.end:
        # The curve has ended, so it is laid over the whole longer training instead.
        return ScheduleMap(step + steps_to_go, step + steps_to_go)
    if steps_to_go == 0:
        return ScheduleMap(before.total, step, before.knots)

    here, end = before(step), step + steps_to_go
    knots = [(float(step), here)]
    if here < warmup < before.total:
        steps_of_warmup = (warmup - here) / (before.slope_at(step) * batch / batch_before)
        if steps_of_warmup < steps_to_go:
            knots.append((step + steps_of_warmup, float(warmup)))
    return ScheduleMap(before.total, end, (*knots, (float(end), float(before.total))))
