"""The recipes of examples/launch: every command in them parses, and what can run here is run, hit, and goes on."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from llamarec.checkpoints.storage.verification import verify
from llamarec.cli.main import parser
from llamarec.ranker.options.parser import RankerArgumentParser
from tests.ranker.shop import argv_of, checkpoints_of

ROOT: Final = Path(__file__).resolve().parents[2]
RECIPES: Final = ROOT / "examples" / "launch"
_NO_BASH: Final = pytest.mark.skipif(os.name == "nt", reason="scripts of a shell")
_SECONDS: Final = 400.0


# ---- Every command of every recipe parses ----


def _in_shell(text: str) -> Iterator[list[str]]:
    """The words of each `llamarec launch`, with a value for each variable."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        start = line.find("llamarec launch")
        if start < 0 or "`llamarec launch" in line:
            continue

        words = line[start:].replace('"${flags[@]}"', "--dataset_code beauty").replace('"$@"', "").rstrip("; ")
        words = re.sub(r"join_timeout=\$WAIT_SECONDS\$\{[^}]+\}", "join_timeout=60", words)
        words = re.sub(r"\$\{?\w+\}?", "2", words).split("|")[0]
        yield shlex.split(words)


def _of(name: str) -> list[list[str]]:
    text = (RECIPES / name).read_text(encoding="utf-8")
    if name.endswith(".ps1"):
        values = dict(re.findall(r'^\$(launch|train) = "(.*)"$', text, re.MULTILINE))
        line = values["train"].replace("$launch", values["launch"]).replace('`"$Python`"', "python")
        line = line.replace("python -m llamarec.cli.main", "llamarec").replace("$DatasetCode", "beauty")
        return [shlex.split(line.replace("$Flags", ""))]
    if name == "kubeflow_trainjob.yaml":
        trainer = yaml.safe_load(text)["spec"]["trainer"]
        return [trainer["command"] + trainer["args"]]
    # The comments of a configuration have its command.
    return list(_in_shell(text.replace("\\\n#", "\\\n") if name.startswith("accelerate") else text))


@pytest.mark.parametrize(
    "name",
    [
        "one_node.sh",
        "several_nodes.sh",
        "slurm.sbatch",
        "kubeflow_trainjob.yaml",
        "windows_task.ps1",
        "accelerate_ddp.yaml",
        "accelerate_fsdp2.yaml",
    ],
)
def test_every_command_parses(name: str) -> None:
    """By the parsers of this project, of torchrun and of accelerate: a flag that none of them knows is an error."""
    commands = _of(name)
    assert commands
    for words in commands:
        launched = parser().parse_args(words[1:]).words
        program, *rest = launched[1:] if launched[0] == "--" else launched
        if program == "python":
            script, flags = rest[0], rest[1:]
        else:
            known, skipped = (get_args_parser(), 0) if program == "torchrun" else (launch_command_parser(), 1)
            found = known.parse_args(rest[skipped:])
            script, flags = found.training_script, found.training_script_args
        assert (ROOT / Path(script).name).is_file()
        if Path(script).name == "train_ranker.py":
            _check_flags(flags)


def _check_flags(flags: Sequence[str]) -> None:
    _, unknown = argparse.ArgumentParser.parse_known_args(RankerArgumentParser(), list(flags))
    assert not unknown
    assert any(flag.startswith("--resume_from_checkpoint") for flag in flags), "a start must go on where it was"


def test_what_recipes_pass_on_to_a_script_are_flags() -> None:
    job = list(yaml.safe_load_all((RECIPES / "kubernetes_job.yaml").read_text(encoding="utf-8")))[-1]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert (ROOT / container["command"][1]).is_file()
    sky = yaml.safe_load((RECIPES / "skypilot.yaml").read_text(encoding="utf-8"))
    (line,) = [one for one in sky["run"].splitlines() if "bash" in one]
    words = shlex.split(line.partition("bash ")[2].replace("$MIRROR", "memory://there"))
    assert (ROOT / words[0]).is_file()
    for flags in (container["args"], words[1:]):
        _, unknown = argparse.ArgumentParser.parse_known_args(RankerArgumentParser(), list(flags))
        assert not unknown

    script = (RECIPES / "several_nodes.sh").read_text(encoding="utf-8")
    for variable in (one["name"] for one in container["env"]):
        assert variable == "LLAMAREC_DATA_ROOT" or f"{variable}=${{" in script, variable


@pytest.mark.parametrize("name", ["accelerate_ddp.yaml", "accelerate_fsdp2.yaml"])
def test_accelerate_reads_its_configurations(name: str) -> None:
    """It refuses keys that it does not know."""
    config = ClusterConfig.from_yaml_file(str(RECIPES / name))
    known = {f.dest for f in launch_command_parser()._actions}
    assert set(config.fsdp_config or {}) <= known


def test_every_recipe_is_on_the_page() -> None:
    names = {path.name for path in RECIPES.iterdir()}
    for language in ("en", "vi"):
        page = (ROOT / "docs" / language / "cluster.md").read_text(encoding="utf-8")
        assert names == set(re.findall(r"examples/launch/(\w+\.\w+)\)", page))


# ---- What can run here ----


class Node:
    """A recipe that runs as a machine of its own would: in a session, which can disappear as a whole.

    Args:
        folder: With the shop.
        name: Of its log.
        words: The command line.
        variables: Of its environment.
    """

    def __init__(self, folder: Path, name: str, words: Sequence[str], **variables: str) -> None:
        self.log = folder / f"{name}.log"
        there = [str(Path(sys.executable).parent), os.environ["PATH"]]
        own = {"DATASET": str(folder / "shop.csv"), "EXPERIMENTS": str(folder / "experiments"), "OMP_NUM_THREADS": "1"}
        own |= {"PATH": os.pathsep.join(there), "PYTHONPATH": str(ROOT), "FSDP_VERSION": "2"}
        output: IO[bytes] = self.log.open("ab")
        with output:
            self.process = subprocess.Popen(
                words,
                cwd=ROOT,
                env={**os.environ, **own, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """All of its output."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(_SECONDS)

    def below(self) -> list[Any]:
        """The processes that it has started."""
        import psutil  # type: ignore[import-untyped]

        return list(psutil.Process(self.process.pid).children(recursive=True))

    def disappear(self) -> None:
        """Without a word, with all that it has started."""
        for one in [*self.below(), self.process]:
            one.kill()
        self.process.wait(_SECONDS)


@contextmanager
def _nodes() -> Iterator[Callable[..., Node]]:
    """Makes nodes; none outlives the test."""
    made: list[Node] = []

    def make(folder: Path, name: str, words: Sequence[str], **variables: str) -> Node:
        made.append(Node(folder, name, words, **variables))
        return made[-1]

    try:
        yield make
    finally:
        for node in made:
            if node.process.poll() is None:
                node.disappear()


def _flags(folder: Path) -> list[str]:
    return argv_of(folder, "--ddp_backend", "gloo", "--max_steps", "24", "--eval_strategy", "no", "--report_to", "none")


def _wait_until(condition: Callable[[], object], *nodes: Node) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, nodes[0].said[-3000:]
        assert all(node.process.poll() is None for node in nodes), nodes[0].said[-3000:]
        time.sleep(0.05)


def _is_there(folder: Path, step: int) -> Callable[[], bool]:
    return (checkpoints_of(folder) / f"checkpoint-{step}").is_dir


def _finished(folder: Path) -> bool:
    return verify(checkpoints_of(folder) / "checkpoint-24").health == "good"


def _trained(node: Node) -> list[Any]:
    """Its training processes."""
    return [one for one in node.below() if any(word.endswith("train_ranker.py") for word in one.cmdline()[1:3])]


@_NO_BASH
@pytest.mark.slow
def test_one_node_goes_on_after_one_of_its_processes_was_killed(folder: Path) -> None:
    with _nodes() as start:
        script = ["bash", str(RECIPES / "one_node.sh"), *_flags(folder)]
        node = start(folder, "node", script, PROCESSES="2")
        _wait_until(_is_there(folder, 4), node)
        _trained(node)[-1].send_signal(signal.SIGKILL)
        assert node.wait() == 0, node.said[-3000:]
    assert "torchrun ended with 75: again in 5 s" in node.said
    assert _finished(folder)


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@_NO_BASH
@pytest.mark.slow
def test_a_node_that_disappears_is_replaced(folder: Path) -> None:
    """Two on one machine. The other one ends with 75, starts again, and waits for the new one."""
    port = _free_port()
    script = ["bash", str(RECIPES / "several_nodes.sh"), *_flags(folder)]
    shared = {"FIRST": "127.0.0.1", "NODES": "2", "PROCESSES": "1", "PORT": port}
    with _nodes() as start:
        first = start(folder, "first", script, **shared, JOB_COMPLETION_INDEX="0")
        second = start(folder, "second", script, **shared, JOB_COMPLETION_INDEX="1")
        _wait_until(_is_there(folder, 4), first, second)
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


@_NO_BASH
@pytest.mark.slow
def test_a_job_of_slurm_saves_before_its_end_and_queues_itself_again(folder: Path) -> None:
    script = ["bash", str(RECIPES / "slurm.sbatch"), *_flags(folder)]
    path = os.pathsep.join([str(_stand_ins(folder)), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node-[1]", "PROCESSES": "1"}
    with _nodes() as start:
        node = start(folder, "job", script, **job, PATH=path)
        _wait_until(_is_there(folder, 4), node)
        # To the tasks of the step, as `--signal=USR1@300` says.
        (launch,) = [one for one in node.below() if "launch" in one.cmdline() and "--grace" in one.cmdline()]
        launch.send_signal(signal.SIGUSR1)
        assert node.wait() == 75, node.said[-3000:]
        assert (folder / "scontrol").read_text(encoding="utf-8") == "requeue 7\n"

        assert start(folder, "job", script, **job, PATH=path).wait() == 0
    assert (folder / "scontrol").read_text(encoding="utf-8") == "requeue 7\n", "it has finished"
    assert _finished(folder)


def test_the_options_of_the_batch_script_are_those_of_sbatch() -> None:
    """As `man sbatch` has them."""
    known = {
        *("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue"),
        *("open-mode", "output"),
    }
    text = (RECIPES / "slurm.sbatch").read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert set(options) == known
    seconds, grace = int(options["signal"].partition("@")[2]), re.findall(r"--grace (\d+)", text)
    assert all(int(one) < seconds for one in grace), "a save must end before the job does"
    assert text.index("#SBATCH") < text.index("\nset "), "Slurm reads no options after the first command"


@_NO_BASH
@pytest.mark.slow
def test_accelerate_trains_as_its_configuration_says(folder: Path) -> None:
    launch = [sys.executable, "-m", "llamarec.cli.main", "launch", "--", "accelerate", "launch", "--config_file"]
    port = _free_port()
    two = ["--num_processes", "2", "--main_process_port", port]
    script = [*launch, str(RECIPES / "accelerate_fsdp2.yaml"), *two, str(ROOT / "train_ranker.py"), *_flags(folder)]
    with _nodes() as start:
        node = start(folder, "node", script)
        assert node.wait() == 0, node.said[-3000:]
    # Each process has random states of its own.
    assert (checkpoints_of(folder) / "checkpoint-24" / "rng_state_1.pth").is_file()
    assert _finished(folder)


# ---- By the schemas of their schedulers: python make.py test-launch ----


SCHEMAS, SKYPILOT = ROOT / ".launch" / "schemas", ROOT / ".launch" / "skypilot"
_INSTALLED: Final = "python make.py test-launch installs it"


def _by(packages: Path, program: str, *arguments: str, home: Path | None = None) -> str:
    """What a program says that uses packages of a folder of their own; fails with its error."""
    environment = {**os.environ, "PYTHONPATH": str(packages), **({"HOME": str(home)} if home else {})}
    words = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


_KUBERNETES: Final = """
import sys, kubernetes_validate, yaml
for part in yaml.safe_load_all(open(sys.argv[1], encoding="utf-8")):
    kubernetes_validate.validate(part, "1.37", strict=True)
    print(part["kind"])
"""
_KUBEFLOW: Final = """
import json, sys, yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
print(TrainerV1alpha1TrainJob.from_dict(yaml.safe_load(open(sys.argv[1], encoding="utf-8"))).to_json())
"""
_SKY: Final = """
import sys, sky, yaml
content = yaml.safe_load(open(sys.argv[1], encoding="utf-8"))
content.pop("file_mounts")  # it would ask the cloud for the bucket
task = sky.Task.from_yaml_config(content, env_overrides=[("MIRROR", "s3://bucket/run")])
(resources,) = task.resources
print(task.name, task.num_nodes, resources.use_spot, resources.job_recovery)
"""


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason=_INSTALLED)
def test_kubernetes_accepts_the_job() -> None:
    """Strictly: a field that it does not know is an error."""
    assert _by(SCHEMAS, _KUBERNETES, str(RECIPES / "kubernetes_job.yaml")).split() == [
        "PersistentVolumeClaim",
        "Service",
        "Job",
    ]


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason=_INSTALLED)
def test_kubernetes_would_refuse_a_misspelled_field(tmp_path: Path) -> None:
    wrong = (RECIPES / "kubernetes_job.yaml").read_text(encoding="utf-8").replace("backoffLimit", "backOffLimit")
    (tmp_path / "job.yaml").write_text(wrong, encoding="utf-8")
    with pytest.raises(AssertionError, match="backOffLimit"):
        _by(SCHEMAS, _KUBERNETES, str(tmp_path / "job.yaml"))


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason=_INSTALLED)
def test_kubeflow_reads_the_train_job() -> None:
    """Its models drop what they do not know: all must be there again."""
    path = RECIPES / "kubeflow_trainjob.yaml"
    read = yaml.safe_load(_by(SCHEMAS, _KUBEFLOW, str(path)))
    assert read == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.skipif(not SKYPILOT.is_dir(), reason=_INSTALLED)
def test_skypilot_reads_the_task(tmp_path: Path) -> None:
    said = _by(SKYPILOT, _SKY, str(RECIPES / "skypilot.yaml"), home=tmp_path)
    assert said.startswith("llamarec 1 True")
    assert "'recover_on_exit_codes': [75]" in said


@_NO_BASH
@pytest.mark.skipif(not SCHEMAS.is_dir(), reason=_INSTALLED)
def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [str(path) for path in RECIPES.iterdir() if path.suffix in (".sh", ".sbatch")]
    done = subprocess.run([str(SCHEMAS / "bin" / "shellcheck"), *scripts], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert len(scripts) == 3
