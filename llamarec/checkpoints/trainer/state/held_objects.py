"""Objects around a training that hold plain values: modules, what they hold, losses, metrics, helpers, callbacks.

Nothing of a program is called: no property, no `__getattr__`.
"""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CellType, FunctionType, MemberDescriptorType, MethodType, SimpleNamespace
from typing import Final, TypeAlias, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase, Trainer

from llamarec.checkpoints.trainer.samples.object_parts import is_leaf, is_program
from llamarec.checkpoints.trainer.state.plain_containers import is_plain

Label: TypeAlias = str | int
"""An attribute's name, a key or an index."""
Attributes: TypeAlias = dict[Label, object]

_MAX_OBJECTS: Final = 100_000
_OF_MODULES: Final = frozenset(vars(nn.Module()))
HOOKS: Final = tuple(sorted(name for name in _OF_MODULES if name.endswith("_hooks")))
"""Attributes of a module that hold functions which are called with it."""
CONTAINERS: Final = (list, tuple, dict, deque, OrderedDict, defaultdict)
# Data, whose position is saved; what is saved by itself; and types.
_NOT_ENTERED: Final = (
    *(Dataset, DataLoader, Sampler, Optimizer, LRScheduler, PreTrainedTokenizerBase, Trainer, Tensor, type),
)
# Of the first two, every object; of transformers, what a program may set; of a program, whatever is no library's.
_ENTERED: Final = ("peft", "trl")
_CONFIGURATIONS: Final = (PretrainedConfig, GenerationConfig, SimpleNamespace)
_LIBRARIES: Final = frozenset(
    {"aim", "boto3", "botocore", "clearml", "comet_ml", "deepspeed", "dvclive", "filelock", "fsspec", "jax", "loguru"}
    | {"matplotlib", "mlflow", "neptune", "PIL", "polars", "requests", "scipy", "sklearn", "swanlab", "tensorboard"}
    | {"tensorboardX", "tensorflow", "torchao", "torchvision", "trackio", "triton", "wandb", "yaml"}
)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """One object, as the values that it holds by label.

    Attributes:
        path: From a root: `model.base_model.rankallocator`.
        owner: The object.
        values: All that it holds now, whether it counts or not, in a fixed order.
        parts: What counts, by label.
        put: Sets one.
        remove: Takes one away.
    """

    path: str
    owner: object
    values: Callable[[], Iterable[object]]
    parts: Callable[[], dict[Label, object]]
    put: Callable[[Label, object], object]
    remove: Callable[[Label], object]


def holders_in(
    roots: Mapping[str, object], *, skipped: Iterable[object], paths: Mapping[int, str], model: nn.Module
) -> list[Holder]:
    """Every object that holds plain values, each once.

    Args:
        roots: Where to start, by path.
        skipped: Objects that are not entered.
        paths: Known ones by id; another way to the same object changes nothing.
        model: Whose buffers are saved as such.
    """
    seen = {id(one): one for one in skipped}
    of_model = {id(module): f"model.{name}".rstrip(".") for name, module in model.named_modules()}
    queue, found = deque(roots.items()), list[Holder]()

    while queue and len(seen) < _MAX_OBJECTS:
        path, value = queue.popleft()
        if id(value) in seen or not is_entered(value):
            continue

        seen[id(value)] = value
        path = paths.get(id(value)) or of_model.get(id(value), path)
        for holder, form in _holders_of(path, value, is_of_model=id(value) in of_model):
            found.append(holder)
            queue.extend((path + form.format(label), child) for label, child in holder.parts().items())
        queue.extend(_inner(path, value))

    return found


def is_entered(value: object) -> bool:
    """Whether an object may hold plain values, and is none itself."""
    if is_leaf(value) or isinstance(value, _NOT_ENTERED):
        return False
    if isinstance(value, nn.Module | MethodType | functools.partial):
        return True
    if isinstance(value, FunctionType):
        return value.__closure__ is not None and is_program(value)
    if type(value) in CONTAINERS:
        return not is_plain(value)

    cls = type(value)
    package = cls.__module__.partition(".")[0]
    is_known = package in _ENTERED or isinstance(value, _CONFIGURATIONS)
    return is_known or (is_program(cls) and package not in _LIBRARIES)


def _holders_of(path: str, value: object, *, is_of_model: bool) -> Iterator[tuple[Holder, str]]:
    """With the form that a label has in the path of what it names."""
    if isinstance(value, nn.Module):
        yield _of_dict(path, value, cast(Attributes, vars(value)), skipped=_OF_MODULES), ".{}"
        if not is_of_model:
            yield _of_dict(f"{path}:buffers", value, cast(Attributes, value._buffers)), ".{}"
    elif isinstance(value, dict) and type(value) in CONTAINERS:
        yield _of_dict(path, value, value), "[{!r}]"
    elif isinstance(value, list | deque) and type(value) in CONTAINERS:
        yield _of_sequence(path, value), "[{}]"
    elif isinstance(value, FunctionType):
        cells = dict(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
        yield _of_cells(path, value, cells), ".{}"
    elif not isinstance(value, MethodType | functools.partial | tuple):
        yield from ((holder, ".{}") for holder in _of_object(path, value))


def _inner(path: str, value: object) -> Iterator[tuple[str, object]]:
    """Objects that something holds which holds no values itself."""
    if isinstance(value, nn.Module):
        yield from ((f"{path}.{name}", child) for name, child in value._modules.items())
    elif isinstance(value, MethodType):
        yield path, value.__self__
    elif isinstance(value, functools.partial):
        yield from ((path, value.func), (f"{path}.args", value.args), (f"{path}.keywords", value.keywords))
    elif isinstance(value, tuple):
        yield from ((f"{path}[{number}]", child) for number, child in enumerate(value))


# ---- By kind ----


def _of_dict(path: str, owner: object, there: Attributes, skipped: Collection[object] = ()) -> Holder:
    # A module's own attributes come first: there are many modules.
    num_own = len(list(itertools.takewhile(lambda key: key in skipped, there)))

    def values() -> Iterable[object]:
        return itertools.islice(there.values(), num_own, None)

    def parts() -> dict[Label, object]:
        return {key: one for key, one in list(there.items()) if type(key) in (str, int) and key not in skipped}

    def remove(label: Label) -> None:
        there.pop(label, None)

    return Holder(path=path, owner=owner, values=values, parts=parts, put=there.__setitem__, remove=remove)


def _of_object(path: str, value: object) -> Iterator[Holder]:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        attributes = None
    if isinstance(attributes, dict):
        yield _of_dict(path, value, attributes)

    members = {name: member for cls in type(value).__mro__ for name, member in vars(cls).items()}
    slots = {name: member for name, member in members.items() if isinstance(member, MemberDescriptorType)}
    if slots and is_program(type(value)):
        yield _of_slots(f"{path}:slots", value, slots)


def _of_slots(path: str, owner: object, slots: Mapping[str, MemberDescriptorType]) -> Holder:
    def parts() -> dict[Label, object]:
        found: dict[Label, object] = {}
        for name, slot in slots.items():
            try:
                found[name] = slot.__get__(owner)
            except AttributeError:
                continue
        return found

    def put(label: Label, value: object) -> None:
        slots[str(label)].__set__(owner, value)

    def remove(label: Label) -> None:
        slots[str(label)].__delete__(owner)

    return Holder(path=path, owner=owner, values=lambda: parts().values(), parts=parts, put=put, remove=remove)


def _of_sequence(path: str, there: list[object] | deque[object]) -> Holder:
    def put(label: Label, value: object) -> None:
        if label == len(there):
            there.append(value)
        else:
            there[cast(int, label)] = value

    return Holder(
        path=path,
        owner=there,
        values=lambda: there,
        parts=lambda: dict(enumerate(there)),
        put=put,
        # The objects in it have their indices.
        remove=lambda _: None,
    )


def _of_cells(path: str, owner: FunctionType, cells: Mapping[str, CellType]) -> Holder:
    """The variables of the functions around one."""

    def parts() -> dict[Label, object]:
        found: dict[Label, object] = {}
        for name, cell in cells.items():
            try:
                found[name] = cell.cell_contents
            except ValueError:
                # Not bound yet.
                continue
        return found

    def put(label: Label, value: object) -> None:
        cells[str(label)].cell_contents = value

    def remove(label: Label) -> None:
        del cells[str(label)].cell_contents

    return Holder(path=path, owner=owner, values=lambda: parts().values(), parts=parts, put=put, remove=remove)
