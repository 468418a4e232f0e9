"""Which parameter each of an optimizer's moments belongs to: by name, with its shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from llamarec.checkpoints.resume.safe_load import load_json
from llamarec.checkpoints.storage.layout import ADAPTER_CONFIG, MODEL_CONFIG
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.errors import CheckpointError

Names: TypeAlias = list[list[list[object]]]
"""By group: name and shape of each parameter, in the optimizer's order."""


def optimizer_names(trainer: LiveTrainer) -> Names:
    """Names of an optimizer's parameters; `optimizer.GROUP.INDEX` for those beside the model."""
    named = {id(value): name for name, value in unwrapped(trainer).named_parameters()}
    return [
        [
            [named.get(id(value), f"optimizer.{number}.{index}"), list(value.shape)]
            for index, value in enumerate(group["params"])
        ]
        for number, group in enumerate(trainer.optimizer.param_groups)
    ]


def matched(state: dict[str, Any], saved: object, live: Names, where: str) -> dict[str, Any]:
    """An optimizer's state with its parameters in the live optimizer's order.

    Args:
        state: As `Optimizer.state_dict` gave it.
        saved: The checkpoint's names; anything but a list where it has none: then the order counts.
        live: Of this process.
        where: What an error names.

    Raises:
        CheckpointError: names the first parameter that is missing, in another group or of another shape.
    """
    if not isinstance(saved, list) or saved == live:
        return state

    if len(saved) != len(state["param_groups"]) or len(saved) != len(live):
        raise _other_parameters(where, min(len(live), len(saved)), [], [])

    groups = []
    for number, (group, now) in enumerate(zip(state["param_groups"], live, strict=True)):
        before = dict(zip((str(entry) for entry in saved[number]), group["params"], strict=True))
        order = [before.pop(str(entry), None) for entry in now]
        lacking = [entry for entry, index in zip(now, order, strict=True) if index is None]
        if lacking or before:
            raise _other_parameters(where, number, lacking, list(before))
        groups.append({**group, "params": order})

    return {**state, "param_groups": groups}


def check_same_class(model: nn.Module, folder: Path) -> None:
    """Whether moments without names may be matched by their order: the model has the class that the folder names.

    Raises:
        CheckpointError: it has another, whose parameters may be in another order.
    """
    named, own = _class_in(folder), type(_base_of(model)).__name__
    if named and named != own:
        raise CheckpointError(
            f"{folder} does not name the parameters of its optimizer's moments, and its model is of another class",
            expected=named,
            found=own,
            hint=[
                f"build the model as a {named}",
                "or start its moments from zero: --allow_partial_resume",
            ],
        )


def _class_in(folder: Path) -> str:
    """The model's class as its configuration, or that of its adapter, names it; empty where none does."""
    if (folder / ADAPTER_CONFIG).is_file():
        found = load_json(folder / ADAPTER_CONFIG).get("auto_mapping")
        return str(found.get("base_model_class") or "") if isinstance(found, dict) else ""
    if (folder / MODEL_CONFIG).is_file():
        classes = load_json(folder / MODEL_CONFIG).get("architectures")
        return str(classes[0]) if isinstance(classes, list) and classes else ""

    return ""


def _base_of(model: nn.Module) -> nn.Module:
    """The model under an adapter."""
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model


def _other_parameters(where: str, group: int, lacking: list[list[object]], left: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{where} holds the moments of other parameters than those of this optimizer's group {group}",
        expected=f"moments of {lacking[0]}" if lacking else "the groups that were saved",
        found=f"moments of {left[0]}" if left else None,
        hint=[
            "build model and optimizer as they were trained",
            "or start its moments from zero: --allow_partial_resume",
        ],
    )
