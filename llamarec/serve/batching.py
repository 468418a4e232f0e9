"""Micro-batching: what waits together is answered together, by one thread that owns the model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from llamarec.serve.limits import Limits

Q = TypeVar("Q")
A = TypeVar("A")


class QueueFullError(Exception):
    """So many requests wait that a further one would only wait in vain."""


@dataclass
class _Waiting(Generic[Q, A]):
    question: Q
    answer: asyncio.Future[A]


class Batcher(Generic[Q, A]):
    """Collects questions and has them answered in batches.

    Args:
        function: Answers a batch, in its order; runs in a thread of its own, one batch at a time.
        limits: Size of a batch, time it waits for others, length of the queue.
        observed: Is told the size of each batch.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Q]], Sequence[A]],
        limits: Limits,
        observed: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._function, self._limits, self._observed = function, limits, observed
        self._queue: asyncio.Queue[_Waiting[Q, A]] = asyncio.Queue(limits.max_queue)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Questions in the queue."""
        return self._queue.qsize()

    async def start(self) -> None:
        """Begins to answer."""
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Answers what waits, and ends."""
        await self._queue.join()
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        self._thread.shutdown()

    async def ask(self, question: Q) -> A:
        """The answer to one question.

        Raises:
            QueueFullError: too many wait.
            TimeoutError: it took too long.
            Exception: what the function raised for the batch.
        """
        waiting = _Waiting[Q, A](question, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise QueueFullError from None
        # A question that is given up while it waits is cancelled with its future, and is not answered.
        return await asyncio.wait_for(waiting.answer, self._limits.timeout_seconds)

    async def _work(self) -> None:
        while True:
            batch = await self._next()
            wanted = [one for one in batch if not one.answer.done()]
            try:
                if wanted:
                    await self._answer(wanted)
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def _next(self) -> list[_Waiting[Q, A]]:
        """A batch: as soon as one waits, those that come within a moment."""
        batch = [await self._queue.get()]
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.max_wait_ms / 1000
        while len(batch) < self._limits.max_batch:
            if not self._queue.empty():
                batch.append(self._queue.get_nowait())
                continue
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), max(0.0, until - loop.time())))
            except TimeoutError:
                break
        return batch

    async def _answer(self, batch: list[_Waiting[Q, A]]) -> None:
        self._observed(len(batch))
        questions = [one.question for one in batch]
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._function, questions)
        except Exception as error:
            # Of each asker, not of the worker: the next batch may be better.
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)
