"""The same on s3://: a real driver, a server that speaks S3, and a proxy between them that injects faults."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamarec.checkpoints.backup.stores import open_store
from llamarec.checkpoints.mirror.fetching import bring_newest, one_at_a_time
from llamarec.checkpoints.mirror.inventory import inventory_of
from llamarec.checkpoints.mirror.keeper import Continued, MirrorKeeper
from llamarec.checkpoints.mirror.pauses import Pauses
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.verification import verify
from llamarec.cli.main import main
from tests.checkpoints.factory import make_run
from tests.checkpoints.mirror.s3 import Proxy, server

_NEEDED = ("s3fs", "moto", "flask", "flask_cors")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)} (python make.py test-stores)"),
    # Of botocore, moto's clients and sockets that aiohttp leaves to the collector.
    pytest.mark.filterwarnings("ignore"),
]
SECRET = "s3-secret-Zq8x"
PAUSES = Pauses(first=0.05, longest=0.2, last_tries=4, silence=60)


@pytest.fixture(scope="module")
def store() -> Iterator[Proxy]:
    with server() as proxy:
        yield proxy


@pytest.fixture
def proxy(store: Proxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """The store as a user reaches it: by the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store.port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store.fault = None
    store.requests.clear()
    store.met.clear()
    return store


@pytest.fixture
def address(proxy: Proxy) -> str:
    """A folder in a bucket of its own."""
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    filesystem = open_store(f"s3://{bucket}").filesystem
    filesystem.retries = 1
    filesystem.mkdir(bucket)
    return f"s3://{bucket}/run"


def _mirrored(run: RunFolder, address: str, *, limit: int = 3) -> tuple[list[str], MirrorKeeper]:
    said = list[str]()
    keeper = MirrorKeeper(open_store(address), run, limit=limit, warn=said.append, pauses=PAUSES)
    keeper.begin(Continued(run_id="run-1", first_sequence=len(run.steps()), is_restart=False))
    keeper.finish()
    return said, keeper


def _fetched(address: str, folder: Path) -> list[int]:
    run = RunFolder(folder)
    with one_at_a_time(run):
        bring_newest(open_store(address), run, say=print, warn=print, pauses=PAUSES)
    assert all(verify(run.checkpoint(step)).health == "good" for step in run.steps())
    return run.steps()


def test_there_and_back_with_retention(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], proxy: Proxy
) -> None:
    said, _ = _mirrored(make_run(tmp_path / "run", (100, 200, 300), best=100), address, limit=1)
    assert not said
    assert [one.manifest.step for one in inventory_of(open_store(address)).checkpoints] == [300, 100]
    assert _fetched(address, tmp_path / "other") == [100, 300]

    assert main(["checkpoints", "list", address, "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "hashes" in shown
    assert "P protected: 100 (" in " ".join(shown.split())
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("kind", "method", "part"),
    [
        ("500", "PUT", "optimizer.pt"),
        ("500", "PUT", "manifest.json"),
        ("500", "DELETE", ".copying"),
        ("500", "GET", "adapter_model.bin"),
        ("hang", "PUT", "optimizer.pt"),
        ("torn", "PUT", "optimizer.pt"),
        ("torn", "PUT", "manifest.json"),
        ("etag", "HEAD", "optimizer.pt"),
        ("etag", "PUT", "optimizer.pt"),
        ("stale", "GET", "list-type"),
    ],
)
def test_a_fault_that_passes_costs_nothing(
    kind: str, method: str, part: str, address: str, proxy: Proxy, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", (100, 200), best=None)
    proxy.once(kind, method, part)
    said, keeper = _mirrored(run, address)

    assert proxy.met == [kind]
    assert not keeper.behind, said
    assert _fetched(address, tmp_path / "other") == [200]
    found = inventory_of(open_store(address))
    assert [one.manifest.step for one in found.checkpoints] == [200, 100]
    assert all(
        one.store.entry(name) == entry for one in found.checkpoints for name, entry in one.manifest.files.items()
    )
    assert SECRET not in "".join(said)


@pytest.mark.parametrize(("kind", "method"), [("500", "PUT"), ("torn", "PUT")])
def test_a_fault_that_stays_is_said_and_leaves_no_half_copy(
    kind: str, method: str, address: str, proxy: Proxy, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", (100,), best=None)
    proxy.once(kind, method, "optimizer.pt", times=10**6)
    said, keeper = _mirrored(run, address)

    assert "it lacks checkpoint-100" in keeper.behind
    assert len(said) == 2
    assert not inventory_of(open_store(address)).checkpoints
    # Once it passes, the next process makes up for it.
    proxy.fault = None
    said, keeper = _mirrored(run, address)
    assert not keeper.behind, said
    assert _fetched(address, tmp_path / "other") == [100]


def test_a_bucket_that_is_not_there_is_said(proxy: Proxy, tmp_path: Path) -> None:
    said, keeper = _mirrored(make_run(tmp_path / "run", (100,), best=None), "s3://no-such-bucket-here/run")
    assert keeper.behind
    assert SECRET not in "".join(said)
