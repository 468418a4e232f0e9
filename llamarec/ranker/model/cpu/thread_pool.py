"""The processor's cores, one prompt on each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, TypeVar

import torch

# Every prompt at work takes its own memory; on machines with more cores than this, several work on one prompt.
MOST_AT_ONCE: Final = 4

Result = TypeVar("Result")


def at_once(num_prompts: int) -> int:
    """Prompts that are worked on at the same time."""
    return max(1, min(num_prompts, torch.get_num_threads(), MOST_AT_ONCE))


def on_all_cores(task: Callable[[int], Result], order: Sequence[int]) -> list[Result]:
    """`task` of each number, begun in this order; results by number, whatever the order they end in.

    After an error or an interrupt nothing is begun any more, and what was begun has ended when it is raised.
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
        # A thread's own number of threads is also torch's default for threads to come.
        torch.set_num_threads(torch.get_num_threads())


@functools.cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix=f"llamarec-prompt-{threads}")


@torch.no_grad()
def _alone(task: Callable[[int], Result], number: int, threads: int) -> Result:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return task(number)
