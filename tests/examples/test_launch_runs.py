"""The recipes of examples/launch that can run here are run, hit, and go on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from llamarec.checkpoints.storage.verification import verify
from tests.examples.nodes import ROOT, Node, nodes, wait_until
from tests.ports import free_port
from tests.ranker.shop import argv_of, checkpoints_of

RECIPES: Final = ROOT / "examples" / "launch"
NO_BASH: Final = pytest.mark.skipif(os.name == "nt", reason="scripts of a shell")


def _trained(node: Node) -> list[Any]:
    """Its training processes."""
    return [one for one in node.below() if any(word.endswith("train_ranker.py") for word in one.cmdline()[1:3])]


def _flags(folder: Path) -> list[str]:
    return argv_of(folder, "--ddp_backend", "gloo", "--max_steps", "24", "--eval_strategy", "no")


def _is_there(folder: Path, step: int) -> Callable[[], bool]:
    return (checkpoints_of(folder) / f"checkpoint-{step}").is_dir


def _finished(folder: Path) -> bool:
    return verify(checkpoints_of(folder) / "checkpoint-24").health == "good"


@NO_BASH
@pytest.mark.slow
def test_one_node_goes_on_after_one_of_its_processes_was_killed(folder: Path) -> None:
    with nodes() as start:
        script = ["bash", str(RECIPES / "one_node.sh"), *_flags(folder)]
        node = start(folder, "node", script, PROCESSES="2")
        wait_until(_is_there(folder, 4), node)
        _trained(node)[-1].send_signal(signal.SIGKILL)
        assert node.wait() == 0, node.said[-3000:]
    assert "torchrun ended with 75: again in 5 s" in node.said
    assert _finished(folder)


@NO_BASH
@pytest.mark.slow
def test_a_node_that_disappears_is_replaced(folder: Path) -> None:
    """Two on one machine. The other one ends with 75, starts again, and waits for the new one."""
    port = str(free_port())
    script = ["bash", str(RECIPES / "several_nodes.sh"), *_flags(folder)]
    shared = {"FIRST": "127.0.0.1", "NODES": "2", "PROCESSES": "1", "PORT": port}
    with nodes() as start:
        first = start(folder, "first", script, **shared, JOB_COMPLETION_INDEX="0")
        second = start(folder, "second", script, **shared, JOB_COMPLETION_INDEX="1")
        wait_until(_is_there(folder, 4), first, second)
        second.disappear()
        second = start(folder, "second", script, **shared, JOB_COMPLETION_INDEX="1")
        assert first.wait() == 0, first.said[-3000:]
        assert second.wait() == 0, second.said[-3000:]
    assert "torchrun ended with 75: again in 5 s" in first.said
    assert _finished(folder)


def _stand_ins(folder: Path) -> Path:
    """Of Slurm: `srun` runs the command on this one node; `scontrol` notes what it is asked for."""
    there = folder / "slurm"
    there.mkdir()
    scripts = {
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "scontrol": f'[ "$1" != show ] && echo "$@" >> "{folder}/scontrol" || echo 127.0.0.1',
    }
    for name, text in scripts.items():
        (there / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (there / name).chmod(0o755)
    return there


@NO_BASH
@pytest.mark.slow
def test_a_job_of_slurm_saves_before_its_end_and_queues_itself_again(folder: Path) -> None:
    script = ["bash", str(RECIPES / "slurm.sbatch"), *_flags(folder)]
    path = os.pathsep.join([str(_stand_ins(folder)), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node-[1]", "PROCESSES": "1"}
    with nodes() as start:
        node = start(folder, "job", script, **job, PATH=path)
        wait_until(_is_there(folder, 4), node)
        # To the tasks of the step, as `--signal=USR1@300` says.
        (launch,) = [one for one in node.below() if "launch" in one.cmdline() and "--grace" in one.cmdline()]
        launch.send_signal(signal.SIGUSR1)
        assert node.wait() == 75, node.said[-3000:]
        assert (folder / "scontrol").read_text(encoding="utf-8") == "requeue 7\n"

        assert start(folder, "job", script, **job, PATH=path).wait() == 0
    assert (folder / "scontrol").read_text(encoding="utf-8") == "requeue 7\n", "it has finished"
    assert _finished(folder)


@NO_BASH
@pytest.mark.slow
def test_accelerate_trains_as_its_configuration_says(folder: Path) -> None:
    launch = [sys.executable, "-m", "llamarec.cli.main", "launch", "--", "accelerate", "launch", "--config_file"]
    port = str(free_port())
    two = ["--num_processes", "2", "--main_process_port", port]
    script = [*launch, str(RECIPES / "accelerate_fsdp2.yaml"), *two, str(ROOT / "train_ranker.py"), *_flags(folder)]
    with nodes() as start:
        node = start(folder, "node", script)
        assert node.wait() == 0, node.said[-3000:]
    # Each process has random states of its own.
    assert (checkpoints_of(folder) / "checkpoint-24" / "rng_state_1.pth").is_file()
    assert _finished(folder)
