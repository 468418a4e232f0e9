"""The objects around a Trainer that hold plain values: where a walk starts, and what it finds."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Final

from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from llamarec.checkpoints.trainer.state.held_objects import Holder, holders_of, inner_of, is_entered
from llamarec.checkpoints.trainer.state.trainer_attributes import names_set_by
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped

_MAX_OBJECTS: Final = 100_000
_GIVEN: Final = ("compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics")
# Saved by itself, or data.
_NOT_ENTERED: Final = (
    *("train_dataset", "eval_dataset", "data_collator", "processing_class", "accelerator", "args", "state", "control"),
    *("callback_handler", "optimizer", "lr_scheduler", "_resumable"),
)
_STEP: Final = ("model", "trainer.", "compute_loss_func")
_OF_TRAINER: Final = ("model", "trainer.", *_GIVEN)


class HeldObjects:
    """Every object that holds plain values, each once, by path.

    Args:
        trainer: The live Trainer.
        passed: Objects that are saved by themselves.

    Attributes:
        holders: By path.
        is_complete: Whether the walk ended before its limit.
    """

    def __init__(self, trainer: LiveTrainer, passed: Iterable[object]) -> None:
        self._trainer, self._passed = trainer, list(passed)
        self._roots: dict[str, object] = {}
        # Of the model's modules, their names; of all that was there first, its path, whichever way leads to it later.
        self._modules: dict[int, str] = {}
        self._first_paths: dict[int, str] = {}
        self._first: list[object] = []
        self.holders: dict[str, Holder] = {}
        self.is_complete = True

    def look(self) -> None:
        """Looks from all roots."""
        self._roots = self._roots_by_path()
        modules = unwrapped(self._trainer).named_modules()
        self._modules = {id(module): f"model.{name}".rstrip(".") for name, module in modules}
        self.holders = self._found(self._roots, {})

    def keep_paths(self) -> None:
        """What has been found keeps its path, whatever else comes to lead to it."""
        self._first = [holder.owner for holder in self.holders.values()]
        self._first_paths = {id(holder.owner): path.partition(":")[0] for path, holder in self.holders.items()}

    def new_roots(self) -> list[tuple[str, object]]:
        """What has come since: another callback, another attribute of the Trainer."""
        before, self._roots = self._roots, self._roots_by_path()
        return [(path, value) for path, value in self._roots.items() if before.get(path) is not value]

    def enter(self, path: str, value: object) -> list[Holder]:
        """Looks from an object that has come to be at a path; returns the holders that have come with it."""
        there = self.holders.get(path)
        if (there is not None and there.owner is value) or not is_entered(value):
            return []

        seen = {id(holder.owner): holder.owner for holder in self.holders.values()}
        if id(value) in seen:
            return []

        under = tuple(f"{path}{mark}" for mark in ".[:")
        gone = [one for one in self.holders if one == path or one.startswith(under)]
        for one in gone:
            seen.pop(id(self.holders.pop(one).owner), None)

        found = self._found({path: value}, seen)
        self.holders |= found
        return list(found.values())

    # ---- What a path says ----

    def has_root(self, path: str) -> bool:
        """Whether an object's callback is there; all other roots are a Trainer's own."""
        return path.startswith(_OF_TRAINER) or path.partition("]")[0] + "]" in self.holders

    @staticmethod
    def is_in_step(path: str) -> bool:
        """Whether the gradients of a step may go through an object."""
        return path.startswith(_STEP)

    @staticmethod
    def is_of_model(path: str) -> bool:
        """Whether an object belongs to the model or the loss, which make theirs by the first step's gradients."""
        return path.startswith(("model", "compute_loss_func"))

    # ---- One walk ----

    def _found(self, roots: Mapping[str, object], seen: dict[int, object]) -> dict[str, Holder]:
        seen |= {id(one): one for one in (*self._skipped(), *self._passed)}
        queue, found = deque(roots.items()), dict[str, Holder]()

        while queue and len(seen) < _MAX_OBJECTS:
            path, value = queue.popleft()
            if id(value) in seen or not is_entered(value):
                continue

            seen[id(value)] = value
            path = self._first_paths.get(id(value)) or self._modules.get(id(value), path)
            for holder in holders_of(path, value, is_of_model=id(value) in self._modules):
                found.setdefault(holder.path, holder)
                queue.extend((path + holder.form.format(label), child) for label, child in holder.parts().items())
            queue.extend(inner_of(path, value))

        self.is_complete = self.is_complete and not queue
        return found

    def _roots_by_path(self) -> dict[str, object]:
        """The model, the functions that a Trainer was given, what its subclass holds, and the program's callbacks."""
        trainer = self._trainer
        roots: dict[str, object] = {"model": unwrapped(trainer)}
        roots |= {name: getattr(trainer, name, None) for name in _GIVEN}
        own = names_set_by(Trainer)
        roots |= {
            f"trainer.{name}": value
            for name, value in list(vars(trainer).items())
            if name not in own and name not in _NOT_ENTERED and not isinstance(value, FunctionType)
        }

        numbers: Counter[str] = Counter()
        for callback in filter(_is_own, trainer.callback_handler.callbacks):
            name = type(callback).__name__
            roots[f"{name}[{numbers[name]}]"] = callback
            numbers[name] += 1

        return roots

    def _skipped(self) -> list[object]:
        """Objects that the roots lead to and that are saved by themselves."""
        attributes = vars(self._trainer)
        others = [one for one in self._trainer.callback_handler.callbacks if not _is_own(one)]
        return [self._trainer, *map(attributes.get, _NOT_ENTERED), *others]


def model_hooks(model: nn.Module, kinds: Iterable[str]) -> list[int]:
    """Of each module, how many hooks it has."""
    return [sum(len(vars(module)[kind] or ()) for kind in kinds) for module in model.modules()]


def _is_own(callback: TrainerCallback) -> bool:
    """Whether a callback is the program's or trl's, and nobody else saves what it keeps."""
    return not isinstance(callback, ExportableState) and not type(callback).__module__.startswith(
        ("transformers.", "llamarec.")
    )
