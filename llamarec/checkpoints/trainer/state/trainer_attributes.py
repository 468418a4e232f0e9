"""Attributes that a subclass of the Trainer keeps: sums, counters, lists and tensors that training changes."""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from types import CodeType
from typing import Any, Final

from transformers import Trainer

from llamarec.checkpoints.trainer.state.differences import difference
from llamarec.checkpoints.trainer.state.plain_containers import Plain, decoded, encoded
from llamarec.checkpoints.trainer.state.plain_objects import NotPlainError
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer

# Set on the Trainer by its library, outside its class: of a search, a logger, a wrapped model.
_OF_LIBRARIES: Final = ("objective", "use_apex", "use_cpu_amp")


class TrainerAttributes:
    """The attributes of a Trainer that are not `transformers.Trainer`'s own, and that training changes.

    It follows the protocol of `Stateful`. Its state is what differs from the values before the first training.

    Args:
        trainer: The live Trainer.
    """

    def __init__(self, trainer: LiveTrainer) -> None:
        self._trainer = trainer
        self._first: dict[str, Plain] | None = None

    def observe(self) -> None:
        """Remembers all before the first training; what a program sets until then is its own affair."""
        if self._first is None:
            self._first = dict(self._values())

    def state_dict(self) -> dict[str, Any]:
        """Those that training has changed, as plain values by name."""
        first = self._first if self._first is not None else {}
        return {
            name: value
            for name, value in self._values()
            if name not in first or difference(first[name], value) is not None
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Gives these their values, and all others the values of before the first training."""
        attributes, first = vars(self._trainer), self._first or {}
        for name in self.state_dict().keys() - state_dict.keys():
            if name in first:
                attributes[name] = decoded(first[name], attributes[name])
            else:
                del attributes[name]

        for name, value in state_dict.items():
            attributes[name] = decoded(value, attributes.get(name))

    def _values(self) -> Iterator[tuple[str, Plain]]:
        own = names_set_by(Trainer)
        for name, value in list(vars(self._trainer).items()):
            if name in own or name in _OF_LIBRARIES:
                continue

            try:
                yield name, encoded(value)
            except NotPlainError:
                continue


@functools.cache
def names_set_by(cls: type) -> frozenset[str]:
    """Names of attributes that the methods of a class and of its bases set, on whatever object."""
    members = (member for one in cls.__mro__ for member in vars(one).values())
    functions = (getattr(member, "__func__", getattr(member, "fget", None) or member) for member in members)
    codes = (getattr(function, "__code__", None) for function in map(_unwrapped, functions))
    return frozenset(name for code in codes if code is not None for name in _stored(code))


def _unwrapped(function: object) -> object:
    return getattr(function, "__wrapped__", function)


def _stored(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_ATTR":
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _stored(constant)
