"""The estimate against the peak of real training steps, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamarec.planning.memory import training_peak
from llamarec.planning.setup import Setup
from llamarec.planning.shape import ModelShape

SHAPE = ModelShape(4096, 256, 704, 12, 8, 4, 32, tied=False)
LENGTH = 512
SCRIPT = Path(__file__).with_name("steps.py")


def _measured(folder: Path, micro_batch: int, checkpointing: bool, prompts_at_once: int) -> float:
    """Bytes above those of the process before there was a model."""
    words = [str(folder), str(micro_batch), str(LENGTH), str(int(checkpointing)), str(prompts_at_once)]
    # Nothing is compiled: without the compiler, the libraries are imported in two thirds of the time.
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=True, env=environment
    )
    return float(json.loads(done.stdout.splitlines()[-1])["bytes"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets the peak of a process when asked to")
@pytest.mark.parametrize(
    ("micro_batch", "checkpointing", "prompts_at_once"),
    [(2, False, 0), (4, False, 0), (4, True, 0), (4, False, 1), (4, False, 2)],
)
def test_the_estimate_is_within_15_percent(
    tmp_path: Path, micro_batch: int, checkpointing: bool, prompts_at_once: int
) -> None:
    setup = Setup("fp32", computes_bf16=False, on_gpu=False, prompts_at_once=prompts_at_once)
    peak = training_peak(SHAPE, setup, micro_batch=micro_batch, length=LENGTH, checkpointing=checkpointing)
    measured = _measured(tmp_path, micro_batch, checkpointing, prompts_at_once)
    assert peak.total - peak.process == pytest.approx(measured, rel=0.15)
