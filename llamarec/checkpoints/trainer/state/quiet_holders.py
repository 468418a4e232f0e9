"""Thousands of holders in which nothing is replaced, looked at in one go, since it is done at every step."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from llamarec.checkpoints.trainer.state.held_objects import Attributes, Holder

Getter = Callable[[dict[Any, Any]], tuple[object, ...]]


class QuietHolders:
    """Holders that hold the same objects as when they were first looked at.

    Args:
        holders: All that there are now.
    """

    def __init__(self, holders: Iterable[Holder]) -> None:
        self._restless: list[Holder] = []
        self._quiet: list[Attributes] = []
        for one in holders:
            if isinstance(one, Attributes):
                self._quiet.append(one)
            else:
                self._restless.append(one)
        self._note()

    def add(self, holders: Iterable[Holder]) -> None:
        """These are looked at one by one."""
        self._restless += holders

    def restless(self) -> list[Holder]:
        """Those in which something has been replaced at some time, and those of which that is not known."""
        if not self._are_as_noted():
            changed = [one for number, one in enumerate(self._quiet) if not self._is_as_noted(number)]
            self._restless += changed
            ids = set(map(id, changed))
            self._quiet = [one for one in self._quiet if id(one) not in ids]
            self._note()

        return self._restless

    def _note(self) -> None:
        self._dicts = [one.there for one in self._quiet]
        self._sizes = list(map(len, self._dicts))
        self._getters = [_getter(list(one.parts())) for one in self._quiet]
        self._values = [get(there) for get, there in zip(self._getters, self._dicts, strict=True)]
        self._flat = list(chain.from_iterable(self._values))

    def _are_as_noted(self) -> bool:
        if list(map(len, self._dicts)) != self._sizes:
            return False

        try:
            # No step of Python's own for each of them.
            now = chain.from_iterable(map(operator.call, self._getters, self._dicts))
            return all(map(operator.is_, now, self._flat))
        except KeyError:
            return False

    def _is_as_noted(self, number: int) -> bool:
        there = self._dicts[number]
        try:
            now = self._getters[number](there)
        except KeyError:
            return False

        return len(there) == self._sizes[number] and all(map(operator.is_, now, self._values[number]))


def _getter(labels: list[Any]) -> Getter:
    # A getter of one label gives no tuple.
    return operator.itemgetter(*labels, labels[0]) if labels else _nothing


def _nothing(_: dict[Any, Any]) -> tuple[object, ...]:
    return ()
