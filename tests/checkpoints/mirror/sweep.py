"""SIGKILL at every request of a mirror's upkeep, then an empty disk that goes on from the mirror.

    python -m tests.checkpoints.mirror.sweep [--every N]

A child keeps a mirror of three saves with save_total_limit 1: copies, replacements and deletions. It is killed at one
request (bucket://) or one effect on the disk (file://). Then an empty folder fetches from the mirror, and another
keeper continues there.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from llamarec.checkpoints.backup.stores import open_store
from llamarec.checkpoints.mirror.fetching import bring_newest, one_at_a_time
from llamarec.checkpoints.mirror.inventory import inventory_of
from llamarec.checkpoints.mirror.keeper import Continued, MirrorKeeper
from llamarec.checkpoints.mirror.pauses import Pauses
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.publish import publish
from llamarec.checkpoints.storage.verification import verify
from tests.checkpoints.factory import fill, manifest
from tests.checkpoints.mirror.bucket import BucketFileSystem, register
from tests.resume import forks

STORES = ("bucket", "file")
STEPS = (100, 200, 300)
QUICK = Pauses(first=0.01, longest=0.05, last_tries=2, silence=20)
_DONE = "done.txt"


def address_of(store: str, folder: Path) -> str:
    """Of a mirror in a folder, as one or the other kind of store."""
    os.environ["BUCKET_ROOT"] = str(folder / "objects")
    return "bucket://host/run" if store == "bucket" else (folder / "mirror").as_uri()


def job(store: str, at: int, folder: str) -> dict[str, Any]:
    """Kills a keeper at its request number `at`, and goes on from the mirror.

    Returns:
        requests: How many there were before it ended.
        was_killed: It was.
        saved: Step of the newest copy that was whole before the kill.
        resumed: Step from which the empty folder goes on; 0 where the mirror has nothing.
        problems: What is wrong with that.
    """
    register()
    path = Path(folder)
    address = address_of(store, path)
    pid = os.fork()
    if pid == 0:
        _keep(store, address, path, at)
    _, status = os.waitpid(pid, 0)

    notes = (path / _DONE).read_text().split() if (path / _DONE).is_file() else []
    saved = max((int(text) for text in notes if text.isdigit()), default=0)
    requests = int(notes[-1].partition("=")[2]) if notes and "=" in notes[-1] else 0
    resumed, problems = _go_on(address, RunFolder(path / "other"))
    if resumed < saved:
        problems.append(f"resumed from {resumed}, though {saved} was mirrored")
    return {
        "requests": requests,
        "was_killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "saved": saved,
        "resumed": resumed,
        "problems": problems,
    }


def _keep(store: str, address: str, folder: Path, at: int) -> None:
    count = 0

    def strike(what: str, where: object) -> None:
        nonlocal count
        if store == "file" and not str(where).startswith(str(folder / "mirror")):
            return
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    if store == "bucket":
        BucketFileSystem.observer = strike
    else:
        durable.observer = strike

    run = RunFolder(folder / "run")
    run.path.mkdir(parents=True)
    keeper = MirrorKeeper(open_store(address), run, limit=1, warn=print, pauses=QUICK)
    keeper.begin(Continued(run_id="run-1", first_sequence=0, is_restart=False))
    for number, step in enumerate(STEPS):
        publish(run, manifest(step, number, _created(number)), partial(fill, step=step))
        keeper.note(step)
        while keeper.behind:
            keeper.join(0.005)
        with (folder / _DONE).open("a") as notes:
            notes.write(f"{step}\n")
    keeper.finish()
    with (folder / _DONE).open("a") as notes:
        notes.write(f"requests={count}\n")
    os._exit(0)


def _created(number: int) -> Any:
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, number, tzinfo=UTC)


def _go_on(address: str, run: RunFolder) -> tuple[int, list[str]]:
    problems: list[str] = []
    store = open_store(address)
    with one_at_a_time(run):
        bring_newest(store, run, say=lambda _: None, warn=problems.append, pauses=QUICK)
    steps = run.steps()
    problems += [f"checkpoint-{step} is not good" for step in steps if verify(run.checkpoint(step)).health != "good"]

    keeper = MirrorKeeper(store, run, limit=1, warn=problems.append, pauses=QUICK)
    keeper.begin(Continued(run_id="run-1", first_sequence=len(STEPS), is_restart=False))
    publish(run, manifest(400, len(STEPS), _created(4)), partial(fill, step=400))
    keeper.note(400)
    keeper.finish()
    after = inventory_of(store)
    if [one.manifest.step for one in after.checkpoints] != [400] or after.unfinished or after.unreadable:
        problems.append(f"then the mirror has {after}")
    return max(steps, default=0), problems


def sweep(run: Any, store: str, folder: Path, every: int) -> list[dict[str, Any]]:
    """The results of all points, or of every n-th one; the first is of a keeper that is not killed."""
    whole = run(store, 0, folder / f"{store}-0")
    points = range(1, whole["requests"] + 1, every)
    return [whole, *[run(store, at, folder / f"{store}-{at}") for at in points]]


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each kind of store."""
    rows = ["store    requests  killed  resumed from (times)                     wrong"]
    for store, found in results.items():
        killed = [one for one in found if one["was_killed"]]
        steps = Counter(one["resumed"] for one in killed)
        times = ", ".join(f"{step or 'nothing'} ({count})" for step, count in sorted(steps.items()))
        wrong = sum(bool(one["problems"]) for one in found)
        rows.append(f"{store:<9}{found[0]['requests']:>8}  {len(killed):>6}  {times:<40} {wrong:>5}")
    return "\n".join(rows)


def main() -> int:
    """Prints the table; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    every = parser.parse_args().every

    def run(store: str, at: int, folder: Path) -> dict[str, Any]:
        ending = forks.run(folder / "child", job, store=store, at=at, folder=str(folder))
        assert ending.status == 0, ending.log
        found: dict[str, Any] = ending.result
        return found

    with tempfile.TemporaryDirectory() as folder:
        results = {store: sweep(run, store, Path(folder), every) for store in STORES}
    print(table(results))
    problems = [text for found in results.values() for one in found for text in one["problems"]]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
