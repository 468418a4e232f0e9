"""The plan of a run of the ranker on several GPUs and machines, from its flags and a measured save."""

from __future__ import annotations

import math

from llamarec.planning.cluster import ClusterPlan, Saves, cluster_plan
from llamarec.planning.cluster_options import Cluster
from llamarec.planning.plan import Plan
from llamarec.planning.save_cost import BYTES_PER_TRAINED_WEIGHT, measure_save
from llamarec.ranker.options.command_line import Parsed


def plan_on(cluster: Cluster, plan: Plan, parsed: Parsed) -> ClusterPlan:
    """The plan on these machines. Measures a save in the run's folder, and leaves nothing there.

    Args:
        cluster: The machines.
        plan: Of one process.
        parsed: The command line.

    Raises:
        ConfigError: nothing can be written in the run's folder, or the time of a step is unknown.
    """
    # Every process takes as many samples a step as one alone, so an epoch has fewer steps. --max_steps are steps.
    is_counted = parsed.training.max_steps > 0
    steps = plan.work.steps if is_counted else math.ceil(plan.work.steps / cluster.processes)

    num_bytes = BYTES_PER_TRAINED_WEIGHT * plan.trained_weights
    cost = measure_save(parsed.experiment.ranker, num_bytes, on_gpu=plan.device.is_gpu)
    return cluster_plan(plan, cluster, _saves(parsed, steps), cost, steps=steps)


def _saves(parsed: Parsed, steps: int) -> Saves:
    args, config = parsed.training, parsed.checkpoints
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    # The Trainer reads a number below 1 as a share of all steps.
    every = args.save_steps if args.save_steps >= 1 else max(1, math.ceil(args.save_steps * steps))
    by_strategy = {"steps": float(every), "epoch": steps / max(1.0, args.num_train_epochs)}
    return Saves(steps=by_strategy.get(strategy, math.inf), seconds=config.save_seconds, has_mirror=bool(config.mirror))
