"""train_ranker.py sharded over two processes by torchrun, as a user types it, then resumed in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamarec.checkpoints.storage.verification import verify
from tests.ports import free_port
from tests.ranker.shop import argv_of, checkpoints_of, run_shop

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_sharded_run_is_resumed_in_one_process(folder: Path, quantization: str) -> None:
    """Each process has a hash seed of its own, unlike the forks of other tests."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    flags = argv_of(folder, "--fsdp", "--ddp_backend", "gloo", "--quantization", quantization)
    done = subprocess.run(
        [*launch, str(ROOT / "train_ranker.py"), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    sharded = checkpoints_of(folder) / "checkpoint-12"
    assert verify(sharded).health == "good"

    # Without the flag, which belongs to the launch.
    run_shop(folder, "--max_steps", "16", "--resume_from_checkpoint")
    assert verify(checkpoints_of(folder) / "checkpoint-16").health == "good"
