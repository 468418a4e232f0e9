"""The measurements on a GPU, tried out on a CPU with a tiny model: what they compute, not how fast it is.

Out of memory is injected there: a CPU swaps, or its process is killed, where a GPU raises an error.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.gpu import __main__, oom
from benchmarks.gpu.bench import Bench, Figure, Measure, Watch, take_all, unmeasured
from benchmarks.gpu.drawn import LETTER_IDS, LLAMA2_7B, TINY, DrawnPrompts, draw_model, drawn_lengths
from benchmarks.gpu.speed import BEAUTY
from benchmarks.harness.report import Row, read_rows
from benchmarks.ranker import published
from benchmarks.ranker.epoch import Epoch


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Memory is collected between measurements; without this half of the time goes into the libraries' own objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _main(folder: Path, *words: str) -> tuple[int, dict[str, Row], str]:
    """Exit code, rows by name, page."""
    files = ["--output", str(folder / "page.md"), "--json", str(folder / "rows.json")]
    code = __main__.main(["--device", "cpu", "--shape", "tiny", *files, *words])
    rows = {row.name: row for row in read_rows(folder / "rows.json")}
    return code, rows, (folder / "page.md").read_text(encoding="utf-8")


def _names() -> list[str]:
    return [row.name for part in __main__.PARTS.values() for measure in part() for row in measure.rows]


def test_speed_is_measured_in_every_way(tmp_path: Path) -> None:
    code, rows, page = _main(tmp_path, "--parts", "speed")
    assert code == 0
    assert list(rows) == _names()
    for measure in __main__.PARTS["speed"]():
        for name in (row.name for row in measure.rows):
            # Only a GPU says how much memory was used.
            assert math.isnan(rows[name].value) == name.endswith("_peak_gb"), name
            assert name.endswith("_peak_gb") or rows[name].value > 0
    assert rows["bf16_kept1_samples_per_second"].note == "micro-batch 1, activations kept"
    assert "| nf4_micro1_peak_gb | not measured | <= 16 |  | not measured on a CPU" in page
    # Of the other parts.
    assert "| resume_bf16_differences | not measured | <= 0 |  |" in page


def test_a_resumed_run_is_compared_and_out_of_memory_survived(tmp_path: Path) -> None:
    code, rows, _ = _main(tmp_path, "--parts", "resume", "oom")
    assert code == 0
    assert [rows[f"resume_{dtype}_differences"].value for dtype in ("bf16", "nf4")] == [0, 0]
    assert rows["deterministic_step_ratio"].value > 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert (rows["oom_float32_micro_batch"].value, rows["oom_float32_steps_done"].value) == (6, 2)
    assert rows["oom_float32_gradient_difference"].met
    assert "injected" in rows["oom_float32_micro_batch"].note
    # bfloat16 has 8 bits.
    assert rows["oom_bf16_gradient_difference"].value < 2**-7


def test_a_failure_is_a_row_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = oom._run

    def fails(bench: Bench, dtype: str, **wanted: Any) -> Any:
        if dtype == "float32":
            raise RuntimeError("no luck\nand more")
        return run(bench, dtype, **wanted)

    monkeypatch.setattr(oom, "_run", fails)
    code, rows, page = _main(tmp_path, "--parts", "oom")
    assert code == 1
    assert "| oom_float32_steps_done | failed | >= 2 | short | failed: RuntimeError: no luck; the step that" in page
    assert rows["oom_bf16_steps_done"].value == 2


def test_a_figure_that_needs_a_failed_one_says_so() -> None:
    def first(_: Bench) -> dict[str, Figure]:
        raise ValueError("broken")

    measures = [
        Measure((unmeasured("one"),), first),
        Measure((unmeasured("two"),), lambda bench: {"two": Figure(2 * bench.value("one"))}),
        Measure((unmeasured("three"),), lambda _: {"three": Figure(3.0)}),
    ]
    rows = [row for found in take_all(Bench("cpu", TINY, TINY), measures) for row in found]
    assert [row.note for row in rows] == [
        "failed: ValueError: broken",
        "failed: LookupError: needs one, which was not measured",
        "",
    ]


def test_ballast_leaves_the_room_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1_000_000, 2_000_000))
    ballast = oom.Ballast(Bench("cpu", TINY, TINY), 400_000)
    ballast.on_step_begin(None, None, None)
    assert ballast.tensor is not None
    assert ballast.tensor.nbytes == 600_000
    with pytest.raises(RuntimeError, match="too full"):
        oom.Ballast(Bench("cpu", TINY, TINY), 1_000_000).on_step_begin(None, None, None)


def test_memory_is_that_of_the_step_after_the_timed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: said.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3e9 if said else 5e9)
    watch = Watch(Bench("cuda", TINY, TINY, warm_steps=1, timed_steps=2), lambda: 6)
    for step in (1, 2, 3):
        assert math.isnan(watch.seconds)
        watch.on_step_end(None, SimpleNamespace(global_step=step), None)
    assert (watch.seconds > 0, watch.reduced, said) == (True, 6, ["reset"])
    watch.on_step_end(None, SimpleNamespace(global_step=4), None)
    assert watch.peak_gb == 3


def test_without_cuda_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    page = tmp_path / "gpu.md"
    assert __main__.main(["--output", str(page)]) == 0
    assert "nothing was measured" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "    python -m benchmarks.gpu --data_root data\n" in text
    assert text.count("| not measured |") == len(_names())
    page.write_text("measured on a real one", encoding="utf-8")
    assert __main__.main(["--output", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == "measured on a real one"


def test_the_page_has_all_rows() -> None:
    lines = __main__.RESULT.read_text(encoding="utf-8").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("| ")][1:] == _names()


def test_lengths_are_those_of_the_data_set() -> None:
    lengths = drawn_lengths(LLAMA2_7B, 20_000)
    assert lengths.mean() == pytest.approx(691, rel=0.01)
    assert np.quantile(lengths, 0.9) == pytest.approx(990, rel=0.02)
    assert lengths.max() <= 1536


def test_an_epoch_of_a_thousand_users() -> None:
    # 2,400 samples of 12 a step are 200 steps, so 2 validations; 1,000 of 5,000 users, of which a tenth cost a prompt.
    epoch = Epoch(prompts=2_400, users=5_000, coverage=0.1)
    assert epoch.seconds(1.0, 0.5, 1_000) == pytest.approx(2_400 + 2 * 100 * 0.5)
    # Whole validations of Beauty ask for 2.4 times the training prompts.
    validations = BEAUTY.seconds(0.0, 1.0, BEAUTY.users)
    assert validations / BEAUTY.prompts == pytest.approx(2.4, abs=0.05)


def test_weights_in_4_bits_are_those_that_transformers_packs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = draw_model(TINY, "cpu", dtype=torch.bfloat16)
    whole.save_pretrained(tmp_path)
    torch.manual_seed(0)
    ours = draw_model(TINY, "cpu", dtype=torch.bfloat16, quantization_config=published.four_bits())
    theirs: Any = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, quantization_config=published.four_bits()
    )
    packed = {name: p for name, p in ours.named_parameters() if p.dtype == torch.uint8}
    assert len(packed) == 2 * 7
    expected = dict(theirs.named_parameters())
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    ids = torch.tensor([DrawnPrompts(np.array([20]), TINY.vocabulary)[0]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(ids).logits, theirs.eval()(ids).logits, rtol=0, atol=0)


def test_the_recipe_learns_the_letter_and_the_end_from_ids() -> None:
    prompts = DrawnPrompts(np.array([3, 5]), TINY.vocabulary)
    samples = published.Ids(prompts, LETTER_IDS, 2, answered=True)
    batch = published.left_padded([samples[0], samples[1]], pad=2)
    letters = [LETTER_IDS[prompts[index]["label"]] for index in range(2)]
    assert batch["labels"].tolist() == [[-100] * 5 + [letters[0], 2], [-100] * 5 + [letters[1], 2]]
    assert batch["input_ids"][0].tolist() == [2, 2, *prompts[0]["input_ids"], letters[0], 2]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1, 1], [1] * 7]
