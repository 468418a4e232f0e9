"""Which attributes around a training have changed since before its first step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from llamarec.checkpoints.trainer.state.attribute_marks import Mark, tensors_in
from llamarec.checkpoints.trainer.state.held_objects import HOOKS, Holder, Label, holders_in, is_entered
from llamarec.checkpoints.trainer.state.held_roots import may_be_roots, not_entered, roots_of
from llamarec.checkpoints.trainer.state.plain_containers import NotPlainError, is_plain
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped

Labels: TypeAlias = dict[str, dict[Label, None]]
"""By path of the object, in the order of their first change."""


@dataclass(frozen=True)
class Opaque:
    """A value that is not plain, as it was."""

    live: object


class AttributeWatch:
    """Compares with the values of before the first step.

    A boundary compares identities, and the content of what may change in place; a full look compares some values of
    every tensor too.

    Args:
        trainer: The live Trainer.
        passed: Objects that are not looked at.

    Attributes:
        first: By path and label, what was there.
        moving: Plain values that have changed once.
        made: What is no plain value and has changed.
        hooks_made: Training has put hooks on modules; values that say so go with them.
    """

    def __init__(self, trainer: LiveTrainer, passed: Iterable[object]) -> None:
        self._trainer, self._passed = trainer, list(passed)
        self._holders: dict[str, Holder] = {}
        self._ids: dict[str, tuple[int, ...]] = {}
        self._in_place: list[tuple[str, Label, Mark]] = []
        self._paths: dict[int, str] = {}
        # What was there first keeps its id.
        self._owners: list[object] = []
        self._root_ids: tuple[int, ...] = ()
        self._model: nn.Module | None = None
        self.first: dict[str, dict[Label, Mark | Opaque]] = {}
        self.moving: Labels = {}
        self.made: Labels = {}
        self.hooks_made = False
        self._first_hooks: list[int] = []

    @property
    def is_on(self) -> bool:
        """Whether the first values are known."""
        return bool(self._owners)

    def holder(self, path: str) -> Holder | None:
        """The object of a path, if there is one now."""
        return self._holders.get(path)

    def observe(self) -> None:
        """Before the first step; once for each model."""
        if self._model is unwrapped(self._trainer):
            self._walk()
            return

        self._model = unwrapped(self._trainer)
        self._paths, self._owners, self._in_place, self.first = {}, [], [], {}
        self._first_hooks = self._num_hooks()
        self._walk()
        for path, holder in self._holders.items():
            self._paths.setdefault(id(holder.owner), path.partition(":")[0])
            self._owners.append(holder.owner)
            self.first[path] = {label: _mark(value) for label, value in holder.parts().items()}
            for label, mark in self.first[path].items():
                if isinstance(mark, Mark) and mark.may_change_in_place:
                    self._in_place.append((path, label, mark))

    def scan(self, *, full: bool) -> None:
        """Takes note of what has changed.

        Args:
            full: Before a save, by content too.
        """
        if not self.is_on:
            return

        self.hooks_made = self.hooks_made or (full and self.has_new_hooks())
        walks = full or self._root_ids != self._ids_of_roots()
        for path, holder in self._holders.items():
            ids = tuple(map(id, holder.values()))
            if full or ids != self._ids[path]:
                self._ids[path] = ids
                walks = self._compare(path, holder, full=full) or walks

        self._compare_in_place()
        if walks:
            before = {path: id(holder.owner) for path, holder in self._holders.items()}
            self._walk()
            for path, holder in self._holders.items():
                if before.get(path) != id(holder.owner):
                    self._compare(path, holder, full=full)

    def note_moving(self, path: str, labels: Iterable[Label]) -> None:
        """These are part of every state from now on."""
        if there := dict.fromkeys(labels):
            self.moving.setdefault(path, {}).update(there)

    def has_changed(self, path: str, labels: Iterable[Label]) -> bool:
        """Whether all of these are others than before the first step."""
        holder, first = self.holder(path), self.first.get(path, {})
        parts = holder.parts() if holder is not None else {}
        return all(label in parts and _is_other(first.get(label), parts[label]) for label in labels)

    def has_new_hooks(self) -> bool:
        """Whether modules of the model have other hooks than before the first step."""
        return self._first_hooks != self._num_hooks()

    def _num_hooks(self) -> list[int]:
        modules = self._model.modules() if self._model is not None else ()
        return [sum(len(vars(module)[kind] or ()) for kind in HOOKS) for module in modules]

    def covers(self, one: object) -> bool:
        """Whether everything that an object holds is looked at."""
        if isinstance(one, nn.Module) and any(True for _ in one.parameters()):
            return False

        holders = [holder for holder in self._holders.values() if holder.owner is one]
        return bool(holders) and all(is_plain(value) for holder in holders for value in holder.parts().values())

    # ---- One look ----

    def _walk(self) -> None:
        skipped = [*not_entered(self._trainer), *self._passed]
        model = unwrapped(self._trainer)
        found = holders_in(roots_of(self._trainer), skipped=skipped, paths=self._paths, model=model)
        self._holders = {holder.path: holder for holder in reversed(found)}
        self._ids = {path: tuple(map(id, holder.values())) for path, holder in self._holders.items()}
        self._root_ids = self._ids_of_roots()

    def _ids_of_roots(self) -> tuple[int, ...]:
        return tuple(id(one) for one in may_be_roots(self._trainer))

    def _compare(self, path: str, holder: Holder, *, full: bool) -> bool:
        """Whether an object has come in that may hold something."""
        first, moving, parts = self.first.get(path, {}), self.moving.get(path, {}), holder.parts()
        comes_in = False
        for label, value in parts.items():
            before = first.get(label)
            if label in moving or not _is_other(before, value, full=full):
                continue

            if is_plain(value) and not self._is_weight(value):
                self.note_moving(path, [label])
            else:
                self.made.setdefault(path, {})[label] = None
                comes_in = comes_in or is_entered(value)

        self.note_moving(path, [label for label in first.keys() - parts.keys() if isinstance(first[label], Mark)])
        return comes_in

    def _compare_in_place(self) -> None:
        changed = {number for number, (_, _, mark) in enumerate(self._in_place) if mark.differs(mark.live, full=False)}
        for number in changed:
            path, label, mark = self._in_place[number]
            if not self._is_weight(mark.live):
                self.note_moving(path, [label])
        if changed:
            self._in_place = [one for number, one in enumerate(self._in_place) if number not in changed]

    def _is_weight(self, value: object) -> bool:
        """Whether this is another view of the model's weights, which are saved as such."""
        there = {tensor.untyped_storage().data_ptr() for tensor in tensors_in(value) if tensor.numel()}
        if not there or self._model is None:
            return False

        groups = getattr(self._trainer.optimizer, "param_groups", [])
        weights = [*self._model.parameters(), *self._model.buffers(), *(p for group in groups for p in group["params"])]
        return any(one.untyped_storage().data_ptr() in there for one in weights if not one.is_meta)


def _mark(value: object) -> Mark | Opaque:
    try:
        return Mark.of(value)
    except NotPlainError:
        return Opaque(value)


def _is_other(before: Mark | Opaque | None, value: object, *, full: bool = False) -> bool:
    if isinstance(before, Mark):
        return before.differs(value, full=full)

    return before is None or before.live is not value
