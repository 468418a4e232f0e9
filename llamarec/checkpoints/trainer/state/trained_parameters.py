"""Which parameters are trained, where a callback freezes or opens some on the way: layers thawed one after another."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped

_OPENED: Final = "opened"
_FROZEN: Final = "frozen"


class TrainedParameters:
    """The parameters whose `requires_grad` training changes.

    The optimizer does not tell them apart: it holds those that were open when it was made. It follows the protocol of
    `Stateful`. Its state is what differs from the flags before the first training.

    Args:
        trainer: The live Trainer.
    """

    def __init__(self, trainer: LiveTrainer) -> None:
        self._trainer = trainer
        self._first: dict[str, bool] | None = None
        self._model: nn.Module | None = None
        self._of_model: list[tuple[str, nn.Parameter]] = []

    def observe(self) -> None:
        """Remembers all flags before the first training; what a program sets until then is its own affair."""
        if self._first is None:
            self._first = {name: parameter.requires_grad for name, parameter in self._parameters()}

    def state_dict(self) -> dict[str, Any]:
        """Names of those that training has opened, and of those that it has frozen; empty where there are none."""
        first = self._first or {}
        changed = [
            (name, parameter.requires_grad)
            for name, parameter in self._parameters()
            if parameter.requires_grad is not first.get(name, parameter.requires_grad)
        ]
        state = {
            _OPENED: [name for name, is_open in changed if is_open],
            _FROZEN: [name for name, is_open in changed if not is_open],
        }
        return {kind: names for kind, names in state.items() if names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Opens and freezes these, and gives all others the flags of before the first training.

        Raises:
            ValueError: the model has no parameter of such a name.
        """
        parameters = dict(self._parameters())
        saved = {name: kind == _OPENED for kind, names in state_dict.items() for name in names}
        unknown = sorted(saved.keys() - parameters.keys())
        if unknown:
            raise ValueError(f"the model has no parameter {unknown[0]}")

        for name, is_open in {**(self._first or {}), **saved}.items():
            if name in parameters and parameters[name].requires_grad is not is_open:
                parameters[name].requires_grad_(is_open)

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Listed once per model: they are asked for several times in each step."""
        model = unwrapped(self._trainer)
        if model is not self._model:
            self._model, self._of_model = model, list(model.named_parameters())

        return self._of_model
