"""What moves the model is one optimizer, whose state can be read back: else refused at its first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from llamarec.checkpoints import CheckpointConfig, ResumableTrainer
from llamarec.errors import ConfigError
from tests.resume.runs import QUIET, quiet_trainer, stopped
from tests.resume.training import make_args, make_model, state_of
from tests.resume.worker_data import Seen, Words

Weights = list[torch.nn.Parameter]


def _trained(trainer: Any) -> Weights:
    return [value for value in trainer.model.parameters() if value.requires_grad]


class TwoOptimizers(ResumableTrainer):
    """A training step with a second optimizer, over the first of the weights."""

    second: torch.optim.Optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """See the Trainer's."""
        loss = super().training_step(*args, **kwargs)
        self.second.step()
        return loss


def _with_a_second(folder: Path, *, passed: bool = False) -> Any:
    model = make_model(dropout=0.0)
    weights = [value for value in model.parameters() if value.requires_grad]
    second = torch.optim.Adam(weights[:2], lr=1e-2)
    trainer = TwoOptimizers(
        model=model,
        args=make_args(folder, **QUIET, max_steps=6),
        train_dataset=Words(noisy=False),
        data_collator=Seen(noisy=False),
        stateful={"second": second} if passed else None,
    )
    trainer.second = second
    return trainer


def test_a_second_optimizer_is_refused_before_it_moves_anything(tmp_path: Path) -> None:
    trainer = _with_a_second(tmp_path)
    before = [value.detach().clone() for value in _trained(trainer)]
    with pytest.raises(ConfigError, match="Adam moves weights beside the Trainer's optimizer") as refusal:
        trainer.train()

    assert 'stateful={"second": the Adam}' in str(refusal.value)
    assert all(torch.equal(one, other) for one, other in zip(before, _trained(trainer), strict=True))


def test_the_advice_for_a_second_optimizer_works(tmp_path: Path) -> None:
    _with_a_second(tmp_path / "whole", passed=True).train()
    stopped(_with_a_second(tmp_path / "run", passed=True), 3)
    _with_a_second(tmp_path / "run", passed=True).train("latest")
    assert state_of(tmp_path / "run/checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")


class Probe(TrainerCallback):
    """Trains weights of its own, from the start at each log: nothing of it needs to be saved."""

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `TrainerCallback`."""
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.Adam([weight])
        weight.sum().backward()
        optimizer.step()


def test_an_optimizer_of_other_weights_is_nobodys_business(tmp_path: Path) -> None:
    quiet_trainer(tmp_path, callbacks=(Probe(),), max_steps=2).train()


class WithDiscriminator(TwoOptimizers):
    """Trains another model with an optimizer of its own."""

    discriminator: torch.nn.Module


def test_the_optimizer_of_another_model_on_the_trainer_is_refused(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, cls=WithDiscriminator, max_steps=2)
    trainer.discriminator = torch.nn.Linear(2, 1)
    trainer.second = torch.optim.Adam(trainer.discriminator.parameters())
    with pytest.raises(ConfigError, match="Adam moves weights beside the Trainer's optimizer"):
        trainer.train()


class Around(torch.optim.Optimizer):
    """Steps another optimizer, and keeps its state to itself or not."""

    def __init__(self, inner: torch.optim.Optimizer, *, tells: bool) -> None:
        super().__init__(inner.param_groups, {})
        self.inner, self._tells = inner, tells

    def step(self, closure: Any = None) -> Any:
        """See there."""
        return self.inner.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """See there."""
        return self.inner.state_dict() if self._tells else super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See there."""
        self.inner.load_state_dict(state_dict)
        self.param_groups = self.inner.param_groups


def _wrapped(folder: Path, *, tells: bool) -> Any:
    trainer = quiet_trainer(folder, noisy=False, max_steps=6)
    optimizer = Around(torch.optim.AdamW(_trained(trainer), lr=1e-2), tells=tells)
    trainer.optimizer, trainer.create_optimizer = optimizer, lambda model=None: optimizer
    return trainer


def test_a_wrapper_that_keeps_the_state_to_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"state_dict\(\) of Around lacks the state of the AdamW that it holds"):
        _wrapped(tmp_path, tells=False).train()


def test_a_wrapper_that_tells_the_state_is_trained(tmp_path: Path) -> None:
    assert _wrapped(tmp_path, tells=True).train().global_step == 6


class Projector:
    """As low-rank optimizers keep one for each weight."""


class WithObjects(torch.optim.SGD):
    """Keeps an object of a class of its own in its state."""

    def step(self, closure: Any = None) -> Any:
        """See there."""
        self.project()
        return super().step(closure)

    def project(self) -> None:
        """Makes the objects."""
        for group in self.param_groups:
            for value in group["params"]:
                self.state[value]["projector"] = Projector()


class WithObjectsLater(WithObjects):
    """Makes them when the step of its base class is done."""

    def step(self, closure: Any = None) -> Any:
        """See there."""
        result = torch.optim.SGD.step(self, closure)
        self.project()
        return result


@pytest.mark.parametrize("kind", [WithObjects, WithObjectsLater])
def test_a_state_that_no_resume_would_read_is_refused_at_the_first_step(
    kind: type[WithObjects], tmp_path: Path
) -> None:
    trainer = quiet_trainer(tmp_path, max_steps=6, save_steps=500)
    trainer.optimizer = kind(_trained(trainer), lr=1e-2)
    with pytest.raises(ConfigError, match=f"the state of {kind.__name__} could not be resumed") as refusal:
        trainer.train()
    assert "Projector" in str(refusal.value)
    assert trainer.state.global_step == 0


def test_without_the_check_it_is_trained(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, CheckpointConfig(read_back=False), max_steps=2, save_strategy="no")
    trainer.optimizer = WithObjects(_trained(trainer), lr=1e-2)
    assert trainer.train().global_step == 2
