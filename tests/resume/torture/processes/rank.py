"""One process of a training of several: what a fork does, and what befalls it at a chosen moment."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.outcomes import OUTCOMES, code_of
from tests.resume.jobs import announced
from tests.resume.runs import At
from tests.resume.training import make_trainer, outcome

CHANGES: Final[dict[str, Any]] = {
    "num_samples": 24,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 1.0,
    "save_steps": 2,
    "eval_steps": 2,
    "ddp_backend": "gloo",
    "patience": 100,
}
"""6 steps of 4 samples, a save and an evaluation after every second one."""

COUNTED: Final = ("forward", "backward", "exchange", "gradients", "effect")
EVENTS: Final = ("on_step_begin", "on_optimizer_step", "on_step_end", "on_evaluate", "on_save", "on_epoch_end")
_SIGNALS: Final = {"kill": "SIGKILL", "stop": "SIGSTOP", "term": "SIGTERM", "usr1": "SIGUSR1", "term-all": "SIGTERM"}


class Moment:
    """Calls an action the n-th time that it is called itself, counted from 0; counts on.

    Args:
        number: None: never.
        action: What befalls the process.
    """

    def __init__(self, number: int | None, action: Callable[[], None]) -> None:
        self._number, self._action, self._lock = number, action, threading.Lock()
        self.count = 0

    def __call__(self, *_: Any, **__: Any) -> None:
        with self._lock:
            now, self.count = self.count, self.count + 1
        if now == self._number:
            self._action()


def train_rank(
    folder: str,
    *,
    rank: int,
    world_size: int,
    port: int,
    moment: str = "",
    number: int = 0,
    action: str = "",
    pids: str = "",
    codes: str = "",
    published: str = "",
    ddp_timeout: int = 120,
) -> dict[str, Any]:
    """Trains as one of several processes; resumes the newest checkpoint, if there is one.

    Args:
        folder: The run's.
        rank: Of this process.
        world_size: Number of processes.
        port: Where they meet.
        moment: One of `COUNTED` and `EVENTS`: when something befalls it; empty: nothing does.
        number: Of the moment, or of the step.
        action: A key of `_SIGNALS`.
        pids: A file with the numbers of all processes.
        codes: A folder for exit codes, as `llamarec launch` gives it.
        published: A file that gets a line for every checkpoint that is published.
        ddp_timeout: Seconds that one waits for another.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ |= {name: str(value) for name, value in places.items()}
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "torture",
        OUTCOMES: codes,
    }

    def act() -> None:
        everybody = action.endswith("-all")
        targets = map(int, Path(pids).read_text(encoding="ascii").split()) if everybody else [os.getpid()]
        for pid in targets:
            os.kill(pid, getattr(signal, _SIGNALS[action]))

    moments = {name: Moment(number if name == moment else None, act) for name in COUNTED}
    code, trainer = 0, None
    try:
        with announced(published), _collectives_watched(moments):
            durable.observer = moments["effect"]
            trainer = make_trainer(Path(folder), CheckpointConfig(), ddp_timeout=ddp_timeout, **CHANGES)
            _watch(trainer, moments)
            if moment in EVENTS:
                trainer.add_callback(At(number, moment, act))
            trainer.train("latest")
    except BaseException as error:
        code = code_of(error)
        text = f"{type(error).__name__}: {error}"
    else:
        text = ""
    finally:
        durable.observer = None
    if not code:
        dist.destroy_process_group()
    return {
        "code": code,
        "text": text,
        "outcome": outcome(Path(folder)) if rank == 0 and not code else None,
        "counts": {name: one.count for name, one in moments.items()},
    }


def _watch(trainer: Any, moments: dict[str, Moment]) -> None:
    trainer.model.base_model.model.model.layers[1].register_forward_pre_hook(moments["forward"])
    next(p for p in trainer.model.parameters() if p.requires_grad).register_hook(moments["backward"])


@contextlib.contextmanager
def _collectives_watched(moments: dict[str, Moment]) -> Any:
    """Within, a moment comes before each exchange, and before each sum over the processes."""
    module: Any = dist
    before = {"all_gather": module.all_gather, "all_reduce": module.all_reduce}

    def watched(name: str, moment: Moment) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            moment()
            return before[name](*arguments, **named)

        return call

    module.all_gather = watched("all_gather", moments["exchange"])
    module.all_reduce = watched("all_reduce", moments["gradients"])
    try:
        yield
    finally:
        module.all_gather, module.all_reduce = before["all_gather"], before["all_reduce"]
