"""Processor time, which other work on a machine does not lengthen as it does the clock's."""

from __future__ import annotations

import os


def processor_seconds() -> float:
    """Seconds of processor time of this process and of its ended children, since the process began."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
