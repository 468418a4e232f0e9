"""`prune` and `du`."""

from __future__ import annotations

import builtins
import sys
from collections import namedtuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import RunLock
from tests.checkpoints.factory import damage, make_plain_run, make_run
from tests.cli.checkpoints_command import Command

STEPS = (100, 200, 300, 400, 500)


def _steps(run: RunFolder) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in run.checkpoints()]


@pytest.fixture
def run(command: Command) -> RunFolder:
    return make_run(command.checkpoints(), STEPS)


@pytest.mark.parametrize("flags", [[], ["--dry_run"], ["--dry_run", "--yes"], ["--json"]])
def test_prune_only_shows_unless_told(command: Command, run: RunFolder, flags: list[str]) -> None:
    call = command if "--json" in flags else command.narrow
    output = call("prune", "beauty", "--keep", "2", *flags)
    assert _steps(run) == [*STEPS]
    if "--json" not in flags:
        assert "keep    checkpoint-200 (best)" in output
        assert "delete  checkpoint-300 (" in output
        assert "nothing is deleted" in output


def test_a_dry_run_leaves_no_trace(command: Command, run: RunFolder) -> None:
    before = sorted(path.name for path in run.path.iterdir())
    command("prune", "beauty", "--dry_run")
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_prune_deletes_with_yes(command: Command, run: RunFolder) -> None:
    output = command.narrow("prune", "beauty", "--keep", "2", "--yes")
    assert _steps(run) == [200, 400, 500]
    assert "checkpoint-100: deleted" in output
    assert "freed about" in output
    assert "nothing to delete" in command.narrow("prune", "beauty", "--keep", "2", "--yes")


def test_prune_as_json(command: Command, run: RunFolder) -> None:
    content = command.json("prune", "beauty", "--keep", "1", "--yes")
    assert _steps(run) == [200, 500]
    assert content["deleted"] is True
    assert [item["path"].rpartition("-")[2] for item in content["delete"]] == ["100", "300", "400"]
    assert content["keep"] == {"checkpoint-200": "best", "checkpoint-500": "newest good one"}
    assert content["bytes"] == sum(item["bytes"] for item in content["delete"]) > 0


@pytest.mark.parametrize(("answer", "left"), [("y", [200, 500]), ("", [*STEPS]), ("n", [*STEPS])])
def test_prune_asks_on_a_terminal(
    command: Command, run: RunFolder, monkeypatch: pytest.MonkeyPatch, answer: str, left: list[int]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(builtins, "input", lambda _: answer)
    command("prune", "beauty", "--keep", "1")
    assert _steps(run) == left


def test_prune_is_refused_while_a_run_trains_there(command: Command, run: RunFolder) -> None:
    with RunLock(run):
        command("prune", "beauty", "--keep", "1", "--yes", code=2)
        assert "another run is training" in command.error
        command("prune", "beauty", "--keep", "1", "--dry_run")
    assert _steps(run) == [*STEPS]


def test_prune_keeps_the_newest_good_one_where_newer_ones_are_damaged(command: Command, run: RunFolder) -> None:
    damage(run.checkpoint(500))
    damage(run.checkpoint(400))
    command("prune", "beauty", "--keep", "1", "--yes")
    assert _steps(run) == [200, 300]


def test_prune_deletes_nothing_where_nothing_is_good(command: Command, run: RunFolder) -> None:
    for step in STEPS:
        damage(run.checkpoint(step))
    assert "damaged: yours to judge" in command.narrow("prune", "beauty", "--keep", "1", "--yes")
    assert _steps(run) == [*STEPS]


def test_prune_keeps_what_has_no_readable_manifest(command: Command, run: RunFolder) -> None:
    damage(run.checkpoint(300), "manifest.json")
    output = command.narrow("prune", "beauty", "--keep", "1", "--yes")
    assert "checkpoint-300 (damaged: yours to judge)" in output
    assert _steps(run) == [200, 300, 500]


def test_prune_of_plain_checkpoints_keeps_the_best_that_their_state_names(command: Command) -> None:
    run = make_plain_run(command.checkpoints(), STEPS, best=200)
    command("prune", "beauty", "--keep", "1", "--yes")
    assert _steps(run) == [200, 500]


@settings(max_examples=15, deadline=None)
@given(
    best=st.sampled_from([None, *STEPS]),
    bad=st.sets(st.sampled_from(STEPS)),
    keep=st.integers(1, 6),
    order=st.permutations(STEPS),
)
def test_prune_never_proposes_the_newest_good_or_the_best(
    tmp_path_factory: pytest.TempPathFactory, best: int | None, bad: set[int], keep: int, order: list[int]
) -> None:
    from llamarec.cli.checkpoints.prune import propose

    run = make_run(tmp_path_factory.mktemp("run"), order, best=best)
    for step in bad:
        damage(run.checkpoint(step))
    doomed = {fact.step for fact in propose(run, keep, deep=True).doomed}
    good = [step for step in order if step not in bad]
    if not good:
        assert not doomed
        return
    assert good[-1] not in doomed
    if best in order[: order.index(good[-1]) + 1] and best in good:
        assert best not in doomed
    assert len(set(good) - doomed) >= min(keep, len(good))


def test_prune_clears_what_kills_left(command: Command, run: RunFolder) -> None:
    run.saving(600).mkdir()
    (run.saving(600) / "optimizer.pt").write_bytes(b"half")
    run.checkpoint(300).rename(run.replaced(300))
    (run.path / ".live-7").mkdir()
    output = command.narrow("prune", "beauty", "--keep", "9")
    assert "clear   .saving-checkpoint-600 (4 B, left by a kill)" in output
    output = command.narrow("prune", "beauty", "--keep", "9", "--yes")
    assert ".saving-checkpoint-600: cleared" in output
    assert "checkpoint-300: put back" in output
    assert not (run.path / ".live-7").exists()
    assert _steps(run) == [*STEPS]
    assert run.leftovers() == []


@pytest.mark.parametrize("keep", ["0", "-1"])
def test_prune_keeps_at_least_one(command: Command, run: RunFolder, keep: str) -> None:
    command("prune", "beauty", "--keep", keep, "--yes", code=2)
    assert "at least 1" in command.error


# ---- du ----


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with 1 MB left."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 1_000_000))


def test_du_says_how_long_the_disk_lasts(command: Command, free: None) -> None:
    make_run(command.checkpoints("growing"), STEPS, limit=None, minutes=60)
    make_run(command.checkpoints("steady"), STEPS, limit=3)
    make_run(command.checkpoints("finished"), STEPS, limit=None, last_reason="final")
    output = command.narrow("du")
    rows = {line.split()[0]: line.split() for line in output.splitlines()}
    assert {name: rows[name][-1] for name in ("growing", "steady", "finished")} == {
        "growing": "growing",
        "steady": "steady",
        "finished": "idle",
    }
    assert "free:     1.0 MB" in output
    content = command.json("du")
    grown = next(item for item in content["runs"] if item["state"] == "growing")
    newest = sum(path.stat().st_size for path in (command.checkpoints("growing") / "checkpoint-500").iterdir())
    # One save an hour.
    assert grown["bytes_per_hour"] == pytest.approx(newest)
    assert content["hours_left"] == pytest.approx(1_000_000 / newest)
    assert f"at this rate the disk lasts {int(1_000_000 / newest // 24)} d" in output


def test_du_says_what_prune_would_free(command: Command) -> None:
    run = make_run(command.checkpoints(), STEPS)
    content = command.json("du")
    freed = sum(path.stat().st_size for path in run.checkpoint(100).iterdir())
    assert content["runs"][0]["prunable_bytes"] == freed
    assert content["runs"][0]["bytes"] == sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    assert content["free_bytes"] > 0


@pytest.mark.parametrize(
    ("steps", "limit", "reason", "said"),
    [
        (STEPS, 3, None, "steady"),
        ((100,), None, None, "unknown"),
        (STEPS, None, "final", "nothing is being written"),
    ],
)
def test_du_says_when_there_is_no_rate(
    command: Command, steps: tuple[int, ...], limit: int | None, reason: str | None, said: str
) -> None:
    make_run(command.checkpoints(), steps, limit=limit, last_reason=reason)
    assert said in command.narrow("du").splitlines()[-1] + command.narrow("du").splitlines()[-2]


def test_du_of_one_run_and_of_nothing(command: Command) -> None:
    run = make_run(command.checkpoints())
    assert len(command.json("du", str(run.path))["runs"]) == 1
    assert len(command.json("du", str(command.root))["runs"]) == 1
    assert len(command.json("du", "beauty")["runs"]) == 1
    command("du", "beuaty", code=2)
    command.root = command.root / "other"
    assert "no runs under" in command("du")
