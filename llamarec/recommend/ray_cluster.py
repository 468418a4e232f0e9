"""The machines that Ray computes on: a cluster of this command's own, or one that runs already."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, NamedTuple, TextIO

from llamarec.errors import ConfigError, check_all
from llamarec.requirements import install_line

AUTO: Final = "auto"
CPU, GPU = "CPU", "GPU"
_CORE_GROUP: Final = 4
# Answers of a block are some kilobytes and go from process to process; Ray's least for the rest is 75 MB.
_STORE_BYTES: Final = 100 * 2**20


@dataclass(frozen=True)
class RayConfig:
    """Workers on Ray."""

    num_workers: int = field(
        default=0, metadata={"help": "With --engine ray: workers (default: one per GPU, or per group of cores)."}
    )
    threads_per_worker: int = field(
        default=0, metadata={"help": f"With --engine ray: cores of each worker on CPUs (default: {_CORE_GROUP})."}
    )
    ray_address: str = field(
        default="",
        metadata={"help": "With --engine ray: auto or HOST:PORT joins a running cluster (default: one of its own)."},
    )

    def __post_init__(self) -> None:
        """Reports all problems at once."""
        rules = [
            (self.num_workers >= 0, f"--num_workers {self.num_workers}: at least 1"),
            (self.threads_per_worker >= 0, f"--threads_per_worker {self.threads_per_worker}: at least 1"),
            (
                "://" not in self.ray_address,
                f"--ray_address {self.ray_address}: auto or HOST:PORT, on a machine of the cluster",
            ),
        ]
        check_all("these options of Ray do not fit", rules)


class Share(NamedTuple):
    """What each worker gets.

    Attributes:
        num_workers: Of all machines together.
        num_cpus: Cores, and threads, of each.
        num_gpus: 1 or 0.
    """

    num_workers: int
    num_cpus: int
    num_gpus: int


@contextlib.contextmanager
def joined(config: RayConfig, device: str) -> Iterator[tuple[Any, Share]]:
    """Ray, connected to its cluster, and what each worker gets there; in the end both are left as they were.

    Args:
        config: Which cluster, and how many workers.
        device: `auto`, or a name of torch.

    Raises:
        ConfigError: Ray is not installed, there is no cluster at the address, or it lacks what the workers need.
    """
    ray = _imported()
    with _stopped_by_sigterm() as take_back, contextlib.redirect_stdout(_OfThisThread(sys.stdout)):
        try:
            _init(ray, config)
            # Ray's own handler ends the process with another exit code.
            take_back()
            yield ray, share_of(ray.cluster_resources(), config, device)
        finally:
            ray.shutdown()


def share_of(resources: dict[str, float], config: RayConfig, device: str) -> Share:
    """What each worker gets of a cluster.

    Args:
        resources: Of all its machines, by Ray's names.
        config: What the user asked for.
        device: `auto`, or a name of torch.

    Raises:
        ConfigError: a GPU was asked for and there is none, or one by its number.
    """
    num_cpus, num_gpus = max(1, int(resources.get(CPU, 1))), int(resources.get(GPU, 0))
    if ":" in device:
        raise ConfigError(f"--device {device}: with --engine ray each worker has one GPU", hint="--device cuda")

    if device.startswith("cuda") or (device == "auto" and num_gpus):
        wanted = config.num_workers or max(1, num_gpus)
        if wanted > num_gpus:
            raise ConfigError(
                f"--num_workers {wanted}: each worker needs a GPU",
                found=f"{num_gpus} in the cluster",
                hint=f"--num_workers {num_gpus}" if num_gpus else "--device cpu",
            )
        return Share(wanted, config.threads_per_worker or max(1, min(_CORE_GROUP, num_cpus // wanted)), 1)

    threads = config.threads_per_worker or min(_CORE_GROUP, max(1, num_cpus // max(1, config.num_workers)))
    num_workers = config.num_workers or max(1, num_cpus // threads)
    if num_workers * threads > num_cpus:
        raise ConfigError(
            f"--num_workers {num_workers}, --threads_per_worker {threads}: {num_workers * threads} cores are needed",
            found=f"{num_cpus} in the cluster",
            hint=f"--num_workers {max(1, num_cpus // threads)} --threads_per_worker {min(threads, num_cpus)}",
        )
    return Share(num_workers, threads, 0)


def _imported() -> Any:
    # Read when Ray is imported. Nothing is sent anywhere.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Otherwise Ray warns that a later version leaves GPUs visible to workers that asked for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(
            "--engine ray: Ray is not installed",
            found=str(error),
            hint=[install_line("ray"), "Without --engine ray this process computes."],
        ) from None
    return ray


def _init(ray: Any, config: RayConfig) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not config.ray_address:
        # "local", so that RAY_ADDRESS does not decide.
        ray.init(
            address="local",
            num_cpus=_own_cores(config),
            object_store_memory=_STORE_BYTES,
            include_dashboard=False,
            **quiet,
        )
        return

    try:
        ray.init(address=config.ray_address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--ray_address {config.ray_address}: there is no cluster",
            expected="a cluster that was started with `ray start --head`, with the same versions of Ray and Python",
            found=str(error).strip().partition("\n")[0],
            hint="without --ray_address the command starts one of its own on this machine",
        ) from error


def _own_cores(config: RayConfig) -> int:
    """Of a cluster of one's own, as many as were asked for: more workers than cores are slow, but not wrong."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores, config.num_workers * max(1, config.threads_per_worker))


class _OfThisThread:
    """Standard output without what other threads print: Ray's listener reports dead workers there."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.current_thread()

    def write(self, text: str) -> int:
        """Writes what this thread prints."""
        return self._stream.write(text) if threading.current_thread() is self._thread else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[Callable[[], object]]:
    """Leaves this context before SIGTERM ends the process, as it would have without Ray.

    Yields:
        Takes the signal back from whoever has taken it meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    before, came = signal.getsignal(signal.SIGTERM), list[int]()

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        # Of all exceptions, Ray's waiting lets only this one and SystemExit through.
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, stop)
        yield lambda: signal.signal(signal.SIGTERM, stop)
    finally:
        signal.signal(signal.SIGTERM, before)
        if came:
            signal.raise_signal(signal.SIGTERM)
