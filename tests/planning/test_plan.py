"""A plan in words and as JSON."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace

from llamarec.planning import plan as plan_module
from llamarec.planning import shape as shape_module
from llamarec.planning.choice import Wishes, choose_run
from llamarec.planning.device import Device
from llamarec.planning.lengths import Lengths
from llamarec.planning.plan import Plan, Work
from llamarec.planning.shape import ModelShape
from llamarec.planning.speed import Speed

SHAPE = ModelShape(49_152, 576, 1536, 30, 9, 3, 64, tied=True)
LENGTHS = Lengths([400, 500, 600], limit=1536)
DEVICE = Device("a GPU", True, 8 * 10**9, 8 * 10**9)


def _plan(device: Device = DEVICE) -> Plan:
    choice = choose_run(SHAPE, LENGTHS, device, Wishes())
    speed = Speed(1e13, is_gpu=True)
    return Plan("smollm2", SHAPE, LENGTHS, device, choice, Work(1000, 10, 120, 2400), speed, {"quantization": "yours"})


def test_the_words_say_everything_once() -> None:
    text = "\n".join(_plan().lines())
    for part in ("a GPU, 8.0 GB", "135 M weights in bf16 (yours)", "12 samples", "1,000 steps", "validation", "test"):
        assert text.count(part) == 1, part
    assert "warning" not in text


def test_ten_times_the_steps_take_ten_times_as_long() -> None:
    plan = _plan()
    longer = replace(plan, work=replace(plan.work, steps=10_000)).seconds()
    shorter = plan.seconds()
    assert longer is not None
    assert shorter is not None
    assert longer["training"] == 10 * shorter["training"]
    assert longer["test"] == shorter["test"] > 0


def test_too_little_is_said() -> None:
    assert any("are usable. Running" in line for line in _plan(replace(DEVICE, total=10**9)).short_lines())
    assert any("are free now" in line for line in _plan(replace(DEVICE, free=10**8)).short_lines())


def test_before_the_retriever_nobody_knows_the_test() -> None:
    plan = replace(_plan(), work=Work(1000, 10, 0, None))
    assert "unknown until the retriever is trained" in plan.time_line()


def test_json() -> None:
    content = json.loads(json.dumps(_plan().as_dict()))
    assert content["per_device_train_batch_size"] * content["gradient_accumulation_steps"] == 12
    assert content["decided_by"] == {"quantization": "yours"}
    assert content["training_bytes"]["total"] < content["device"]["usable"]


def test_doctests() -> None:
    for module in (plan_module, shape_module):
        assert doctest.testmod(module).failed == 0
