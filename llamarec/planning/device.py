"""The memory of this machine that a plan may use.

It is a share of all memory, not of free memory, so that the same machine always gives the same plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SHARE_OF_GPU: Final = 0.90
# Other programs and the disk cache need the rest.
SHARE_OF_MACHINE: Final = 0.75
_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Device:
    """The device that trains.

    Attributes:
        name: Name for display.
        is_gpu: Whether it has its own memory.
        total: Bytes of memory.
        free: Bytes free now; for warnings only.
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
    """The accelerator that torch finds, or the CPU."""
    import psutil  # type: ignore[import-untyped]
    import torch

    if not on_cpu and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Device(torch.cuda.get_device_name(), True, total, free)

    memory = psutil.virtual_memory()
    total = min([int(memory.total), *filter(None, map(_limit, _LIMITS))])
    # Apple's GPUs share the machine's memory; other accelerators are treated the same way.
    name = "the CPU" if on_cpu or not torch.accelerator.is_available() else "the accelerator"
    return Device(name, False, total, min(int(memory.available), total))


def _limit(path: str) -> int:
    """Memory limit of a container in bytes; 0 if there is none."""
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return 0
    return int(text) if text.isdigit() and int(text) < 2**60 else 0
