"""What the optimizer's next step goes by beside its moments: options of its groups, and the schedule.

A validation moves them too (a schedule that goes by metrics), and any callback may.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llamarec.checkpoints.trainer.trainer_access import LiveTrainer


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A copy of them.

    Attributes:
        groups: By group of the optimizer, its options (lr, betas, weight_decay, ...).
        schedule: State of the schedule.
    """

    groups: list[dict[str, object]]
    schedule: dict[str, object]

    @staticmethod
    def of(trainer: LiveTrainer) -> Rates:
        """As they are now."""
        groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in trainer.optimizer.param_groups
        ]
        return Rates(
            groups=[{name: _copied(value) for name, value in group.items()} for group in groups],
            schedule={name: _copied(value) for name, value in trainer.lr_scheduler.state_dict().items()},
        )

    def put_into(self, trainer: LiveTrainer) -> None:
        """Makes them the Trainer's again."""
        trainer.lr_scheduler.load_state_dict({name: _copied(value) for name, value in self.schedule.items()})

        for group, before in zip(trainer.optimizer.param_groups, self.groups, strict=True):
            for name, value in before.items():
                # Compiled and captured steps read the rate from the same tensor.
                if isinstance(value, torch.Tensor) and isinstance(group[name], torch.Tensor):
                    group[name].copy_(value)
                else:
                    group[name] = _copied(value)


def _copied(value: object) -> object:
    """Tensors and containers are new; everything else is the same object."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]

    return tuple(map(_copied, value)) if type(value) is tuple else value
