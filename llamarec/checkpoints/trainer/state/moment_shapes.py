"""Whether each tensor of an optimizer's saved state has the shape that the live optimizer would give it.

Fused kernels read as many numbers as the parameter has, whatever a moment holds. Most moments have their parameter's
shape. Where one has another (factored, packed in eight bits, projected), the live optimizer is asked: it takes one step
of that parameter alone, which is undone. So no optimizer's own shapes have to be known here.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_hooks

from llamarec.checkpoints.trainer.samples import rng
from llamarec.checkpoints.trainer.state.optimizer_names import Names
from llamarec.checkpoints.trainer.trainer_access import unwrapped_optimizer
from llamarec.errors import CheckpointError

Shapes: TypeAlias = dict[str, tuple[tuple[int, ...], str]]
"""By key of a parameter's state, a tensor's shape and kind."""

# Of the program: they are not to see a step that is undone.
_HOOKS: Final = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


class SavedShapes:
    """The shapes of a saved state, compared with the live optimizer's.

    Args:
        optimizer: With its parameters, before the state is loaded.
        names: Of its parameters.
    """

    def __init__(self, optimizer: Optimizer, names: Names) -> None:
        self._optimizer = unwrapped_optimizer(optimizer)
        self._names = names
        self._asked: dict[tuple[object, ...], Shapes | None] = {}
        self.not_compared: set[str] = set()
        """Keys of a state whose shapes could not be compared: the optimizer does not step alone."""

    def check(self, state: Mapping[str, Any], where: str) -> None:
        """Compares them all.

        Args:
            state: As `Optimizer.state_dict` gave it, with its parameters in the live optimizer's order.
            where: What an error names.

        Raises:
            CheckpointError: names the first tensor of another shape.
        """
        for group, index, moments in _moments(state):
            parameters = self._optimizer.param_groups[group]["params"] if group < len(self._names) else []
            if index < len(parameters):
                self._check_one(group, index, parameters[index], moments, where)

    def _check_one(self, group: int, index: int, parameter: Tensor, moments: Mapping[str, Any], where: str) -> None:
        odd = {key: _shape(value) for key, value in moments.items() if not _is_plainly_right(key, value, parameter)}
        if not odd:
            return

        asked = (group, tuple(parameter.shape), parameter.dtype, tuple(sorted(odd.items())))
        if asked not in self._asked:
            self._asked[asked] = self._live_shapes(group, parameter)
        live = self._asked[asked]

        if live is None:
            self.not_compared |= odd.keys()
            return
        for key, shape in odd.items():
            if key in live and live[key] != shape:
                raise _other_shape(where, key, str(self._names[group][index][0]), shape, live[key])

    def _live_shapes(self, group: int, parameter: Tensor) -> Shapes | None:
        """What the optimizer keeps of a parameter after one step; None where it cannot step so."""
        made = self._optimizer.state.get(parameter)
        if made:
            # Some fill it when they are made.
            return _shapes_in(made)

        alone: Optimizer = object.__new__(type(self._optimizer))
        vars(alone).update(vars(self._optimizer), state=defaultdict(dict), **{name: OrderedDict() for name in _HOOKS})
        # A schedule replaces the method of the object by one that counts.
        vars(alone).pop("step", None)
        options = {name: _own(value) for name, value in self._optimizer.param_groups[group].items()}
        alone.param_groups = [{**options, "params": [parameter]}]

        weights, gradient, random_states = parameter.detach().clone(), parameter.grad, rng.capture()
        try:
            parameter.grad = torch.zeros_like(parameter)
            # Those that need no schedule step in a mode of their own.
            getattr(alone, "train", _nothing)()
            with _without_global_hooks():
                alone.step()
            return _shapes_in(alone.state[parameter])
        except Exception:
            return None
        finally:
            parameter.grad = gradient
            with torch.no_grad():
                parameter.copy_(weights)
            rng.set_states(random_states)


def lay_out(optimizer: Optimizer) -> None:
    """Gives each tensor of a loaded state memory of its own, in its parameter's layout: kernels count on both."""
    seen: set[int] = set()
    for parameter, moments in unwrapped_optimizer(optimizer).state.items():
        for key, value in moments.items() if isinstance(moments, dict) else ():
            # Subclasses and paged tensors have a layout of their own.
            if type(value) is not Tensor or hasattr(value, "is_paged") or value.layout is not torch.strided:
                continue

            memory = value.untyped_storage()
            is_own = memory.nbytes() == value.numel() * value.element_size() and memory.data_ptr() not in seen
            seen.add(memory.data_ptr())
            like = parameter if value.shape == parameter.shape else value.contiguous()
            if not is_own or value.stride() != like.stride():
                moments[key] = torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
                moments[key].requires_grad_(False)


def _moments(state: Mapping[str, Any]) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """(group, index in it, state) of every parameter that has one."""
    saved = state["state"]
    for number, group in enumerate(state["param_groups"]):
        for index, key in enumerate(group["params"]):
            if isinstance(saved.get(key), Mapping):
                yield number, index, saved[key]


def _is_plainly_right(key: str, value: object, parameter: Tensor) -> bool:
    if not isinstance(value, Tensor):
        return True
    if key == "step":
        return value.ndim == 0

    return value.shape == parameter.shape and value.is_floating_point() == parameter.is_floating_point()


def _shapes_in(moments: Mapping[str, object]) -> Shapes:
    return {key: _shape(value) for key, value in moments.items() if isinstance(value, Tensor)}


def _shape(value: Tensor) -> tuple[tuple[int, ...], str]:
    # Loading makes floating-point moments their parameter's type.
    return tuple(value.shape), "float" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")


@contextlib.contextmanager
def _without_global_hooks() -> Iterator[None]:
    """Within, hooks on the steps of all optimizers are not called: they would refuse a step that nobody asked for."""
    hooks: list[dict[int, Any]] = [
        cast("dict[int, Any]", optimizer_hooks._global_optimizer_pre_hooks),
        cast("dict[int, Any]", optimizer_hooks._global_optimizer_post_hooks),
    ]
    before = [dict(one) for one in hooks]
    for one in hooks:
        one.clear()
    try:
        yield
    finally:
        for one, content in zip(hooks, before, strict=True):
            one.update(content)


def _nothing() -> None:
    """Of an optimizer without modes."""


def _own(value: object) -> object:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _other_shape(
    where: str, key: str, name: str, saved: tuple[tuple[int, ...], str], live: tuple[tuple[int, ...], str]
) -> CheckpointError:
    return CheckpointError(
        f"{where} holds {key} of another shape than this optimizer's for {name}",
        expected=f"{live[1]} {list(live[0])}",
        found=f"{saved[1]} {list(saved[0])}",
        hint=[
            "build model and optimizer as they were trained",
            "or start its moments from zero: --allow_partial_resume",
        ],
    )
