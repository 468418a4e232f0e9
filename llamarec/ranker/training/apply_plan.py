"""The plan of a run of the ranker, applied to its options.

The planner only chooses values that are open: flags of the command line stay, and so do values of a resumed checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
from rich.console import Console

from llamarec.checkpoints.resume.current_process import effective_batch
from llamarec.checkpoints.resume.position import Geometry, Position
from llamarec.errors import ModelError
from llamarec.planning.choice import Wishes, choose_run
from llamarec.planning.device import Device, this_device
from llamarec.planning.lengths import Lengths
from llamarec.planning.plan import Plan, Work
from llamarec.planning.shape import shape_of
from llamarec.planning.speed import measure_speed
from llamarec.ranker.model.base_models import load_configuration, wants_nf4
from llamarec.ranker.model.cpu.form import goes_by_prompts
from llamarec.ranker.model.cpu.thread_pool import at_once
from llamarec.ranker.options.command_line import Parsed

_NUM_SAMPLED: Final = 1024
# Flags that decide each choice.
_FLAGS: Final = {
    "quantization": ("quantization",),
    "micro_batch": ("per_device_train_batch_size", "gradient_accumulation_steps"),
    "checkpointing": ("activation_checkpointing", "gradient_checkpointing"),
    "eval_batch": ("per_device_eval_batch_size",),
}


class KeyedSamples(Protocol):
    """Training samples of any readout, by (epoch, index)."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: tuple[int, int], /) -> Mapping[str, Any]: ...


def plan_run(
    parsed: Parsed,
    source: str,
    train: KeyedSamples,
    *,
    validation_prompts: int,
    test_prompts: int | None,
    with_speed: bool = True,
    device: Device | None = None,
    head_weights: int = 0,
) -> Plan:
    """The plan for a command line. Loads no weights.

    Args:
        parsed: The command line.
        source: What `base_model_source` returned.
        train: Training samples, some of which are built for their lengths.
        validation_prompts: Prompts of a validation.
        test_prompts: Prompts of the test; None if unknown.
        with_speed: Measure the speed of the device for a moment.
        device: Device to plan for; None means this machine's.
        head_weights: Weights that are trained beside LoRA.

    Raises:
        ModelError: the base model's configuration is not a Llama-like one.
    """
    name = parsed.ranker.llm_base_model
    config = load_configuration(name, source)
    shape = shape_of(config, name)
    device = device or this_device(on_cpu=parsed.training.use_cpu)
    lengths = _lengths(train, parsed)
    choice = choose_run(shape, lengths, device, _wishes(parsed, config))
    return Plan(
        model=name,
        shape=shape,
        lengths=lengths,
        device=device,
        choice=choice,
        work=_work(parsed, len(train), validation_prompts, test_prompts),
        speed=measure_speed(shape, choice.setup) if with_speed else None,
        origins=origins(parsed),
        head_weights=head_weights,
    )


def with_plan(parsed: Parsed, plan: Plan) -> Parsed:
    """The command line with the choices of a plan. The Trainer's arguments are changed in place."""
    choice, args, by = plan.choice, parsed.training, plan.origins
    if "micro_batch" not in by:
        args.per_device_train_batch_size = choice.micro_batch
        args.gradient_accumulation_steps = choice.accumulation
    if "checkpointing" not in by:
        args.activation_checkpointing = args.gradient_checkpointing = choice.checkpointing
    if "eval_batch" not in by:
        args.per_device_eval_batch_size = choice.eval_batch
    if "quantization" in by:
        return parsed
    # A definite value, so that another machine cannot choose differently on a resume.
    return parsed._replace(ranker=replace(parsed.ranker, quantization=choice.quantization))


def planned(
    parsed: Parsed, source: str, train: KeyedSamples, console: Console, *, validation_prompts: int, test_prompts: int
) -> Parsed:
    """Plans a run, prints the plan and applies it; without a plan the command line is unchanged."""
    # The full plan was printed at the start of a resumed run.
    resumes = bool(parsed.kept)
    try:
        plan = plan_run(
            parsed,
            source,
            train,
            validation_prompts=validation_prompts,
            test_prompts=test_prompts,
            with_speed=not (resumes or console.quiet),
        )
    except ModelError as error:
        console.print(f"no plan      {error.problem}: {error.found}", soft_wrap=True)
        return parsed
    for line in [plan.memory_line(), *plan.warnings()] if resumes else plan.short_lines():
        console.print(line, soft_wrap=True)
    return with_plan(parsed, plan)


def origins(parsed: Parsed) -> dict[str, str]:
    """Sources of values that the planner must not choose: "yours" for flags, "kept" for a checkpoint's values."""
    decided: dict[str, str] = {}
    for choice, flags in _FLAGS.items():
        if any(flag in parsed.given for flag in flags):
            decided[choice] = "yours"
        elif any(flag in parsed.kept for flag in flags):
            decided[choice] = "kept"
    if decided.get("quantization") == "yours" and parsed.ranker.quantization == "auto":
        # The user left the choice to the planner.
        del decided["quantization"]
    return decided


def _wishes(parsed: Parsed, config_of_model: Mapping[str, Any]) -> Wishes:
    args, config, settled = parsed.training, parsed.ranker, frozenset(origins(parsed))
    quantization = config.quantization
    if "quantization" in settled and quantization == "auto":
        # A checkpoint from before plans existed: the rule of that time.
        quantization = "nf4" if wants_nf4(config.llm_base_model, config) else "none"
    return Wishes(
        quantization=quantization,
        computes_bf16=bool(args.bf16),
        micro_batch=args.per_device_train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        eval_batch=args.per_device_eval_batch_size,
        checkpointing=bool(args.activation_checkpointing),
        settled=settled,
        lora_rank=config.lora_r,
        lora_targets=tuple(config.target_modules),
        lora_dropout=config.lora_dropout > 0,
        prompts_at_once=at_once(effective_batch(args)) if goes_by_prompts(config_of_model) else 0,
    )


def _lengths(train: KeyedSamples, parsed: Parsed) -> Lengths:
    # Drawn with the run's seed, so that the same command gives the same plan.
    rng = np.random.default_rng(parsed.training.seed)
    chosen = rng.choice(len(train), size=min(_NUM_SAMPLED, len(train)), replace=False)
    sample = [len(train[0, int(index)]["input_ids"]) for index in chosen]
    return Lengths(sample, limit=parsed.ranker.max_prompt_tokens)


def _work(parsed: Parsed, num_samples: int, validation_prompts: int, test_prompts: int | None) -> Work:
    args: Any = parsed.training
    epochs = Geometry(num_samples, effective_batch(args))
    steps = args.max_steps if args.max_steps > 0 else epochs.steps_to_go(Position(), float(args.num_train_epochs))
    strategy = str(getattr(args.eval_strategy, "value", args.eval_strategy))
    validations = {"steps": steps // max(int(args.eval_steps or 1), 1), "epoch": math.ceil(args.num_train_epochs)}
    return Work(steps, validations.get(strategy, 0), validation_prompts, test_prompts)
