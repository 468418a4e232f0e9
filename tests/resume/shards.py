"""Trainings whose model is sharded over processes; the functions run in every process of `run_in_processes`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback

from llamarec.errors import ConfigError
from llamarec.ranker.model.quantization import prepare_for_training
from tests.resume.ranks import ended

BASE = "base"


class Whole(TrainerCallback):
    """Keeps trained weights after each step, gathered, and how many of a weight's entries this process holds."""

    def __init__(self) -> None:
        self.weights: list[float] = []
        self.shares: set[float] = set()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = list(kwargs["model"].parameters())
        # Of this step alone: a checkpoint has a callback's attributes.
        self.shares = {_local(p).numel() / p.numel() for p in parameters}
        trained = [_whole(p) for p in parameters if p.requires_grad]
        self.weights = torch.cat([p.detach().reshape(-1).float() for p in trained]).tolist()


def _local(value: Any) -> Any:
    return value.to_local() if hasattr(value, "to_local") else value


def _whole(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def fail_in_the_middle(model: Any, fits: int, where: str) -> None:
    """Makes a model fail with more samples at once: in a layer's forward pass, or in its backward pass."""

    def check(count: int) -> None:
        if count > fits:
            raise torch.OutOfMemoryError(f"CUDA out of memory with {count} samples")

    layer = model.get_base_model().model.layers[1]
    if where == "forward":
        layer.register_forward_pre_hook(lambda _, args: check(len(args[0])))
        return

    def after(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: check(len(gradient)))

    layer.register_forward_hook(after)


def shard_there(
    folder: Path,
    resume: Any,
    stop_after: int | None,
    changes: dict[str, Any],
    *,
    fits: int = 1000,
    where: str = "forward",
    fail_at: int | None = None,
    whole_model: bool = False,
    storage: str | None = None,
) -> dict[str, Any]:
    """Trains `quiet_trainer`; what a test wants to know of it, as plain values.

    Args:
        folder: Of the run.
        resume: As for `train`.
        stop_after: A signal comes after this step, to the last process only.
        changes: Arguments of `quiet_trainer`.
        fits: More samples at once are out of memory, in the first process only.
        where: It happens there.
        fail_at: An exception comes once from a layer of the last process, after this step.
        whole_model: Without LoRA.
        storage: The base model, of the folder `BASE` beside the run, is in 4 bits, which this data type stores.
    """
    from tests.resume.runs import At, quiet_trainer, rates, samples_in
    from tests.resume.training import make_model
    from tests.resume.worker_data import VOCABULARY
    from tests.tiny_llama import tiny_llama

    rank = int(os.environ.get("RANK", "0"))
    log, kept = folder.parent / f"seen-{folder.name}-{os.getpid()}", Whole()
    if "RANK" in os.environ:
        changes = {**changes, "ddp_backend": "gloo"}
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "max_position_embeddings": 32}
    model = tiny_llama(**sizes, tie_word_embeddings=False) if whole_model else make_model(dropout=0.0)
    if storage is not None:
        model = _in_four_bits(folder.parent / BASE, storage)
    try:
        trainer = quiet_trainer(folder, seen=log, model=model, callbacks=(kept,), **changes)
    except ConfigError as error:
        return {"text": str(error)}

    if rank == 0 and fits < 1000:
        fail_in_the_middle(trainer.model, fits, where)
    if stop_after is not None and rank == trainer.args.world_size - 1:
        trainer.add_callback(At(stop_after))
    if fail_at is not None and rank == trainer.args.world_size - 1:
        failed: list[bool] = []

        def fail(*_: Any) -> None:
            if trainer.state.global_step == fail_at and not failed:
                failed.append(True)
                raise ValueError("only here")

        trainer.model.get_base_model().model.layers[1].register_forward_pre_hook(fail)
    end = ended(lambda: trainer.train(resume))
    last = trainer._resumable.last
    return {
        **end,
        "seen": samples_in(log),
        "step": trainer.state.global_step,
        "world_size": trainer.args.world_size,
        "micro_batch": last.run.progress.micro_batch if last is not None else 0,
        "rates": rates(trainer),
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "eval": [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row],
        "weights": kept.weights,
        "shares": sorted(kept.shares),
    }


def _in_four_bits(folder: Path, storage: str) -> Any:
    """LoRA on a base model in 4 bits."""
    options = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_quant_storage": storage}
    configuration = BitsAndBytesConfig(load_in_4bit=True, **options)
    base = AutoModelForCausalLM.from_pretrained(folder, quantization_config=configuration)
    prepare_for_training(base)
    torch.manual_seed(2)
    return get_peft_model(base, LoraConfig(r=4, lora_dropout=0.0, target_modules=["q_proj", "v_proj"]))


def shard_all(rows: dict[str, tuple[tuple[Any, ...], dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By name, one training after another in the same processes.

    Args:
        rows: By name, the arguments of `shard_there`.
    """
    found = {}
    for name, (args, kwargs) in rows.items():
        # Accelerate leaves its wish behind.
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        found[name] = shard_there(*args, **kwargs)
    return found
