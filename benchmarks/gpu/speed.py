"""Training and evaluation of a 7B model on a GPU, beside the recipe as published, in bfloat16 and in 4 bits."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, set_seed

from benchmarks.gpu.bench import Bench, Figure, Measure, Watch, make_trainer, unmeasured
from benchmarks.gpu.drawn import LETTER_IDS, SEED, DrawnPrompts, drawn_models
from benchmarks.harness.hardware import matmul_rate, multiplied_weights, needed_flops, synchronize
from benchmarks.harness.report import Row
from benchmarks.ranker import published
from benchmarks.ranker.epoch import COVERED, STEP, Epoch
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.training_samples import epoch_order

DTYPES: Final = ("bf16", "nf4")
_EVALUATED: Final = 64
_EOS: Final = 2
"""Also the padding of the recipe."""


# As counted in the data.
BEAUTY: Final = Epoch(prompts=131_219, users=22_332, coverage=COVERED["beauty"])


@dataclass(frozen=True)
class Setting:
    """A way to train.

    Attributes:
        dtype: 'bf16' or 'nf4'.
        name: In one word.
        micro_batch: Samples per forward pass.
        recomputed: Activations are computed again on the way back.
        peak_goal: Of memory, in GB.
    """

    dtype: str
    name: str
    micro_batch: int
    recomputed: bool
    peak_goal: str = ""

    @property
    def flags(self) -> dict[str, Any]:
        """Of train_ranker.py."""
        return {
            "quantization": "nf4" if self.dtype == "nf4" else "none",
            "bf16": True,
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": STEP // self.micro_batch,
            "activation_checkpointing": self.recomputed,
        }

    @property
    def text(self) -> str:
        """For people."""
        return f"micro-batch {self.micro_batch}, activations {'recomputed' if self.recomputed else 'kept'}"


# The defaults first: those are what end-to-end figures are taken with.
SETTINGS: Final = (
    Setting("bf16", "default", 12, True),
    Setting("bf16", "kept4", 4, False),
    Setting("bf16", "kept2", 2, False),
    Setting("bf16", "kept1", 1, False),
    Setting("nf4", "default", 12, True, "<= 24"),
    Setting("nf4", "micro1", 1, True, "<= 16"),
    Setting("nf4", "kept4", 4, False),
)


def measures() -> list[Measure]:
    """All of this part; later ones need earlier ones."""
    found = [Measure((unmeasured("matmul_tflops", note="8192 x 8192 x 8192, bf16, best of a second"),), _matmul)]
    for dtype in DTYPES:
        ours = [setting for setting in SETTINGS if setting.dtype == dtype]
        found += [Measure(_training_rows(setting), partial(_train_ours, setting=setting)) for setting in ours]
        found += [
            Measure((unmeasured(f"{dtype}_eval_prompts_per_second"),), partial(_evaluate_ours, setting=ours[0])),
            Measure(_recipe_rows(dtype), partial(_train_recipe, dtype=dtype)),
            Measure((unmeasured(f"{dtype}_recipe_eval_prompts_per_second"),), partial(_evaluate_recipe, dtype=dtype)),
            Measure(
                (unmeasured(f"{dtype}_best_of_matmul", ">= 0.5" if dtype == "bf16" else ""),),
                partial(_best, dtype=dtype),
            ),
            Measure(_whole_rows(dtype), partial(_whole, dtype=dtype)),
        ]
    return found


# ---- Ours ----


def _training_rows(setting: Setting) -> tuple[Row, ...]:
    start, note = f"{setting.dtype}_{setting.name}", setting.text
    return (
        unmeasured(f"{start}_samples_per_second", note=note),
        unmeasured(f"{start}_tokens_per_second", note="without padding"),
        unmeasured(f"{start}_of_matmul"),
        unmeasured(f"{start}_peak_gb", setting.peak_goal, "in a step with a prompt of the greatest length"),
    )


def _train_ours(bench: Bench, setting: Setting) -> dict[str, Figure]:
    prompts, order = _training_prompts(bench)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            bench, bench.shape, prompts, Path(folder), max_steps=len(prompts) // STEP, **setting.flags
        )
        watch = Watch(bench, lambda: trainer._resumable.training.run.progress.micro_batch)
        trainer.add_callback(watch)
        trainer.train()
    tokens = _timed_tokens(bench, prompts, order)
    flops = needed_flops(multiplied_weights(trainer.model), tokens, training=True)
    start = f"{setting.dtype}_{setting.name}"
    micro_batch = trainer._resumable.training.run.progress.micro_batch
    return {
        f"{start}_samples_per_second": Figure(bench.timed_steps * STEP / watch.seconds, _reduced(watch.reduced)),
        f"{start}_tokens_per_second": Figure(tokens / watch.seconds),
        f"{start}_of_matmul": Figure(flops / watch.seconds / (bench.value("matmul_tflops") * 1e12)),
        f"{start}_peak_gb": Figure(watch.peak_gb, _peak_note(bench, micro_batch)),
    }


def _reduced(micro_batch: int) -> str:
    return f"out of memory: micro-batches of {micro_batch} instead" if micro_batch else ""


def _peak_note(bench: Bench, micro_batch: int = 0) -> str:
    return _reduced(micro_batch) if bench.is_gpu else "not measured on a CPU"


def _training_prompts(bench: Bench) -> tuple[DrawnPrompts, NDArray[np.int64]]:
    """Prompts of all steps, and the order in which they are taken; the last step has one of the greatest length."""
    count = (bench.warm_steps + bench.timed_steps + 1) * STEP
    order, lengths = epoch_order(count, SEED, 0), bench.lengths(bench.shape, count).copy()
    lengths[order[-STEP]] = bench.shape.most_tokens
    return DrawnPrompts(lengths, bench.shape.vocabulary), order


def _timed_tokens(bench: Bench, prompts: DrawnPrompts, order: NDArray[np.int64]) -> int:
    start = bench.warm_steps * STEP
    return int(prompts.lengths[order[start : start + bench.timed_steps * STEP]].sum())


def _evaluate_ours(bench: Bench, setting: Setting) -> dict[str, Figure]:
    # Shortest first, as the product has them.
    prompts = DrawnPrompts(np.sort(bench.lengths(bench.shape, _EVALUATED)), bench.shape.vocabulary)
    samples: Any = prompts
    with tempfile.TemporaryDirectory() as folder:
        flags = {**setting.flags, "per_device_eval_batch_size": 16}
        trainer = make_trainer(bench, bench.shape, prompts, Path(folder), **flags)
        seconds = _second_time(bench, lambda: trainer.predict_letters(samples))
    return {f"{setting.dtype}_eval_prompts_per_second": Figure(_EVALUATED / seconds)}


# ---- The recipe ----


def _recipe_rows(dtype: str) -> tuple[Row, ...]:
    note = "micro-batch 12, activations recomputed, logits of the whole vocabulary; no time for tokenising"
    return (
        unmeasured(f"{dtype}_recipe_samples_per_second", note=note),
        unmeasured(f"{dtype}_recipe_of_matmul"),
        unmeasured(f"{dtype}_recipe_peak_gb", note="in a step with a prompt of the greatest length"),
    )


def _train_recipe(bench: Bench, dtype: str) -> dict[str, Figure]:
    prompts, order = _training_prompts(bench)
    model = _recipe_model(bench, dtype)
    samples = [prompts[int(index)] for index in order]
    with tempfile.TemporaryDirectory() as folder:
        trainer = published.trainer_over(
            published.Ids(samples, LETTER_IDS, _EOS, answered=True),
            _EOS,
            model,
            Path(folder),
            micro_batch=STEP,
            accumulate=1,
            max_steps=len(samples) // STEP,
            bf16=True,
            use_cpu=not bench.is_gpu,
            dataloader_pin_memory=bench.is_gpu,
        )
        watch = Watch(bench)
        trainer.add_callback(watch)
        trainer.train()
    tokens = _timed_tokens(bench, prompts, order)
    flops = needed_flops(multiplied_weights(model), tokens, training=True)
    return {
        f"{dtype}_recipe_samples_per_second": Figure(bench.timed_steps * STEP / watch.seconds),
        f"{dtype}_recipe_of_matmul": Figure(flops / watch.seconds / (bench.value("matmul_tflops") * 1e12)),
        f"{dtype}_recipe_peak_gb": Figure(watch.peak_gb, _peak_note(bench)),
    }


def _evaluate_recipe(bench: Bench, dtype: str) -> dict[str, Figure]:
    prompts = DrawnPrompts(bench.lengths(bench.shape, _EVALUATED), bench.shape.vocabulary)
    samples, model = published.Ids(prompts, LETTER_IDS, _EOS, answered=False), _recipe_model(bench, dtype)
    with torch.autocast(bench.device, dtype=torch.bfloat16):
        seconds = _second_time(bench, lambda: published.letter_logits_of(samples, _EOS, model, LETTER_IDS, batch=STEP))
    return {f"{dtype}_recipe_eval_prompts_per_second": Figure(_EVALUATED / seconds)}


def _recipe_model(bench: Bench, dtype: str) -> Any:
    """Attention as it was then: transformers had no other for Llama."""
    set_seed(SEED)
    four_bits = published.four_bits() if dtype == "nf4" else None
    with drawn_models(bench.shape, bench.device):
        model = AutoModelForCausalLM.from_pretrained(
            "", dtype=torch.bfloat16, attn_implementation="eager", quantization_config=four_bits
        )
    return published.with_lora(model)


# ---- Both ----


def _best(bench: Bench, dtype: str) -> dict[str, Figure]:
    fractions: dict[float, Setting] = {}
    for setting in SETTINGS:
        figure = bench.found.get(f"{dtype}_{setting.name}_of_matmul")
        if setting.dtype == dtype and figure is not None and not math.isnan(figure.value):
            fractions[figure.value] = setting
    if not fractions:
        raise LookupError(f"no training in {dtype} was measured")
    return {f"{dtype}_best_of_matmul": Figure(max(fractions), fractions[max(fractions)].text)}


def _whole_rows(dtype: str) -> tuple[Row, ...]:
    return (
        unmeasured(f"{dtype}_training_ratio", note="samples per second, ours with the defaults over the recipe's"),
        unmeasured(f"{dtype}_end_to_end_ratio", ">= 5", "an epoch of Beauty with its validations, with the defaults"),
        unmeasured(f"{dtype}_epoch_hours", note="the same, ours"),
    )


def _whole(bench: Bench, dtype: str) -> dict[str, Figure]:
    """Training alone, and an epoch with its validations: ours looks at a part of the users, the recipe at all."""
    ours, theirs = (bench.value(f"{dtype}_{way}_samples_per_second") for way in ("default", "recipe"))
    evaluating, their_evaluating = (bench.value(f"{dtype}_{way}eval_prompts_per_second") for way in ("", "recipe_"))
    epoch = BEAUTY.seconds(1 / ours, 1 / evaluating, RankerConfig().max_eval_users)
    return {
        f"{dtype}_training_ratio": Figure(ours / theirs),
        f"{dtype}_end_to_end_ratio": Figure(BEAUTY.seconds(1 / theirs, 1 / their_evaluating, BEAUTY.users) / epoch),
        f"{dtype}_epoch_hours": Figure(epoch / 3600),
    }


def _matmul(bench: Bench) -> dict[str, Figure]:
    seconds = 1.0 if bench.is_gpu else 0.0
    return {"matmul_tflops": Figure(matmul_rate(torch.bfloat16, bench.device, seconds) / 1e12)}


def _second_time(bench: Bench, action: Any) -> float:
    """Seconds; the first time is not counted, since kernels are chosen and memory is asked for."""
    seconds = 0.0
    for _ in range(2):
        synchronize(bench.device)
        started = time.perf_counter()
        action()
        synchronize(bench.device)
        seconds = time.perf_counter() - started
    return seconds
