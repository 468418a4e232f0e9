"""A bounded walk over the objects that a data set, a collator, a model or a function can reach.

It calls nothing of a program: no property, no `__getattr__`, no `__len__`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from llamarec.checkpoints.trainer.samples.object_parts import Values, is_leaf, parts_of, too_long

_MAX_OBJECTS: Final = 5_000
# Into what a long container holds, the walk goes no deeper than this.
_DEPTH_OF_SAMPLED: Final = 50

# Containers that may come to be watched before everything is walked again.
_FEW: Final = 100
_CONTAINERS: Final = (list, tuple, dict, deque, defaultdict, set)

Ids: TypeAlias = tuple[int, ...]


class NamedRoots(dict[str, object]):
    """Several objects from which a walk starts, by the beginning of their paths."""


class ObjectWalk:
    """One walk, and a cheap way to tell whether another would find something else.

    Args:
        root: Where it starts: an object, or `NamedRoots`.
        is_wanted: What to look for. Nothing is looked for inside of what is wanted.
        skipped: Objects that are not entered.
        max_objects: The walk ends after so many.

    Attributes:
        found: By path from the root (".transform.rng"), each object once.
        same_path: Paths that several found objects share, as in a set.
        not_looked_at: What the limits left out that may hold something, by path.
    """

    def __init__(
        self,
        root: object,
        is_wanted: Callable[[object], bool],
        *,
        skipped: Iterable[object] = (),
        max_objects: int = _MAX_OBJECTS,
    ) -> None:
        self.found: dict[str, object] = {}
        self.same_path: list[str] = []
        self.not_looked_at: list[str] = []
        self._is_wanted, self._max_objects = is_wanted, max_objects
        # Visited objects are held, so that no other gets the id of one.
        self._visited: dict[int, object] = {id(one): one for one in skipped}
        self._watched: list[tuple[Values, Ids]] = []
        self._walk(root)
        self._num_walked = len(self._watched) + _FEW

    def has_changed(self) -> bool:
        """Whether an object, rather than a number or a tensor, was put anywhere on the way since."""
        changed, watched = False, len(self._watched)
        for number, (values, seen) in enumerate(self._watched[:watched]):
            now = tuple(map(id, values()))
            if now == seen:
                continue

            self._watched[number] = (values, now)
            before = set(seen)
            changed = changed or any(id(value) not in before and not self._is_plain(value) for value in values())
        return changed or len(self._watched) > 2 * self._num_walked

    def _is_plain(self, value: object) -> bool:
        """Whether this is a number, or a container of numbers, which is watched from now on: a sum that is kept."""
        if is_leaf(value) or id(value) in self._visited:
            return True
        if type(value) not in _CONTAINERS:
            return False

        self._visited[id(value)] = value
        return all(is_leaf(child) for _, child in parts_of(value, self._watch))

    def _walk(self, root: object) -> None:
        queue = deque(root.items() if isinstance(root, NamedRoots) else [("", root)])
        limit = len(self._visited) + self._max_objects
        while queue:
            path, value = queue.popleft()
            if id(value) in self._visited:
                continue
            if len(self._visited) >= limit:
                self.not_looked_at.append(path)
                return

            self._visited[id(value)] = value
            if self._is_wanted(value):
                if path in self.found:
                    self.same_path.append(path)
                self.found[path] = value
                continue

            for label, child in parts_of(value, self._watch):
                if not is_leaf(child):
                    queue.append((label if label[:1] == "@" else path + label, child))
            self._sample(path, value)

    def _sample(self, path: str, value: object) -> None:
        """A long container is taken for data; if a few of its items hold what is wanted, that is to be said."""
        for label, item in too_long(value):
            if is_leaf(item):
                continue

            inner = ObjectWalk(item, self._is_wanted, skipped=self._visited.values(), max_objects=_DEPTH_OF_SAMPLED)
            if inner.found:
                self.not_looked_at.append(f"{path}{label}{next(iter(inner.found))}")
                return

    def _watch(self, values: Values) -> None:
        self._watched.append((values, tuple(map(id, values()))))
