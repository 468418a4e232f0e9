"""Which parameter each of an optimizer's moments belongs to: by name, with its shape."""

from __future__ import annotations

from typing import Any, TypeAlias

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

    groups = []
    for number, (group, now) in enumerate(zip(state["param_groups"], live, strict=False)):
        before = dict(zip((str(entry) for entry in saved[number]), group["params"], strict=True))
        order = [before.pop(str(entry), None) for entry in now]
        lacking = [entry for entry, index in zip(now, order, strict=True) if index is None]
        if lacking or before:
            raise _other_parameters(where, number, lacking, list(before))
        groups.append({**group, "params": order})

    if len(groups) != len(live) or len(groups) != len(saved):
        raise _other_parameters(where, min(len(live), len(saved)), [], [])
    return {**state, "param_groups": groups}


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
