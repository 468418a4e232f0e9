"""FSDP2 and DeepSpeed, asked for by a flag or by `accelerate launch`: what is supported, and what is refused by name.

Accelerate passes over FSDP on a CPU without a word, and transformers raises in one process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from transformers import TrainingArguments

from llamarec.checkpoints.trainer.state.snapshot import can_be_copied
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer
from llamarec.errors import ConfigError, check_all

_LAUNCHER: Final = "ACCELERATE_USE_FSDP"
_VERSION: Final = "FSDP_VERSION"
# What accelerate reads where --fsdp says nothing; `accelerate launch` sets them, the last one to true by default.
_VARIABLES: Final = {
    "activation_checkpointing": "FSDP_ACTIVATION_CHECKPOINTING",
    "cpu_offload": "FSDP_OFFLOAD_PARAMS",
    "cpu_ram_efficient_loading": "FSDP_CPU_RAM_EFFICIENT_LOADING",
}
_ON: Final = ("true", "1", "yes", "y", "t", "on")
# Their moments have the shape of the weight, and each entry is computed from that entry alone.
_OPTIMIZERS: Final = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")


def asks_for_shards(args: TrainingArguments) -> bool:
    """Whether FSDP is asked for, by a flag or by `accelerate launch`."""
    return bool(args.fsdp) or _launcher_asks()


def check_sharding_flags(args: TrainingArguments) -> None:
    """Refuses FSDP where a library would ignore it, raise, or shard what cannot be gathered exactly.

    Args:
        args: Of the Trainer.

    Raises:
        ConfigError: says who asks for it, and what to type.
    """
    if not asks_for_shards(args):
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
    version = str(plugin.get("fsdp_version", 2)) if args.fsdp else os.environ.get(_VERSION, "1").strip()
    optim = str(getattr(args.optim, "value", args.optim))
    rules = [
        (version == "2", "FSDP1 is not supported: FSDP2 (--fsdp_config '{\"version\": 2}', or FSDP_VERSION=2)"),
        (not _is_on(config.get("xla")), "XLA's FSDP is not supported: FSDP2 without the entry xla"),
        (
            not _has(plugin, "activation_checkpointing"),
            "FSDP's own activation checkpointing renames weights: leave the entry out, "
            "--gradient_checkpointing true (accelerate launch: --fsdp_activation_checkpointing false)",
        ),
        (
            not _has(plugin, "cpu_offload"),
            "cpu_offload keeps shards that cannot be gathered: leave it out "
            "(accelerate launch: --fsdp_offload_params false)",
        ),
        (
            not _has(plugin, "cpu_ram_efficient_loading"),
            "cpu_ram_efficient_loading leaves processes without a model to compare: leave it out "
            "(accelerate launch: --fsdp_cpu_ram_efficient_loading false)",
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
    if not asks_for_shards(args) or state.distributed_type != DistributedType.MULTI_CPU:
        return

    plugin = FullyShardedDataParallelPlugin(**_plugin_arguments(args))
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
    trainer.is_fsdp_enabled = True


def check_can_be_gathered(trainer: LiveTrainer, model: nn.Module, *, writes_itself: bool) -> None:
    """Refuses a model that FSDP2 would not shard, or whose files only the live model can write.

    Args:
        trainer: Before it prepares the model.
        model: Unwrapped.
        writes_itself: A subclass overrides `_save` or `save_model`.

    Raises:
        ConfigError: says which.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        policy = trainer.accelerator.state.fsdp_plugin.mixed_precision_policy
        _check_quantised(model, casts_to=None if policy is None else policy.param_dtype)
    if writes_itself or not can_be_copied(model):
        raise ConfigError(
            "FSDP2 cannot be used here: "
            + ("this Trainer writes its model itself" if writes_itself else "this adapter's file is computed from it"),
            expected="weights that are gathered, and written by save_pretrained",
            hint="torchrun without --fsdp (DistributedDataParallel)",
        )


def _check_quantised(model: nn.Module, *, casts_to: torch.dtype | None) -> None:
    """Four bits are sharded where they are stored as numbers of the data type that FSDP2 casts to.

    Accelerate leaves all others whole in every process, and a cast would change the bits.
    """
    frozen = [one for one in model.parameters() if not one.requires_grad and hasattr(one, "quant_state")]
    stored = {one.dtype for one in frozen}
    wanted = casts_to or torch.get_default_dtype()
    keeps_bits = casts_to is None or stored == {casts_to}
    if stored and keeps_bits and all(one.is_floating_point for one in stored):
        return

    found = ", ".join(sorted(map(str, stored))) or f"weights of {type(model.hf_quantizer).__name__}"
    raise ConfigError(
        "FSDP2 does not shard these quantised weights",
        expected=f"bitsandbytes' 4 bits with bnb_4bit_quant_storage={wanted}",
        found=found,
        hint="load the model so, or leave out --fsdp (torchrun: DistributedDataParallel)",
    )


def _plugin_arguments(args: TrainingArguments) -> dict[str, Any]:
    """As transformers has read them; none where `accelerate launch` has set variables instead."""
    return vars(args).get("fsdp_plugin_args") or {}


def _has(plugin: Mapping[str, object], name: str) -> bool:
    """Whether accelerate will do it: asked for by the flag, or by its own variable where the flag says nothing."""
    given = plugin.get(name)
    return _is_on(os.environ.get(_VARIABLES[name], "false") if given is None else given)


def _launcher_asks() -> bool:
    return _is_on(os.environ.get(_LAUNCHER, "false"))


def _is_on(value: object) -> bool:
    return str(value).strip().lower() in _ON
