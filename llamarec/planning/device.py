"""What a plan may use of the machine.

A share of all the memory there is, not of what is free at the moment: the same machine must give the same plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SHARE_OF_GPU: Final = 0.90
# The rest of the machine lives there too, and so does the cache of the disk.
SHARE_OF_MACHINE: Final = 0.75
_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Device:
    """Where a model is trained.

    Attributes:
        name: For people.
        is_gpu: Memory of its own.
        total: Bytes in all.
        free: Bytes at the moment; decides nothing.
    """

    name: str
    is_gpu: bool
    total: int
    free: int

    @property
    def usable(self) -> int:
        """Bytes that a plan may use."""
        return int(self.total * (SHARE_OF_GPU if self.is_gpu else SHARE_OF_MACHINE))


def this_device(*, on_cpu: bool) -> Device:
    """The accelerator that torch finds, or the processor."""
    import psutil  # type: ignore[import-untyped]
    import torch

    if not on_cpu and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Device(torch.cuda.get_device_name(), True, total, free)
    memory = psutil.virtual_memory()
    total = min([int(memory.total), *filter(None, map(_limit, _LIMITS))])
    # Apple's GPUs share the machine's memory; of others nothing is known here.
    name = "the processor" if on_cpu or not torch.accelerator.is_available() else "the accelerator"
    return Device(name, False, total, min(int(memory.available), total))


def _limit(path: str) -> int:
    """Bytes that a container may use; 0 without a limit."""
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return 0
    return int(text) if text.isdigit() and int(text) < 2**60 else 0
