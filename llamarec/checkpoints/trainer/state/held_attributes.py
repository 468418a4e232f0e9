"""Attributes of modules, losses, metrics, helper objects and callbacks that training changes, beside the weights."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Final, TypeAlias, cast

from torch import Tensor

from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.state.attribute_marks import Mark, Opaque
from llamarec.checkpoints.trainer.state.attribute_watch import AttributeWatch
from llamarec.checkpoints.trainer.state.held_objects import Holder, Label
from llamarec.checkpoints.trainer.state.plain_containers import Array, Plain, decoded, encoded, is_plain
from llamarec.checkpoints.trainer.state.plain_objects import NotPlainError
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
_LARGE_BYTES: Final = 2**24
_STARTED: Final = time.time()
_PARTIAL: Final = "or continue without it: --allow_partial_resume"


class HeldAttributes:
    """The attributes of all objects around a Trainer that training changes.

    Values of a checkpoint that belong to something that is not there yet wait for it. What the model and the loss make
    in their first step gets them before the gradients of that step are computed once more.

    Args:
        trainer: The live Trainer.
        passed: Objects that are saved by themselves.
        console: Where it is said what no checkpoint holds.
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
        self._has_gradients = False
        self.watch = AttributeWatch(trainer, passed)

    # ---- Between two steps ----

    def copied(self, *, full: bool = False) -> State:
        """What has changed, as it is now; empty if nothing has.

        Args:
            full: Before a save: changes are looked for in every object and every tensor.
        """
        self.watch.scan(full=full)
        if self._has_gradients:
            self._give_arrived()
        if full and not self.watch.objects.is_complete:
            self._say("there are too many objects around the Trainer: attributes of some of them are not saved")

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
            if label not in parts or _is_moment(parts[label]):
                continue

            try:
                found[label] = encoded(parts[label], leaf=_copied, max_bytes=sys.maxsize)
            except _OfOneStepError:
                self._say(f"{path}.{label} is large and belongs to the graph of one step: no checkpoint holds it")
            except NotPlainError:
                if is_plain(parts[label]):
                    self._say(f"{path}.{label} has too many items for a copy at each step: no checkpoint holds it")
        return found

    def put_back(self, state: State) -> None:
        """Gives everything the values of `copied`, and those of before the first step where it has none.

        Raises:
            CheckpointError: a value cannot be put back.
        """
        self.watch.scan(full=False)
        values = cast(Values, state.get(_VALUES, {}))
        for path, labels in list(self.watch.moving.items()):
            holder = self.watch.holder(path)
            if holder is not None and path not in self._waiting:
                for label in labels:
                    self._put_back(holder, label, values.get(path, {}))

    def _put_back(self, holder: Holder, label: Label, values: Mapping[Label, Plain]) -> None:
        first, parts = self.watch.first.get(holder.path, {}).get(label), holder.parts()
        if label in parts and _is_moment(parts[label]):
            return

        if label in values:
            _put(holder, label, values[label])
        elif isinstance(first, Mark):
            if not first.is_intact:
                raise CheckpointError(
                    f"{holder.path}.{label} was changed in place for the first time in a step that did not end",
                    expected="a tensor of less than 16 MB, of which there is a copy",
                    hint="the last checkpoint is good: --resume_from_checkpoint latest",
                )
            _put(holder, label, first.plain)
        elif isinstance(first, Opaque):
            holder.put(label, first.live)
        elif label in parts and first is None:
            holder.remove(label)

    # ---- From a checkpoint ----

    def restore(self, state: State, folder: Path) -> None:
        """Gives everything the values of a checkpoint. What is not there yet gets them as soon as it is.

        Args:
            state: Of `copied`; empty where the checkpoint has none.
            folder: Of the checkpoint, for messages.

        Raises:
            CheckpointError: a value is of a kind that this program does not know.
        """
        watch, values = self.watch, cast(Values, state.get(_VALUES, {}))
        self._waiting, self._has_gradients = {}, False
        watch.hooks_made = bool(state.get(_HOOKS))
        for path, labels in state.get(_MADE, {}).items():
            watch.made.setdefault(path, {}).update(dict.fromkeys(labels))

        for path in sorted(path for path in values if not watch.objects.has_root(path)):
            self._console.print(f"lost:        {path} is in {folder.name}, and this program has no such callback")

        for path, found in values.items():
            if watch.objects.has_root(path):
                watch.note_moving(path, found)
                if watch.holder(path) is None or self._is_made_in_step(path):
                    self._waiting[path] = found

        self.put_back(state)

    def begin_again(self) -> bool:
        """After gradients: whether objects have come that values of the checkpoint wait for.

        Then they are to be given to them, and the gradients computed once more.

        Raises:
            CheckpointError: the model or the loss has not made one of its objects.
        """
        self._has_gradients = True
        if not self._waiting:
            return False

        self.watch.scan(full=False)
        missing = [path for path in sorted(self._waiting) if self.watch.holder(path) is None]
        of_model = [path for path in missing if self.watch.objects.is_of_model(path)]
        if of_model and not self._allow_partial:
            raise CheckpointError(
                f"the checkpoint holds {', '.join(map(str, self._waiting[of_model[0]]))} of {of_model[0]}, which is "
                "not there",
                expected="the objects that the model and the loss had, made before the first step or in it",
                found=[f"no {path}" for path in of_model[:5]],
                hint=["make the model and the loss as they were", _PARTIAL],
            )

        for path in of_model:
            del self._waiting[path]
            self._console.print(f"lost:        {path} is in the checkpoint, and no object takes it")

        # The others may be made by a validation or a callback.
        arrived = self._waiting.keys() - missing
        self._waiting = {path: values for path, values in self._waiting.items() if path not in arrived}
        return bool(arrived)

    def _give_arrived(self) -> None:
        """Objects that a validation or a callback has made since."""
        for path in list(self._waiting):
            holder = self.watch.holder(path)
            if holder is not None:
                self._say(
                    f"{path} was made after the resume: it has its values of the checkpoint, without what was counted "
                    "in it since. Make it before the first step, so that this is exact"
                )
                for label, value in self._waiting.pop(path).items():
                    _put(holder, label, value)

    def _is_made_in_step(self, path: str) -> bool:
        """Whether the values of an object go with something that the model or the loss makes when it is first needed.

        A flag that says that it is there would otherwise be restored without it.
        """
        watch = self.watch
        made, hooks_due = watch.made.get(path, {}), watch.hooks_made and not watch.has_new_hooks()
        return watch.objects.is_in_step(path) and (hooks_due or not watch.has_changed(path, made))

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._console.warn(f"note: {text}")


class _OfOneStepError(NotPlainError):
    """A large tensor that belongs to the graph of one step."""


def _copied(value: Tensor | Array) -> Plain:
    if not isinstance(value, Tensor):
        return encoded(value)["items"]
    if value.grad_fn is not None and value.nbytes >= _LARGE_BYTES:
        raise _OfOneStepError

    return value.detach().clone()


def _put(holder: Holder, label: Label, value: Plain) -> None:
    try:
        holder.put(label, decoded(deepcopy(value), holder.parts().get(label)))
    except NotPlainError as error:
        raise CheckpointError(
            f"{holder.path}.{label} cannot be restored: {error}",
            expected="a value of a class that this program has",
            hint=["make model, loss and callbacks as they were", _PARTIAL],
        ) from error


def _is_moment(value: object) -> bool:
    """Whether a number is a time of day within this process: where a clock was started, which is no state."""
    return type(value) is float and _STARTED <= value <= time.time() + 1
