"""Moments of another shape than the live optimizer's are refused, whatever shapes that optimizer keeps."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer

from llamarec.checkpoints import CheckpointConfig
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.trainer.state.moment_shapes import SavedShapes, lay_out
from llamarec.errors import CheckpointError
from tests.resume.runs import quiet_trainer
from tests.resume.training import state_of

Maker: TypeAlias = Callable[[Any], Optimizer]

# It needs a closure, and sparse gradients.
_NOT_OF_A_TRAINER = {"Optimizer", "LBFGS", "SparseAdam"}
_WIDTH = 64
_OPTIONAL = {
    "bitsandbytes.optim": (
        *("AdamW8bit", "AdamW32bit", "Lion8bit", "Lion32bit", "AdEMAMix", "AdEMAMix8bit"),
        *("RMSprop32bit", "RMSprop8bit"),
    ),
    "schedulefree": ("AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"),
    "grokadamw": ("GrokAdamW",),
    "optimi": ("StableAdamW",),
}


def _torch_optimizers() -> Iterator[tuple[str, Maker]]:
    found: dict[str, Any] = vars(torch.optim)
    for name, cls in found.items():
        if isinstance(cls, type) and issubclass(cls, Optimizer) and name not in _NOT_OF_A_TRAINER:
            kind: Any = cls
            yield name, partial(kind, lr=1e-3)
    yield "SGD with momentum", lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    yield "AMSGrad", lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, amsgrad=True)
    yield "fused AdamW", lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, fused=True)


def _other_optimizers() -> Iterator[tuple[str, Maker]]:
    from transformers.optimization import Adafactor

    yield "transformers' Adafactor", lambda ps: Adafactor(ps, lr=1e-3, relative_step=False, scale_parameter=False)
    yield "Adafactor with beta1", lambda ps: Adafactor(ps, lr=1e-3, relative_step=False, beta1=0.9)

    for module, names in _OPTIONAL.items():
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        for name in names:
            yield f"{module}.{name}", partial(getattr(found, name), lr=1e-3)


OPTIMIZERS = dict([*_torch_optimizers(), *_other_optimizers()])


def _parameters(name: str) -> list[nn.Parameter]:
    torch.manual_seed(1)
    shapes = [(_WIDTH, 2 * _WIDTH), (_WIDTH, _WIDTH)] + ([] if name == "Muon" else [(8,), ()])
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def _stepped(name: str, folder: Path) -> tuple[Optimizer, dict[str, Any]]:
    """A live optimizer, and the state of one that has done two steps, as the safe reader gives it."""
    parameters = _parameters(name)
    done = OPTIMIZERS[name](parameters)
    getattr(done, "train", bool)()
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        try:
            done.step()
        except (NotImplementedError, RuntimeError, AttributeError) as error:
            pytest.skip(f"does not step on a CPU: {error}")

    torch.save(done.state_dict(), folder / "optimizer.pt")
    return OPTIMIZERS[name](_parameters(name)), load_pickled(folder / "optimizer.pt")


def _shapes(live: Optimizer) -> SavedShapes:
    return SavedShapes(
        live, [[[f"p{number}", []] for number, _ in enumerate(group["params"])] for group in live.param_groups]
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_takes_its_own_state_and_no_other_shape(name: str, tmp_path: Path) -> None:
    live, state = _stepped(name, tmp_path)
    before = [parameter.detach().clone() for group in live.param_groups for parameter in group["params"]]
    random_state, num_states = torch.get_rng_state(), len(live.state)

    shapes = _shapes(live)
    shapes.check(state, "optimizer.pt")
    assert shapes.not_compared == set()
    assert len(live.state) == num_states
    after = [parameter for group in live.param_groups for parameter in group["params"]]
    assert all(torch.equal(one, other) and other.grad is None for one, other in zip(before, after, strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)

    for index, moments in state["state"].items():
        for key, value in moments.items():
            if isinstance(value, Tensor):
                wrong = copy.deepcopy(state)
                wrong["state"][index][key] = torch.zeros(7, dtype=value.dtype)
                with pytest.raises(CheckpointError, match=rf"optimizer\.pt holds {key} of another shape.*for p{index}"):
                    _shapes(live).check(wrong, "optimizer.pt")


def test_an_optimizer_that_does_not_step_alone_is_said(tmp_path: Path) -> None:
    class Needy(torch.optim.SGD):
        """Steps with a closure only."""

        def step(self, closure: Any = None) -> Any:
            raise RuntimeError("needs a closure")

    parameters = _parameters("")
    shapes = _shapes(Needy(parameters))
    shapes.check({"state": {0: {"rows": torch.zeros(3)}}, "param_groups": [{"params": [0]}]}, "optimizer.pt")
    assert shapes.not_compared == {"rows"}


def test_moments_have_memory_and_layout_of_their_own() -> None:
    parameter = nn.Parameter(torch.randn(4, 6))
    optimizer = torch.optim.AdamW([parameter])
    one = torch.ones(1).expand(4, 6)
    turned = torch.arange(24.0).reshape(6, 4).t()
    optimizer.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": one, "exp_avg_sq": turned, "max": turned}
    lay_out(optimizer)

    found = optimizer.state[parameter]
    assert torch.equal(found["exp_avg"], torch.ones(4, 6))
    assert torch.equal(found["exp_avg_sq"], turned)
    assert len({found[key].data_ptr() for key in ("exp_avg", "exp_avg_sq", "max")}) == 3
    assert all(found[key].stride() == (6, 1) for key in ("exp_avg", "exp_avg_sq", "max"))


# ---- In a resume ----


def _broken(checkpoint: Path, size: int) -> None:
    state = load_pickled(checkpoint / "optimizer.pt")
    state["state"][0]["exp_avg"] = torch.zeros(size)
    torch.save(state, checkpoint / "optimizer.pt")
    (checkpoint / "manifest.json").unlink()
    text = (checkpoint / "trainer_state.json").read_text(encoding="utf-8")
    (checkpoint / "trainer_state.json").write_text(text.replace("ResumableTrainer", "Another"), encoding="utf-8")


@pytest.mark.parametrize("size", [1, 7, 16])
def test_a_moment_of_another_size_is_refused_before_it_is_used(
    size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more: dict[str, Any] = {"max_steps": 4, "save_steps": 2, "optim": "adamw_torch_fused"}
    quiet_trainer(tmp_path, **more).train()
    checkpoint = tmp_path / "checkpoint-2"
    _broken(checkpoint, size)
    with pytest.raises(CheckpointError, match=r"(?s)holds exp_avg of another shape.*q_proj.*--allow_partial_resume"):
        quiet_trainer(tmp_path, **more).train(str(checkpoint))

    trainer = quiet_trainer(tmp_path, CheckpointConfig(allow_partial_resume=True), **more)
    trainer.train(str(checkpoint))
    assert trainer.state.global_step == 4
    assert "its moments start from zero" in capsys.readouterr().out


def test_moments_without_names_go_by_order_which_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more: dict[str, Any] = {"max_steps": 4, "save_steps": 2, "noisy": False}
    plain = quiet_trainer(tmp_path / "plain", cls=Trainer, **more)
    plain.train()
    quiet_trainer(tmp_path / "plain", **more).train(str(tmp_path / "plain" / "checkpoint-2"))
    said = "note:        optimizer.pt names no parameters; its moments are matched by their order"
    assert said in capsys.readouterr().out


def test_moments_without_names_of_another_class_are_refused(tmp_path: Path) -> None:
    from tests.tiny_llama import tiny_llama

    def trainer(model: Any, cls: Any) -> Any:
        return quiet_trainer(tmp_path, cls=cls, model=model, noisy=False, max_steps=2, save_steps=2)

    class LlamaForCausalLMTurned(type(tiny_llama())):  # type: ignore[misc]
        """As the other; its parameters may be in another order."""

    trainer(tiny_llama(), Trainer).train()
    turned = tiny_llama()
    turned.__class__ = LlamaForCausalLMTurned
    from llamarec.checkpoints import ResumableTrainer

    with pytest.raises(CheckpointError, match=r"(?s)does not name the parameters.*LlamaForCausalLMTurned"):
        trainer(turned, ResumableTrainer).train(str(tmp_path / "checkpoint-2"))


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adafactor", "adagrad", "rmsprop", "sgd", "adamw_torch_fused", "ademamix_8bit"])
def test_optimizers_resume_exactly(optim: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"max_steps": 6, "save_steps": 2, "optim": optim}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(tmp_path / "whole", **more).train()
        quiet_trainer(tmp_path / "run", **{**more, "max_steps": 2}).train()
        quiet_trainer(tmp_path / "run", **more).train("latest")
    ends = [state_of(tmp_path / name / "checkpoint-6") for name in ("run", "whole")]
    assert ends[0]["optimizer"] == ends[1]["optimizer"]
    assert ends[0]["adapter"] == ends[1]["adapter"]
