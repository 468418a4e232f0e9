"""The plan of a run on several GPUs and machines that fail: step, communication, saves, and what failures cost."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from llamarec.checkpoints.storage.readable_units import readable
from llamarec.errors import ConfigError
from llamarec.planning.cluster_options import Cluster
from llamarec.planning.failures import Failures
from llamarec.planning.plan import Plan, duration_text
from llamarec.planning.save_cost import BYTES_PER_TRAINED_WEIGHT, SaveCost
from llamarec.planning.setup import FLOAT32_BYTES

_HOUR: Final = 3600.0
_MEGA: Final = 1e6


@dataclass(frozen=True, kw_only=True)
class Saves:
    """When a run saves, as its flags say.

    Attributes:
        steps: Steps between two saves; infinity: only at the end.
        seconds: --save_seconds; 0: only by steps.
        has_mirror: What is in the mirror outlives a machine, what is on its disk does not.
    """

    steps: float
    seconds: float
    has_mirror: bool

    def interval(self, step: float, *, with_seconds: bool) -> float:
        """Seconds of steps between two saves."""
        by_steps = self.steps * step
        if not (with_seconds and self.seconds):
            return by_steps
        # A save waits for the end of a step.
        return min(by_steps, math.ceil(self.seconds / step) * step)


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """A plan on several machines. All seconds are estimates but those of a save, which are measured.

    Attributes:
        cluster: The machines.
        saves: When it saves.
        steps: Of the whole run, on all GPUs together.
        samples: Of a step.
        computing: Seconds of a step without communication.
        communication: Seconds of a step's gradients between the processes.
        cost: Of a save.
        state_bytes: Of a checkpoint.
    """

    cluster: Cluster
    saves: Saves
    steps: int
    samples: int
    computing: float
    communication: float
    cost: SaveCost
    state_bytes: int

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.computing + self.communication

    @property
    def work(self) -> float:
        """Seconds of all steps."""
        return self.steps * self.step

    @property
    def mirror_seconds(self) -> float:
        """Seconds until a checkpoint that is on the disk is in the mirror."""
        return self.state_bytes / (self.cluster.mirror_mbytes * _MEGA)

    @property
    def failures(self) -> Failures | None:
        """What a failure costs; None where nothing fails."""
        cluster = self.cluster
        if not cluster.mtbf:
            return None
        return Failures(
            mean_time=cluster.mtbf * _HOUR / cluster.nodes,
            restart=cluster.restart_seconds,
            # Training waits for the copy alone, but shares cores and disk with what is written: at most this.
            save=self.cost.writes,
            safe_after=self.cost.writes + (self.mirror_seconds if self.saves.has_mirror else 0.0),
        )

    def intervals(self, failures: Failures) -> dict[str, float]:
        """Seconds between two saves: without --save_seconds, with it, and at the optimum."""
        least = max(self.step, failures.safe_after)
        return {
            "without": self.saves.interval(self.step, with_seconds=False),
            "with": self.saves.interval(self.step, with_seconds=True),
            "recommended": failures.best_interval(self.work, least),
        }

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON, in seconds, bytes and shares."""
        failures = self.failures
        expected = {} if failures is None else self._expected(failures)
        return {
            **asdict(self.cluster),
            "steps": self.steps,
            "samples_per_step": self.samples,
            "computing_seconds": self.computing,
            "communication_seconds": self.communication,
            "training_seconds": self.work,
            "checkpoint_bytes": self.state_bytes,
            "save_waits_seconds": self.cost.waits,
            "save_writes_seconds": self.cost.writes,
            "mirror_seconds": self.mirror_seconds,
            "failure_every_seconds": None if failures is None else failures.mean_time,
            "expected": expected,
        }

    def _expected(self, failures: Failures) -> dict[str, dict[str, float | None]]:
        return {
            name: {
                "interval": _finite(interval),
                "seconds": _finite(failures.duration(self.work, interval)),
                "lost_share": failures.lost_share(self.work, interval),
            }
            for name, interval in self.intervals(failures).items()
        }

    def lines(self) -> list[str]:
        """The plan as lines; each begins with a label of at most 12 letters."""
        cluster, failures = self.cluster, self.failures
        machines = f"{cluster.nodes:,} machine{'s' if cluster.nodes > 1 else ''} x {cluster.gpus:,}"
        lines = [
            f"processes    {cluster.processes:,} ({machines}); {self.samples:,} samples a step",
            f"step         {duration_text(self.step)}: {duration_text(self.computing)} of work, "
            f"{duration_text(self.communication)} for gradients between processes",
            f"training     {duration_text(self.work)} for {self.steps:,} steps",
            f"save         {readable(self.state_bytes)}: training waits {duration_text(self.cost.waits)}, on this "
            f"machine's disk after {duration_text(self.cost.writes)}, in a mirror {duration_text(self.mirror_seconds)} "
            "later",
        ]
        return lines if failures is None else [*lines, *self._failure_lines(failures)]

    def _failure_lines(self, failures: Failures) -> list[str]:
        times = self.intervals(failures)
        seconds = max(1, int(times["recommended"]))
        names = {
            "without": "without      --save_seconds",
            "with": f"with         --save_seconds {self.saves.seconds:g}",
            "recommended": f"recommended  --save_seconds {seconds}",
        }
        if not self.saves.seconds:
            del names["with"]
        lines = [f"failures     one every {duration_text(failures.mean_time)} ({self.cluster.mtbf:g} h for a machine)"]
        for name, title in names.items():
            lines.append(f"{title}: {self._outcome(failures, times[name])}")
        if not self.saves.has_mirror and self.cluster.nodes > 1:
            lines.append("warning      without --mirror a checkpoint is lost with the disk that it is on")
        return lines

    def _outcome(self, failures: Failures, interval: float) -> str:
        expected = failures.duration(self.work, interval)
        if math.isinf(expected):
            return "it never ends: a failure comes before any save"
        every = "saved only at the end" if interval >= self.work else f"saved every {duration_text(interval)}"
        lost = failures.lost_share(self.work, interval)
        return f"{every}, {duration_text(expected)} expected, {lost:.1%} of it lost"


def cluster_plan(plan: Plan, cluster: Cluster, saves: Saves, cost: SaveCost, *, steps: int) -> ClusterPlan:
    """A plan on several machines.

    Args:
        plan: Of one process.
        cluster: The machines.
        saves: When it saves.
        cost: Of a save.
        steps: Of the run on all machines together.

    Raises:
        ConfigError: there is no step, or the speed of one is unknown.
    """
    if steps < 1:
        raise ConfigError("no step is to be trained", hint="--num_train_epochs or --max_steps with a larger number")
    computing = cluster.step_seconds or plan.seconds_per_step()
    if computing is None:
        raise ConfigError("the time of a step is unknown", hint="give it, as measured: --step_seconds SECONDS")

    choice, trained = plan.choice, plan.trained_weights
    return ClusterPlan(
        cluster=cluster,
        saves=saves,
        steps=steps,
        samples=choice.micro_batch * choice.accumulation * cluster.processes,
        computing=computing,
        communication=cluster.seconds_of_sum(FLOAT32_BYTES * trained),
        cost=cost,
        state_bytes=BYTES_PER_TRAINED_WEIGHT * trained,
    )


def _finite(seconds: float) -> float | None:
    """A number for JSON, which has no infinity."""
    return seconds if math.isfinite(seconds) else None
