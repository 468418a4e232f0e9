"""One optimizer moves the model, and its state can be read back: known at its first step, not at the first save.

Any other optimizer would keep moments that no checkpoint holds. A training step with two optimizers, one that steps
inside a backward hook (layer by layer), and a wrapper around another optimizer look alike from outside. torch calls a
hook at the step of every optimizer of the process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from llamarec.checkpoints.resume.safe_load import unpickled
from llamarec.checkpoints.storage.layout import OPTIMIZER
from llamarec.checkpoints.trainer.state.differences import difference
from llamarec.checkpoints.trainer.state.snapshot import pickled, without_values
from llamarec.checkpoints.trainer.state.tensors import is_made_of_tensors, parts_of
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped, unwrapped_optimizer
from llamarec.errors import CheckpointError, ConfigError

_DEPTH: Final = 3
_LOOKS: Final = 4


class OptimizerGuard:
    """Refuses an optimizer that moves the model and is not saved, and a state that no resume would read.

    Args:
        trainer: The live Trainer.
        passed: Objects whose state the program has saved by name.
        reads_back: Whether the first save is read back too.
    """

    def __init__(self, trainer: LiveTrainer, passed: Callable[[], Iterable[object]], *, reads_back: bool) -> None:
        self._trainer, self._passed, self._reads_back = trainer, passed, reads_back
        self._known: WeakSet[Optimizer] = WeakSet()
        self._looks: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within, each optimizer is looked at before its first step, and its state after it.

        Raises:
            ConfigError: names the optimizer that is not saved, before it has moved anything, or what is in its state.
        """
        self._known, self._looks = WeakSet(), WeakKeyDictionary()
        hooks = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> None:
        if optimizer in self._known or self._is_inside(optimizer) or not self._moves_model(optimizer):
            return
        if any(_holds(one, optimizer) for one in self._passed()):
            self._known.add(optimizer)
            return

        name, own = type(optimizer).__name__, type(unwrapped_optimizer(self._trainer.optimizer)).__name__
        raise ConfigError(
            f"{name} moves weights beside the Trainer's optimizer, and no checkpoint would hold its state",
            expected=f"one optimizer: {own}, that of the Trainer",
            found=f"a step of {name}: of training_step, of a callback, or of a backward hook (a layer-wise --optim)",
            hint=[
                "an --optim that steps layer by layer: take the one without _layerwise",
                f'a second optimizer of your own: pass it to the Trainer, stateful={{"second": the {name}}},',
                "and beside it a model that only it moves (a discriminator)",
            ],
        )

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> None:
        if optimizer in self._known:
            return

        # A step that calls the one of its base class comes here twice, the first time before its end.
        self._looks[optimizer] = self._looks.get(optimizer, 0) + 1
        if self._looks[optimizer] == _LOOKS:
            self._known.add(optimizer)

        outer = unwrapped_optimizer(self._trainer.optimizer)
        if optimizer is outer:
            if self._reads_back:
                _refuse_unreadable(optimizer)
        elif isinstance(outer, Optimizer) and self._is_inside(optimizer):
            _refuse_partial(outer, optimizer)

    def _is_inside(self, optimizer: Optimizer) -> bool:
        """Whether it is the Trainer's, or one that the Trainer's holds."""
        return _holds(self._trainer.optimizer, optimizer)

    def _moves_model(self, optimizer: Optimizer) -> bool:
        """Whether it moves the model, or another one that the Trainer's subclass or the loss holds."""
        held = [*vars(self._trainer).values(), getattr(self._trainer, "compute_loss_func", None)]
        modules = [one for one in held if isinstance(one, nn.Module)]
        model = {id(value) for module in (unwrapped(self._trainer), *modules) for value in module.parameters()}
        return any(id(value) in model for group in optimizer.param_groups for value in group["params"])


def _refuse_partial(outer: Optimizer, inner: Optimizer) -> None:
    saved = list(_tensors(outer.state_dict()))
    lost = [value for value in _tensors(dict(inner.state)) if not _is_among(value, saved)]
    if not lost:
        return

    name, wrapper = type(inner).__name__, type(outer).__name__
    raise ConfigError(
        f"state_dict() of {wrapper} lacks the state of the {name} that it holds: {len(lost)} tensors",
        expected="an optimizer whose state_dict() holds everything that its step uses",
        found=f"{wrapper}, around a {name} with a state of its own",
        hint=f"return the state of {name} in {wrapper}.state_dict() too, and take it in load_state_dict()",
    )


def _refuse_unreadable(optimizer: Optimizer) -> None:
    # The values do not matter, and are large.
    state = without_values(optimizer.state_dict())
    try:
        read = unpickled(pickled(state), OPTIMIZER)
        path = difference(state, read)
        found = f"{OPTIMIZER}{path} is not read as it was saved" if path is not None else ""
    except CheckpointError as error:
        found = error.found or error.problem

    if found:
        name = type(optimizer).__name__
        raise ConfigError(
            f"the state of {name} could not be resumed: training is stopped at its first step",
            expected="tensors, numbers, texts and containers, by names or numbers",
            found=found,
            hint=[
                "another optimizer: --optim adamw_torch",
                "or train without this check, and never resume: --read_back false",
            ],
        )


def _is_among(value: Tensor, saved: list[Tensor]) -> bool:
    """Whether a tensor, or a copy of it, is among others."""
    if any(value.data_ptr() == one.data_ptr() for one in saved):
        return True

    return any(value.shape == one.shape and torch.equal(value, one.to(value.device)) for one in saved)


def _holds(value: object, optimizer: Optimizer) -> bool:
    return any(one is optimizer for one in _held(value, _DEPTH))


def _held(value: object, depth: int) -> Iterator[Optimizer]:
    """An optimizer, and those in its attributes."""
    if isinstance(value, Optimizer):
        yield value
    if depth:
        for one in vars(value).values() if hasattr(value, "__dict__") else ():
            if isinstance(one, Optimizer) or hasattr(one, "param_groups"):
                yield from _held(one, depth - 1)


def _tensors(value: object) -> Iterator[Tensor]:
    """Of more than one value: a step count is in every optimizer."""
    if isinstance(value, Tensor) and is_made_of_tensors(value):
        yield from _tensors(parts_of(value))
    elif isinstance(value, Tensor):
        if value.numel() > 1:
            yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
