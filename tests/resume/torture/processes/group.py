"""Forks as one training of several processes, looked after as torchrun does: where one ends, the others are stopped."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage.outcomes import outcome_in
from tests.ports import free_port
from tests.resume import forks

WORLD_SIZE: Final = 2
_GRACE_SECONDS: Final = 30.0
_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Group:
    """How all processes of a training ended.

    Attributes:
        endings: By rank.
        hung: They had to be killed.
        job: The exit code of `llamarec launch`.
    """

    endings: list[forks.Ending]
    hung: bool
    job: int

    @property
    def codes(self) -> list[int]:
        """By rank; negative for one that a signal ended."""
        return [_code(one) for one in self.endings]

    @property
    def said(self) -> str:
        """The end of what they wrote, and their errors."""
        texts = [one.log[-600:] + str((one.result or {}).get("text", "")) for one in self.endings]
        return " | ".join(texts)


def _code(ending: forks.Ending) -> int:
    return int(ending.result["code"]) if ending.status == 0 else ending.status


def train(folder: Path, run: Path, **arguments: Any) -> Group:
    """A training of `WORLD_SIZE` processes, to its end.

    Args:
        folder: For what the processes write beside the run.
        run: The run's folder.
        arguments: Of `train_rank`; `at_rank` says to which process `moment` belongs.
    """
    from tests.resume.torture.processes.rank import train_rank

    at_rank = arguments.pop("at_rank", -1)
    folder.mkdir(parents=True, exist_ok=True)
    pids, codes = folder / "pids", folder / "codes"
    codes.mkdir()
    common = {"world_size": WORLD_SIZE, "port": free_port(), "pids": str(pids), "codes": str(codes)}
    timeout = {"ddp_timeout": arguments.pop("ddp_timeout")} if "ddp_timeout" in arguments else {}
    published = arguments.pop("published", "")
    children = []
    for rank in range(WORLD_SIZE):
        own = arguments if rank == at_rank else {}
        own = {**own, **({"published": published} if rank == 0 else {})}
        children.append(
            forks.start(folder / f"rank-{rank}", train_rank, folder=str(run), rank=rank, **common, **timeout, **own)
        )
    pids.write_text(" ".join(str(child.pid) for child in children), encoding="ascii")
    endings, hung = _looked_after(children)
    return Group(endings, hung, outcome_in(codes, int(any(map(_code, endings)))))


def _looked_after(children: list[forks.Child]) -> tuple[list[forks.Ending], bool]:
    found: dict[int, forks.Ending] = {}
    deadline, is_stopping, hung = time.monotonic() + _SECONDS, False, False
    while len(found) < len(children):
        for rank, child in enumerate(children):
            if rank in found:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                found[rank] = child.ending(status)
        left = [child for rank, child in enumerate(children) if rank not in found]
        if not is_stopping and any(_code(one) for one in found.values()):
            is_stopping, deadline = True, time.monotonic() + _GRACE_SECONDS
            _send(left, signal.SIGTERM)
        if time.monotonic() > deadline:
            hung = hung or not is_stopping
            _send(left, signal.SIGKILL)
        time.sleep(0.02)
    return [found[rank] for rank in range(len(children))], hung


def _send(children: list[forks.Child], number: int) -> None:
    for child in children:
        os.kill(child.pid, number)
