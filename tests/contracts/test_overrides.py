"""Every method of the Trainer, overridden on both sides of the mixin: it counts, or it is refused at construction."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import Trainer

from llamarec.checkpoints import ResumableMixin
from llamarec.checkpoints.trainer import ResumableTrainer
from llamarec.checkpoints.trainer.guards.overrides import LEADS_ON, NEVER_CALLED, REPLACED, SUPPORTED
from llamarec.errors import ConfigError
from tests.resume.runs import quiet_trainer, samples_in, stopped
from tests.resume.training import make_trainer, outcome

SIDES = ("above", "below")
# A loop must call the Trainer's; tests/contracts/test_hooks.py has it.
_LOOPS = {"train", "_inner_training_loop"}


def _methods() -> set[str]:
    return {
        name
        for cls in Trainer.__mro__[:-1]
        for name, member in vars(cls).items()
        if callable(member) and not name.startswith("__")
    }


def _subclass(side: str, members: dict[str, Any]) -> type[Any]:
    if side == "above":
        return type("Mine", (ResumableTrainer,), members)
    return type("Mine", (ResumableMixin, type("Theirs", (Trainer,), members)), {})


def test_every_method_of_the_trainer_is_classified() -> None:
    listed = [*NEVER_CALLED, *REPLACED, *LEADS_ON, *SUPPORTED]
    assert _methods() - set(listed) == set(), "decide whether an override of it counts"
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", [*NEVER_CALLED, *REPLACED, *LEADS_ON])
def test_what_would_not_count_is_refused(name: str, side: str, tmp_path: Path) -> None:
    def own(self: Any, *args: Any, **kwargs: Any) -> None: ...

    with pytest.raises(ConfigError, match=rf"(Mine|Theirs)\.{name} ") as refusal:
        make_trainer(tmp_path, cls=_subclass(side, {name: own}))
    advice = {**NEVER_CALLED, **REPLACED, **{leading: instead for leading, (_, instead) in LEADS_ON.items()}}
    assert advice[name] in str(refusal.value)


def test_what_calls_super_counts_above_the_mixin(tmp_path: Path) -> None:
    class Mine(ResumableTrainer):
        loaders = 0

        def get_train_dataloader(self) -> Any:
            self.loaders += 1
            return super().get_train_dataloader()

    trainer = make_trainer(tmp_path, cls=Mine, max_steps=1)
    trainer.train()
    assert trainer.loaders >= 1


def _counted(called: set[str], owner: list[type[Any]]) -> dict[str, Any]:
    """Overrides of everything that is supported, each of which notes its name and calls `super()`."""

    def counting(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            called.add(name)
            return getattr(super(owner[0], self), name)(*args, **kwargs)

        return method

    names = {name for name in SUPPORTED if callable(getattr(Trainer, name, None))}
    plain = {name for name in names if not isinstance(vars(Trainer).get(name), staticmethod | classmethod)}
    return {name: counting(name) for name in plain - _LOOPS}


def _calls(side: str, folder: Path) -> set[str]:
    """Names of supported methods that a training with validations, logs and saves calls."""
    called: set[str] = set()
    owner: list[type[Any]] = []
    members = _counted(called, owner)
    cls = type("Plain", (Trainer,), members) if side == "plain" else _subclass(side, members)
    owner.append(next(one for one in cls.__mro__ if "compute_loss" in vars(one)))
    make_trainer(folder, cls=cls, max_steps=4, load_best_model_at_end=side != "plain").train()
    return called


def test_all_that_a_plain_trainer_calls_is_called_on_both_sides(tmp_path: Path) -> None:
    plain = _calls("plain", tmp_path / "plain")
    assert {"compute_loss", "training_step", "log", "evaluate", "prediction_step", "_save", "save_model"} <= plain
    for side in SIDES:
        assert plain - _calls(side, tmp_path / side) == set(), side


@pytest.mark.parametrize("side", SIDES)
def test_an_own_save_writes_the_weights_of_its_step(side: str, tmp_path: Path) -> None:
    steps: dict[str, list[str]] = {}

    def digest(trainer: Any) -> str:
        weights = [p.detach().numpy().tobytes() for p in trainer.model.parameters() if p.requires_grad]
        return hashlib.sha256(b"".join(weights)).hexdigest()

    def own(self: Any, output_dir: str | None = None, state_dict: Any = None) -> None:
        steps.setdefault("saved", []).append(f"{self.state.global_step} {digest(self)}")
        self.model.save_pretrained(output_dir)

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.setdefault("steps", []).append(f"{self.state.global_step} {digest(self)}")
        owner: Any = cls if side == "above" else cls.__mro__[2]
        return super(owner, self).training_step(*args, **kwargs)

    cls = _subclass(side, {"_save": own, "training_step": training_step})
    make_trainer(tmp_path / "whole", cls=cls, max_steps=6).train()
    assert set(steps["saved"]) & set(steps["steps"]) >= {one for one in steps["saved"] if one.startswith("3 ")}

    stopped(make_trainer(tmp_path / "run", cls=cls, max_steps=6), 4)
    make_trainer(tmp_path / "run", cls=cls, max_steps=6).train("latest")
    assert outcome(tmp_path / "run") | {"checkpoints": 0} == outcome(tmp_path / "whole") | {"checkpoints": 0}


def test_the_advice_for_a_sampler_works(tmp_path: Path) -> None:
    class Mine(ResumableTrainer):
        def epoch_order(self, epoch: int, num_samples: int) -> Any:
            return np.random.default_rng((self.args.seed, epoch)).integers(4, size=num_samples)

    log = tmp_path / "seen"
    quiet_trainer(tmp_path / "run", cls=Mine, seen=log, max_steps=2).train()
    assert len(samples_in(log)) == 8
    assert set(samples_in(log)) <= {0, 1, 2, 3}
