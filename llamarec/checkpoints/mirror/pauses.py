"""How long to wait between two tries at a store that does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from llamarec.checkpoints.backup.stores import UnreachableError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Pauses:
    """Pauses that double.

    Attributes:
        first: Seconds before the second try.
        longest: Seconds that no pause exceeds.
        last_tries: Tries where somebody waits: at a start, and once training has ended.
        silence: Seconds without a byte after which nobody waits any longer for a store that hangs.
    """

    first: float = 1.0
    longest: float = 300.0
    last_tries: int = 5
    silence: float = 120.0

    def after(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row.

        >>> [Pauses().after(failures) for failures in (1, 2, 3, 20)]
        [1.0, 2.0, 4.0, 300.0]
        """
        return float(min(self.first * 2.0 ** min(failures - 1, 30), self.longest))


def patiently(action: Callable[[], T], pauses: Pauses) -> T:
    """The result of an action, tried `last_tries` times where the store does not answer.

    Raises:
        UnreachableError: it never did.
    """
    for failures in range(1, pauses.last_tries):
        try:
            return action()
        except UnreachableError:
            time.sleep(pauses.after(failures))
    return action()
