"""Callbacks of libraries that move a model beside the trained one: its state is passed, or training is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from transformers import TrainerCallback

from llamarec.errors import ConfigError

MOVED: Final[Mapping[tuple[str, str], str]] = {
    ("trl", "SyncRefModelCallback"): "ref_model",
    ("trl", "BEMACallback"): "",
}
"""(package, class) of callbacks: the attribute with the model that they move; empty if it cannot be passed."""


def check_moved_models(callbacks: Iterable[TrainerCallback], passed: Iterable[object]) -> None:
    """Whether every model that a known callback moves is among the objects that the program passed.

    Args:
        callbacks: Of the Trainer.
        passed: As `stateful`.

    Raises:
        ConfigError: one is not, so that it would start over after a resume.
    """
    saved = {id(one) for one in passed}
    for callback in callbacks:
        for cls in type(callback).__mro__:
            attribute = MOVED.get((cls.__module__.partition(".")[0], cls.__name__))
            if attribute is None or (attribute and id(getattr(callback, attribute, None)) in saved):
                continue

            raise _not_saved(type(callback).__name__, attribute)


def _not_saved(callback: str, attribute: str) -> ConfigError:
    if not attribute:
        return ConfigError(
            f"{callback} keeps an average of the weights that no checkpoint holds",
            expected="callbacks whose state can be saved",
            hint="leave it out, and keep the average in an object with state_dict(): stateful={...}",
        )

    return ConfigError(
        f"{callback} moves {attribute} during training, and no checkpoint would hold it",
        expected=f'stateful={{"{attribute}": {attribute}}}',
        hint=f'make it yourself and pass it twice: {attribute}={attribute}, stateful={{"{attribute}": {attribute}}}',
    )
