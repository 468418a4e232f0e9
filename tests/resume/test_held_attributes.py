"""What modules, losses, metrics, helpers and callbacks keep in attributes goes on after a resume, bit for bit."""

from __future__ import annotations

import datetime
import enum
import functools
import signal
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import peft
import pytest
import torch
from torch import nn
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, TrainerCallback

from llamarec.checkpoints import CheckpointConfig, Interrupted, ResumableTrainer
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.storage.layout import STATEFUL
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.signals import StopRequests
from llamarec.checkpoints.trainer.state import attribute_marks
from llamarec.checkpoints.trainer.state.stateful import HELD
from llamarec.errors import CheckpointError
from tests.resume import forks, peft_methods
from tests.resume.processes import limit_memory
from tests.resume.runs import At, kill_self, quiet_trainer, stopped
from tests.resume.training import make_model, make_trainer, state_of

STEPS: Final = 8
SHORT: Final[dict[str, Any]] = {"noisy": False, "num_samples": 24, "max_steps": STEPS, "save_steps": 100}
Make = Callable[..., Any]


# ---- Who keeps what ----


class Dropout(nn.Module):
    """Its rate goes by how often it was called."""

    def __init__(self, below: nn.Module) -> None:
        super().__init__()
        self.below, self.calls = below, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See there."""
        self.calls += self.training
        return nn.functional.dropout(self.below(*args, **kwargs), min(0.05 * self.calls, 0.5), self.training)


class Loss:
    """Scales by a running mean of its own."""

    def __init__(self) -> None:
        self.mean = 1.0

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        loss = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
        self.mean = 0.9 * self.mean + 0.1 * float(loss.detach())
        return loss / self.mean


class Phase(enum.Enum):
    """Of a curriculum."""

    EASY = 1
    HARD = 2


@dataclass(frozen=True)
class Plan:
    """Replaced as a whole."""

    phase: Phase = Phase.EASY
    losses: tuple[float, ...] = ()


class Recent:
    """A helper with a queue, a counter, slots and a plan."""

    __slots__ = ("kinds", "losses", "plan")

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=3)
        self.kinds: Counter[str] = Counter()
        self.plan = Plan()


class Helped(ResumableTrainer):
    """Its loss goes by what a helper remembers, and by one that it makes late."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recent, self.late = Recent(), None

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """See there."""
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        self.late = self.late or {"mean": Loss(), "seen": 0}  # type: ignore[assignment]
        late: Any = self.late
        late["seen"] += 1
        late["mean"].mean *= 0.99

        there = self.recent
        there.losses.append(float(loss.detach()))
        there.kinds["odd" if late["seen"] % 2 else "even"] += 1
        phase = Phase.HARD if late["seen"] > 5 else Phase.EASY
        there.plan = replace(there.plan, phase=phase, losses=(*there.plan.losses, 1.0))
        return loss * (
            sum(there.losses) + there.kinds["odd"] + phase.value + len(there.plan.losses) + late["mean"].mean
        )


class Schedules(TrainerCallback):
    """Counts by itself, lowers the rate, and opens a layer after some steps."""

    def __init__(self) -> None:
        self.count = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """See there."""
        self.count += 1
        for parameter in objects["model"].parameters():
            if parameter.grad is not None:
                parameter.grad *= 0.0 if self.count % 3 == 0 else self.count


class Cached(nn.Module):
    """Keeps what belongs to one step, small and large, in a graph and out of it."""

    def __init__(self, below: nn.Module) -> None:
        super().__init__()
        self.below = below
        self.hidden: Any = None
        self.large: Any = None
        self.mask: dict[int, torch.Tensor] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See there."""
        found = self.below(*args, **kwargs)
        self.hidden, self.large = found, found.sum() * torch.ones(2**22)
        length = found.shape[1]
        self.mask[length] = self.mask.get(length, torch.ones(length, length).tril())
        return found


def _wrapped(kind: type[nn.Module]) -> Any:
    model = make_model(dropout=0.0)
    layer = model.base_model.model.model.layers[0]
    layer.mlp = kind(layer.mlp)
    return model


def _counting_closure() -> Any:
    count = 0

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        nonlocal count
        count += 1
        return nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten()) / count

    return loss


def _with_loss(make: Callable[[], Any]) -> Make:
    def trainer(folder: Path, **changes: Any) -> Any:
        made = quiet_trainer(folder, **{**SHORT, **changes})
        made.compute_loss_func = make()
        return made

    return trainer


KEEPERS: Final[dict[str, Make]] = {
    "module": lambda folder, **changes: quiet_trainer(folder, model=_wrapped(Dropout), **{**SHORT, **changes}),
    "loss": _with_loss(Loss),
    "closure": _with_loss(_counting_closure),
    "partial": _with_loss(lambda: functools.partial(Loss().__call__)),
    "helper": lambda folder, **changes: quiet_trainer(folder, cls=Helped, **{**SHORT, **changes}),
    "callback": lambda folder, **changes: quiet_trainer(folder, callbacks=(Schedules(),), **{**SHORT, **changes}),
    "caches": lambda folder, **changes: quiet_trainer(folder, model=_wrapped(Cached), **{**SHORT, **changes}),
}


def _end(folder: Path) -> dict[str, Any]:
    return state_of(folder / f"checkpoint-{STEPS}")


@pytest.mark.parametrize("event", ["on_step_end", "on_substep_end"])
@pytest.mark.parametrize("name", KEEPERS)
def test_resumed_is_uninterrupted(name: str, event: str, tmp_path: Path) -> None:
    make = KEEPERS[name]
    make(tmp_path / "whole").train()
    stopped(make(tmp_path / "run"), 3, event=event)
    make(tmp_path / "run").train("latest")
    assert _end(tmp_path / "run") == _end(tmp_path / "whole")


@pytest.mark.parametrize("name", ["module", "loss", "helper", "callback"])
def test_an_exception_takes_them_back(name: str, tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("in a callback")

    make = KEEPERS[name]
    make(tmp_path / "whole").train()
    trainer = make(tmp_path / "run")
    trainer.add_callback(At(4, "on_optimizer_step", fail))
    with pytest.raises(ValueError, match="in a callback"):
        trainer.train()
    make(tmp_path / "run").train("latest")
    assert _end(tmp_path / "run") == _end(tmp_path / "whole")


def _train(*, folder: str, name: str, kill: int, resume: bool) -> None:
    torch.set_num_threads(1)
    trainer = KEEPERS[name](Path(folder), config=CheckpointConfig(background_saves=False), save_steps=2)
    if kill:
        trainer.add_callback(At(kill, action=kill_self("SIGKILL")))
    trainer.train("latest" if resume else None)


@pytest.mark.skipif(not forks.CAN_FORK, reason=forks.WHY_NOT)
@pytest.mark.parametrize("name", ["module", "loss", "helper", "callback"])
def test_killed_hard(name: str, tmp_path: Path) -> None:
    whole, run = str(tmp_path / "whole"), str(tmp_path / "run")
    assert forks.run(tmp_path / "0", _train, folder=whole, name=name, kill=0, resume=False).status == 0
    assert forks.run(tmp_path / "1", _train, folder=run, name=name, kill=5, resume=False).status == -signal.SIGKILL
    ending = forks.run(tmp_path / "2", _train, folder=run, name=name, kill=0, resume=True)
    assert ending.status == 0, ending.log
    assert _end(tmp_path / "run") == _end(tmp_path / "whole")


def test_a_micro_batch_that_is_repeated_counts_once(tmp_path: Path) -> None:
    loss = Loss()
    trainer = quiet_trainer(tmp_path, **SHORT)
    trainer.compute_loss_func = loss
    seen: list[float] = []

    def fits(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        if len(inputs["input_ids"]) > 1:
            loss.mean = 1e9
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(loss.mean)

    trainer.model.register_forward_pre_hook(fits, with_kwargs=True)
    trainer.train()
    assert max(seen) < 100


def test_a_counter_of_a_repeated_micro_batch(tmp_path: Path) -> None:
    trainer = KEEPERS["module"](tmp_path)
    limit_memory(trainer.model.base_model.model, 1)
    trainer.train()
    assert trainer.model.base_model.model.model.layers[0].mlp.calls == 4 * STEPS


def test_only_what_training_changes_is_saved(tmp_path: Path) -> None:
    stopped(KEEPERS["loss"](tmp_path), 2)
    saved = load_pickled(tmp_path / "checkpoint-2" / STATEFUL)[HELD]["values"]
    assert saved.keys() == {"compute_loss_func"}
    assert saved["compute_loss_func"].keys() == {"mean"}


def test_what_belongs_to_one_step_does_not_swell_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(KEEPERS["caches"](tmp_path), 2)
    assert (tmp_path / "checkpoint-2" / STATEFUL).stat().st_size < 2**20
    said = capsys.readouterr()
    assert "mlp.large is large and belongs to the graph of one step: no checkpoint holds it" in said.out + said.err


class Means(Loss):
    """In a tensor, which is replaced or changed in place."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.values, self._in_place = torch.ones(8), in_place

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().__call__(*args, **kwargs)
        if self._in_place:
            self.values += 1
        else:
            self.values = self.values + 1
        return loss / self.values.mean()


@pytest.mark.parametrize("in_place", [True, False])
def test_large_tensors(in_place: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribute_marks, "_LARGE_BYTES", 4)
    make = _with_loss(lambda: Means(in_place=in_place))
    make(tmp_path / "a").train()
    stopped(make(tmp_path / "b"), 3, event="on_substep_end")
    make(tmp_path / "b").train("latest")
    assert _end(tmp_path / "a") == _end(tmp_path / "b")


def test_a_large_tensor_that_changes_in_place_in_a_first_step_that_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribute_marks, "_LARGE_BYTES", 4)
    trainer = _with_loss(lambda: Means(in_place=True))(tmp_path, save_steps=2)
    trainer.add_callback(At(0, "on_substep_end"))
    with pytest.raises(CheckpointError, match=r"compute_loss_func\.values was changed in place for the first time"):
        trainer.train()


class Needs(nn.Module):
    """Keeps a count in an object that a test may leave out."""

    def __init__(self, below: nn.Module, *, counts: bool = True) -> None:
        super().__init__()
        self.below = below
        self.helper = Loss() if counts else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See there."""
        if self.helper is not None:
            self.helper.mean += 1
        return self.below(*args, **kwargs)


def test_an_object_that_is_not_there_is_refused_and_may_be_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(quiet_trainer(tmp_path, model=_wrapped(Needs), **SHORT), 2)
    without: Any = functools.partial(Needs, counts=False)
    with pytest.raises(CheckpointError, match=r"(?s)mlp\.helper.*--allow_partial_resume"):
        quiet_trainer(tmp_path, model=_wrapped(without), **SHORT).train("latest")

    config = CheckpointConfig(allow_partial_resume=True)
    quiet_trainer(tmp_path, config, model=_wrapped(without), **SHORT).train(tmp_path / "checkpoint-2")
    assert "mlp.helper is in the checkpoint, and no object takes it" in capsys.readouterr().out


def test_a_callback_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(KEEPERS["callback"](tmp_path), 2)
    quiet_trainer(tmp_path, **SHORT).train("latest")
    assert "Schedules[0] is in checkpoint-2, and this program has no such callback" in capsys.readouterr().out


def test_views_of_weights_stay_views(tmp_path: Path) -> None:
    model = make_model(dropout=0.0)
    weight = model.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"].weight
    model.first_row = weight.detach()[0]
    trainer = quiet_trainer(tmp_path, model=model, **SHORT)
    stopped(trainer, 2)
    assert not (tmp_path / "checkpoint-2" / STATEFUL).exists()


def test_a_plain_trainer_resumes_the_folder(tmp_path: Path) -> None:
    stopped(KEEPERS["module"](tmp_path), 3)
    plain = quiet_trainer(tmp_path, cls=Trainer, model=_wrapped(Dropout), **SHORT)
    plain.train(str(tmp_path / "checkpoint-3"))
    assert plain.state.global_step == STEPS


class Hooked(nn.Module):
    """Puts a hook on a layer when it is first called, and a flag that says so."""

    def __init__(self, below: nn.Module) -> None:
        super().__init__()
        self.below, self.installed, self.calls = below, False, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See there."""
        if not self.installed:
            self.below.register_forward_hook(lambda _, __, found: found * (1 + 0.01 * self.calls))
            self.installed = True
        self.calls += 1
        return self.below(*args, **kwargs)


@pytest.mark.parametrize("event", ["on_step_end", "on_substep_end"])
def test_a_flag_is_not_restored_before_the_hooks_that_it_stands_for(event: str, tmp_path: Path) -> None:
    def make(folder: Path) -> Any:
        return quiet_trainer(folder, model=_wrapped(Hooked), **SHORT)

    make(tmp_path / "whole").train()
    stopped(make(tmp_path / "run"), 3, event=event)
    make(tmp_path / "run").train("latest")
    assert _end(tmp_path / "run") == _end(tmp_path / "whole")


# ---- Callbacks ----


class Late(TrainerCallback):
    """Makes its counter in a validation."""

    def __init__(self) -> None:
        self.counter: Any = None

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """See there."""
        self.counter = self.counter or Loss()
        self.counter.mean += 1


def _evaluated(folder: Path, *callbacks: Any, **changes: Any) -> Any:
    settings = {**SHORT, "eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": False, **changes}
    trainer = make_trainer(folder, callbacks=callbacks, **settings)
    trainer.remove_callback(EarlyStoppingCallback)
    return trainer


def test_what_a_validation_makes_is_waited_for_and_carried_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(_evaluated(tmp_path, Late()), 4)
    stopped(_evaluated(tmp_path, Late()), 5, "latest")
    saved = load_pickled(tmp_path / "checkpoint-5" / STATEFUL)[HELD]["values"]
    assert saved["Late[0].counter"] == {"mean": 2.0}

    late = Late()
    _evaluated(tmp_path, late).train("latest")
    assert late.counter.mean >= 2
    said = capsys.readouterr()
    assert "Late[0].counter was made after the resume" in said.out + said.err


def test_what_a_callback_never_makes_again_is_no_error(tmp_path: Path) -> None:
    stopped(_evaluated(tmp_path, Late()), 4)
    _evaluated(tmp_path, Late(), eval_strategy="no").train("latest")
    assert (tmp_path / f"checkpoint-{STEPS}").is_dir()


class Everyday(TrainerCallback):
    """Keeps what callbacks keep: clocks, logs, a file, a thread, the Trainer and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.thread = folder, None, None
        self.trainer: Any = None
        self.started = self.lap = time.time()
        self.times: list[float] = []
        self.logs: list[dict[str, Any]] = []
        self.counts: dict[tuple[int, str], int] = {}
        self.best: Any = None
        self.lock = threading.Lock()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See there."""
        if self.file is None:
            self.file = (self.folder / f"log-{time.time_ns()}.txt").open("w")  # type: ignore[assignment]
        self.thread = threading.Thread(target=print)  # type: ignore[assignment]
        self.lap = time.time()
        self.times.append(self.lap)
        self.logs.append({"step": state.global_step, "at": datetime.datetime.now(datetime.UTC)})
        self.counts[state.global_step, "step"] = 1
        self.best = Path(f"checkpoint-{state.global_step}")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """See there."""
        if self.file is not None:
            self.file.close()


def _everyday(folder: Path, **changes: Any) -> tuple[Any, Everyday]:
    own = Everyday(folder)
    trainer = _evaluated(folder, ProgressCallback(), own, metric_for_best_model="loss", **changes)
    trainer.add_callback(EarlyStoppingCallback(9))
    own.trainer = trainer
    return trainer, own


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_everyday_callbacks_are_not_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "whole").mkdir()
    stopped(_everyday(tmp_path / "run")[0], 5)
    trainer, own = _everyday(tmp_path / "run")
    lap = own.lap
    trainer.train("latest")
    whole, expected = _everyday(tmp_path / "whole")
    whole.train()
    assert _end(tmp_path / "run") == _end(tmp_path / "whole")
    assert [row["step"] for row in own.logs] == [row["step"] for row in expected.logs] == list(range(1, STEPS + 1))
    assert own.counts == expected.counts
    assert own.best == expected.best
    assert len(own.times) == STEPS
    assert own.lap > lap


class Collects(TrainerCallback):
    """Puts things that are no plain values where plain ones are, at the step that is given."""

    def __init__(self, thing: object) -> None:
        self.thing = thing
        self.list: list[object] = [1]
        self.deque: deque[object] = deque([1], maxlen=3)
        self.dict: dict[str, object] = {"first": torch.ones(2)}
        self.set: set[object] = {1}
        self.nested: dict[str, list[object]] = {"inner": []}
        self.one: object = 1

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See there."""
        thing = self.thing if state.global_step % 2 else state.global_step
        self.list.append(thing)
        self.deque.append(thing)
        self.dict["last"] = thing
        self.set.add(thing)
        self.nested["inner"].append(thing)
        self.one = thing


@pytest.mark.parametrize(
    "make",
    [lambda: ValueError("no"), threading.Lock, lambda: (number for number in range(3)), object, lambda: print],
    ids=["exception", "lock", "generator function", "object", "function"],
)
def test_what_is_not_plain_may_come_into_what_was(make: Callable[[], object], tmp_path: Path) -> None:
    stopped(_evaluated(tmp_path / "run", Collects(make())), 5)
    _evaluated(tmp_path / "run", Collects(make())).train("latest")
    _evaluated(tmp_path / "whole", Collects(make())).train()

    assert _end(tmp_path / "run") == _end(tmp_path / "whole")


def test_objects_of_this_project_are_left_to_it(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, **SHORT)
    trainer.requests, trainer.console = StopRequests(), Console()
    trainer.add_callback(At(1, "on_step_end", lambda: vars(trainer.requests).update(extra=3)))
    trainer.add_callback(At(1, "on_step_end", lambda: vars(trainer).update(console=Console(is_first_process=False))))
    trainer.add_callback(At(2))
    with pytest.raises(Interrupted):
        trainer.train()
    assert not (tmp_path / "checkpoint-2" / STATEFUL).exists()


def test_too_many_items_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = quiet_trainer(tmp_path, **SHORT)
    trainer.compute_loss_func = loss = Loss()
    loss.table = [[number] for number in range(30_000)]  # type: ignore[attr-defined]
    trainer.add_callback(At(1, "on_step_end", lambda: loss.table.append([0])))  # type: ignore[attr-defined]
    stopped(trainer, 3)
    said = capsys.readouterr()
    assert "compute_loss_func.table has too many items for a copy at each step" in said.out + said.err


@pytest.mark.parametrize("in_callback", [True, False])
def test_settings_of_modules_that_a_callback_moves(in_callback: bool, tmp_path: Path) -> None:
    class Warms(TrainerCallback):
        """Moves a rate of dropout, which keeps no count of its own."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            for module in objects["model"].modules():
                if isinstance(module, nn.Dropout) and state.global_step == 1:
                    module.p = 0.3

    def make(folder: Path) -> Any:
        model = make_model(dropout=0.1)
        return quiet_trainer(folder, model=model, callbacks=(Warms(),), **SHORT)

    make(tmp_path / "whole").train()
    stopped(make(tmp_path / "run"), 3, event="on_step_end" if in_callback else "on_substep_end")
    make(tmp_path / "run").train("latest")
    assert _end(tmp_path / "run") == _end(tmp_path / "whole")


# ---- AdaLoRA ----

_PHASES: Final[dict[str, Any]] = {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 2, "total_step": 12}


def _adalora(*, folder: str, kill: int, resume: bool) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    make = functools.partial(peft_methods.adapted, peft.AdaLoraConfig, **_PHASES)
    callbacks = [At(kill, action=kill_self("SIGKILL"))] if kill else []
    trained = peft_methods.train(
        make, Path(folder), *callbacks, resume="latest" if resume else None, max_steps=12, save_steps=1
    )
    torch.save(peft_methods.everything(trained.model), Path(folder) / "everything.pt")


@pytest.mark.slow
@pytest.mark.skipif(not forks.CAN_FORK, reason=forks.WHY_NOT)
def test_adalora_over_its_whole_schedule(tmp_path: Path) -> None:
    ending = forks.run(tmp_path / "0", _adalora, folder=str(tmp_path / "whole"), kill=0, resume=False)
    assert ending.status == 0, ending.log
    for kill in (1, 3, 6, 9, 10, 11):
        folder = tmp_path / f"run-{kill}"
        ending = forks.run(folder / "1", _adalora, folder=str(folder), kill=kill, resume=False)
        assert ending.status == -signal.SIGKILL, ending.log
        ending = forks.run(folder / "2", _adalora, folder=str(folder), kill=0, resume=True)
        assert ending.status == 0, ending.log

        whole, resumed = (load_pickled(one / "everything.pt") for one in (tmp_path / "whole", folder))
        assert peft_methods.differing(whole, resumed) == []
        assert state_of(folder / "checkpoint-12") == state_of(tmp_path / "whole/checkpoint-12")
