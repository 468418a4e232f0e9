"""Requests that come together are answered together; each has its own answer, error and end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from llamarec.serve.batching import Batcher, ModelError, NotServingError, QueueFullError
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


@pytest.mark.parametrize("error", [ValueError("13"), SystemExit(3), StopIteration(), KeyboardInterrupt(), None])
def test_one_question_fails_alone(error: BaseException | None) -> None:
    def fussy(numbers: Sequence[int]) -> list[int]:
        if 13 not in numbers:
            return list(numbers)
        if error is not None:
            raise error
        return [number for number in numbers if number != 13]

    async def ask() -> None:
        batcher = Batcher[int, int](fussy, Limits(max_wait_ms=20))
        await batcher.start()
        for _ in range(3):
            found = await asyncio.gather(*map(batcher.ask, (11, 12, 13, 14)), return_exceptions=True)
            assert [one for one in found if isinstance(one, int)] == [11, 12, 14]
            assert isinstance(found[2], ValueError if isinstance(error, ValueError) else ModelError)
        assert not batcher.trouble
        await batcher.stop()

    _run(ask())


def test_a_model_that_only_fails_is_told() -> None:
    def broken(numbers: Sequence[int]) -> list[int]:
        raise RuntimeError("device lost")

    async def ask() -> None:
        batcher = Batcher[int, int](broken, Limits(max_wait_ms=0))
        await batcher.start()
        await asyncio.gather(*map(batcher.ask, range(12)), return_exceptions=True)
        assert "the last 12 questions failed: RuntimeError: device lost" in batcher.trouble
        await batcher.stop()
        with pytest.raises(NotServingError):
            await batcher.ask(1)

    _run(ask())


def test_a_model_that_hangs_is_told_and_does_not_keep_the_service_from_ending() -> None:
    async def ask() -> None:
        go_on = threading.Event()

        def hang(numbers: Sequence[int]) -> list[int]:
            go_on.wait(60)
            return list(numbers)

        batcher = Batcher[int, int](hang, Limits(max_batch=1, max_wait_ms=0, timeout_seconds=0.3))
        await batcher.start()
        found = await asyncio.gather(*map(batcher.ask, range(3)), return_exceptions=True)
        assert all(isinstance(one, TimeoutError) for one in found)
        await asyncio.sleep(0.5)
        assert "the model has been at one batch" in batcher.trouble
        await asyncio.wait_for(batcher.stop(), 5)
        go_on.set()

    _run(ask())


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
