"""An optimizer and a scheduler that the program made itself: exact, never stretched, and said for what they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from llamarec.checkpoints.trainer.resumable import ResumableMixin, ResumableTrainer
from tests.resume.runs import QUIET, stopped
from tests.resume.training import make_args, make_model, state_of
from tests.resume.worker_data import Words

SMALL: dict[str, Any] = {"num_samples": 12, "noisy": False, "save_steps": 100}
PEAK = 0.2


def _steps(args: Any) -> int:
    """As a script counts them: 12 samples an epoch."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return int(-(-12 // batch) * args.num_train_epochs)


def _trainer(folder: Path, *, cls: Any = ResumableTrainer, kind: str = "SGD", **changes: Any) -> Any:
    args = make_args(folder, **QUIET, save_steps=100, **changes)
    model, total = make_model(), _steps(args)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(trained, lr=PEAK, momentum=0.9) if kind == "SGD" else torch.optim.Adagrad(trained, lr=PEAK)
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))
    return cls(
        model=model,
        args=args,
        train_dataset=Words(12, noisy=False),
        optimizers=(optimizer, scheduler),
    )


def _rates(trainer: Any) -> list[float]:
    return [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]


def _handed_as_class(folder: Path, kind: type[torch.optim.Optimizer], rate: float) -> Any:
    args = make_args(folder, **QUIET, save_steps=100)
    handed = (kind, {"lr": rate})
    return ResumableTrainer(
        model=make_model(), args=args, train_dataset=Words(12, noisy=False), optimizer_cls_and_kwargs=handed
    )


def test_a_class_that_was_handed_over_has_its_own_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = _handed_as_class(tmp_path / "whole", torch.optim.AdamW, PEAK)
    whole.train()
    stopped(_handed_as_class(tmp_path / "run", torch.optim.AdamW, PEAK), 3)
    capsys.readouterr()
    _handed_as_class(tmp_path / "run", torch.optim.AdamW, PEAK).train("latest")
    assert state_of(tmp_path / "run/checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")
    said = capsys.readouterr().out
    assert f"rate:        {_rates(whole)[3]:.6g} at the next step, unchanged" in said


def test_another_class_that_was_handed_over_starts_without_moments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(_handed_as_class(tmp_path, torch.optim.SGD, PEAK), 3)
    assert _handed_as_class(tmp_path, torch.optim.AdamW, 0.01).train("latest").global_step == 6
    said = capsys.readouterr().out
    assert "SGD (optimizer_cls_and_kwargs) -> AdamW (optimizer_cls_and_kwargs)" in said
    assert "another kind of optimizer starts without moments" in said


def test_unchanged_it_is_exact_and_the_rate_is_the_schedulers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = _trainer(tmp_path / "whole")
    whole.train()
    stopped(_trainer(tmp_path / "run"), 3)
    capsys.readouterr()
    resumed = _trainer(tmp_path / "run")
    resumed.train("latest")
    assert state_of(tmp_path / "run/checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")
    said = capsys.readouterr().out
    assert f"rate:        {PEAK / 2:.6g} at the next step, unchanged" in said
    assert "changes:     none" in said
    assert _rates(whole) == pytest.approx([PEAK * (1 - step / 6) for step in range(6)])


def test_another_length_is_not_laid_over_it_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(_trainer(tmp_path), 3)
    capsys.readouterr()
    resumed = _trainer(tmp_path, num_train_epochs=4.0)
    resumed.train("latest")
    # As the script makes it for 12 steps, at each of them.
    assert _rates(resumed)[3:] == pytest.approx([PEAK * (1 - step / 12) for step in range(3, 12)])
    said = capsys.readouterr().out
    assert f"rate:        {PEAK / 2:.6g} -> {PEAK * 0.75:.6g} at the next step" in said
    assert "your own scheduler follows optimizer steps as you made it; nothing is stretched" in said


def test_a_smaller_batch_ends_at_the_end_of_the_curve(tmp_path: Path) -> None:
    stopped(_trainer(tmp_path), 3)
    resumed = _trainer(tmp_path, gradient_accumulation_steps=1)
    resumed.train("latest")
    # 12 samples are left, in steps of 2; the script's curve has 12 steps of which 9 are done at the end.
    assert resumed.state.global_step == 9
    assert _rates(resumed)[3:] == pytest.approx([PEAK * (1 - step / 12) for step in range(3, 9)])


def test_of_another_rate_the_optimizers_own_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(_trainer(tmp_path), 3)
    capsys.readouterr()
    _trainer(tmp_path, learning_rate=1.0, weight_decay=0.1).train("latest")
    said = capsys.readouterr().out
    assert said.count("only if your own optimizer was made with it") == 2
    assert f"rate:        {PEAK / 2:.6g} at the next step" in said


def test_another_optimizer_is_named_and_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(_trainer(tmp_path), 3)
    capsys.readouterr()
    resumed = _trainer(tmp_path, kind="Adagrad")
    resumed.train("latest")
    assert resumed.state.global_step == 6
    assert "applied:     own_optimizer  SGD -> Adagrad (another kind of optimizer starts without moments)" in (
        capsys.readouterr().out
    )


def test_the_trainers_own_in_their_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(_trainer(tmp_path), 3)
    args = make_args(tmp_path, **QUIET, save_steps=100)
    resumed = ResumableTrainer(model=make_model(), args=args, train_dataset=Words(12, noisy=False))
    resumed.train("latest")
    said = " ".join(capsys.readouterr().out.split())
    assert "own_optimizer SGD -> (none)" in said
    assert "own_scheduler LambdaLR -> (none)" in said
    assert resumed.state.global_step == 6


@pytest.mark.parametrize("method", ["create_scheduler", "create_optimizer"])
def test_an_overridden_method_is_the_programs_own(method: str, tmp_path: Path) -> None:
    def overridden(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(cls, self), method)(*args, **kwargs)

    cls: Any = type("Mine", (ResumableTrainer,), {method: overridden})
    trainer = cls(model=make_model(), args=make_args(tmp_path, **QUIET), train_dataset=Words(12, noisy=False))
    names = trainer._resumable.program.custom_optimizers().names()
    assert names == {
        "own_optimizer": method if method == "create_optimizer" else "",
        "own_scheduler": method if method == "create_scheduler" else "",
    }


def test_a_plain_trainers_rates_are_the_same(tmp_path: Path) -> None:
    plain, ours = _trainer(tmp_path / "plain", cls=Trainer), _trainer(tmp_path / "ours")
    plain.train()
    ours.train()
    assert _rates(plain) == _rates(ours)


SCHEDULES: dict[str, Callable[[Any, int], Any]] = {
    "cosine": lambda optimizer, total: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total),
    "linear": lambda optimizer, total: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=total),
    "one cycle": lambda optimizer, total: torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=total),
    "steps": lambda optimizer, total: torch.optim.lr_scheduler.StepLR(optimizer, step_size=max(total // 3, 1)),
}


def _with(folder: Path, name: str, **changes: Any) -> Any:
    args = make_args(folder, **QUIET, save_steps=100, **changes)
    model = make_model()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=PEAK, momentum=0.9)
    scheduler = SCHEDULES[name](optimizer, _steps(args))
    return ResumableTrainer(
        model=model, args=args, train_dataset=Words(12, noisy=False), optimizers=(optimizer, scheduler)
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_with_a_length_of_their_own(name: str, tmp_path: Path) -> None:
    whole = _with(tmp_path / "whole", name)
    whole.train()
    stopped(_with(tmp_path / "run", name), 3)
    shutil.copytree(tmp_path / "run", tmp_path / "longer")
    resumed = _with(tmp_path / "run", name)
    resumed.train("latest")
    # Unchanged: exact.
    assert _rates(resumed) == _rates(whole)
    assert state_of(tmp_path / "run/checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")
    # Longer: as the script makes it for 12 steps, from here on.
    twelve = _with(tmp_path / "twelve", name, num_train_epochs=4.0)
    twelve.train()
    longer = _with(tmp_path / "longer", name, num_train_epochs=4.0)
    longer.train("latest")
    assert _rates(longer)[3:] == pytest.approx(_rates(twelve)[3:])


def test_another_schedule_goes_on_at_this_step(tmp_path: Path) -> None:
    stopped(_with(tmp_path / "run", "steps"), 3)
    whole = _with(tmp_path / "whole", "cosine")
    whole.train()
    resumed = _with(tmp_path / "run", "cosine")
    resumed.train("latest")
    assert _rates(resumed)[3:] == pytest.approx(_rates(whole)[3:])


def test_a_method_overridden_behind_the_mixin_is_found(tmp_path: Path) -> None:
    class Theirs(Trainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            return super().create_scheduler(num_training_steps, optimizer)

    class Mine(ResumableMixin, Theirs):
        pass

    trainer = Mine(model=make_model(), args=make_args(tmp_path, **QUIET), train_dataset=Words(12, noisy=False))
    assert trainer._resumable.program.custom_optimizers().scheduler == "create_scheduler"
