"""Which attributes around a training have changed since before its first step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from torch import nn

from llamarec.checkpoints.trainer.state.attribute_marks import Mark, Opaque, QuietMarks, tensors_in
from llamarec.checkpoints.trainer.state.held_objects import HOOKS, Holder, Label, is_entered
from llamarec.checkpoints.trainer.state.held_roots import HeldObjects, model_hooks
from llamarec.checkpoints.trainer.state.plain_containers import is_plain
from llamarec.checkpoints.trainer.state.plain_objects import NotPlainError
from llamarec.checkpoints.trainer.state.quiet_holders import QuietHolders
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped

Labels: TypeAlias = dict[str, dict[Label, None]]
"""By path of the object, in the order of their first change."""


class AttributeWatch:
    """Compares with the values of before the first step.

    A boundary compares identities, and the content of what may change in place. A full look walks through all objects
    again, and compares some values of every tensor too.

    Args:
        trainer: The live Trainer.
        passed: Objects that are not looked at.

    Attributes:
        objects: Where the attributes are.
        first: By path and label, what was there.
        moving: Plain values that have changed once.
        made: What is no plain value and has changed.
        hooks_made: Training has put hooks on modules; values that say so go with them.
    """

    def __init__(self, trainer: LiveTrainer, passed: Iterable[object]) -> None:
        self._trainer = trainer
        self.objects = HeldObjects(trainer, passed)
        self._quiet = QuietHolders([])
        self._in_place: list[tuple[str, Label, Mark]] = []
        self._quiet_marks = QuietMarks([])
        self._model: nn.Module | None = None
        self._first_hooks: list[int] = []
        self.first: dict[str, dict[Label, Mark | Opaque]] = {}
        self.moving: Labels = {}
        self.made: Labels = {}
        self.hooks_made = False

    def holder(self, path: str) -> Holder | None:
        """The object of a path, if there is one now."""
        return self.objects.holders.get(path)

    def observe(self) -> None:
        """Before the first step; once for each model."""
        model = unwrapped(self._trainer)
        self.objects.look()
        self._quiet = QuietHolders(self.objects.holders.values())
        if self._model is model:
            return

        self._model, self._first_hooks, self._in_place = model, model_hooks(model, HOOKS), []
        self.moving, self.made, self.hooks_made = {}, {}, False
        self.objects.keep_paths()
        self.first = {
            path: {label: _mark(value) for label, value in holder.parts().items()}
            for path, holder in self.objects.holders.items()
        }
        for path, marks in self.first.items():
            found = ((label, mark) for label, mark in marks.items() if isinstance(mark, Mark))
            self._in_place += [(path, label, mark) for label, mark in found if mark.may_change_in_place]
        self._quiet_marks = QuietMarks(mark for _, _, mark in self._in_place)

    def scan(self, *, full: bool) -> None:
        """Takes note of what has changed.

        Args:
            full: Before a save, by content too.
        """
        if self._model is None:
            return

        come_in = self.objects.new_roots()
        if full:
            self.hooks_made = self.hooks_made or self.has_new_hooks()
            self.objects.look()
            self._quiet = QuietHolders(self.objects.holders.values())

        for holder in list(self.objects.holders.values() if full else self._quiet.restless()):
            if self.holder(holder.path) is holder:
                come_in += self._compare(holder, full=full)
        self._compare_in_place(full=full)

        while come_in:
            holders = self.objects.enter(*come_in.pop())
            self._quiet.add(holders)
            for holder in holders:
                come_in += self._compare(holder, full=full)

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
        return self._model is not None and self._first_hooks != model_hooks(self._model, HOOKS)

    def covers(self, one: object) -> bool:
        """Whether everything that an object holds is looked at."""
        if isinstance(one, nn.Module) and any(True for _ in one.parameters()):
            return False

        holders = [holder for holder in self.objects.holders.values() if holder.owner is one]
        return bool(holders) and all(is_plain(value) for holder in holders for value in holder.parts().values())

    # ---- One look ----

    def _compare(self, holder: Holder, *, full: bool) -> list[tuple[str, object]]:
        """What has come in that may hold something, by path."""
        path, parts = holder.path, holder.parts()
        first, moving = self.first.get(path, {}), self.moving.get(path, {})
        come_in: list[tuple[str, object]] = []
        for label, value in parts.items():
            if label in moving or not _is_other(first.get(label), value, full=full):
                continue

            if is_plain(value) and not self._is_weight(value):
                self.note_moving(path, [label])
            else:
                self.made.setdefault(path, {})[label] = None
                come_in.append((path + holder.form.format(label), value))

        self.note_moving(path, [label for label in first.keys() - parts.keys() if isinstance(first[label], Mark)])
        return [(at, value) for at, value in come_in if is_entered(value)]

    def _compare_in_place(self, *, full: bool) -> None:
        if not full and self._quiet_marks.are_same():
            return

        left = []
        for path, label, mark in self._in_place:
            if not mark.differs(mark.live, full=full):
                left.append((path, label, mark))
            elif not self._is_weight(mark.live):
                self.note_moving(path, [label])
        self._in_place, self._quiet_marks = left, QuietMarks(mark for _, _, mark in left)

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
        return Opaque.of(value)


def _is_other(before: Mark | Opaque | None, value: object, *, full: bool = False) -> bool:
    if isinstance(before, Mark):
        return before.differs(value, full=full)

    return before is None or before.differs(value)
