"""Objects that hold plain values, one at a time: what each holds by label, and how it is set.

Nothing of a program is called: no property, no `__getattr__`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from types import CellType, FunctionType, MemberDescriptorType, MethodType, SimpleNamespace
from typing import Any, Final, TypeAlias, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase, Trainer

from llamarec.checkpoints.trainer.samples.object_parts import is_leaf, is_program
from llamarec.checkpoints.trainer.state.plain_containers import is_plain

Label: TypeAlias = str | int
"""An attribute's name, a key or an index."""

_OF_MODULES: Final = frozenset(vars(nn.Module()))
HOOKS: Final = tuple(sorted(name for name in _OF_MODULES if name.endswith("_hooks")))
"""Attributes of a module that hold functions which are called with it."""
_CONTAINERS: Final = (list, tuple, dict, deque, OrderedDict, defaultdict)
# Data, whose position is saved; what is saved by itself; and types.
_NOT_ENTERED: Final = (
    *(Dataset, DataLoader, Sampler, Optimizer, LRScheduler, PreTrainedTokenizerBase, Trainer, Tensor, type),
)
# Of the first two, every object; of transformers, what a program may set; of a program, whatever is no library's.
_ENTERED: Final = ("peft", "trl")
_CONFIGURATIONS: Final = (PretrainedConfig, GenerationConfig, SimpleNamespace)
# This project knows what its own objects need. The others do not count steps of a training, or do it by themselves.
_LIBRARIES: Final = frozenset(
    {"aim", "boto3", "botocore", "clearml", "comet_ml", "deepspeed", "dvclive", "filelock", "fsspec", "jax", "llamarec"}
    | {"loguru", "matplotlib", "mlflow", "neptune", "PIL", "polars", "requests", "scipy", "sklearn", "swanlab"}
    | {"tensorboard", "tensorboardX", "tensorflow", "torchao", "torchvision", "trackio", "triton", "wandb", "yaml"}
)


def is_entered(value: object) -> bool:
    """Whether an object may hold plain values, and is none itself."""
    if is_leaf(value) or isinstance(value, _NOT_ENTERED) or _package(type(value)) in _LIBRARIES:
        return False
    if isinstance(value, nn.Module | MethodType | functools.partial):
        return True
    if isinstance(value, FunctionType):
        return value.__closure__ is not None and is_program(value)
    if type(value) in _CONTAINERS:
        return not is_plain(value)

    cls = type(value)
    return _package(cls) in _ENTERED or isinstance(value, _CONFIGURATIONS) or (is_program(cls) and not is_plain(value))


def _package(cls: type) -> str:
    return str(getattr(cls, "__module__", None) or "").partition(".")[0]


class Holder(ABC):
    """What one object holds.

    Args:
        path: From a root: `model.base_model.rankallocator`.
        owner: The object.

    Attributes:
        path: Likewise.
        owner: Likewise.
    """

    form = ".{}"
    """Of a label behind the path."""

    def __init__(self, path: str, owner: object) -> None:
        self.path, self.owner = path, owner

    @abstractmethod
    def parts(self) -> dict[Label, object]:
        """What it holds now, by label."""

    @abstractmethod
    def put(self, label: Label, value: object) -> None:
        """Sets one."""

    @abstractmethod
    def remove(self, label: Label) -> None:
        """Takes one away."""


def holders_of(path: str, value: object, *, is_of_model: bool) -> Iterator[Holder]:
    """An object's holders: none of one that only leads to others.

    Args:
        path: Of the object.
        value: The object.
        is_of_model: It is a module of the model, whose buffers are saved as such.
    """
    if isinstance(value, nn.Module):
        yield Attributes(path, value, vars(value), skipped=_OF_MODULES)
        if not is_of_model:
            yield Attributes(f"{path}:buffers", value, value._buffers)
    elif isinstance(value, dict) and type(value) in _CONTAINERS:
        yield _Items(path, value, value)
    elif isinstance(value, list | deque) and type(value) in _CONTAINERS:
        yield _Sequence(path, value)
    elif isinstance(value, FunctionType):
        yield _Variables(path, value)
    elif not isinstance(value, MethodType | functools.partial | tuple):
        yield from _of_object(path, value)


def inner_of(path: str, value: object) -> Iterator[tuple[str, object]]:
    """What an object leads to beside the parts of its holders."""
    if isinstance(value, nn.Module):
        yield from ((f"{path}.{name}", child) for name, child in value._modules.items())
    elif isinstance(value, MethodType):
        yield path, value.__self__
    elif isinstance(value, functools.partial):
        yield from ((path, value.func), (f"{path}.args", value.args), (f"{path}.keywords", value.keywords))
    elif isinstance(value, tuple):
        yield from ((f"{path}[{number}]", child) for number, child in enumerate(value))


def _of_object(path: str, value: object) -> Iterator[Holder]:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        attributes = None
    if isinstance(attributes, dict):
        yield Attributes(path, value, attributes)

    members = {name: member for cls in type(value).__mro__ for name, member in vars(cls).items()}
    slots = {name: member for name, member in members.items() if isinstance(member, MemberDescriptorType)}
    if slots and is_program(type(value)):
        yield _Slots(f"{path}:slots", value, slots)


# ---- By kind ----


class Attributes(Holder):
    """In a dictionary.

    Attributes:
        there: The dictionary, with what does not count too.
    """

    def __init__(self, path: str, owner: object, there: dict[Any, Any], *, skipped: Collection[str] = ()) -> None:
        super().__init__(path, owner)
        self.there, self._skipped = there, skipped

    def parts(self) -> dict[Label, object]:
        return {
            key: one for key, one in list(self.there.items()) if type(key) in (str, int) and key not in self._skipped
        }

    def put(self, label: Label, value: object) -> None:
        self.there[label] = value

    def remove(self, label: Label) -> None:
        self.there.pop(label, None)


class _Items(Attributes):
    form = "[{!r}]"


class _Sequence(Holder):
    form = "[{}]"

    def parts(self) -> dict[Label, object]:
        return dict(enumerate(cast(list[object], self.owner)))

    def put(self, label: Label, value: object) -> None:
        there = cast(list[object], self.owner)
        if label == len(there):
            there.append(value)
        elif cast(int, label) < len(there):
            there[cast(int, label)] = value

    def remove(self, label: Label) -> None:
        """Nothing: the objects in it keep their indices."""


class _Slots(Holder):
    def __init__(self, path: str, owner: object, slots: dict[str, MemberDescriptorType]) -> None:
        super().__init__(path, owner)
        self._slots = slots

    def parts(self) -> dict[Label, object]:
        return _filled({name: functools.partial(slot.__get__, self.owner) for name, slot in self._slots.items()})

    def put(self, label: Label, value: object) -> None:
        self._slots[str(label)].__set__(self.owner, value)

    def remove(self, label: Label) -> None:
        self._slots[str(label)].__delete__(self.owner)


class _Variables(Holder):
    """Those of the functions around one."""

    def __init__(self, path: str, owner: FunctionType) -> None:
        super().__init__(path, owner)
        self._cells: dict[str, CellType] = dict(zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True))

    def parts(self) -> dict[Label, object]:
        return _filled({name: functools.partial(getattr, cell, "cell_contents") for name, cell in self._cells.items()})

    def put(self, label: Label, value: object) -> None:
        self._cells[str(label)].cell_contents = value

    def remove(self, label: Label) -> None:
        del self._cells[str(label)].cell_contents


def _filled(readers: dict[str, Callable[[], object]]) -> dict[Label, object]:
    """Without slots and variables that have no value yet."""
    found: dict[Label, object] = {}
    for name, read in readers.items():
        try:
            found[name] = read()
        except (AttributeError, ValueError):
            continue

    return found
