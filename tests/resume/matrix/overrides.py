"""Every method of the Trainer, overridden in a class before and after the mixin: both count, or it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from transformers import Trainer, TrainerCallback

from llamarec.checkpoints import ResumableMixin
from llamarec.checkpoints.trainer.guards.overrides import NEVER_CALLED, REPLACED, SUPPORTED
from tests.resume.matrix.subjects import Subject, TrainerClass, subject
from tests.resume.training import make_model

TITLE: Final = "Methods that a subclass overrides"

# Overriding the loop itself means calling the Trainer's, which is what the mixin's `train` does.
_LOOPS: Final = ("train", "_inner_training_loop")
SIDES: Final = ("class Mine(ResumableTrainer)", "class Mine(ResumableMixin, Theirs)")


def subjects() -> Iterator[Subject]:
    """All supported methods at once, and each of the others, on each side of the mixin."""
    supported = sorted(name for name in SUPPORTED if name not in _LOOPS and _is_plain_method(name))

    for side in SIDES:
        yield _overridden(f"every supported method, calling `super()`, {side}", side, supported)

    for name in sorted([*NEVER_CALLED, *REPLACED]):
        for side in SIDES:
            yield _overridden(f"`{name}`, {side}", side, [name])


def _is_plain_method(name: str) -> bool:
    return callable(getattr(Trainer, name, None)) and not isinstance(
        vars(Trainer).get(name), staticmethod | classmethod | property
    )


def _overridden(shown: str, side: str, names: list[str]) -> Subject:
    trained = subject(shown, make_model)

    def make(folder: Path, cls: TrainerClass, watch: TrainerCallback) -> Trainer:
        return trained.make(folder, _subclass(cls, side, names), watch)

    return Subject(shown, make)


def _subclass(cls: TrainerClass, side: str, names: list[str]) -> TrainerClass:
    """A subclass that overrides methods, each of which does nothing but call `super()`."""
    owner: list[type] = []

    def overriding(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(super(owner[0], self), name)(*args, **kwargs)

        return method

    members = {name: overriding(name) for name in names}
    if cls is Trainer or side == SIDES[0]:
        owner.append(type("Mine", (cls,), members))
        return owner[0]

    owner.append(type("Theirs", (Trainer,), members))
    # As ResumableTrainer is, over another Trainer.
    return type("Mine", (ResumableMixin, owner[0]), {"__module__": __name__})
