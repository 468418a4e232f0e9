"""`recommend --output` and `export` where they cannot write: one sentence, nothing half-written, the old one unhurt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Protocol

import pytest

from llamarec.errors import EXIT_FINISHED, EXIT_USAGE
from tests.programs import Programs
from tests.report.conftest import experiment, finished
from tests.resume.forks import Ending

__all__ = ["experiment", "finished"]

pytestmark = pytest.mark.slow
NEEDS_LIMITS = pytest.mark.skipif(os.name == "nt", reason="no limit of a file's size")
NEEDS_PERMISSIONS = pytest.mark.skipif(
    os.name == "nt" or getattr(os, "geteuid", lambda: 0)() == 0, reason="permissions do not bind this user"
)


class Run(Protocol):
    """Runs a command over the experiment."""

    def __call__(self, *words: object, limit: int = 0) -> Ending: ...


@pytest.fixture(scope="module")
def run(finished: Path, programs: Programs) -> Run:
    def run(*words: object, limit: int = 0) -> Ending:
        root = ("--experiment_root", finished / "experiments")
        return programs.run("llamarec.cli.main", *words, *root, largest_file=limit)

    return run


def _recommend(run: Run, output: Path, *more: object, limit: int = 0) -> Ending:
    users = output.with_name("users.txt")
    if not users.exists():
        users.write_text("".join(f"u{user}\n" for user in range(40)), encoding="utf-8")
    return run("recommend", "shop", "--device", "cpu", "--users", users, "--output", output, *more, limit=limit)


def _check_refused(done: Ending, *said: str) -> None:
    assert done.status == EXIT_USAGE, done.log
    assert "error: " in done.log
    assert "Traceback" not in done.log
    for text in said:
        assert text in done.log


def _content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@NEEDS_LIMITS
@pytest.mark.parametrize(("ending", "limit"), [(".jsonl", 5_000), (".parquet", 30_000)])
def test_recommendations_on_a_full_disk(run: Run, ending: str, limit: int, tmp_path: Path) -> None:
    output = tmp_path / f"top{ending}"
    assert _recommend(run, output).status == EXIT_FINISHED
    before = _content(tmp_path)

    _check_refused(_recommend(run, output, "--restart", "-k", 30, limit=limit), "File too large", str(tmp_path))

    # What was answered is beside it, and is continued.
    assert _content(tmp_path)[output.name] == before[output.name]
    left = {path.name for path in tmp_path.iterdir()} - {"users.txt", output.name}
    assert left <= {f"{output.name}.partial", f"{output.name}.partial.json"}
    assert _recommend(run, output, "--restart", "-k", 30).status == EXIT_FINISHED
    assert {path.name for path in tmp_path.iterdir()} == {"users.txt", output.name}
    assert _content(tmp_path)[output.name] != before[output.name]


@NEEDS_LIMITS
@pytest.mark.parametrize(("merged", "limit"), [(False, 5_000), (True, 100_000)], ids=["adapter", "merged"])
def test_an_export_on_a_full_disk(run: Run, merged: bool, limit: int, tmp_path: Path) -> None:
    words = ("export", "shop", "--to", tmp_path / "a", *(("--merged",) if merged else ()))
    assert run(*words).status == EXIT_FINISHED
    before = _content(tmp_path)
    assert limit < max(map(len, before.values()))

    for target in ("a", "new"):
        done = run(*words[:3], tmp_path / target, *words[4:], "--overwrite", limit=limit)
        _check_refused(done, "File too large", str(tmp_path / target))

    assert _content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_targets_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("u1\n", encoding="utf-8")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "folder.jsonl").mkdir()
    before = _content(tmp_path)

    _check_refused(run("export", "shop", "--to", tmp_path / "file"), "this is a file")
    _check_refused(run("export", "shop", "--to", tmp_path / "file" / "a" / "b"), str(tmp_path / "file"))
    users = ("recommend", "shop", "--device", "cpu", "--users", tmp_path / "users.txt", "--output")
    _check_refused(run(*users, tmp_path / "file" / "top.jsonl"), str(tmp_path / "file"))
    for more in ((), ("--restart",)):
        _check_refused(run(*users, tmp_path / "folder.jsonl", *more), "this is a folder")
    assert _content(tmp_path) == before

    # A folder that is not there yet is made.
    assert run(*users, tmp_path / "new" / "a" / "top.jsonl").status == EXIT_FINISHED
    (line,) = (tmp_path / "new" / "a" / "top.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["id"] == "u1"
    assert run("export", "shop", "--to", tmp_path / "new" / "b" / "c").status == EXIT_FINISHED


@NEEDS_PERMISSIONS
def test_a_read_only_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "users.txt").write_text("u1\n", encoding="utf-8")
    assert run("export", "shop", "--to", folder / "a").status == EXIT_FINISHED
    before = _content(folder)
    folder.chmod(0o500)
    try:
        _check_refused(run("export", "shop", "--to", folder / "b"), "chmod u+w")
        _check_refused(run("export", "shop", "--to", folder / "a", "--overwrite"), "chmod u+w")
        users = ("recommend", "shop", "--device", "cpu", "--users", tmp_path / "users.txt", "--output")
        _check_refused(run(*users, folder / "top.jsonl"), "chmod u+w")
    finally:
        folder.chmod(0o700)
    assert _content(folder) == before
