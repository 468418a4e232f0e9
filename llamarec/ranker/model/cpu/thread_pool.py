"""The cores of the CPU, one prompt on each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, TypeVar

import torch

# Each prompt in work needs its own memory; with more cores than this, several cores share a prompt.
MOST_AT_ONCE: Final = 4

Result = TypeVar("Result")


def at_once(num_prompts: int) -> int:
    """Number of prompts computed at the same time."""
    return max(1, min(num_prompts, torch.get_num_threads(), MOST_AT_ONCE))


def on_all_cores(task: Callable[[int], Result], order: Sequence[int]) -> list[Result]:
    """Runs `task` for each number, started in this order; returns the results sorted by number.

    After an error or an interrupt no task starts, and those that run have ended when the error is raised.
    """
    workers = at_once(len(order))
    if workers == 1:
        results = {number: task(number) for number in order}
        return [results[number] for number in sorted(results)]
    threads = torch.get_num_threads() // workers
    pool = _pool(workers, threads)
    futures = {number: pool.submit(_alone, task, number, threads) for number in order}
    try:
        return [futures[number].result() for number in sorted(futures)]
    except BaseException:
        for future in futures.values():
            future.cancel()
        wait(futures.values())
        raise
    finally:
        # torch uses the number of threads of one thread as the default for new ones.
        torch.set_num_threads(torch.get_num_threads())


@functools.cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix=f"llamarec-prompt-{threads}")


@torch.no_grad()
def _alone(task: Callable[[int], Result], number: int, threads: int) -> Result:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return task(number)
