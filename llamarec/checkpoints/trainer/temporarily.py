"""Attributes that have another value for a while. Standard library only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def temporarily(target: Any, **values: Any) -> Iterator[None]:
    """Sets attributes of an object within, and puts back what they were, whatever happens.

    >>> from types import SimpleNamespace
    >>> args = SimpleNamespace(workers=2)
    >>> with temporarily(args, workers=0):
    ...     print(args.workers)
    0
    >>> args.workers
    2
    """
    before = {name: getattr(target, name) for name in values}
    try:
        for name, value in values.items():
            setattr(target, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)
