"""Random generators beside the three global ones: held by a data set, a collator, a transform or a sampler.

Each is keyed before a call and has its state of before afterwards, as the global ones are (`rng.keyed`). So neither the
order of the samples, nor the number of workers, nor a resume changes what they draw.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from llamarec.checkpoints.trainer.samples import rng
from llamarec.checkpoints.trainer.samples.generator_kinds import (
    has_state,
    is_generator,
    name_of,
    seed,
    state_of,
    state_restorer,
)
from llamarec.checkpoints.trainer.samples.object_walk import ObjectWalk

Result = TypeVar("Result")
# Entries of dictionaries, as a walk writes them.
_NUMBERED: Final = re.compile(r"\{-?\d+\}")


class HeldGenerators:
    """The generators that can be reached from an object.

    Args:
        root: A data set, a collator, a function.
    """

    def __init__(self, root: object) -> None:
        self._root = root
        self._walk: ObjectWalk | None = None

    def __getstate__(self) -> dict[str, object]:
        # In another process they are other objects.
        return {"_root": self._root, "_walk": None}

    def found(self) -> dict[str, object]:
        """Generators by their path from the root, in the order of the walk."""
        return self._walked().found

    def _walked(self) -> ObjectWalk:
        if self._walk is None:
            self._walk = ObjectWalk(self._root, is_generator)

        return self._walk

    def unkeyed(self) -> list[str]:
        """Generators that have no state, as those that ask the operating system, each with its path."""
        return [f"a {name_of(one)} ({path.lstrip('.@')})" for path, one in self.found().items() if not has_state(one)]

    def indistinct(self) -> list[str]:
        """Paths that several generators share, so that they would draw the same."""
        return list(self._walked().same_path)

    def not_looked_at(self) -> list[str]:
        """Paths at which the search ended."""
        return list(self._walked().not_looked_at)

    def states(self) -> dict[str, object]:
        """Of all of them and of the global ones, to be compared."""
        held = {path: state_of(one) for path, one in self.found().items() if has_state(one)}
        return {**rng.capture(), **held}

    def draw(self, call: Callable[[], Result], *key: int) -> Result:
        """What a call returns with every generator, the global ones too, keyed.

        A generator that the call itself made or replaced was not keyed: then it is called once more, so that the
        first call of a process returns what any other does.
        """
        with rng.keyed(*key), self.keyed(*key):
            result = call()

        if not self.are_others():
            return result

        with rng.keyed(*key), self.keyed(*key):
            return call()

    @contextlib.contextmanager
    def keyed(self, *key: int) -> Iterator[None]:
        """Within, what they draw depends on the key and on their path alone; afterwards they have their states."""
        restores = []
        for path, one in self.found().items():
            if has_state(one):
                # In reverse order later: two may share what they draw from.
                restores.append(state_restorer(one))
                # In whatever worker: one that is kept by a worker's number draws what the others' would.
                name = _NUMBERED.sub("{}", path)
                seed(one, [part % 2**63 for part in (*key, zlib.crc32(name.encode()))])

        try:
            yield
        finally:
            for restore in reversed(restores):
                restore()

    def are_others(self) -> bool:
        """Looks again, where anything on the way has changed since; whether other generators are found now."""
        if self._walk is None or not self._walk.has_changed():
            return False

        before, self._walk = self._walk, None
        return {id(one) for one in before.found.values()} != {id(one) for one in self.found().values()}
