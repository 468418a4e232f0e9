"""What is imported is declared, and what is not installed is answered with the line that installs it."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from llamarec import requirements
from llamarec.errors import EXIT_USAGE
from tests.contracts.base_only import hidden_modules

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "llamarec"
BASE_ONLY = ROOT / "tests/contracts/base_only.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# The rooms that an extra is for; everything that is not named here belongs to the base.
ROOMS: Final = {
    "ranker": ("assets", "data", "evaluation", "experts", "retriever", "planning", "ranker", "recommend", "export"),
    "report": ("report",),
    "serve": ("serve",),
}
# Modules that have the imports of an extra, inside their functions.
VERBS: Final = {
    "cli/serve.py": "serve",
    "cli/export.py": "ranker",
    "data/tables/spreadsheet.py": "excel",
    "recommend/ray_cluster.py": "ray",
}
# Loaded by transformers, not by us: quantization, model files, tokenizers, logs.
LOADED_BY_OTHERS: Final = {"bitsandbytes", "gguf", "protobuf", "sentencepiece"}
_NOT_AT_RUN_TIME: Final = {"_typeshed"}
_TIMEOUT_SECONDS: Final = 180


def _declared(extra: str) -> set[str]:
    """Names of the packages of an extra (empty: the base), from pyproject.toml."""
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    found: set[str] = set() if not extra else _declared("")
    for one in map(Requirement, lines):
        if one.name == "llamarec":
            found = found.union(*(_declared(other) for other in one.extras))
        else:
            found.add(one.name.lower().replace("_", "-"))
    return found


def _extra_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    room = inside.parts[0].removesuffix(".py")
    return VERBS.get(inside.as_posix()) or next((extra for extra, rooms in ROOMS.items() if room in rooms), "")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]


def _third_party(path: Path) -> set[str]:
    own = {"llamarec", *sys.stdlib_module_names, *_NOT_AT_RUN_TIME}
    return {name.lower().replace("_", "-") for name in _imports(path) if name not in own}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_module_imports_is_declared(path: Path) -> None:
    extra = _extra_of(path)
    # An adapter's code runs only where somebody has made one with PEFT.
    optional = {"peft"} if path.is_relative_to(PACKAGE / "checkpoints") else set()
    missing = _third_party(path) - _declared(extra) - optional
    assert not missing, f"imported, and not in {extra or 'dependencies'}"


def test_what_is_declared_is_imported() -> None:
    imported = set[str]().union(*map(_third_party, PACKAGE.rglob("*.py"))) | LOADED_BY_OTHERS
    assert _declared("all") - imported == set()


def test_the_installed_package_declares_the_same() -> None:
    """If this fails: python make.py setup."""
    for extra in ("", *PROJECT["optional-dependencies"]):
        named = set(requirements.declared()[extra]) | (_declared("") if extra else set())
        assert named == _declared(extra) if extra != "dev" else named >= {"pytest"}
    assert requirements.supported_range("transformers").startswith(">=5.")


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(BASE_ONLY), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )


def test_the_base_hides_what_an_extra_installs() -> None:
    assert hidden_modules() >= {"polars", "peft", "matplotlib", "fastapi", "uvicorn", "bitsandbytes", "tensorboard"}
    assert not hidden_modules() & {"torch", "transformers", "accelerate", "llamarec", "rich", "psutil"}


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("-m", "llamarec.cli.main", "prepare", "--dataset_code", "games", "--data_root", "."), "ranker"),
        (("-m", "llamarec.cli.main", "plan", "--dataset_code", "games"), "ranker"),
        (("-m", "llamarec.cli.main", "recommend", "--dataset_code", "games", "--user", "u1"), "ranker"),
        (("-m", "llamarec.cli.main", "export", "games", "--to", "out"), "ranker"),
        (("-m", "llamarec.cli.main", "report", "games"), "report"),
        (("-m", "llamarec.cli.main", "compare", "games", "beauty"), "report"),
        (("-m", "llamarec.cli.main", "serve", "games"), "serve"),
        (("train_retriever.py", "--dataset_code", "ml-100k"), "ranker"),
        (("train_ranker.py", "--dataset_code", "ml-100k"), "ranker"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:3]),
)
def test_a_missing_package_is_answered_with_the_line_to_type(
    command: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    (tmp_path / "games").mkdir()
    done = _run(*command, cwd=tmp_path)
    assert done.returncode == EXIT_USAGE, done.stderr
    assert "is not installed" in done.stderr
    assert f'pip install "llamarec[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["checkpoints", "--help"], ["--version"]])
def test_help_needs_the_base_only(arguments: list[str], tmp_path: Path) -> None:
    done = _run("-m", "llamarec.cli.main", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_base_alone_saves_is_killed_and_resumes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ["--output_dir", str(run), "--disable_tqdm", "true", "--use_cpu", "true", "--save_steps", "20"]
    flags += ["--eval_steps", "20", "--logging_steps", "20", "--num_train_epochs", "1"]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(BASE_ONLY), "examples/own_trainer.py", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not (run / "checkpoint-20/manifest.json").is_file():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    process.communicate()

    done = _run("examples/own_trainer.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resume:" in done.stdout
    assert "checkpoint-" in done.stdout
    listed = _run("-m", "llamarec.cli.main", "checkpoints", "list", str(run), cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "checkpoint-125" in listed.stdout or "125" in listed.stdout
