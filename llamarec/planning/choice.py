"""The choice of precision, checkpointing and micro-batch: a pure function of shape, lengths, memory and wishes.

Values from the user or from a resumed run stay. The samples of a step never change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llamarec.planning.device import Device
from llamarec.planning.lengths import Lengths
from llamarec.planning.memory import Peak, evaluation_peak, training_peak, weight_bytes
from llamarec.planning.setup import Setup
from llamarec.planning.shape import ModelShape

# Whole weights may take this share of the usable memory. Above it too little is left for prompts: 4 bits are chosen.
_SHARE_OF_WEIGHTS: Final = 0.5
# Starting the kernels of a pass takes as long as the products of this many tokens.
_STARTING_TOKENS: Final = 512


@dataclass(frozen=True)
class Wishes:
    """Options of a run before planning.

    Attributes:
        quantization: nf4, none or auto.
        computes_bf16: Products are in bfloat16.
        micro_batch: Samples per device in one forward pass.
        accumulation: Forward passes per step.
        eval_batch: Prompts per device in one forward pass of evaluation.
        checkpointing: Activations are recomputed.
        settled: Names of options that the planner must not change.
        lora_rank: Rank of LoRA.
        lora_targets: Names of the linear layers with LoRA.
        lora_dropout: Whether LoRA has dropout.
        prompts_at_once: On a CPU in float32, prompts computed at the same time (`Setup.prompts_at_once`); 0 if the
            model's layers are not known.
    """

    quantization: str = "auto"
    computes_bf16: bool = True
    micro_batch: int = 12
    accumulation: int = 1
    eval_batch: int = 16
    checkpointing: bool = True
    settled: frozenset[str] = frozenset()
    lora_rank: int = 8
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    lora_dropout: bool = True
    prompts_at_once: int = 0


@dataclass(frozen=True)
class RunChoice:
    """How a run is carried out.

    Attributes:
        setup: Precision and LoRA.
        checkpointing: Activations are recomputed.
        micro_batch: Samples per forward pass.
        accumulation: Forward passes per step.
        eval_batch: Prompts per forward pass of evaluation.
        training: Peak of a step.
        evaluation: Peak of a validation or test.
        fits: Both peaks are within the usable memory.
    """

    setup: Setup
    checkpointing: bool
    micro_batch: int
    accumulation: int
    eval_batch: int
    training: Peak
    evaluation: Peak
    fits: bool

    @property
    def by_prompts(self) -> bool:
        """Whether training goes prompt by prompt."""
        return self.setup.by_prompts(checkpointing=self.checkpointing)

    @property
    def quantization(self) -> str:
        """The value of `--quantization`."""
        return "nf4" if self.setup.precision == "nf4" else "none"


def choose_run(shape: ModelShape, lengths: Lengths, device: Device, wishes: Wishes) -> RunChoice:
    """The fastest choice that fits, or the smallest if nothing fits."""
    precision = _precision(shape, device, wishes)
    setup = Setup(
        precision=precision,
        computes_bf16=wishes.computes_bf16,
        lora_rank=wishes.lora_rank,
        lora_targets=wishes.lora_targets,
        lora_dropout=wishes.lora_dropout,
        on_gpu=device.is_gpu,
        prompts_at_once=wishes.prompts_at_once if precision == "fp32" and not device.is_gpu else 0,
    )

    micro_batch, checkpointing, training = _training(shape, lengths, device, wishes, setup)
    eval_batch, evaluation = _evaluation(shape, lengths, device, wishes, setup)

    return RunChoice(
        setup=setup,
        checkpointing=checkpointing,
        micro_batch=micro_batch,
        accumulation=wishes.micro_batch * wishes.accumulation // micro_batch,
        eval_batch=eval_batch,
        training=training,
        evaluation=evaluation,
        fits=max(training.total, evaluation.total) <= device.usable,
    )


def _precision(shape: ModelShape, device: Device, wishes: Wishes) -> str:
    """Precision of the frozen weights. It depends on weights and device only, so it stays when prompts change."""
    whole = "bf16" if wishes.computes_bf16 else "fp32"
    if wishes.quantization != "auto":
        return "nf4" if wishes.quantization == "nf4" else whole
    return whole if weight_bytes(shape, whole) <= _SHARE_OF_WEIGHTS * device.usable else "nf4"


def _training(
    shape: ModelShape, lengths: Lengths, device: Device, wishes: Wishes, setup: Setup
) -> tuple[int, bool, Peak]:
    options = [
        (micro_batch, checkpointing)
        for checkpointing in ([wishes.checkpointing] if "checkpointing" in wishes.settled else [False, True])
        for micro_batch in _micro_batches(device, wishes, by_prompts=setup.by_prompts(checkpointing=checkpointing))
    ]
    peaks = {
        (micro_batch, checkpointing): training_peak(
            shape, setup, micro_batch=micro_batch, length=lengths.longest, checkpointing=checkpointing
        )
        for micro_batch, checkpointing in options
    }

    fitting = [option for option in options if peaks[option].total <= device.usable]
    if not fitting:
        best = min(options, key=lambda option: peaks[option].total)
    elif device.is_gpu:
        # Among equal costs the first wins: without checkpointing, with the larger micro-batch.
        best = min(fitting, key=lambda option: _cost(option[0], option[1], lengths, setup))
    else:
        # Without checkpointing where that fits.
        best = fitting[0]
    return *best, peaks[best]


def _micro_batches(device: Device, wishes: Wishes, *, by_prompts: bool) -> list[int]:
    """Sizes that make the same step, largest first."""
    if "micro_batch" in wishes.settled:
        return [wishes.micro_batch]
    samples = wishes.micro_batch * wishes.accumulation
    if not device.is_gpu:
        # A CPU gains nothing from larger batches (docs/decisions/0003); prompt by prompt they cost nothing.
        return [samples if by_prompts else 1]
    return [size for size in range(samples, 0, -1) if samples % size == 0]


def _cost(micro_batch: int, checkpointing: bool, lengths: Lengths, setup: Setup) -> float:
    """Relative time per prompt: padding against the overhead of passes over few tokens."""
    padded = lengths.padded(micro_batch)
    starting = _STARTING_TOKENS + setup.unpacking_tokens
    return (3 if checkpointing else 2) * (padded + starting / micro_batch)


def _evaluation(shape: ModelShape, lengths: Lengths, device: Device, wishes: Wishes, setup: Setup) -> tuple[int, Peak]:
    batch = wishes.eval_batch
    while True:
        peak = evaluation_peak(shape, setup, batch=batch, length=lengths.longest)
        if peak.total <= device.usable or batch == 1 or "eval_batch" in wishes.settled:
            return batch, peak
        batch //= 2
