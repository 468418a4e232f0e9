"""Attributes of modules, losses, metrics, helpers and callbacks that training changes, beside weights and buffers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias, cast

from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.state.attribute_marks import (
    LARGE_BYTES,
    Mark,
    OfOneStepError,
    Shared,
    is_moment,
    large_bytes_in,
    resolved,
    snapshot_of,
)
from llamarec.checkpoints.trainer.state.attribute_watch import AttributeWatch
from llamarec.checkpoints.trainer.state.held_objects import Holder, Label
from llamarec.checkpoints.trainer.state.plain_containers import NotPlainError, Plain, decoded
from llamarec.checkpoints.trainer.state.plain_state import State
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer
from llamarec.errors import CheckpointError

Values: TypeAlias = Mapping[str, Mapping[Label, Plain]]
"""By path of the object and label."""

_VALUES: Final = "values"
# By path, labels of what training made that is no plain value: what is beside it waits until it is there.
_MADE: Final = "made"
# Whether it put hooks on modules: then all that a step's gradients go through waits for them.
_HOOKS: Final = "hooks"
# Roots whose objects a step's gradients go through.
_IN_STEP: Final = ("model", "trainer.", "compute_loss_func")
_PARTIAL: Final = "or continue without it: --allow_partial_resume"


class HeldAttributes:
    """The attributes of all objects around a Trainer that training changes.

    A state holds tensors of 16 MB and more instead of copying them (`Shared`), so that a boundary costs no memory:
    what is replaced in a step is kept until the next boundary.

    Args:
        trainer: The live Trainer.
        passed: Objects that are saved by themselves.
        console: Where large values are named.
        allow_partial: Continue without values that no object takes.

    Attributes:
        watch: What changes.
    """

    def __init__(
        self, trainer: LiveTrainer, passed: Iterable[object], console: Console, *, allow_partial: bool
    ) -> None:
        self._console, self._allow_partial = console, allow_partial
        self._said: set[str] = set()
        self._waiting: dict[str, Mapping[Label, Plain]] = {}
        self.watch = AttributeWatch(trainer, passed)

    # ---- Between two steps ----

    def copied(self, *, full: bool = False) -> State:
        """What has changed, as it is now; empty if nothing has.

        Args:
            full: Before a save: changes are looked for in every tensor.
        """
        self.watch.scan(full=full)
        found = {path: self._values_of(path, labels) for path, labels in self.watch.moving.items()}
        values: Values = {**{path: there for path, there in found.items() if there}, **self._waiting}
        if not values:
            return {}

        made = {path: list(labels) for path, labels in self.watch.made.items()}
        return {_VALUES: values, _MADE: made, _HOOKS: self.watch.hooks_made}

    def _values_of(self, path: str, labels: Iterable[Label]) -> dict[Label, Plain]:
        holder = self.watch.holder(path)
        parts = holder.parts() if holder is not None else {}
        found: dict[Label, Plain] = {}
        for label in labels:
            if label not in parts or is_moment(parts[label]):
                continue

            try:
                found[label] = snapshot_of(parts[label])
            except OfOneStepError:
                self._say(path, label, "is large and belongs to the graph of one step: no checkpoint holds it")
            except NotPlainError:
                continue
        return found

    def put_back(self, state: State) -> None:
        """Gives everything the values of `copied`, and those of before the first step where it has none.

        Raises:
            CheckpointError: a large tensor was changed in place since.
        """
        self.watch.scan(full=False)
        values = cast(Values, state.get(_VALUES, {}))
        for path, labels in self.watch.moving.items():
            holder = self.watch.holder(path)
            if holder is not None:
                for label in labels:
                    self._put_back(path, holder, label, values.get(path, {}))

    def _put_back(self, path: str, holder: Holder, label: Label, values: Mapping[Label, Plain]) -> None:
        first, parts = self.watch.first.get(path, {}).get(label), holder.parts()
        if label in parts and is_moment(parts[label]):
            return
        if label in values:
            holder.put(label, decoded(resolved(values[label], lambda one: _intact(path, label, one)), parts.get(label)))
        elif isinstance(first, Mark):
            if first.is_data:
                raise _changed_in_place(path, label)
            holder.put(label, decoded(resolved(first.plain, lambda one: _intact(path, label, one)), parts.get(label)))
        elif label in parts and first is None:
            holder.remove(label)

    # ---- In a checkpoint ----

    def for_file(self, state: State) -> State:
        """The same with copies of everything, of plain values; large ones are named, once."""
        for path, values in state.get(_VALUES, {}).items():
            for label, value in values.items():
                if (size := large_bytes_in(value)) > 0:
                    self._say(path, label, f"changes in training: every checkpoint holds its {size / 2**20:.0f} MB")

        return cast(State, resolved(state, lambda shared: shared.tensor.cpu().clone()))

    def restore(self, state: State, folder: Path) -> None:
        """Gives everything the values of a checkpoint. What is not there yet gets them as soon as it is.

        Args:
            state: Of `for_file`; empty where the checkpoint has none.
            folder: Of the checkpoint, for messages.

        Raises:
            CheckpointError: a value is of a kind that this program does not know.
        """
        self._waiting = {}
        self.watch.hooks_made = bool(state.get(_HOOKS))
        for path, labels in state.get(_MADE, {}).items():
            self.watch.made.setdefault(path, {}).update(dict.fromkeys(labels))

        values = cast(Values, state.get(_VALUES, {}))
        roots = {path for path in values if not self._has_root(path)}
        for path in sorted(roots):
            self._console.print(f"lost:        {path} is in {folder.name}, and this program has no such callback")

        for path, found in values.items():
            self.watch.note_moving(path, found)
            if path in roots:
                continue
            if self.watch.holder(path) is None or self._is_made_in_step(path):
                self._waiting[path] = found

        try:
            self.put_back({_VALUES: {path: found for path, found in values.items() if path not in self._waiting}})
        except NotPlainError as error:
            raise CheckpointError(
                f"{folder.name} holds a value that this program does not know: {error}",
                hint=["make model, loss and callbacks as they were", _PARTIAL],
            ) from error

    def begin_again(self) -> bool:
        """After gradients: whether objects have come that values of the checkpoint wait for.

        Then they are to be given to them, and the gradients computed once more.

        Raises:
            CheckpointError: an object has not come.
        """
        if not self._waiting:
            return False

        waiting, self._waiting = self._waiting, {}
        self.watch.scan(full=False)
        missing = sorted(path for path in waiting if self.watch.holder(path) is None)
        if missing and not self._allow_partial:
            raise CheckpointError(
                f"the checkpoint holds {', '.join(map(str, waiting[missing[0]]))} of {missing[0]}, which is not there",
                expected="the objects that the training had, made before its first step or in it",
                found=[f"no {path}" for path in missing[:5]],
                hint=["make the model, loss, Trainer and callbacks as they were", _PARTIAL],
            )
        for path in missing:
            self._console.print(f"lost:        {path} is in the checkpoint, and no object takes it")

        return len(missing) < len(waiting)

    def _is_made_in_step(self, path: str) -> bool:
        """Whether the values of an object go with something that the model or the loss makes when it is first needed.

        A flag that says that it is there would otherwise be restored without it.
        """
        made, hooks_due = self.watch.made.get(path, {}), self.watch.hooks_made and not self.watch.has_new_hooks()
        return path.startswith(_IN_STEP) and (hooks_due or not self.watch.has_changed(path, made))

    def _has_root(self, path: str) -> bool:
        """Whether an object's callback is there; all other roots are a Trainer's own."""
        root = path.partition("]")[0] + "]"
        is_callback = not path.startswith(("model", "trainer.", "compute_", "preprocess_"))
        return not is_callback or self.watch.holder(root) is not None

    def _say(self, path: str, label: Label, what: str) -> None:
        name = f"{path}.{label}"
        if name not in self._said:
            self._said.add(name)
            self._console.warn(f"note: {name} {what}")


def _intact(path: str, label: Label, shared: Shared) -> Plain:
    if not shared.is_intact:
        raise _changed_in_place(path, label)

    return shared.tensor


def _changed_in_place(path: str, label: Label) -> CheckpointError:
    return CheckpointError(
        f"{path}.{label} was changed in place in a step that did not end, and is too large for a copy at every step",
        expected=f"less than {LARGE_BYTES // 2**20} MB, or a new tensor in each step",
        hint="the last checkpoint is good: --resume_from_checkpoint latest",
    )
