"""Micro-batching: waiting requests are answered together, by one thread that owns the model."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

from llamarec.serve.limits import Limits

Q = TypeVar("Q")
A = TypeVar("A")

_FAILED_IN_A_ROW: Final = 10


class QueueFullError(Exception):
    """The queue is full; a further request would time out before its turn."""


class NotServingError(Exception):
    """The service is stopping, or its model does not answer any more."""


class ModelError(Exception):
    """The model answered with another number of answers, or ended its thread; the cause has the details."""


@dataclass
class _Waiting(Generic[Q, A]):
    """A question and the future of its answer."""

    question: Q
    answer: asyncio.Future[A]

    def fail(self, error: Exception) -> None:
        """Answers with an error, unless nobody waits any more."""
        if not self.answer.done():
            self.answer.set_exception(error)


class _ModelThread:
    """A thread that outlives whatever its work raises, and that keeps no process from ending."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._run, name="model", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._work.get()()

    def do(self, function: Callable[[], A]) -> asyncio.Future[A | BaseException]:
        """What a function returns or raises, as a result: not every exception may be one of a future."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[A | BaseException] = loop.create_future()

        def work() -> None:
            result: A | BaseException
            try:
                result = function()
            except BaseException as error:
                result = error
            # The loop is closed where nobody waited for the end.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: None if found.done() else found.set_result(result))

        self._work.put(work)
        return found


class Batcher(Generic[Q, A]):
    """Collects questions into batches and answers them; a batch that fails is asked again, question by question.

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
        self._thread = _ModelThread()
        self._worker: asyncio.Task[None] | None = None
        self._begun: float | None = None
        self._failed_in_a_row = 0
        self._last_error = ""

    @property
    def num_waiting(self) -> int:
        """Questions in the queue."""
        return self._queue.qsize()

    @property
    def trouble(self) -> str:
        """Why questions are not answered; empty where they are."""
        if self._worker is None or self._worker.done():
            return "the service is not running"
        if self._begun is not None and time.monotonic() - self._begun > 2 * self._limits.timeout_seconds:
            return f"the model has been at one batch for {time.monotonic() - self._begun:.0f} seconds"
        if self._failed_in_a_row >= _FAILED_IN_A_ROW:
            return f"the last {self._failed_in_a_row} questions failed: {self._last_error}"

        return ""

    async def start(self) -> None:
        """Starts the worker."""
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Answers the questions in the queue, as far as twice `timeout_seconds` suffice, then ends the worker."""
        if self._worker is not None and not self._worker.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._queue.join(), 2 * self._limits.timeout_seconds + 1)
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker

        while not self._queue.empty():
            self._queue.get_nowait().fail(NotServingError("the service has stopped"))

    async def ask(self, question: Q) -> A:
        """The answer to one question.

        Raises:
            QueueFullError: the queue is full.
            NotServingError: the worker has ended.
            TimeoutError: there was no answer within `timeout_seconds`.
            Exception: any error that the function raised for this question alone.
        """
        if self._worker is None or self._worker.done():
            raise NotServingError(self.trouble)

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
            try:
                await self._answer(batch)
            except asyncio.CancelledError:
                for one in batch:
                    one.fail(NotServingError("the service has stopped"))
                raise
            except Exception as error:
                # Whatever this has overlooked: each is answered, and the next batch has its turn.
                for one in batch:
                    one.fail(error)
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
        waiting = [one for one in batch if not one.answer.done()]
        if not waiting:
            return

        self._observed(len(waiting))
        error = await self._answered(waiting)
        if error is not None and len(waiting) > 1:
            # One of them may be the reason; the others get their answers.
            for one in waiting:
                if not one.answer.done() and (error := await self._answered([one])) is not None:
                    self._fail(one, error)
        elif error is not None:
            self._fail(waiting[0], error)

    async def _answered(self, batch: list[_Waiting[Q, A]]) -> BaseException | None:
        """Answers a batch; returns what the model raised, and then nothing is answered."""
        questions = [one.question for one in batch]
        self._begun = time.monotonic()
        try:
            found = await self._thread.do(lambda: list(self._function(questions)))
        finally:
            self._begun = None

        if isinstance(found, BaseException):
            return found
        if len(found) != len(batch):
            return ModelError(f"{len(found)} answers to {len(batch)} questions")

        self._failed_in_a_row = 0
        for one, answer in zip(batch, found, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)
        return None

    def _fail(self, one: _Waiting[Q, A], error: BaseException) -> None:
        self._failed_in_a_row += 1
        self._last_error = f"{type(error).__name__}: {error}"
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            one.fail(error)
            return

        # A future takes no StopIteration, and a SystemExit would end the service.
        told = ModelError(self._last_error)
        told.__cause__ = error
        one.fail(told)
