"""Every way in which a checkpoint may be broken, with the file that is named for it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llamarec.checkpoints.storage import durable, verification
from llamarec.checkpoints.storage.discovery import choose_checkpoint
from llamarec.checkpoints.storage.verification import Verdict, verify
from tests.checkpoints.factory import damage, make_plain_run, make_run

FILES = (
    "adapter_model.bin",
    "adapter_config.json",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "training_args.bin",
    "trainer_state.json",
    "manifest.json",
)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _delete(path: Path) -> None:
    path.unlink()


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _flip(path: Path) -> None:
    damage(path.parent, path.name)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WAYS = (_truncate, _empty, _delete, _append, _flip, _folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("saved")).checkpoint(300)


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoint-300"))


def test_good(checkpoint: Path) -> None:
    verdict = verify(checkpoint)
    assert (verdict.health, verdict.problems, verdict.missing, verdict.is_resumable) == ("good", (), (), True)
    assert verdict.reason == "good"
    assert verdict.manifest is not None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_damage_is_named(name: str, way: Callable[[Path], None], checkpoint: Path) -> None:
    way(checkpoint / name)
    verdict = verify(checkpoint)
    assert (verdict.health, verdict.is_resumable) == ("damaged", False)
    assert any(text.startswith(f"{name} ") for text in verdict.problems)
    # No other file is blamed.
    assert len(verdict.problems) <= 2
    assert all(name in text or "a file with weights" in text for text in verdict.problems)


@pytest.mark.parametrize("way", [_truncate, _empty, _append, _flip])
def test_a_damaged_manifest(way: Callable[[Path], None], checkpoint: Path) -> None:
    before = (checkpoint / "manifest.json").read_bytes()
    way(checkpoint / "manifest.json")
    verdict = verify(checkpoint)
    if way is _truncate:
        # Only the line feed at the end is gone.
        assert (checkpoint / "manifest.json").read_bytes() == before.rstrip()
        assert verdict.health == "good"
    else:
        assert verdict.health == "damaged"
        assert "manifest.json" in verdict.reason


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.bin", "trainer_state.json"])
def test_a_quick_look_sees_sizes_only(name: str, checkpoint: Path) -> None:
    _flip(checkpoint / name)
    assert verify(checkpoint, deep=False).health == "good"
    _truncate(checkpoint / name)
    assert verify(checkpoint, deep=False).health == "damaged"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "scaler.pt", "rng_state_1.pth", "pytorch_model.bin"])
def test_a_file_that_would_be_read_but_was_not_saved(name: str, checkpoint: Path) -> None:
    """A reader prefers adapter_model.safetensors: these would be other weights than those verified."""
    shutil.copy(checkpoint / "adapter_model.bin", checkpoint / name)
    assert verify(checkpoint).problems == (f"{name} was not saved with this checkpoint",)


@pytest.mark.parametrize("name", [".DS_Store", "README.md", "notes.txt", "runs/events.out"])
def test_any_other_file_may_lie_there(name: str, checkpoint: Path) -> None:
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_bytes(b"?")
    assert verify(checkpoint).health == "good"


def test_a_folder_with_another_steps_name(checkpoint: Path) -> None:
    other = checkpoint.rename(checkpoint.with_name("checkpoint-301"))
    assert verify(other).problems == ("manifest.json is of step 300, the folder's name says checkpoint-301",)
    assert verify(other.rename(other.with_name("the good one"))).health == "good"


def test_no_folder(tmp_path: Path) -> None:
    assert verify(tmp_path / "checkpoint-1").health == "damaged"
    (tmp_path / "checkpoint-2").write_bytes(b"")
    assert verify(tmp_path / "checkpoint-2").health == "damaged"


def test_an_empty_folder(tmp_path: Path) -> None:
    verdict = verify(tmp_path)
    assert verdict.health == "incomplete"
    assert verdict.missing == ("weights", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return make_plain_run(tmp_path / "plain", [300]).checkpoint(300)


def test_a_plain_trainers(plain: Path) -> None:
    verdict = verify(plain)
    assert (verdict.health, verdict.is_resumable, verdict.manifest) == ("unverified", True, None)


@pytest.mark.parametrize("way", [_truncate, _empty, _flip])
@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.bin"])
def test_damage_that_the_zip_file_itself_knows(name: str, way: Callable[[Path], None], plain: Path) -> None:
    way(plain / name)
    verdict: Verdict = verify(plain)
    assert verdict.health == "damaged"
    assert any(text.startswith(f"{name} ") for text in verdict.problems)


@pytest.mark.parametrize("name", ["trainer_state.json", "adapter_config.json"])
def test_half_a_json(name: str, plain: Path) -> None:
    _truncate(plain / name)
    assert any(text.startswith(f"{name} is damaged") for text in verify(plain).problems)


def test_a_short_safetensors(plain: Path) -> None:
    save_file({"a": torch.ones(4)}, plain / "adapter_model.safetensors")
    assert verify(plain).health == "unverified"
    for way in (_truncate, _append):
        save_file({"a": torch.ones(4)}, plain / "adapter_model.safetensors")
        way(plain / "adapter_model.safetensors")
        assert any(text.startswith("adapter_model.safetensors is damaged") for text in verify(plain).problems)
    (plain / "adapter_model.safetensors").write_bytes(b"\xff" * 8)
    assert any("truncated in its header" in text for text in verify(plain).problems)


@pytest.mark.parametrize("part", ["trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_plain_trainers_without_a_part(part: str, plain: Path) -> None:
    (plain / part).unlink()
    verdict = verify(plain)
    assert (verdict.health, verdict.missing, verdict.problems) == ("incomplete", (part,), (f"{part} is missing",))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as written long before: marks are trusted only then."""
    monkeypatch.setattr(verification, "_TICK_NS", -(10**12))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed, in order."""
    names: list[str] = []
    sha256_of = durable.sha256_of

    def counted(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(durable, "sha256_of", counted)
    return names


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("wanted", ["latest", "best", "path"])
def test_a_second_choice_hashes_nothing_again(wanted: str, tmp_path: Path, hashed: list[str]) -> None:
    run = make_run(tmp_path)
    hashed.clear()
    word = str(run.checkpoint(100)) if wanted == "path" else wanted
    first = choose_checkpoint(run, word)
    assert first is not None
    assert len(hashed) == len(set(hashed)) * (2 if wanted == "best" else 1) > 0
    hashed.clear()

    second = choose_checkpoint(run, word, earlier=first)

    assert second is not None
    assert second.verdict == first.verdict
    assert hashed == []


@pytest.mark.usefixtures("later")
def test_what_has_changed_since_is_hashed_again(tmp_path: Path, hashed: list[str]) -> None:
    run = make_run(tmp_path)
    first = choose_checkpoint(run, "latest")
    optimizer = run.checkpoint(300) / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[-1] ^= 1
    time.sleep(0.02)
    optimizer.write_bytes(content)
    hashed.clear()

    second = choose_checkpoint(run, "latest", earlier=first)

    assert second is not None
    assert second.verdict.path == run.checkpoint(200)
    assert second.passed_over[0].path == run.checkpoint(300)
    assert hashed.count("optimizer.pt") == 2


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", ["another manifest", "a new file", "gone"])
def test_the_whole_folder_counts(change: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = choose_checkpoint(run, "latest")
    folder = run.checkpoint(300)
    if change == "another manifest":
        (folder / "manifest.json").write_bytes((run.checkpoint(200) / "manifest.json").read_bytes())
    elif change == "a new file":
        (folder / "scaler.pt").write_bytes(b"x")
    else:
        shutil.rmtree(folder)

    second = choose_checkpoint(run, "latest", earlier=first)

    assert second is not None
    assert second.verdict.path == run.checkpoint(200)


def test_files_of_a_moment_ago_are_hashed_again(tmp_path: Path, hashed: list[str]) -> None:
    run = make_run(tmp_path)
    first = choose_checkpoint(run, "latest")
    hashed.clear()
    choose_checkpoint(run, "latest", earlier=first)
    assert "optimizer.pt" in hashed
