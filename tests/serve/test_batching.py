"""Requests that come together are answered together; each has its own answer, error and end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from llamarec.serve.batching import Batcher, QueueFullError
from llamarec.serve.limits import Limits


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


def test_what_waits_together_is_answered_together() -> None:
    sizes: list[int] = []
    threads: set[str] = set()

    def double(numbers: Sequence[int]) -> list[int]:
        threads.add(threading.current_thread().name)
        time.sleep(0.05)
        return [2 * number for number in numbers]

    async def ask() -> None:
        batcher = Batcher[int, int](double, Limits(max_batch=8, max_wait_ms=20), sizes.append)
        await batcher.start()
        assert await asyncio.gather(*(batcher.ask(n) for n in range(20))) == [2 * n for n in range(20)]
        assert await batcher.ask(21) == 42
        await batcher.stop()

    _run(ask())
    assert sizes == [8, 8, 4, 1]
    assert len(threads) == 1


def test_without_waiting_what_is_there_goes_together_all_the_same() -> None:
    sizes: list[int] = []

    async def ask() -> None:
        batcher = Batcher[int, int](list, Limits(max_batch=8, max_wait_ms=0), sizes.append)
        await batcher.start()
        assert await batcher.ask(0) == 0
        assert await asyncio.gather(*(batcher.ask(n) for n in range(20))) == list(range(20))
        await batcher.stop()

    _run(ask())
    assert sizes == [1, 8, 8, 4]


def test_a_full_queue_refuses_at_once_and_the_rest_is_answered() -> None:
    go_on = threading.Event()

    def wait(numbers: Sequence[int]) -> list[int]:
        go_on.wait(10)
        return list(numbers)

    async def ask() -> None:
        batcher = Batcher[int, int](wait, Limits(max_batch=1, max_queue=3, max_wait_ms=0))
        await batcher.start()
        asked = [asyncio.create_task(batcher.ask(0))]
        await asyncio.sleep(0.1)
        asked += [asyncio.create_task(batcher.ask(n)) for n in (1, 2, 3)]
        await asyncio.sleep(0.1)
        assert batcher.num_waiting == 3
        with pytest.raises(QueueFullError):
            await batcher.ask(4)
        go_on.set()
        assert await asyncio.gather(*asked) == [0, 1, 2, 3]
        await batcher.stop()

    _run(ask())


def test_one_that_takes_too_long_is_given_up_and_costs_nothing_more() -> None:
    answered: list[int] = []

    def slow(numbers: Sequence[int]) -> list[int]:
        time.sleep(0.5)
        answered.extend(numbers)
        return list(numbers)

    async def ask() -> None:
        batcher = Batcher[int, int](slow, Limits(max_batch=1, max_wait_ms=0, timeout_seconds=0.2))
        await batcher.start()
        results = await asyncio.gather(*(batcher.ask(n) for n in range(4)), return_exceptions=True)
        assert all(isinstance(result, TimeoutError) for result in results)
        await batcher.stop()

    _run(ask())
    assert answered == [0], "whose asker was gone was not answered"


def test_an_error_is_the_batches_and_the_next_one_is_answered() -> None:
    def fussy(numbers: Sequence[int]) -> list[int]:
        if 13 in numbers:
            raise ValueError("13")
        return list(numbers)

    async def ask() -> None:
        batcher = Batcher[int, int](fussy, Limits(max_wait_ms=0))
        await batcher.start()
        with pytest.raises(ValueError, match="13"):
            await batcher.ask(13)
        assert await batcher.ask(14) == 14
        await batcher.stop()

    _run(ask())


def test_what_waits_when_it_stops_is_answered_first() -> None:
    def slow(numbers: Sequence[int]) -> list[int]:
        time.sleep(0.1)
        return list(numbers)

    async def ask() -> None:
        batcher = Batcher[int, int](slow, Limits(max_batch=2, max_wait_ms=0))
        await batcher.start()
        asked = [asyncio.create_task(batcher.ask(n)) for n in range(5)]
        await asyncio.sleep(0)
        await batcher.stop()
        assert await asyncio.gather(*asked) == list(range(5))

    _run(ask())
