"""Micro-batching: waiting requests are answered together, by one thread that owns the model."""

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
    """The queue is full; a further request would time out before its turn."""


@dataclass
class _Waiting(Generic[Q, A]):
    """A question and the future of its answer."""

    question: Q
    answer: asyncio.Future[A]


class Batcher(Generic[Q, A]):
    """Collects questions into batches and answers them.

    Args:
        function: Answers a batch, in the order of its questions; runs in its own thread, one batch at a time.
        limits: Batch size, waiting time and queue length.
        observed: Called with the size of each batch.
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
        """Starts the worker."""
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Answers the questions in the queue, then ends the worker."""
        await self._queue.join()
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        self._thread.shutdown()

    async def ask(self, question: Q) -> A:
        """The answer to one question.

        Raises:
            QueueFullError: the queue is full.
            TimeoutError: there was no answer within `timeout_seconds`.
            Exception: any error that the function raised for the batch.
        """
        waiting = _Waiting[Q, A](question, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise QueueFullError from None
        # After a timeout the future is cancelled, and the worker skips its question.
        return await asyncio.wait_for(waiting.answer, self._limits.timeout_seconds)

    async def _work(self) -> None:
        while True:
            batch = await self._next()
            unanswered = [one for one in batch if not one.answer.done()]
            try:
                if unanswered:
                    await self._answer(unanswered)
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def _next(self) -> list[_Waiting[Q, A]]:
        """The next batch: the first question in the queue, and those that arrive within `max_wait_ms`."""
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
            # Each caller of this batch gets the error. The worker goes on, because the next batch may succeed.
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return

        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)
