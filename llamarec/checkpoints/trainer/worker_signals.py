"""Processes that load data leave signals to the training that started them.

A launcher, `timeout`, a scheduler and Ctrl-C send a signal to the whole process group. A worker that ended of it would
make torch raise an error in the training, in the middle of its last save.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.util import Finalize
from typing import Final

from torch.utils.data import DataLoader

from llamarec.checkpoints.trainer.samples.sampling import Batch
from llamarec.checkpoints.trainer.signals import NAMES

WORKER_ENDED: Final = "DataLoader worker"
"""The beginning of torch's errors for a worker that a signal ended."""


class LeaveSignals:
    """The first call in a worker: from then on, only the training itself ends it.

    Args:
        then: Another such call, of the user's program.
    """

    def __init__(self, then: Callable[[int], object] | None = None) -> None:
        self._then = then

    def __call__(self, worker: int) -> None:
        """See `torch.utils.data.DataLoader`, `worker_init_fn`."""
        wait = getattr(signal, "sigwaitinfo", None)
        if wait is not None:
            # Blocked, so that the thread below can tell who sent it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        for name in NAMES:
            number = getattr(signal, name, None)
            if number is not None:
                signal.signal(number, signal.SIG_IGN)

        parent = multiprocessing.parent_process()
        if wait is not None and parent is not None:
            threading.Thread(target=_end_for, args=(parent.pid,), name="signals", daemon=True).start()
        if parent is not None:
            # After all other finalizers of the process.
            Finalize(None, _end_at_once, exitpriority=-1000)
        if self._then is not None:
            self._then(worker)


def _end_for(parent: int | None) -> None:
    """Ends this process when that one says so: it does where a worker does not come to an end by itself."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _end_at_once() -> None:
    """Ends a worker that has done its work, as a forked one ends: without taking the interpreter down.

    A spawned one would; where a thread of torch's is then in the middle of sending a batch, it aborts the process.
    """
    if sys.exc_info()[0] is None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        os._exit(0)


def leave_signals(loader: object) -> None:
    """Has the workers of a loader leave signals alone, whoever starts them; one without workers stays as it is."""
    # Accelerate holds the loader that starts them.
    inner = getattr(loader, "base_dataloader", loader)
    for one in (loader, inner):
        if isinstance(one, DataLoader) and one.num_workers and not isinstance(one.worker_init_fn, LeaveSignals):
            one.worker_init_fn = LeaveSignals(one.worker_init_fn)
            vars(one)["_get_iterator"] = functools.partial(_started, one._get_iterator)


@contextlib.contextmanager
def started_deaf() -> Iterator[None]:
    """Within, processes are started with the signals blocked that ask for a stop; they come to this one afterwards.

    A worker that has not come to its first call yet would end of one.
    """
    mask = getattr(signal, "pthread_sigmask", None)
    if mask is None:
        yield
        return

    before = mask(signal.SIG_BLOCK, {getattr(signal, name) for name in NAMES if hasattr(signal, name)})
    try:
        yield
    finally:
        mask(signal.SIG_SETMASK, before)


def batches_of(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """Those of a loader, whose workers are started here."""
    return _started(loader.__iter__) if loader.num_workers else iter(loader)


def _started(start: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    """What a function gives that starts workers."""
    if hasattr(signal, "pthread_sigmask"):
        # Before: where Python starts it together with the first process, it unblocks the signals again.
        resource_tracker.ensure_running()
    with started_deaf():
        return start()
