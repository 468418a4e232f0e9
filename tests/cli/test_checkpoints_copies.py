"""`backup` and `restore`."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import fsspec
import pytest

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import RunLock
from llamarec.checkpoints.storage.publish import delete, publish
from llamarec.checkpoints.storage.verification import verify
from llamarec.cli.checkpoints import backup
from tests.checkpoints.factory import damage, fill, make_run, manifest
from tests.cli.checkpoints_command import Command


@pytest.fixture
def run(command: Command) -> RunFolder:
    return make_run(command.checkpoints())


def _save(run: RunFolder, step: int, sequence: int) -> None:
    publish(run, manifest(step, sequence, datetime.now(UTC), best=200), partial(fill, step=step))


def test_there_and_back_to_another_run(command: Command, run: RunFolder, tmp_path: Path) -> None:
    output = command.narrow("backup", "beauty:best", str(tmp_path / "copies"))
    assert str(tmp_path / "copies" / "checkpoint-200") in output
    output = command.narrow("restore", str(tmp_path / "copies"), "toys")
    restored = command.checkpoints("toys") / "checkpoint-200"
    assert f"llamarec checkpoints show\n  {restored}" in output
    assert verify(restored).health == "good"


def test_over_an_address_as_json(command: Command, run: RunFolder) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    content = command.json("backup", str(run.checkpoint(100)), url)
    assert content == {"checkpoint": str(run.checkpoint(100)), "copy": f"{url}/checkpoint-100"}
    content = command.json("restore", url, "toys")
    assert content["checkpoint"] == str(command.checkpoints("toys") / "checkpoint-100")
    fsspec.filesystem("memory").rm(url, recursive=True)


def test_a_run_means_its_newest_good_checkpoint(command: Command, run: RunFolder, tmp_path: Path) -> None:
    damage(run.checkpoint(300))
    command("backup", "beauty", str(tmp_path / "copies"))
    assert "passed over checkpoint-300" in command.error
    assert [path.name for path in RunFolder(tmp_path / "copies").checkpoints()] == ["checkpoint-200"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["beauty:300", "{copies}"], "optimizer.pt has changed since the save"),
        (["beauty:250", "{copies}"], "show beauty:200"),
        (["beauty:100", "nosuch://x"], "pip install s3fs"),
        (["beauty", "{copies}", "--every", "0"], "--every 0: more than 0"),
        (["beauty"], "DEST"),
    ],
)
def test_backup_says_what_is_wrong(
    command: Command, run: RunFolder, tmp_path: Path, argv: list[str], said: str
) -> None:
    damage(run.checkpoint(300))
    command("backup", *(text.format(copies=tmp_path / "copies") for text in argv), code=2)
    assert said in command.error
    assert not RunFolder(tmp_path / "copies").checkpoints()


def test_every_copies_each_new_newest_good_one(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        """What training does meanwhile: saves, nothing, saves what then is damaged, saves, deletes an old one."""
        waits.append(seconds)
        if len(waits) == 1:
            _save(run, 400, 3)
        elif len(waits) == 3:
            _save(run, 500, 4)
            damage(run.checkpoint(500))
        elif len(waits) == 4:
            _save(run, 600, 5)
            delete(run, 100)

    watch = backup.Watch(run, str(tmp_path / "copies"), sleep=sleep)
    watch.repeat(60, rounds=7)
    assert [Path(copy).name for copy in watch.copied] == ["checkpoint-300", "checkpoint-400", "checkpoint-600"]
    assert waits == [60] * 6
    error = capsys.readouterr().err
    assert error.count("not copied: checkpoint-500 is damaged: optimizer.pt has changed since the save") == 1


def test_every_goes_on_when_the_destination_cannot_be_reached(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "copies"
    blocked.write_text("a file is in the way", encoding="utf-8")

    def sleep(_: float, waits: list[int] = []) -> None:  # noqa: B006 - counts the calls
        waits.append(1)
        if len(waits) == 2:
            blocked.unlink()

    watch = backup.Watch(run, str(blocked), sleep=sleep)
    watch.repeat(1, rounds=4)
    assert [Path(copy).name for copy in watch.copied] == ["checkpoint-300"]
    # The same problem is not said twice.
    assert capsys.readouterr().err.count("not copied this time") == 1


def test_every_ends_with_ctrl_c(
    command: Command, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backup, "Watch", partial(backup.Watch, sleep=interrupt))
    output = command("backup", "beauty", str(tmp_path / "copies"), "--every", "5", "--json")
    assert [json.loads(line)["copy"] for line in output.splitlines()] == [str(tmp_path / "copies" / "checkpoint-300")]
    assert "stopped; 1 copied" in command.error


def test_restore_replaces_a_good_one_only_when_asked(command: Command, run: RunFolder, tmp_path: Path) -> None:
    make_run(tmp_path / "other", (100,), newest_minutes_ago=900)
    source = str(tmp_path / "other" / "checkpoint-100")
    command("restore", source, "beauty", code=2)
    assert "--replace" in command.error
    output = command.narrow("restore", source, "beauty", "--replace")
    assert "checkpoint-300 was saved later" in output


def test_restore_mends_a_damaged_one(command: Command, run: RunFolder, tmp_path: Path) -> None:
    command("backup", "beauty:100", str(tmp_path / "copies"))
    damage(run.checkpoint(100))
    command("restore", str(tmp_path / "copies" / "checkpoint-100"), "beauty")
    command("verify", "beauty")


def test_restore_does_not_mix_two_runs(command: Command, run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "other")
    publish(other, replace(manifest(50, 0, datetime.now(UTC)), run_id="another"), partial(fill, step=50))
    command("restore", str(other.path), "beauty", code=2)
    assert "belongs to a different run than the checkpoints in" in command.error
    assert "step 50 of run another" in command.error
    assert not run.checkpoint(50).exists()
    assert command.json("restore", str(other.path), "beauty-2")["checkpoint"]


def test_restore_is_refused_while_a_run_trains_there(command: Command, run: RunFolder, tmp_path: Path) -> None:
    command("backup", "beauty:100", str(tmp_path / "copies"))
    with RunLock(run):
        command("restore", str(tmp_path / "copies"), "beauty", code=2)
    assert "another run is training" in command.error


def test_restore_from_nothing_makes_nothing(command: Command, tmp_path: Path) -> None:
    command("restore", str(tmp_path / "copies"), "toys", code=2)
    assert "no checkpoint in" in command.error
    assert not command.checkpoints("toys").exists()
