"""One worker on Ray: a process with a recommender of its own. Neither Ray nor torch is loaded before it is needed."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from llamarec.errors import LlamarecError

if TYPE_CHECKING:
    from llamarec.recommend.recommender import Recommender
    from llamarec.recommend.requests import Request


@dataclass(frozen=True)
class Loading:
    """What a worker loads, and how it computes.

    Attributes:
        run: Absolute path of the folder of a run.
        device: As of `Recommender.load`.
        only_new: As of `Recommender.load`.
        num_threads: Of each worker.
    """

    run: str
    device: str
    only_new: bool
    num_threads: int


class Loaded(NamedTuple):
    """What a worker has loaded, and where.

    Attributes:
        host: Name of its machine.
        process: Its number there.
        fingerprint: `Recommender.fingerprint`.
        versions: Of the packages that compute.
        arithmetic: The kind of hardware, as far as it decides how results are rounded.
    """

    host: str
    process: int
    fingerprint: str
    versions: dict[str, str]
    arithmetic: str


class Refused(NamedTuple):
    """A `LlamarecError` on its way to another process: as plain values, which any version can read."""

    host: str
    problem: str
    expected: str | None
    found: str | None
    hint: str | None
    exit_code: int


Answer: TypeAlias = "bytes | Refused"


class RayWorker:
    """Answers blocks of requests.

    Args:
        loading: What it loads.
    """

    def __init__(self, loading: Loading) -> None:
        # Before torch is loaded, as the command does.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ["OMP_NUM_THREADS"] = str(loading.num_threads)
        self._loading = loading
        self._recommender: Recommender | None = None

    def load(self) -> Loaded | Refused:
        """Loads the run, and says what it found."""
        try:
            recommender = self._load()
        except LlamarecError as error:
            return _refused(error)
        return Loaded(socket.gethostname(), os.getpid(), recommender.fingerprint, _versions(), _arithmetic())

    def answer(self, requests: Sequence[Request], k: int, fingerprint: str) -> Answer:
        """The lines of a block.

        Args:
            requests: The block.
            k: Items per request.
            fingerprint: Of the run that the batch is made from.
        """
        from llamarec.recommend.answers import answer_lines

        try:
            recommender = self._load()
            if recommender.fingerprint != fingerprint:
                raise _changed(self._loading, recommender.fingerprint, fingerprint)
            return answer_lines(recommender, requests, k)
        except LlamarecError as error:
            return _refused(error)

    def _load(self) -> Recommender:
        if self._recommender is None:
            import torch

            from llamarec.recommend.recommender import Recommender

            torch.set_num_threads(self._loading.num_threads)
            self._recommender = Recommender.load(
                self._loading.run, device=self._loading.device, only_new=self._loading.only_new
            )
        return self._recommender


def _refused(error: LlamarecError) -> Refused:
    return Refused(socket.gethostname(), error.problem, error.expected, error.found, error.hint, error.exit_code)


def _changed(loading: Loading, found: str, wanted: str) -> LlamarecError:
    return LlamarecError(
        f"{loading.run}: the run has changed since this command began",
        expected=f"fingerprint {wanted[:16]}",
        found=f"{found[:16]} in a worker that was started since",
        hint="type the command again with --restart, to answer all users from the run as it is now",
    )


def _versions() -> dict[str, str]:
    import torch
    import transformers

    from llamarec import __version__

    return {"llamarec": __version__, "torch": torch.__version__, "transformers": transformers.__version__}


def _arithmetic() -> str:
    import torch

    from llamarec.hardware import has_fast_bfloat16

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    bfloat16 = "with" if has_fast_bfloat16() else "without"
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}, {bfloat16} bfloat16"
