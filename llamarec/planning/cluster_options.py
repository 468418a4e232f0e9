"""The machines of a job, as options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from llamarec.errors import check_all

_BITS: Final = 8
_GIGA: Final = 1e9
# Within these, no product or quotient of the plan is infinite or rounds to zero.
_LEAST: Final = 1e-9
_MOST: Final = 1e9
_MOST_MACHINES: Final = 10**6
_MAY_BE_ZERO: Final = ("mtbf", "restart_seconds", "step_seconds")
_ABOVE_ZERO: Final = ("network_gbits", "link_gbits", "mirror_mbytes")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines of a job, as flags of `llamarec plan`."""

    gpus: int = field(default=1, metadata={"help": "GPUs of each machine."})
    nodes: int = field(default=1, metadata={"help": "Machines."})
    mtbf: float = field(
        default=0.0,
        metadata={"help": "Mean hours between two failures of one machine (default: 0, nothing fails)."},
    )
    restart_seconds: float = field(
        default=300.0,
        metadata={"help": "From a failure to the first step after it: a new machine, loading, resuming."},
    )
    step_seconds: float = field(
        default=0.0,
        metadata={"help": "A step as it was measured (default: 0, as estimated for this machine)."},
    )
    network_gbits: float = field(default=25.0, metadata={"help": "Gigabits per second between machines."})
    link_gbits: float = field(default=200.0, metadata={"help": "Gigabits per second between GPUs of one machine."})
    mirror_mbytes: float = field(default=50.0, metadata={"help": "Megabytes per second to the store of --mirror."})

    def __post_init__(self) -> None:
        check_all(
            "this cluster cannot be planned for",
            [
                (1 <= self.gpus <= _MOST_MACHINES, f"--gpus {self.gpus}: 1 to {_MOST_MACHINES:,}"),
                (1 <= self.nodes <= _MOST_MACHINES, f"--nodes {self.nodes}: 1 to {_MOST_MACHINES:,}"),
                *(
                    (not value or _LEAST <= value <= _MOST, f"--{name} {value}: 0, or {_LEAST:g} to {_MOST:g}")
                    for name, value in ((name, getattr(self, name)) for name in _MAY_BE_ZERO)
                ),
                *(
                    (_LEAST <= value <= _MOST, f"--{name} {value}: {_LEAST:g} to {_MOST:g}")
                    for name, value in ((name, getattr(self, name)) for name in _ABOVE_ZERO)
                ),
            ],
        )

    @property
    def processes(self) -> int:
        """Of the whole job."""
        return self.gpus * self.nodes

    def seconds_of_sum(self, num_bytes: float) -> float:
        """Seconds in which all processes sum up so many bytes (a ring, at the speed of the slowest link)."""
        gbits = self.network_gbits if self.nodes > 1 else self.link_gbits
        sent = 2 * (self.processes - 1) / self.processes * num_bytes
        return sent * _BITS / (gbits * _GIGA)
