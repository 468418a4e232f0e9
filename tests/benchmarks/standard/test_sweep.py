"""The command: a sweep continues where it was stopped, measures again what has changed, and makes the page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.standard.results import ROOT

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-W", "ignore", "-m", "benchmarks.standard", "--quick", "--splits", "leave_one_out"]
TWO = ["--systems", "popularity", "item-knn"]


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)


def _results(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "results").glob("*.json")}


def test_a_second_run_measures_nothing_and_a_changed_result_is_measured_again(tmp_path: Path) -> None:
    first = _run("--folder", tmp_path, *TWO)
    assert first.returncode == 0, first.stderr
    assert "popularity seed 1: NDCG@10" in first.stdout
    before = _results(tmp_path)
    assert len(before) == 2

    assert _run("--folder", tmp_path, *TWO).returncode == 0
    assert _results(tmp_path) == before

    path = tmp_path / "results" / "quick-leave_one_out-item-knn-1.json"
    content = json.loads(path.read_text())
    content["code"]["benchmarks/standard/item_knn.py"] = "0"
    path.write_text(json.dumps(content))

    refused = _run("--folder", tmp_path, *TWO, "--write")
    assert refused.returncode == 2
    assert "--accept_other_code" in refused.stderr
    accepted = _run("--folder", tmp_path, *TWO, "--write", "--accept_other_code")
    assert accepted.returncode == 0
    assert "used, although of other code: benchmarks/standard/item_knn.py" in accepted.stdout

    again = _run("--folder", tmp_path, *TWO)
    assert "item-knn seed 1: measured again, as it was of other code: benchmarks/standard/item_knn.py" in again.stdout
    assert _run("--folder", tmp_path, *TWO, "--write").returncode == 0
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.startswith("# ")
    assert page.rstrip().splitlines()[-1].startswith("- Within two minutes: item-kNN")


def test_a_stopped_sweep_keeps_what_is_finished(tmp_path: Path) -> None:
    words = [
        "--folder",
        str(tmp_path),
        "--systems",
        "popularity",
        "first-stage",
        "--splits",
        "leave_one_out",
        "temporal",
    ]
    first = tmp_path / "results" / "quick-leave_one_out-popularity-1.json"
    running = subprocess.Popen([*COMMAND, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not first.exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGTERM)
    output, _ = running.communicate(timeout=60)

    assert running.returncode == 130, output
    assert "the same command continues" in output
    before = _results(tmp_path)
    assert before

    assert _run(*words).returncode == 0
    after = _results(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 4


def test_two_sweeps_do_not_share_a_folder_and_an_empty_one_has_no_page(tmp_path: Path) -> None:
    empty = _run("--folder", tmp_path, "--write")
    assert empty.returncode == 2
    assert "nothing has been measured" in empty.stderr


def test_a_system_whose_library_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    done = _run("--folder", tmp_path, "--systems", "sasrec")
    if done.returncode == 0:
        pytest.skip("RecTools is installed")
    assert done.returncode == 2
    assert "pip install --no-deps" in done.stderr
