"""The decision on devices that exist only here, with Llama-2-7B's shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llamarec.planning.choice import RunChoice, Wishes, choose_run
from llamarec.planning.device import Device
from llamarec.planning.lengths import Lengths
from llamarec.planning.memory import NF4_BYTES, evaluation_peak, training_peak, weight_bytes
from llamarec.planning.setup import Setup
from llamarec.planning.shape import ModelShape, shape_of

LLAMA_2_7B = ModelShape(32_000, 4096, 11_008, 32, 32, 32, 128, tied=False)
LENGTHS = Lengths([int(n) for n in np.random.default_rng(0).normal(700, 130, 512)], limit=1536)
RECIPE = Wishes(micro_batch=12, accumulation=1)


def _gpu(gigabytes: float, free: float | None = None) -> Device:
    return Device("a GPU", True, int(gigabytes * 1e9), int((gigabytes if free is None else free) * 1e9))


def _chosen(gigabytes: float, wishes: Wishes = RECIPE) -> RunChoice:
    return choose_run(LLAMA_2_7B, LENGTHS, _gpu(gigabytes), wishes)


@pytest.mark.parametrize(
    ("gigabytes", "precision", "checkpointing"),
    [
        (8, "nf4", True),
        (12, "nf4", True),
        (16, "nf4", True),
        (24, "nf4", False),
        (40, "bf16", False),
        (80, "bf16", False),
    ],
)
def test_llama_2_7b_on_gpus(gigabytes: int, precision: str, checkpointing: bool) -> None:
    choice = _chosen(gigabytes)
    assert (choice.setup.precision, choice.checkpointing) == (precision, checkpointing)
    assert choice.fits
    assert choice.training.total <= 0.9 * gigabytes * 1e9
    assert choice.evaluation.total <= 0.9 * gigabytes * 1e9
    assert choice.micro_batch * choice.accumulation == 12


def test_more_memory_takes_larger_micro_batches() -> None:
    sizes = [_chosen(gigabytes).micro_batch for gigabytes in (8, 12, 16)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert _chosen(32).micro_batch < _chosen(80).micro_batch


def test_what_fits_nowhere_is_as_small_as_can_be_and_says_so() -> None:
    choice = _chosen(6)
    assert (choice.setup.precision, choice.micro_batch, choice.checkpointing, choice.fits) == ("nf4", 1, True, False)


@pytest.mark.parametrize("gigabytes", [6, 24, 80])
def test_what_is_free_at_the_moment_decides_nothing(gigabytes: float) -> None:
    assert choose_run(LLAMA_2_7B, LENGTHS, _gpu(gigabytes, free=1), RECIPE) == _chosen(gigabytes)


@pytest.mark.parametrize("gigabytes", [6, 16, 24, 80])
def test_choices_of_the_user_stay(gigabytes: float) -> None:
    for checkpointing in (False, True):
        choice = _chosen(gigabytes, replace(RECIPE, checkpointing=checkpointing, settled=frozenset({"checkpointing"})))
        assert choice.checkpointing is checkpointing
    choice = _chosen(gigabytes, replace(RECIPE, micro_batch=4, accumulation=3, settled=frozenset({"micro_batch"})))
    assert (choice.micro_batch, choice.accumulation) == (4, 3)
    choice = _chosen(gigabytes, replace(RECIPE, eval_batch=64, settled=frozenset({"eval_batch"})))
    assert choice.eval_batch == 64
    for quantization in ("nf4", "none"):
        choice = _chosen(gigabytes, replace(RECIPE, quantization=quantization, settled=frozenset({"quantization"})))
        assert choice.quantization == quantization


@pytest.mark.parametrize("samples", [12, 16])
@pytest.mark.parametrize("gigabytes", [6, 8, 12, 16, 24, 80])
def test_the_samples_of_a_step_never_change(samples: int, gigabytes: float) -> None:
    choice = _chosen(gigabytes, replace(RECIPE, micro_batch=samples))
    assert choice.micro_batch * choice.accumulation == samples


def test_a_processor_takes_one_sample_at_a_time_and_no_checkpointing_where_there_is_room() -> None:
    small = ModelShape(49_152, 576, 1536, 30, 9, 3, 64, tied=True)
    wishes = Wishes(micro_batch=1, accumulation=12, eval_batch=4)
    machine = Device("the processor", False, 16 * 10**9, 10**9)
    choice = choose_run(small, LENGTHS, machine, wishes)
    assert (choice.setup.precision, choice.micro_batch, choice.accumulation) == ("bf16", 1, 12)
    assert not choice.checkpointing
    # Prompt by prompt the whole step costs no more; where that does not fit, one at a time is computed again.
    whole = choose_run(small, LENGTHS, machine, replace(wishes, computes_bf16=False, prompts_at_once=2))
    assert (whole.setup.precision, whole.micro_batch, whole.accumulation) == ("fp32", 12, 1)
    assert whole.by_prompts
    tight = choose_run(
        small, LENGTHS, replace(machine, total=2 * 10**9), replace(wishes, computes_bf16=False, prompts_at_once=2)
    )
    assert (tight.micro_batch, tight.checkpointing, tight.by_prompts) == (1, True, False)
    nf4 = choose_run(small, LENGTHS, machine, replace(wishes, quantization="nf4", prompts_at_once=2))
    assert (nf4.micro_batch, nf4.by_prompts) == (1, False)
    # Of 32 GB a 7B model may take 12; it has 13.5.
    large = choose_run(LLAMA_2_7B, LENGTHS, replace(machine, total=32 * 10**9), wishes)
    assert (large.setup.precision, large.micro_batch) == ("nf4", 1)


def test_weights_of_llama_2_7b() -> None:
    # Linear layers of a decoder layer: 4 of 4096 x 4096 and 3 of 4096 x 11008.
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    assert LLAMA_2_7B.linear_weights == linear
    assert weight_bytes(LLAMA_2_7B, "bf16") == 2 * 6_738_415_616
    assert pytest.approx(4.127, abs=1e-3) == NF4_BYTES * 8
    rest = 2 * 32_000 * 4096 + 65 * 4096
    assert weight_bytes(LLAMA_2_7B, "nf4") == pytest.approx(linear * 4.127 / 8 + 4 * rest, rel=1e-3)


def test_grouped_queries_and_tied_embeddings_count_once() -> None:
    config = {
        "model_type": "llama",
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    }
    # As its card says: 134.5 million.
    assert shape_of(config, "smollm2").weights == 134_515_008


def test_peaks_grow_with_what_they_depend_on() -> None:
    setup = Setup("bf16", computes_bf16=True)
    small = training_peak(LLAMA_2_7B, setup, micro_batch=1, length=512, checkpointing=False)
    for micro_batch, length in ((2, 512), (1, 1024)):
        larger = training_peak(LLAMA_2_7B, setup, micro_batch=micro_batch, length=length, checkpointing=False)
        assert larger.activations == 2 * small.activations
    again = training_peak(LLAMA_2_7B, setup, micro_batch=1, length=512, checkpointing=True)
    assert again.activations < small.activations / 5
    assert evaluation_peak(LLAMA_2_7B, setup, batch=1, length=512).activations < again.activations


def test_padding_and_the_longest() -> None:
    lengths = Lengths([100, 300, 200, 310], limit=320)
    assert lengths.padded(1) == (128 + 320 + 224 + 320) / 4
    assert lengths.padded(2) == 320
    assert lengths.longest == 320
