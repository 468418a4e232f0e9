"""A plan on several machines: communication, saves, what failures cost, in words, as JSON and in the documentation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.cli.main import main
from llamarec.errors import ConfigError
from llamarec.planning.choice import Wishes, choose_run
from llamarec.planning.cluster import ClusterPlan, Saves, cluster_plan
from llamarec.planning.cluster_options import Cluster
from llamarec.planning.device import Device
from llamarec.planning.lengths import Lengths
from llamarec.planning.plan import Plan, Work, duration_text
from llamarec.planning.save_cost import SaveCost, measure_save
from llamarec.planning.shape import ModelShape

LLAMA_2_7B = ModelShape(32_000, 4096, 11_008, 32, 32, 32, 128, tied=False)
DEVICE = Device("an accelerator", True, 80 * 10**9, 80 * 10**9)
STEPS = 100_000
CLUSTER = Cluster(gpus=8, nodes=8, mtbf=200, step_seconds=6)
SAVES = Saves(steps=500, seconds=900, has_mirror=True)
DOCUMENTED = (24, 100, 500, 2000)


def _plan() -> Plan:
    lengths = Lengths([700, 760, 800], limit=1536)
    choice = choose_run(LLAMA_2_7B, lengths, DEVICE, Wishes())
    return Plan("llama-2-7b", LLAMA_2_7B, lengths, DEVICE, choice, Work(STEPS, 200, 1000, 1000), None)


def _cluster_plan(cluster: Cluster = CLUSTER, saves: Saves = SAVES) -> ClusterPlan:
    # The save of a LoRA of this size, as benchmarks/results/checkpoint_cost.md has it.
    return cluster_plan(_plan(), cluster, saves, SaveCost(0.019, 0.3), steps=STEPS)


def test_a_ring_sends_almost_twice_the_gradients() -> None:
    # 4,194,304 weights of 4 bytes; 63/64 of them twice, at 25 Gbit/s.
    assert _cluster_plan().communication == pytest.approx(2 * 63 / 64 * 4_194_304 * 4 * 8 / 25e9)
    assert _cluster_plan(replace(CLUSTER, nodes=1)).communication == pytest.approx(
        2 * 7 / 8 * 4_194_304 * 4 * 8 / 200e9
    )
    assert _cluster_plan(Cluster(step_seconds=6)).communication == 0


def test_a_checkpoint_holds_weights_and_two_moments() -> None:
    plan = _cluster_plan()
    assert plan.state_bytes == 3 * 4 * 4_194_304
    assert plan.mirror_seconds == pytest.approx(plan.state_bytes / 50e6)


def test_a_job_fails_as_often_as_all_its_machines() -> None:
    failures = _cluster_plan().failures
    assert failures is not None
    assert failures.mean_time == 200 * 3600 / 8
    assert failures.safe_after == pytest.approx(0.3 + 4_194_304 * 12 / 50e6)

    alone = _cluster_plan(saves=replace(SAVES, has_mirror=False)).failures
    assert alone is not None
    assert alone.safe_after == 0.3
    assert _cluster_plan(replace(CLUSTER, mtbf=0)).failures is None


def test_a_save_by_time_waits_for_the_end_of_a_step() -> None:
    saves = Saves(steps=500, seconds=10, has_mirror=False)
    assert saves.interval(6.0, with_seconds=True) == 12.0
    assert saves.interval(6.0, with_seconds=False) == 3000.0
    assert replace(saves, steps=1).interval(6.0, with_seconds=True) == 6.0
    assert replace(saves, seconds=0).interval(6.0, with_seconds=True) == 3000.0


def test_the_words_name_every_figure_once() -> None:
    lines = _cluster_plan().lines()
    assert [line[:12].strip() for line in lines] == [
        *("processes", "step", "training", "save", "failures", "without", "with", "recommended")
    ]
    assert "64 (8 machines x 8); 768 samples a step" in lines[0]
    assert "one every 1.0 days (200 h for a machine)" in lines[4]
    assert "saved every 50.1 min" in lines[5]
    assert "--save_seconds 900: saved every 15.0 min" in lines[6]


def test_a_disk_that_goes_with_its_machine_is_warned_of() -> None:
    assert "without --mirror" in _cluster_plan(saves=replace(SAVES, has_mirror=False)).lines()[-1]


def test_a_run_that_cannot_end_is_said_and_json_has_no_infinity() -> None:
    plan = _cluster_plan(replace(CLUSTER, mtbf=0.02), replace(SAVES, steps=1e9, seconds=0))
    assert any("it never ends" in line for line in plan.lines())
    expected = json.loads(json.dumps(plan.as_dict(), allow_nan=False))["expected"]
    assert expected["without"] == {"interval": pytest.approx(1e9 * plan.step), "seconds": None, "lost_share": 1}


@pytest.mark.parametrize("name", ["mtbf", "restart_seconds", "step_seconds", "network_gbits", "mirror_mbytes"])
@pytest.mark.parametrize("value", [1e-9, 1e9])
@pytest.mark.parametrize("machines", [1, 10**6])
def test_every_value_that_is_taken_gives_a_plan(name: str, value: float, machines: int) -> None:
    changed: dict[str, Any] = {name: value}
    plan = _cluster_plan(replace(CLUSTER, gpus=machines, nodes=machines, **changed))
    assert not [line for line in plan.lines() if "nan" in line]
    json.dumps(plan.as_dict(), allow_nan=False)


def test_a_training_without_a_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="--num_train_epochs"):
        cluster_plan(_plan(), CLUSTER, SAVES, SaveCost(0.1, 0.1), steps=0)


def test_an_endless_pause_between_saves_is_refused() -> None:
    with pytest.raises(ConfigError, match="--save_seconds inf: 0"):
        CheckpointConfig(save_seconds=math.inf)


def test_an_unknown_speed_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="--step_seconds"):
        cluster_plan(_plan(), replace(CLUSTER, step_seconds=0), SAVES, SaveCost(0.1, 0.1), steps=10)


def test_a_measured_save_leaves_nothing(tmp_path: Path) -> None:
    cost = measure_save(tmp_path / "not" / "yet", 2_000_000, on_gpu=False)
    assert 0 < cost.waits < cost.writes
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--gpus", "0"], "--gpus 0: 1 to 1,000,000"),
        (["--nodes=-1"], "--nodes -1: 1 to 1,000,000"),
        (["--mtbf", "nan"], "--mtbf nan: 0, or 1e-09 to 1e+09"),
        (["--mtbf", "1e308"], "--mtbf 1e+308: 0, or 1e-09 to 1e+09"),
        (["--mtbf", "1e-323"], "--mtbf 1e-323: 0, or 1e-09 to 1e+09"),
        (["--gpus", "1" + "0" * 400], "1 to 1,000,000"),
        (["--network-gbits", "0"], "--network_gbits 0.0: 1e-09 to 1e+09"),
        (["--gpus", "many"], "invalid int value: 'many'"),
        (["--mtbf"], "expected one argument"),
    ],
)
def test_a_wrong_value_is_refused(words: list[str], found: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--dataset_code", "games", *words]) == 2
    assert found in capsys.readouterr().err


def test_the_table_in_the_documentation_is_what_the_plan_says() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.endswith("|")]
    for hours in DOCUMENTED:
        assert _documented(hours) in rows, _documented(hours)


def _documented(hours: int) -> str:
    """A row: failures, then the loss without --save_seconds, with 900, and as recommended."""
    plan = _cluster_plan(replace(CLUSTER, mtbf=hours))
    failures = plan.failures
    assert failures is not None
    intervals = plan.intervals(failures)
    lost = {name: f"{failures.lost_share(plan.work, interval):.1%}" for name, interval in intervals.items()}
    every = int(intervals["recommended"])
    return (
        f"| {hours:,} h | {duration_text(failures.mean_time)} | {lost['without']} | {lost['with']} "
        f"| {lost['recommended']}, `--save_seconds {every}` |"
    )


if __name__ == "__main__":
    for documented in DOCUMENTED:
        print(_documented(documented))
