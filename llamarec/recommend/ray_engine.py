"""Blocks computed by workers on Ray. A worker that dies is replaced, and its blocks are computed again.

Ray starts the processes, gives each its cores or GPU, notices those that die, and carries requests and lines. Which
block is computed when, and how often it is tried, is decided here: a block of a worker that died goes to any other.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamarec.errors import DisagreementError, LlamarecError, PeerLostError
from llamarec.ranker.trained.locations import find_experiment
from llamarec.recommend.engines import Block
from llamarec.recommend.ray_cluster import RayConfig, Share, joined
from llamarec.recommend.ray_worker import Loaded, Loading, RayWorker, Refused

Say = Callable[[str], None]

# The second one is there when the first is done.
_BLOCKS_PER_WORKER: Final = 2
# Blocks that are done wait for those before them, and a kill loses them.
_AHEAD_PER_WORKER: Final = 8
# A block that ends its worker this often would do so for ever.
_TRIES: Final = 4
_SAY_SECONDS: Final = 30.0


@dataclass
class _Worker:
    """One worker.

    Attributes:
        actor: Ray's handle; another one after its process has died.
        num_blocks: It has been given and not answered.
        loaded: What it has loaded; None while it takes no blocks.
        num_deaths: While it loaded, in a row.
    """

    actor: Any = None
    num_blocks: int = 0
    loaded: Loaded | None = None
    num_deaths: int = 0


@dataclass(frozen=True)
class _Task:
    """What an actor was asked for: a block, or to load (None)."""

    worker: _Worker
    actor: Any
    block: int | None


class RayEngine:
    """Workers on Ray that have loaded one run.

    Args:
        ray: The module.
        share: What each worker gets.
        loading: What each loads.
        address: The cluster's; empty for one of its own.
        say: Shows a line to the user.

    Raises:
        LlamarecError: a worker cannot load the run.
        DisagreementError: workers loaded different runs, or have different versions.
        PeerLostError: they die while they load.
    """

    def __init__(self, ray: Any, share: Share, loading: Loading, *, address: str, say: Say) -> None:
        self._ray, self._share, self._address, self._say = ray, share, address, say
        self._running: dict[Any, _Task] = {}
        # Every time that a worker has loaded the run.
        self._loaded: list[Loaded] = []
        self._last_loss = ""
        self._actors = ray.remote(RayWorker).options(num_cpus=share.num_cpus, num_gpus=share.num_gpus)
        self._loading = loading
        self._workers = [_Worker() for _ in range(share.num_workers)]

        for worker in self._workers:
            self._start(worker)
        self.wait_until_loaded()

    @property
    def fingerprint(self) -> str:
        """See `Engine`."""
        return self._loaded[0].fingerprint

    @property
    def workers(self) -> list[Loaded | None]:
        """What each worker has loaded, in the order in which they are given blocks; None for one that is replaced."""
        return [worker.loaded for worker in self._workers]

    def answered(self, blocks: Sequence[Block], k: int) -> Iterator[bytes]:
        """See `Engine`.

        Raises:
            PeerLostError: a block ended each worker that computed it, or no worker is left.
        """
        waiting, done, tries = list(range(len(blocks))), dict[int, bytes](), [0] * len(blocks)

        try:
            for next_block in range(len(blocks)):
                while next_block not in done:
                    self._hand_out(waiting, blocks, k, next_block + _AHEAD_PER_WORKER * len(self._workers))
                    for ref, task in self._next_ended():
                        lines = self._result(ref, task)
                        if isinstance(lines, bytes) and task.block is not None:
                            done[task.block] = lines
                        elif task.block is not None:
                            self._try_again(task.block, waiting, tries)
                yield done.pop(next_block)
        finally:
            self._forget_blocks()

    def _forget_blocks(self) -> None:
        """Of a batch that has ended early; what its workers still compute is not read."""
        self._running = {ref: task for ref, task in self._running.items() if task.block is None}
        for worker in self._workers:
            worker.num_blocks = 0

    def _hand_out(self, waiting: list[int], blocks: Sequence[Block], k: int, end: int) -> None:
        """Gives blocks before `end` to workers that have few."""
        for num_blocks in range(_BLOCKS_PER_WORKER):
            for worker in self._workers:
                if worker.loaded is not None and worker.num_blocks == num_blocks and waiting and waiting[0] < end:
                    block = heapq.heappop(waiting)
                    worker.num_blocks += 1
                    ref = worker.actor.answer.remote(blocks[block], k, self.fingerprint)
                    self._running[ref] = _Task(worker, worker.actor, block)

    def _try_again(self, block: int, waiting: list[int], tries: list[int]) -> None:
        tries[block] += 1
        if tries[block] == _TRIES:
            raise self._lost(f"a block of users ended {_TRIES} workers of Ray, one after the other")
        heapq.heappush(waiting, block)

    def _next_ended(self) -> list[tuple[Any, _Task]]:
        """Tasks that have ended; none after half a minute."""
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_SAY_SECONDS)
        return [(ref, self._running.pop(ref)) for ref in ended]

    def _result(self, ref: Any, task: _Task) -> object:
        """Lines of a block or what was loaded; None where the worker has died.

        Raises:
            LlamarecError: the worker refused.
        """
        if task.block is not None and task.actor is task.worker.actor:
            task.worker.num_blocks -= 1
        try:
            result = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError:
            # An error in the worker's code, with its traceback.
            raise
        except self._ray.exceptions.RayError as error:
            self._note_death(task, error)
            return None

        if isinstance(result, Refused):
            raise self._error_of(result)
        if task.block is None:
            self._note_loaded(task.worker, result)
        return result

    def _note_loaded(self, worker: _Worker, loaded: Loaded) -> None:
        worker.loaded, worker.num_deaths = loaded, 0
        self._loaded.append(loaded)
        self._check_agreement()

        kinds = sorted({one.arithmetic for one in self._loaded})
        if len(kinds) > 1 and loaded.arithmetic != self._loaded[-2].arithmetic:
            self._say(f"WARNING: workers compute differently, so the last digits may differ: {'; '.join(kinds)}")

    def _note_death(self, task: _Task, error: Exception) -> None:
        self._last_loss = str(error).strip().partition("\n")[0]
        worker = task.worker
        if task.actor is not worker.actor:
            # Another of its blocks, and it has been replaced already.
            return

        if worker.loaded is None:
            worker.num_deaths += 1
        self._ray.kill(worker.actor)
        if worker.num_deaths < _TRIES:
            self._say("a worker of Ray has died; it is replaced, and its users are answered again")
            self._start(worker)
            return

        self._workers.remove(worker)
        if not self._workers:
            raise self._lost("all workers of Ray have died while they loaded the run")
        self._say("a worker of Ray died again and again while it loaded the run; the others go on without it")

    def _start(self, worker: _Worker) -> None:
        """A new process for a worker. Ray starts it as soon as a machine has room for it."""
        worker.actor, worker.loaded, worker.num_blocks = self._actors.remote(self._loading), None, 0
        self._running[worker.actor.load.remote()] = _Task(worker, worker.actor, None)

    def wait_until_loaded(self) -> None:
        """Until every worker takes blocks; says what they are waiting for."""
        while self._running:
            ended = self._next_ended()
            for ref, task in ended:
                self._result(ref, task)
            if not ended:
                self._say(
                    f"{len(self._running)} of {self._share.num_workers} workers of Ray are not ready: they load the "
                    f"run, or wait for {self._share.num_cpus} cores and {self._share.num_gpus} GPUs each "
                    f"(free: {_free(self._ray)})"
                )

    def _check_agreement(self) -> None:
        first, last = self._loaded[0], self._loaded[-1]
        for name, values in {
            "fingerprint of the run": [one.fingerprint[:16] for one in (first, last)],
            "versions": [str(one.versions) for one in (first, last)],
        }.items():
            if values[0] != values[1]:
                raise DisagreementError(
                    f"workers of Ray differ in the {name}",
                    expected="the same folder of the run, and the same versions, on every machine of the cluster",
                    found=[f"{one.host}: {value}" for one, value in zip((first, last), values, strict=True)],
                    hint="put the experiments on a file system that all machines share, and give --experiment_root",
                )

    def _error_of(self, refused: Refused) -> LlamarecError:
        found, hint = refused.found, refused.hint
        if self._address:
            found = "\n".join(filter(None, [found, f"on the machine {refused.host} of the cluster"]))
            hint = "\n".join(
                filter(None, [hint, "--experiment_root must be a folder that every machine of the cluster sees"])
            )
        error = LlamarecError(
            refused.problem, expected=_lines(refused.expected), found=_lines(found), hint=_lines(hint)
        )
        error.exit_code = refused.exit_code
        return error

    def _lost(self, problem: str) -> PeerLostError:
        return PeerLostError(
            problem,
            found=self._last_loss or "no reason from Ray",
            hint=[
                "Fewer workers need less memory: --num_workers.",
                "The same command continues; without --engine ray this process computes.",
            ],
        )


@contextlib.contextmanager
def ray_engine(
    config: RayConfig, run: str, *, experiment_root: Path, device: str, only_new: bool, say: Say
) -> Iterator[RayEngine]:
    """Workers on Ray that have loaded a run; they are gone in the end.

    Args:
        config: Which cluster, and how many workers.
        run: A data set code, or the folder of a run.
        experiment_root: Folder of the runs, if `run` is a data set code.
        device: As of `Recommender.load`.
        only_new: As of `Recommender.load`.
        say: Shows a line to the user.

    Raises:
        ArtifactError: there is no such run.
        ConfigError: Ray is not installed, or the cluster lacks what the workers need.
        LlamarecError: as of `RayEngine`.
    """
    # Workers may have another working directory.
    folder = find_experiment(run, experiment_root).ranker.resolve()
    with joined(config, device) as (ray, share):
        device = "cpu" if device == "auto" and not share.num_gpus else device
        loading = Loading(str(folder), device, only_new, share.num_cpus)
        yield RayEngine(ray, share, loading, address=config.ray_address, say=say)


def _free(ray: Any) -> str:
    free = ray.available_resources()
    return f"{free.get('CPU', 0):g} cores, {free.get('GPU', 0):g} GPUs"


def _lines(text: str | None) -> list[str]:
    return text.split("\n") if text else []
