"""What training moves and the weights files do not hold: found by name, saved beside them, and put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from llamarec.checkpoints.resume.safe_load import load_safetensors
from llamarec.checkpoints.storage.layout import EXTRA_STATE
from llamarec.checkpoints.trainer.state.model_files import sources_of, weights_files
from llamarec.checkpoints.trainer.state.snapshot import copied, digest_of
from llamarec.checkpoints.trainer.state.tensors import put_into
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.errors import CheckpointError

_OF_OPTIMIZER: Final = "optimizer."
# Of older checkpoints: what AdaLoRA remembers of each weight's importance.
_OF_ALLOCATOR: Final = "rank_allocator."
_IN_ADAPTED: Final = "base_model.model."
_IMPORTANCE: Final = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class ExtraState:
    """Everything that training moves beside the weights files: layers opened by hand, weights in a loss, buffers.

    Args:
        trainer: The live Trainer.
    """

    def __init__(self, trainer: LiveTrainer) -> None:
        self._trainer = trainer
        self._observed: nn.Module | None = None
        self._first_buffers: dict[str, bytes] = {}

    def observe(self) -> None:
        """Remembers the buffers of a model before its first step, so that those that change are known by it."""
        if getattr(self._trainer, "model", None) is None:
            return

        model = unwrapped(self._trainer)
        if model is not self._observed:
            self._observed = model
            self._first_buffers = {name: digest_of(buffer) for name, buffer in model.named_buffers()}

    def copied(self) -> dict[str, Tensor]:
        """Copies by name: as in the model, or `optimizer.GROUP.INDEX` for tensors beside it."""
        model = unwrapped(self._trainer)
        live = model.state_dict(keep_vars=True)
        files = weights_files(model)
        # By identity: tied tensors have several names, of which a file holds one.
        held = {id(live[name]) for file in files if not file.computed for name in file.names.values()}
        found = {name: value for name, value in self._moving(model) if id(value) not in held}
        for file in files:
            if file.computed:
                found |= sources_of(model, file)

        return {name: copied(value).contiguous() for name, value in found.items()}

    def _moving(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        named = {id(parameter): name for name, parameter in model.named_parameters()}
        yield from ((named.get(id(value), name), value) for name, value in self._in_optimizer())

        for name, buffer in model.named_buffers():
            if self._first_buffers.get(name) != digest_of(buffer):
                yield name, buffer

    # ---- Back ----

    def put_into_model(self, extra: Mapping[str, Tensor], folder: Path) -> None:
        """Puts back what has a name in the model.

        Args:
            extra: As `read_extra_state` gives it.
            folder: Where it comes from, for messages.

        Raises:
            CheckpointError: the model has no such tensor, or one of another shape or type.
        """
        model = unwrapped(self._trainer)
        live = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers()])
        beside = (_OF_OPTIMIZER, _OF_ALLOCATOR)
        of_model = {name: value for name, value in extra.items() if not name.startswith(beside)}
        put_tensors(live, of_model, folder / EXTRA_STATE, "the model")

        importance = _importance(model)
        for name, value in extra.items():
            kind, _, parameter = name.removeprefix(_OF_ALLOCATOR).partition(".")
            there = live.get(_IN_ADAPTED + parameter)
            if name.startswith(_OF_ALLOCATOR) and kind in importance and there is not None:
                importance[kind][parameter] = value.to(there.device)

    def put_into_optimizer(self, extra: Mapping[str, Tensor], folder: Path) -> None:
        """Puts back what only the optimizer knows.

        Raises:
            CheckpointError: the optimizer has no such tensor, or one of another shape or type.
        """
        beside = {name: value for name, value in extra.items() if name.startswith(_OF_OPTIMIZER)}
        if beside:
            put_tensors(dict(self._in_optimizer()), beside, folder / EXTRA_STATE, "the optimizer")

    def _in_optimizer(self) -> Iterator[tuple[str, Tensor]]:
        for group_number, group in enumerate(self._trainer.optimizer.param_groups):
            for index, parameter in enumerate(group["params"]):
                yield f"{_OF_OPTIMIZER}{group_number}.{index}", parameter


def read_extra_state(folder: Path) -> dict[str, Tensor]:
    """The tensors that lie beside the weights files of a checkpoint; none where it has no such file."""
    path = folder / EXTRA_STATE
    return load_safetensors(path) if path.is_file() else {}


def put_tensors(live: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path, owner: str) -> None:
    """Copies saved tensors into live ones of the same names, all or none.

    Raises:
        CheckpointError: a name is unknown, or a tensor has another shape or type.
    """
    unfit = []
    for name, value in saved.items():
        there = live.get(name)
        if there is None:
            unfit.append(f"{name}: {owner} has none of this name")
        elif there.shape != value.shape or there.dtype != value.dtype:
            unfit.append(f"{name}: {_described(value)} saved, {owner} has {_described(there)}")

    if unfit:
        raise CheckpointError(
            f"{path} does not fit {owner}",
            expected="the tensors that were saved, with their names, shapes and types",
            found=[*unfit[:3], *([f"and {len(unfit) - 3} more"] if len(unfit) > 3 else [])],
            hint="build the model, loss and optimizer as they were trained",
        )

    with torch.no_grad():
        for name, value in saved.items():
            put_into(live[name], value)


def _described(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _importance(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What AdaLoRA's allocator of ranks remembers, by kind and parameter; empty for any other model."""
    allocator = getattr(getattr(model, "base_model", None), "rankallocator", None)
    return {kind: getattr(allocator, kind) for kind in _IMPORTANCE if isinstance(getattr(allocator, kind, None), dict)}
