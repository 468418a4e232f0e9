"""What failures cost a training that saves at intervals, and the interval at which they cost the least.

Failures come at random, as often at any moment as at any other. Each one costs the work since the newest checkpoint
that is safe, and a restart. The expected duration is that of J. T. Daly ("A higher order estimate of the optimum
checkpoint interval for restart dumps", 2006, section 3), with one more factor: a checkpoint that is still being written
when the machine fails does not count. J. W. Young's interval (1974) is its first approximation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_SEARCH_STEPS: Final = 100
# Beyond this many mean times between failures no interval ever ends, and exp would overflow.
_NEVER: Final = 500.0


@dataclass(frozen=True, kw_only=True)
class Failures:
    """How often a job fails, and what it pays to be ready for that. All in seconds.

    Attributes:
        mean_time: Mean time between failures of the whole job.
        restart: From a failure to the first step after it.
        save: That a save costs the training.
        safe_after: From the beginning of a save until it outlives a failure; less than an interval.
    """

    mean_time: float
    restart: float
    save: float
    safe_after: float

    def duration(self, work: float, interval: float) -> float:
        """Expected seconds from the first step to the last.

        Args:
            work: Seconds of all steps.
            interval: Seconds of steps between two saves.

        Returns:
            Infinity where failures come before any save.
        """
        interval = min(interval, work)
        if (interval + self.save + self.restart) / self.mean_time > _NEVER:
            return math.inf

        rate = 1 / self.mean_time
        segment = math.expm1(rate * (interval + self.save)) * math.exp(rate * self.restart) / rate
        return work / interval * segment * (1 + rate * self.safe_after)

    def lost_share(self, work: float, interval: float) -> float:
        """Share of the expected duration that is not work: 0 to 1."""
        return 1 - work / self.duration(work, interval)

    def best_interval(self, work: float, least: float) -> float:
        """Seconds of steps between two saves at which the expected duration is the shortest.

        Args:
            work: Seconds of all steps.
            least: Seconds that no interval may fall below: a step, or what a save takes until it is written.
        """
        # The duration falls and then rises with the interval; so it does with its logarithm, which is searched.
        low, high = math.log(min(least, work)), math.log(work)
        for _ in range(_SEARCH_STEPS):
            third = (high - low) / 3
            if self.duration(work, math.exp(low + third)) <= self.duration(work, math.exp(high - third)):
                high -= third
            else:
                low += third
        return math.exp((low + high) / 2)


def young_interval(save: float, mean_time: float) -> float:
    """Young's interval: the square root of twice a save's cost times the mean time between failures, in seconds.

    >>> round(young_interval(10, 50_000))
    1000
    """
    return math.sqrt(2 * save * mean_time)
