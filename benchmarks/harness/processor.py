"""Processor time, which other work on a machine does not lengthen as it does the clock's."""

from __future__ import annotations

import os
import time


def processor_seconds() -> float:
    """Seconds of processor time of this process and of its ended children, since some moment."""
    children = os.times()
    # Of the process itself in nanoseconds; `os.times` counts in hundredths.
    return time.process_time() + children.children_user + children.children_system
