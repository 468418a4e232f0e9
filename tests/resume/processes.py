"""Several processes on one CPU, as torchrun makes them, without starting Python for each: forks of a clean server."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ports import free_port

_TIMEOUT_SECONDS = 300


def run_in_processes(num_processes: int, target: Callable[..., Any], *args: Any) -> list[Any]:
    """Calls `target(*args)` in so many processes of one gloo group; returns what each returned.

    Raises:
        AssertionError: one of them failed; holds its traceback.
    """
    context: Any = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
    if os.name != "nt":
        context.set_forkserver_preload(["tests.resume.training"])
    port = free_port()
    results = context.Queue()
    workers = [
        context.Process(target=_work, args=(rank, num_processes, port, results, target, args), daemon=True)
        for rank in range(num_processes)
    ]
    for worker in workers:
        worker.start()
    try:
        found = dict(_next(results, workers) for _ in workers)
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()
    failures = [value for value in found.values() if isinstance(value, _Failure)]
    assert not failures, failures[0].text
    return [found[rank] for rank in range(num_processes)]


def _next(results: Any, workers: list[Any]) -> Any:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=1)
        assert not any(worker.exitcode for worker in workers), [worker.exitcode for worker in workers]
    raise AssertionError(f"no answer in {_TIMEOUT_SECONDS} s")


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _work(rank: int, num_processes: int, port: int, results: Any, target: Callable[..., Any], args: Any) -> None:
    import torch

    torch.set_num_threads(1)
    if num_processes > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(num_processes),
            "LOCAL_WORLD_SIZE": str(num_processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        results.put((rank, target(*args)))
    except BaseException:
        results.put((rank, _Failure(traceback.format_exc())))
    results.close()
    results.join_thread()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def train_there(
    folder: Path, resume: Any, stop_after: int | None, changes: dict[str, Any], fits: int = 1000
) -> dict[str, Any]:
    """Trains `quiet_trainer`; what a test wants to know of it, as plain values.

    Args:
        folder: Of the run; samples are logged beside it, one file a process.
        resume: As for `train`.
        stop_after: A signal comes after this step, to the last process only.
        changes: Arguments of `quiet_trainer`.
        fits: More samples at once are out of memory, in the first process only.
    """
    from llamarec.checkpoints.trainer.signals import Interrupted
    from tests.resume.runs import At, Watch, quiet_trainer, rates, samples_in

    rank = int(os.environ.get("RANK", "0"))
    log = folder.parent / f"seen-{folder.name}-{os.getpid()}"
    watch = Watch()
    if "RANK" in os.environ:
        changes = {**changes, "ddp_backend": "gloo"}
    trainer = quiet_trainer(folder, seen=log, callbacks=(watch,), **changes)
    if rank == 0:
        limit_memory(trainer.model, fits)
    if stop_after is not None and rank == trainer.args.world_size - 1:
        trainer.add_callback(At(stop_after))
    code: Any = 0
    try:
        trainer.train(resume)
    except Interrupted as stop:
        code = stop.code
    return {
        "code": code,
        "seen": samples_in(log),
        "step": trainer.state.global_step,
        "world_size": trainer.args.world_size,
        "micro_batch": trainer._resumable.training.run.progress.micro_batch,
        "tokens": trainer.state.num_input_tokens_seen,
        "rates": rates(trainer),
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "gradients": [gradient.tolist() for gradient in watch.gradients],
        "weights": watch.weights[-1].tolist() if watch.weights else [],
    }


def error_there(folder: Path) -> dict[str, Any]:
    """The error with which a training in a folder is refused: its class, and what it says."""
    from llamarec.errors import LlamarecError
    from tests.resume.runs import quiet_trainer

    trainer = quiet_trainer(folder, ddp_backend="gloo")
    try:
        trainer.train()
    except LlamarecError as error:
        return {"kind": type(error).__name__, "problem": error.problem, "hint": error.hint, "text": str(error)}

    return {}


def limit_memory(model: Any, fits: int) -> None:
    """Makes a model fail with more samples at once."""
    import torch

    def before(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        if len(inputs["input_ids"]) > fits:
            raise torch.OutOfMemoryError(f"CUDA out of memory with {len(inputs['input_ids'])} samples")

    model.register_forward_pre_hook(before, with_kwargs=True)
