"""What the model is made of stays as it was at the first step: a resume makes it as the program makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import nn

from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.errors import ConfigError

Parts: TypeAlias = dict[str, object]
"""By name, what must stay: shapes, and numbers of parameters in groups."""


class ModelStructure:
    """Tensors, optimizer groups and hooks, at the first step and at each save.

    Args:
        trainer: The live Trainer.
        console: Where changed hooks are named.
    """

    def __init__(self, trainer: LiveTrainer, console: Console) -> None:
        self._trainer, self._console = trainer, console
        self._first: Parts | None = None
        self._hooks: dict[str, int] = {}

    def observe(self) -> None:
        """Remembers everything, once all callbacks of the start have run."""
        self._first, self._hooks = self._parts(), self._num_hooks()

    def check(self) -> None:
        """Before a save.

        Raises:
            ConfigError: names what a callback has added, removed or resized since; no resume would take such a state.
        """
        if self._first is None:
            return

        self._warn_of_hooks()
        changes = _changes(self._first, self._parts())
        if not changes:
            return

        raise ConfigError(
            f"training has changed what the model is made of: {changes[0]}"
            + (f" and {len(changes) - 1} more" if len(changes) > 1 else ""),
            expected="the tensors and optimizer groups of the first step: a resume makes them as the program does",
            found=changes[:5],
            hint=[
                "make the change before train(), and open, freeze or mask weights during training;",
                "or train twice: save the model after the first part, and change it before the second",
            ],
        )

    def _parts(self) -> Parts:
        model, optimizer = unwrapped(self._trainer), self._trainer.optimizer
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        groups = {f"optimizer group {number}": len(one["params"]) for number, one in enumerate(optimizer.param_groups)}
        return {**{name: list(value.shape) for name, value in tensors}, **groups}

    def _num_hooks(self) -> dict[str, int]:
        return {name: _num_hooks_of(module) for name, module in unwrapped(self._trainer).named_modules()}

    def _warn_of_hooks(self) -> None:
        now = self._num_hooks()
        changed = [name for name, number in now.items() if self._hooks.get(name, 0) != number]
        self._hooks = now
        if changed:
            self._console.warn(
                f"WARNING: training has added or removed a hook of {changed[0] or 'the model'}. No checkpoint holds "
                "hooks: a resume has those that the program makes at its start. Register it before train()"
            )


def _num_hooks_of(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def _changes(first: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    added = [f"{name} is new" for name in now if name not in first]
    removed = [f"{name} is gone" for name in first if name not in now]
    return (
        added
        + removed
        + [f"{name}: {first[name]} -> {now[name]}" for name in now if name in first and first[name] != now[name]]
    )
