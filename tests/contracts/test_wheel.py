"""The wheel works outside a clone: it has its data files, its commands, and it names the commands that exist there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package from its wheel, beside which the environment's packages are found."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    names = subprocess.run(
        ["git", "ls-files", "llamarec", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in names:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # A file that was deleted and not committed is still listed.
        if (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())

    # From the sdist, as a package registry's users get it.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((folder / "dist").glob("*.tar.gz"))
    with zipfile.ZipFile(next((folder / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(folder / "packages")
    return folder / "packages"


def _llamarec(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "120"}
    program = "import sys; from llamarec.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train-retriever", "--help"], ["train-ranker", "--help"], ["demo", "--help"], ["checkpoints", "-h"]],
    ids=" ".join,
)
def test_help_of_every_command(arguments: list[str], installed: Path) -> None:
    done = _llamarec(installed, *arguments)
    assert done.returncode == 0, done.stderr
    command = " ".join(["llamarec", *arguments[:-1]])
    assert done.stdout.startswith(f"usage: {command}")
    assert "train_ranker.py --" not in done.stdout


def test_messages_name_the_commands_that_exist_there(installed: Path) -> None:
    done = _llamarec(installed, "train-ranker", "--dataset_code", "beauty", "--learning_rat", "1")
    assert done.returncode == 2
    assert "llamarec train-ranker --help_all" in done.stderr
    assert ".py" not in done.stderr


def test_data_files_are_in_it(installed: Path) -> None:
    there = {path.relative_to(ROOT) for path in (ROOT / "llamarec").rglob("*") if path.suffix not in (".py", ".pyc")}
    files = {path for path in there if (ROOT / path).is_file()}
    assert files
    assert not [path for path in files if not (installed / path).is_file()]


def test_the_version_stands_in_one_place(installed: Path) -> None:
    import llamarec

    assert [path.name for path in installed.glob("*.dist-info")] == [f"llamarec-{llamarec.__version__}.dist-info"]
    assert _llamarec(installed, "--version").stdout.strip() == f"llamarec {llamarec.__version__}"
