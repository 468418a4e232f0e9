"""`llamarec recommend --engine ray`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llamarec.cli.main import main
from llamarec.errors import EXIT_FINISHED, EXIT_USAGE, ConfigError
from llamarec.recommend.ray_cluster import RayConfig, Share, share_of
from tests.recommend.on_ray.conftest import needs_ray

_ON_RAY = ("--engine", "ray", "--num_workers", "2", "--threads_per_worker", "1")


def _words(root: Path, users: Path, output: Path) -> list[str]:
    words = ["recommend", "--dataset_code", "shop", "--experiment_root", str(root / "experiments"), "-k", "3"]
    return [*words, "--users", str(users), "--output", str(output), "--device", "cpu"]


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.txt"
    path.write_text("".join(f"u{user}\n" for user in range(20)), encoding="utf-8")
    return path


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamarec.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONUTF8": "1"})


def test_without_ray_it_says_what_to_install(
    finished: Path, users: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*_words(finished, users, tmp_path / "a.jsonl"), *_ON_RAY]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "--engine ray: Ray is not installed" in said
    assert 'pip install "llamarec[ray]"' in said
    assert not list(tmp_path.glob("a.jsonl*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--users", "a.txt", "--output", "a.jsonl", "--num_workers", "2"), "--num_workers: only with --engine ray"),
        (("--user", "u1", "--engine", "ray"), "--engine ray: for a file of users"),
        (("--users", "a.txt", "--output", "a.jsonl", *_ON_RAY, "--num_workers", "-1"), "--num_workers -1: at least 1"),
        (
            ("--users", "a.txt", "--output", "a.jsonl", *_ON_RAY, "--ray_address", "ray://x:1"),
            "auto or HOST:PORT, on a machine of the cluster",
        ),
        (("--users", "absent.txt", "--output", "a.jsonl", *_ON_RAY), "absent.txt: cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_before_ray_starts(
    words: tuple[str, ...], said: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(finished / "experiments")
    assert main(["recommend", "--dataset_code", "shop", "--experiment_root", root, *words]) == EXIT_USAGE
    assert said in capsys.readouterr().err


def test_what_each_worker_gets_of_a_cluster() -> None:
    cpus, gpus = {"CPU": 10.0}, {"CPU": 16.0, "GPU": 2.0}
    assert share_of(cpus, RayConfig(), "auto") == Share(2, 4, 0)
    assert share_of({"CPU": 2.0}, RayConfig(), "auto") == Share(1, 2, 0)
    assert share_of({"CPU": 2.0}, RayConfig(num_workers=2), "auto") == Share(2, 1, 0)
    assert share_of(cpus, RayConfig(threads_per_worker=1), "cpu") == Share(10, 1, 0)
    assert share_of(gpus, RayConfig(), "auto") == Share(2, 4, 1)
    assert share_of(gpus, RayConfig(num_workers=1), "cuda") == Share(1, 4, 1)
    assert share_of(gpus, RayConfig(), "cpu") == Share(4, 4, 0)
    with pytest.raises(ConfigError, match=r"(?s)--num_workers 3: each worker needs a GPU.*--num_workers 2"):
        share_of(gpus, RayConfig(num_workers=3), "auto")
    with pytest.raises(ConfigError, match=r"(?s)needs a GPU.*--device cpu"):
        share_of(cpus, RayConfig(), "cuda")
    with pytest.raises(ConfigError, match="each worker has one GPU"):
        share_of(gpus, RayConfig(), "cuda:1")
    with pytest.raises(ConfigError, match=r"(?s)12 cores are needed.*--num_workers 2 --threads_per_worker 4"):
        share_of(cpus, RayConfig(num_workers=3, threads_per_worker=4), "cpu")


class TestOnRay:
    """With Ray itself, in a process of its own."""

    pytestmark = needs_ray

    def test_it_prints_what_the_local_engine_prints(self, finished: Path, users: Path, tmp_path: Path) -> None:
        local = _run([*_words(finished, users, tmp_path / "a.jsonl"), "--json"])
        on_ray = _run([*_words(finished, users, tmp_path / "b.jsonl"), "--json", *_ON_RAY])

        assert (local.returncode, on_ray.returncode) == (EXIT_FINISHED, EXIT_FINISHED), on_ray.stderr
        assert json.loads(on_ray.stdout) == {**json.loads(local.stdout), "output": str(tmp_path / "b.jsonl")}
        assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
        # On a busy machine workers load for long; Ray's own lines would hide the progress.
        assert all("workers of Ray are not ready" in line for line in on_ray.stderr.splitlines()), on_ray.stderr

    def test_a_damaged_run_is_refused_in_the_same_words(self, finished: Path, users: Path, tmp_path: Path) -> None:
        root = Path(shutil.copytree(finished / "experiments", tmp_path / "experiments")).parent
        shutil.rmtree(root / "experiments" / "lru")
        local, on_ray = (_run([*_words(root, users, tmp_path / "a.jsonl"), *more]) for more in ((), _ON_RAY))

        assert local.returncode == on_ray.returncode == EXIT_USAGE
        said = [line for line in on_ray.stderr.splitlines() if "workers of Ray are not ready" not in line]
        assert said == local.stderr.splitlines() != []
        assert not list(tmp_path.glob("a.jsonl*"))

    @pytest.mark.skipif(os.name == "nt", reason="no SIGTERM")
    def test_sigterm_ends_it_as_it_ends_the_local_engine(self, finished: Path, users: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "llamarec.cli.main", *_words(finished, users, tmp_path / "a.jsonl")]
        with subprocess.Popen([*command, *_ON_RAY], stdout=subprocess.DEVNULL, start_new_session=True) as started:
            # The file that answers are appended to, which is there once the workers have loaded the run.
            while not (tmp_path / "a.jsonl.partial").exists() and started.poll() is None:
                time.sleep(0.01)
            started.send_signal(signal.SIGTERM)
            code = started.wait(120)

        # It may have finished before the signal came.
        assert code == -signal.SIGTERM or (tmp_path / "a.jsonl").exists()
        again = _run(_words(finished, users, tmp_path / "a.jsonl" if code else tmp_path / "b.jsonl"))
        assert again.returncode == EXIT_FINISHED
