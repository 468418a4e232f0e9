"""Random generators wherever a program can hold them: each training is killed, resumed, and compared with a whole one.

A job is an owner (who draws: the data set, the model, a callback, ...), a holder (where its generator lies) and a kind
of generator; data also have a number of workers.
"""

from __future__ import annotations

import functools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.utils.data import Dataset

from llamarec.checkpoints import CheckpointConfig, ResumableTrainer
from llamarec.errors import LlamarecError
from tests.resume import forks
from tests.resume.generator_holders import HOLDERS, KINDS, Draw
from tests.resume.jobs import warm_up as warm_up
from tests.resume.runs import At
from tests.resume.training import make_model, make_trainer, outcome
from tests.resume.worker_data import VOCABULARY, Seen, Words

# ---- Owners ----


class _Drawing(Dataset[dict[str, torch.Tensor]]):
    """Replaces a token of each sample, or of one in `every`."""

    def __init__(self, draw: Draw, every: int = 1, size: int = 22) -> None:
        self.words, self.draw, self.every = Words(size, noisy=False), draw, every

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = self.words[index]
        if index % self.every == 0:
            sample["input_ids"][2] = int(self.draw() * VOCABULARY)
        return sample


class _Collating:
    def __init__(self, draw: Draw) -> None:
        self.draw, self.seen = draw, Seen(noisy=False)

    def __call__(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = self.seen(samples)
        batch["input_ids"][0, 2] = int(self.draw() * VOCABULARY)
        return batch


class _Noise(nn.Module):
    def __init__(self, inner: nn.Module, draw: Draw) -> None:
        super().__init__()
        self.inner, self.draw = inner, draw

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs) * (0.5 + self.draw())


class _Optimizer(torch.optim.AdamW):
    def __init__(self, parameters: Any, lr: float, draw: Draw) -> None:
        super().__init__(parameters, lr=lr)
        self.draw = draw

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(0.5 + self.draw())
        return super().step(closure)


class _Mixing(ResumableTrainer):
    draw: Draw

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return super().training_step(model, inputs, num_items_in_batch) * 1.0 + self._added(model)

    def _added(self, model: Any) -> float:
        scale = 0.5 + self.draw()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        return scale


def _in_the_data(draw: Draw) -> dict[str, Any]:
    return {"train_dataset": _Drawing(draw)}


def _rarely_in_the_data(draw: Draw) -> dict[str, Any]:
    return {"train_dataset": _Drawing(draw, every=4)}


def _in_the_collator(draw: Draw) -> dict[str, Any]:
    return {"data_collator": _Collating(draw)}


def _in_evaluation_data(draw: Draw) -> dict[str, Any]:
    return {"eval_dataset": _Drawing(draw, size=8)}


def _in_the_model(draw: Draw) -> dict[str, Any]:
    model = make_model()
    layer = model.base_model.model.model.layers[0]
    layer.mlp = _Noise(layer.mlp, draw)
    return {"model": model}


def _in_a_hook(draw: Draw) -> dict[str, Any]:
    model = make_model()
    weight = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    weight.register_hook(lambda gradient: gradient * (0.5 + draw()))
    return {"model": model}


def _in_the_loss(draw: Draw) -> dict[str, Any]:
    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten()) * (0.5 + draw())

    return {"compute_loss_func": loss}


def _in_the_optimizer(draw: Draw) -> dict[str, Any]:
    return {"optimizer_cls_and_kwargs": (_Optimizer, {"lr": 5e-3, "draw": draw})}


def _in_the_trainer(draw: Draw) -> dict[str, Any]:
    return {"cls": _Mixing, "set": {"draw": draw}}


def _in_a_callback(draw: Draw) -> dict[str, Any]:
    def scale(model: Any) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5 + draw())

    callback = At(10**6)
    callback.on_pre_optimizer_step = lambda *_, **kwargs: scale(kwargs["model"])  # type: ignore[method-assign]
    return {"callbacks": (callback,)}


def _in_preprocess_logits(draw: Draw) -> dict[str, Any]:
    return {
        "preprocess_logits_for_metrics": lambda logits, _: logits.float().mean((1, 2)) * draw(),
        "compute_metrics": lambda found: {"mean": float(found.predictions.mean())},
    }


def _in_compute_metrics(draw: Draw) -> dict[str, Any]:
    return {"compute_metrics": lambda _: {"drawn": draw()}}


OWNERS: Final[dict[str, Callable[[Draw], dict[str, Any]]]] = {
    "data set": _in_the_data,
    "data set, now and then": _rarely_in_the_data,
    "collator": _in_the_collator,
    "evaluation data": _in_evaluation_data,
    "model": _in_the_model,
    "hook of a weight": _in_a_hook,
    "loss": _in_the_loss,
    "optimizer": _in_the_optimizer,
    "Trainer": _in_the_trainer,
    "callback": _in_a_callback,
    "preprocess_logits_for_metrics": _in_preprocess_logits,
    "compute_metrics": _in_compute_metrics,
}
_DATA: Final = ("data set", "data set, now and then", "collator", "evaluation data")


# ---- Jobs ----


@dataclass(frozen=True)
class Job:
    """One training; its name says what it is."""

    owner: str
    holder: str
    kind: str
    workers: int = 0

    @property
    def name(self) -> str:
        """For a table."""
        workers = f", {self.workers} workers" if self.workers else ""
        return f"{self.owner}: {self.kind}, {self.holder}{workers}"


def all_jobs() -> list[Job]:
    """Every owner with every kind as an attribute, and with every holder of a numpy Generator."""
    kinds = [Job(owner, "attribute", kind) for owner in OWNERS for kind in KINDS]
    holders = [Job(owner, holder, "numpy Generator") for owner in OWNERS for holder in HOLDERS if holder != "attribute"]
    return [
        job
        for one in (*kinds, *holders)
        for job in (one, *([Job(one.owner, one.holder, one.kind, 2)] if one.owner in _DATA else []))
    ]


def generator_jobs() -> Iterator[tuple[str, Callable[[], str]]]:
    """Names, and functions that return "equal", "refused: ..." or "different: ..."."""
    for job in all_jobs():
        yield job.name, functools.partial(verdict, **vars(job))


def verdict(owner: str, holder: str, kind: str, workers: int = 0) -> str:
    """Trains as a whole; trains, is killed after step 4, and resumes: what came of it."""
    job = {"owner": owner, "holder": holder, "kind": kind, "workers": workers}
    with tempfile.TemporaryDirectory(prefix="generators-") as name:
        folder = Path(name)
        whole = forks.run(folder / "1", train, folder=str(folder / "whole"), **job)
        if whole.result is None:
            return f"different: {whole.log[-2000:]}"
        if "refused" in whole.result:
            # What draws in the optimizer's step is known after the first one.
            early = whole.result["step"] <= 1
            return f"refused: {whole.result['refused']}" if early else f"different: refused late: {whole.result}"

        killed = forks.run(folder / "2", train, folder=str(folder / "run"), kill_after=4, **job)
        if not killed.was_killed:
            return f"different: not killed: {killed.log[-2000:]}"

        resumed = forks.run(folder / "3", train, folder=str(folder / "run"), **job)
        if resumed.result is None or "refused" in resumed.result:
            return f"different: not resumed: {resumed.result or resumed.log[-2000:]}"

    unequal = [key for key, value in whole.result.items() if resumed.result[key] != value]
    return f"different: {', '.join(unequal)}" if unequal else "equal"


def train(
    folder: str, owner: str, holder: str, kind: str, workers: int = 0, kill_after: int | None = None
) -> dict[str, Any]:
    """One process of a job; its outcome, or the refusal."""
    torch.set_num_threads(1)
    changes = OWNERS[owner](HOLDERS[holder](KINDS[kind]()))
    trainer = _trainer(Path(folder), workers, **changes)
    if kill_after is not None:
        trainer.add_callback(At(kill_after, action=lambda: os.kill(os.getpid(), signal.SIGKILL)))
    try:
        trainer.train("latest")
    except LlamarecError as error:
        return {"refused": error.problem, "step": trainer.state.global_step}

    return outcome(Path(folder)) | {"checkpoints": []}


def _trainer(folder: Path, workers: int, **changes: Any) -> Any:
    attributes = changes.pop("set", {})
    given = {name: changes.pop(name) for name in list(changes) if name not in ("cls", "model", "callbacks")}

    trainer = make_trainer(
        folder,
        CheckpointConfig(background_saves=False),
        max_steps=7,
        noisy=False,
        dataloader_num_workers=workers,
        **changes,
    )
    for name, value in {**given, **attributes}.items():
        setattr(trainer, name, value)
    return trainer
