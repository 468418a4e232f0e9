"""The recipes of examples/launch: every command in them parses, and each scheduler accepts its file."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from llamarec.cli.main import parser
from llamarec.ranker.options.parser import RankerArgumentParser

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
