"""What one of two processes does otherwise than the first, each in a training of its own.

The functions run in every process of `run_in_processes`; one start of Python serves a whole table.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

SMALL: dict[str, Any] = {
    "num_samples": 16,
    "noisy": False,
    "ddp_backend": "gloo",
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 1,
    "num_train_epochs": 2.0,
    "save_steps": 100,
}
"""8 steps of 4 samples: each process has two micro-batches in a step."""


def is_last() -> bool:
    """Whether this process is the one that differs."""
    return os.environ["RANK"] != "0"


def ended(train: Callable[[], Any]) -> dict[str, Any]:
    """How a training ended: the error's class and text, and its exit code."""
    try:
        train()
    except BaseException as error:
        return {"kind": type(error).__name__, "text": str(error), "code": getattr(error, "code", None)}

    return {"kind": "", "text": "", "code": 0}


def weights_of(trainer: Any) -> list[float]:
    """All trained values."""
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters() if p.requires_grad]).tolist()


# ---- Before the first step ----

# Objects where they are not None.
_NOT_PLAIN = ("parallelism_config",)


def fields_varied(args: TrainingArguments) -> dict[str, object]:
    """By name, each argument of the Trainer that is a plain value, with another one than it has."""
    from llamarec.checkpoints.resume.compatibility import UNTRACKED

    found: dict[str, object] = {}
    for field in dataclasses.fields(TrainingArguments):
        value = vars(args).get(field.name)
        if field.name in UNTRACKED or field.name in _NOT_PLAIN or not field.init:
            continue
        if isinstance(value, bool):
            found[field.name] = not value
        elif isinstance(value, int | float):
            found[field.name] = value + 1
        elif value is None or type(value) is str:
            found[field.name] = "another"
    return found


def vary_arguments(folder: Path) -> dict[str, dict[str, Any]]:
    """By argument, how the start of a training ends that has another value in the last process."""
    from llamarec.checkpoints.trainer.distributed.same_settings import check_same_settings
    from tests.resume.runs import quiet_trainer

    trainer = quiet_trainer(folder, **SMALL)
    program = trainer._resumable.program

    def start() -> None:
        check_same_settings(trainer, program, fingerprints={}, hyperparameters=program.hyperparameters(), wanted=None)

    found = {}
    for name, value in fields_varied(trainer.args).items():
        before = vars(trainer.args).get(name)
        if is_last():
            vars(trainer.args)[name] = value
        found[name] = ended(start)
        vars(trainer.args)[name] = before
    return {**found, "": ended(start)}


def vary_programs(folder: Path) -> dict[str, dict[str, Any]]:
    """By what differs in the last process, how a training ends."""
    from llamarec.checkpoints.config import CheckpointConfig
    from tests.resume.runs import quiet_trainer
    from tests.resume.training import make_model
    from tests.resume.worker_data import Words

    def other_base() -> Any:
        model = make_model(dropout=0.0)
        with torch.no_grad():
            model.get_base_model().lm_head.weight.add_(1.0)
        return model

    def frozen() -> Any:
        model = make_model(dropout=0.0)
        next(p for p in model.parameters() if p.requires_grad).requires_grad_(False)
        return model

    class Others(Words):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__((index + 1) % len(self))

    rows: dict[str, dict[str, Any]] = {
        "seed": {"seed": 43},
        "number of training samples": {"num_samples": 15},
        "data": {"train_dataset": Others(16, noisy=False)},
        "lora": {"model": lambda: make_model(dropout=0.0, alpha=16)},
        "base_model": {"model": other_base},
        "trained tensors": {"model": frozen},
        "early_stopping_patience": {"patience": 7},
        "checkpoint_config.save_seconds": {"config": CheckpointConfig(save_seconds=60)},
        "run's folder": {"folder": folder.with_name("another")},
    }
    found = {}
    for name, changes in rows.items():
        own = dict(changes) if is_last() else {}
        if "model" in own:
            own["model"] = own["model"]()
        data = own.pop("train_dataset", None)
        trainer = quiet_trainer(own.pop("folder", folder), own.pop("config", None), **{**SMALL, **own})
        if data is not None:
            trainer.train_dataset = data
        found[name] = ended(trainer.train)

    trainer = quiet_trainer(folder, **SMALL)
    found["resume_from_checkpoint"] = ended(lambda: trainer.train(True if is_last() else None))
    return found


def vary_checkpoints(folders: list[Path], resume: Any) -> dict[str, Any]:
    """Two nodes with a folder each: a training in it, which is resumed."""
    from tests.resume.runs import quiet_trainer

    return ended(lambda: quiet_trainer(folders[int(os.environ["RANK"])], **SMALL).train(resume))


# ---- In a step ----


class InLast(TrainerCallback):
    """Does something in the last process only, at an event of a step.

    Args:
        event: Name of a callback's method.
        step: As the Trainer counts at the event.
        action: Called with the Trainer's control and the event's further arguments.
    """

    def __init__(self, event: str, step: int, action: Callable[[Any, dict[str, Any]], None]) -> None:
        self._step, self._action = step, action
        self._is_done = False
        setattr(self, event, self._act)

    def _act(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if is_last() and state.global_step >= self._step and not self._is_done:
            self._is_done = True
            self._action(control, rest)


EVENTS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
    "on_log",
    "on_prediction_step",
    "on_evaluate",
    "on_save",
    "on_epoch_end",
)
FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")
EVALUATED: dict[str, Any] = {**SMALL, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}


def vary_flags(folder: Path, flag: str) -> dict[str, dict[str, Any]]:
    """By event, how a training ends in which the last process's callback sets a flag there."""
    from tests.resume.runs import quiet_trainer

    def ask(control: Any, _: dict[str, Any]) -> None:
        setattr(control, flag, True)

    found = {}
    for event in EVENTS:
        callback = InLast(event, 3 if event != "on_train_begin" else 0, ask)
        trainer = quiet_trainer(folder / event, callbacks=(callback,), **EVALUATED)
        end = ended(trainer.train)
        state = trainer.state
        found[event] = {
            **end,
            "step": state.global_step,
            "epoch": state.epoch,
            "history": [(row["step"], row.get("loss"), row.get("eval_loss")) for row in state.log_history],
            "best": state.best_global_step,
            "weights": weights_of(trainer),
        }
    return found


def vary_failures(folder: Path) -> dict[str, dict[str, Any]]:
    """By event, how a training ends in which the last process's callback raises there, and how its resume does."""
    from tests.resume.runs import quiet_trainer

    def fail(*_: Any) -> None:
        raise ValueError("only here")

    whole = quiet_trainer(folder / "whole", **EVALUATED)
    whole.train()
    found: dict[str, dict[str, Any]] = {"": {"weights": weights_of(whole)}}
    for event in EVENTS[1:]:
        trainer = quiet_trainer(folder / event, callbacks=(InLast(event, 3, fail),), **EVALUATED)
        end = ended(trainer.train)
        again = quiet_trainer(folder / event, **EVALUATED)
        resumed = ended(partial(again.train, True))
        run = again._resumable.training.run.resume
        found[event] = {
            **end,
            "resumed": resumed["text"],
            "from": run.step if run is not None else 0,
            "weights": weights_of(again),
        }
    return found


def vary_state(folder: Path) -> dict[str, dict[str, Any]]:
    """By what a callback of the last process changes in the middle of training, how it ends."""
    from tests.resume.runs import quiet_trainer
    from tests.resume.worker_data import Words

    def faster(_: Any, rest: dict[str, Any]) -> None:
        rest["optimizer"].param_groups[0]["lr"] = 1.0

    def freeze(_: Any, rest: dict[str, Any]) -> None:
        next(p for p in rest["model"].parameters() if p.requires_grad).requires_grad_(False)

    def move(_: Any, rest: dict[str, Any]) -> None:
        with torch.no_grad():
            next(p for p in rest["model"].parameters() if p.requires_grad).add_(1.0)

    found = {}
    for name, action in {"learning rates": faster, "trained tensors": freeze, "weights": move}.items():
        trainer = quiet_trainer(folder / name, callbacks=(InLast("on_step_end", 3, action),), **EVALUATED)
        found[name] = ended(trainer.train)

    trainer = quiet_trainer(folder / "evaluated", **EVALUATED)
    if is_last():
        trainer.eval_dataset = Words(5, noisy=False)
    found["samples to evaluate"] = ended(trainer.train)

    trainer = quiet_trainer(folder / "alone", **EVALUATED)
    trainer.add_callback(InLast("on_step_end", 3, lambda *_: trainer.evaluate()))
    found["operations"] = ended(trainer.train)
    return found


def vary_metric(folder: Path) -> dict[str, Any]:
    """A training whose metric falls in one process and rises in the other; the best model is loaded at its end."""
    from tests.resume.runs import quiet_trainer

    options: dict[str, Any] = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "own",
        "greater_is_better": True,
    }
    trainer = quiet_trainer(folder, **{**EVALUATED, **options})
    sign = -1 if is_last() else 1
    trainer.compute_metrics = lambda _: {"own": sign * trainer.state.global_step}
    end = ended(trainer.train)
    state = trainer.state
    return {**end, "best": (state.best_global_step, state.best_metric), "weights": weights_of(trainer)}


def evaluate_there(folder: Path, num_samples: int) -> float:
    """Mean loss of samples that do not divide by the processes."""
    from tests.resume.runs import quiet_trainer
    from tests.resume.worker_data import Words

    options: dict[str, Any] = {"ddp_backend": "gloo"} if "RANK" in os.environ else {}
    trainer = quiet_trainer(folder, noisy=False, per_device_eval_batch_size=2, **options)
    return float(trainer.evaluate(Words(num_samples, noisy=False))["eval_loss"])


def dropout_there(folder: Path) -> list[float]:
    """What this process draws from torch's generator in the steps."""
    from tests.resume.runs import quiet_trainer

    drawn: list[float] = []

    class Draws(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            drawn.append(float(torch.rand(1)))

    quiet_trainer(folder, callbacks=(Draws(),), **SMALL).train()
    return drawn


def tiny_there(folders: list[Path]) -> dict[str, Any]:
    """The model `tiny` on a node of its own: its files, and a few of its weights."""
    from transformers import AutoModelForCausalLM

    from llamarec.ranker.model.tiny import tiny_model

    args = TrainingArguments(output_dir=str(folders[0]), use_cpu=True, ddp_backend="gloo")
    folder = tiny_model(folders[args.process_index], ["One", "Two"])
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {"files": sorted(path.name for path in folder.iterdir()), "weights": model.lm_head.weight[0].tolist()}


def late_there(folder: Path) -> dict[str, Any]:
    """A process that waits two seconds for one that does not come in time."""
    from tests.resume.runs import quiet_trainer

    trainer = quiet_trainer(folder, **{**SMALL, "ddp_timeout": 2}, callbacks=(InLast("on_step_begin", 2, _sleep),))
    return ended(trainer.train)


def _sleep(*_: Any) -> None:
    time.sleep(8)


def signal_there(folder: Path, action: str) -> dict[str, Any]:
    """A signal to the last process in the middle of a step, or of an evaluation; then the resume."""
    from tests.resume.runs import kill_self, quiet_trainer

    options = {**EVALUATED, "gradient_accumulation_steps": 4, "per_device_eval_batch_size": 1}
    whole = quiet_trainer(folder.with_name("whole"), **options)
    whole.train()
    steps: list[int] = []

    class Counts(TrainerCallback):
        def _count(self, *_: Any, **__: Any) -> None:
            steps.append(1)

    setattr(Counts, action, Counts._count)
    stop = InLast(action, 2, lambda *_: kill_self()())
    trainer = quiet_trainer(folder, callbacks=(Counts(), stop), **options)
    end = ended(trainer.train)
    counted = len(steps)
    again = quiet_trainer(folder, **options)
    again.train(True)
    return {**end, "counted": counted, "whole": weights_of(whole), "weights": weights_of(again)}
