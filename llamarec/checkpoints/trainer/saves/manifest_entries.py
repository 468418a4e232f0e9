"""What a checkpoint's manifest says of the training: its latest figures, and the machine it runs on."""

from __future__ import annotations

import functools
import platform

import torch
from transformers import TrainingArguments

from llamarec.checkpoints.trainer.guards.versions import installed_versions
from llamarec.checkpoints.trainer.saves.json_values import Json, for_log
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer


def metrics_of(trainer: LiveTrainer) -> dict[str, Json]:
    """The latest loss and evaluation, and the best value so far."""
    state, metrics = trainer.state, dict[str, Json]()
    last_loss = next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None)
    evaluated = [row for row in state.log_history if any(str(name).startswith("eval_") for name in row)]

    if last_loss is not None:
        metrics["loss"] = for_log(last_loss)
    if state.best_metric is not None:
        metrics |= {"best_metric": state.best_metric, "best_step": state.best_global_step}
        metrics["metric_name"] = trainer.args.metric_for_best_model
    if evaluated:
        metrics["evaluation"] = for_log(evaluated[-1])

    return metrics


@functools.cache
def name_of_platform() -> str:
    """The operating system in a word. Called before training: the first call may start a process."""
    return platform.platform()


def environment_of(args: TrainingArguments) -> dict[str, object]:
    """Versions, platform, device, processes and threads."""
    device = args.device
    return {
        "python": platform.python_version(),
        "platform": name_of_platform(),
        "host": platform.node(),
        **installed_versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "num_processes": args.world_size,
        "num_threads": torch.get_num_threads(),
    }
