"""Objects with a state that no checkpoint holds, because nobody passed them: found by whether training changes them."""

from __future__ import annotations

import contextlib
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.samples.object_walk import ObjectWalk
from llamarec.checkpoints.trainer.state.plain_state import digest_of
from llamarec.checkpoints.trainer.state.stateful import StatefulObjects
from llamarec.checkpoints.trainer.state.tensors import some_values
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped

_VALUES_PER_TENSOR: Final = 16
_ITEMS: Final = 1_000
# What they keep is saved already, or belongs to a process.
_LIBRARIES: Final = (
    *("accelerate", "transformers.optimization", "transformers.trainer", "torch.optim.", "torch.amp"),
    *("datasets", "torchdata"),
)
_OWN: Final = ("torch.optim.swa_utils",)
# The Trainer's own, and data, whose position is saved.
_KNOWN: Final = (
    *("model", "model_wrapped", "optimizer", "lr_scheduler", "accelerator", "args", "state", "control"),
    *("train_dataset", "eval_dataset"),
)
_GIVEN: Final = ("compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics")


class UnsavedState:
    """Objects around a Trainer that give a state and take one, and that are in no checkpoint.

    Args:
        trainer: The live Trainer.
        stateful: Those that are, and the attributes that are saved by themselves.
        console: Where they are named.
    """

    def __init__(self, trainer: LiveTrainer, stateful: StatefulObjects, console: Console) -> None:
        self._trainer, self._stateful, self._console = trainer, stateful, console
        self._before: dict[int, tuple[object, str]] = {}

    def observe(self) -> None:
        """Remembers them before the first step, so that those that change are known by it."""
        # They are held, so that no other gets the id of one.
        self._before = {id(one): (one, _digest(one)) for one in self._found().values()}

    def warn_of_changes(self) -> None:
        """Names those that have changed since, once."""
        before, self._before = self._before, {}
        changed = [
            path
            for path, one in self._found().items()
            if id(one) in before and before[id(one)][1] != _digest(one) and not self._stateful.held.watch.covers(one)
        ]
        if changed:
            self._console.warn(
                f"WARNING: training changes {', '.join(sorted(changed))}, and no checkpoint holds that state: after a "
                'resume it starts over. To save it, pass it to the Trainer: stateful={"a name": the object}'
            )

    def _found(self) -> dict[str, object]:
        trainer, model = self._trainer, unwrapped(self._trainer)
        saved = {id(one) for one in (*model.modules(), *self._stateful.values())}
        roots: dict[str, object] = {
            f"trainer.{name}": value
            for name, value in vars(trainer).items()
            if name not in _KNOWN and not name.startswith("_") and _has_state(value)
        }
        roots |= {f"model.{name}": value for name, value in vars(model).items() if _has_state(value)}
        roots |= {type(one).__name__: one for one in trainer.callback_handler.callbacks}
        roots |= {name: getattr(trainer, name, None) for name in _GIVEN}

        found: dict[str, object] = {}
        for name, root in roots.items():
            walk = ObjectWalk(root, lambda value: isinstance(value, nn.Module) or _has_state(value) or value is trainer)
            found |= {f"{name}{path}": one for path, one in walk.found.items() if one is not trainer}

        unique = {id(one): path for path, one in reversed(found.items())}
        return {path: found[path] for one, path in unique.items() if one not in saved}


def _has_state(value: object) -> bool:
    """Whether a value follows the protocol, by its class alone: nothing of the program is called."""
    cls = type(value)
    if isinstance(value, type | Optimizer | LRScheduler) or (
        cls.__module__.startswith(_LIBRARIES) and not cls.__module__.startswith(_OWN)
    ):
        return False

    return all(callable(getattr(cls, name, None)) for name in ("state_dict", "load_state_dict"))


def _digest(one: object) -> str:
    """Of a few values of every tensor; empty where the object does not give its state."""
    with contextlib.suppress(Exception), torch.no_grad():
        return digest_of(_some(one.state_dict()))  # type: ignore[attr-defined]

    return ""


def _some(value: object) -> object:
    if isinstance(value, Tensor):
        return some_values(value, _VALUES_PER_TENSOR).cpu()
    if isinstance(value, dict):
        return {str(key): _some(item) for key, item in list(value.items())[:_ITEMS]}
    if isinstance(value, list | tuple):
        return [len(value), *map(_some, value[-_ITEMS:])]

    return value if isinstance(value, bool | int | float | str) else type(value).__name__
