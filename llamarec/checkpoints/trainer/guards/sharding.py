"""FSDP2 and DeepSpeed, asked for by a flag or by `accelerate launch`: what is supported, and what is refused by name.

Accelerate passes over FSDP on a CPU without a word, and transformers raises in one process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from transformers import TrainingArguments

from llamarec.checkpoints.trainer.state.snapshot import can_be_copied
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer
from llamarec.errors import ConfigError, check_all

_LAUNCHER: Final = "ACCELERATE_USE_FSDP"
_VERSION: Final = "FSDP_VERSION"
# Their moments have the shape of the weight, and each entry is computed from that entry alone.
_OPTIMIZERS: Final = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")


def check_sharding_flags(args: TrainingArguments) -> None:
    """Refuses FSDP where a library would ignore it, raise, or shard what cannot be gathered exactly.

    Args:
        args: Of the Trainer.

    Raises:
        ConfigError: says who asks for it, and what to type.
    """
    if not (args.fsdp or _launcher_asks()):
        return

    asked = "--fsdp" if args.fsdp else f"{_LAUNCHER} in the environment"
    if args.world_size == 1:
        raise ConfigError(
            f"{asked} shards a model over several processes, and this is one",
            expected="at least 2 processes",
            hint=[
                "torchrun --nproc-per-node 2 train_ranker.py ... --fsdp",
                "or the same command without --fsdp: a checkpoint is the same for any number of processes",
            ],
        )

    config: Mapping[str, object] = args.fsdp_config if isinstance(args.fsdp_config, dict) else {}
    plugin = _plugin_arguments(args)
    version = plugin.get("fsdp_version", 2) if args.fsdp else int(os.environ.get(_VERSION, "1"))
    optim = str(getattr(args.optim, "value", args.optim))
    rules = [
        (version == 2, "FSDP1 is not supported: FSDP2 (--fsdp_config '{\"version\": 2}', or FSDP_VERSION=2)"),
        (not _is_on(config.get("xla")), "XLA's FSDP is not supported: FSDP2 without the entry xla"),
        (
            not _is_on(plugin.get("activation_checkpointing")),
            "FSDP's own activation checkpointing renames weights: leave the entry out, --gradient_checkpointing true",
        ),
        (not _is_on(plugin.get("cpu_offload")), "cpu_offload keeps shards that cannot be gathered: leave it out"),
        (
            not _is_on(plugin.get("cpu_ram_efficient_loading")),
            "cpu_ram_efficient_loading leaves processes without a model to compare: leave it out",
        ),
        (optim in _OPTIMIZERS, f"--optim {optim} is not exact on shards: one of {', '.join(_OPTIMIZERS)}"),
        (not args.torch_compile, "--torch_compile has not been tested with FSDP2: leave it out"),
    ]
    check_all("this training cannot be sharded and resumed exactly", rules)


def shard_where_accelerate_does_not(trainer: LiveTrainer) -> None:
    """Has accelerate shard the model on a CPU as it does on an accelerator.

    Args:
        trainer: With its accelerator just made.
    """
    args, accelerator = trainer.args, trainer.accelerator
    state = accelerator.state
    if not (args.fsdp or _launcher_asks()) or state.distributed_type != DistributedType.MULTI_CPU:
        return

    plugin = FullyShardedDataParallelPlugin(**_plugin_arguments(args))
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
    trainer.is_fsdp_enabled = True


def check_can_be_gathered(model: nn.Module, *, writes_itself: bool) -> None:
    """Refuses a sharded model whose files only the live model can write.

    Args:
        model: Unwrapped.
        writes_itself: A subclass overrides `_save` or `save_model`.

    Raises:
        ConfigError: says which.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        raise ConfigError(
            "a quantised model with FSDP2 has not been tried",
            expected="a model in bf16 or fp32",
            hint="leave out --quantization, or --fsdp (torchrun: DistributedDataParallel)",
        )
    if writes_itself or not can_be_copied(model):
        raise ConfigError(
            "FSDP2 cannot be used here: "
            + ("this Trainer writes its model itself" if writes_itself else "this adapter's file is computed from it"),
            expected="weights that are gathered, and written by save_pretrained",
            hint="torchrun without --fsdp (DistributedDataParallel)",
        )


def _plugin_arguments(args: TrainingArguments) -> dict[str, Any]:
    """As transformers has read them; none where `accelerate launch` has set variables instead."""
    return vars(args).get("fsdp_plugin_args") or {}


def _launcher_asks() -> bool:
    return os.environ.get(_LAUNCHER, "false").lower() == "true"


def _is_on(value: object) -> bool:
    return str(value).lower() in ("true", "1")
