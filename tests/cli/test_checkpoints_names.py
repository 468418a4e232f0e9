"""What RUN and CKPT mean, and what is said when they mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.cli.checkpoints.names import find_checkpoint, find_either, find_new_run, find_run, split_selector
from llamarec.errors import CheckpointError
from tests.checkpoints.factory import damage, make_plain_run, make_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "experiments"
    make_run(root / "llm" / "beauty" / "checkpoints")
    make_run(root / "llm" / "games" / "checkpoints", (10,), best=None)
    return root


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("beauty", ("beauty", "")),
        ("beauty:latest", ("beauty", "latest")),
        ("beauty:1000", ("beauty", "1000")),
        ("beauty:", ("beauty", "")),
        (":latest", (":latest", "")),
        ("runs/x:best", ("runs/x", "best")),
        ("runs/x:y/z", ("runs/x:y/z", "")),
        (r"C:\runs\x:latest", (r"C:\runs\x", "latest")),
        (r"C:\runs\x", (r"C:\runs\x", "")),
        ("C:/runs/x:1000", ("C:/runs/x", "1000")),
        ("C:/runs/x", ("C:/runs/x", "")),
        ("C:runs", ("C:runs", "")),
        ("C:1000", ("C:1000", "")),
        (r"C:runs:best", (r"C:runs", "best")),
        (r"\\server\share\x:best", (r"\\server\share\x", "best")),
        ("s3://bucket/x", ("s3://bucket/x", "")),
        ("s3://bucket/x:latest", ("s3://bucket/x", "latest")),
    ],
)
def test_only_what_stands_after_a_colon_that_is_no_drives_selects(text: str, parts: tuple[str, str]) -> None:
    assert split_selector(text) == parts


@pytest.mark.parametrize("form", ["beauty", "{root}/llm/beauty", "{root}/llm/beauty/checkpoints"])
def test_a_run_is_a_code_its_folder_or_its_checkpoints_folder(root: Path, form: str) -> None:
    assert find_run(form.format(root=root), root) == RunFolder(root / "llm" / "beauty" / "checkpoints")


@pytest.mark.parametrize(
    ("text", "step"),
    [("beauty:latest", 300), ("beauty:best", 200), ("beauty:100", 100), ("beauty:checkpoint-100", 100)],
)
def test_a_checkpoint_is_chosen_by_its_selector(root: Path, text: str, step: int) -> None:
    folder = root / "llm" / "beauty" / "checkpoints"
    assert find_checkpoint(text, root) == folder / f"checkpoint-{step}"
    assert find_checkpoint(f"{folder}:{text.partition(':')[2]}", root) == folder / f"checkpoint-{step}"


def test_a_checkpoint_is_a_path_whatever_its_name(root: Path, tmp_path: Path) -> None:
    path = root / "llm" / "beauty" / "checkpoints" / "checkpoint-100"
    assert find_checkpoint(str(path), root) == path
    renamed = path.rename(tmp_path / "the-good-one")
    assert find_either(str(renamed), root) == renamed


def test_a_trainers_folder_with_a_state_beside_its_checkpoints_is_a_run(tmp_path: Path) -> None:
    run = make_plain_run(tmp_path / "output")
    (run.path / "trainer_state.json").write_bytes(b"{}")
    assert find_either(str(run.path), tmp_path) == run


def test_latest_passes_over_what_is_damaged_and_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(root / "llm" / "beauty" / "checkpoints" / "checkpoint-300")
    assert find_checkpoint("beauty:latest", root).name == "checkpoint-200"
    assert "passed over checkpoint-300: optimizer.pt has changed since the save" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("beuaty:latest", ["no run beuaty", "beauty", "games", "list beauty"]),
        ("nothing-like-it", ["no run nothing-like-it", "games", "llamarec checkpoints list"]),
        ("beauty:lates", ["no checkpoint is called 'lates'", "checkpoint-200", "show beauty:latest"]),
        ("beauty:250", ["checkpoint not found", "checkpoint-300", "show beauty:200"]),
        ("beauty:5", ["checkpoint not found", "show beauty:100"]),
        ("beauty", ["beauty is a run", "checkpoint-300", "beauty:latest"]),
        ("games:best", ["no best checkpoint", "show games:latest"]),
        ("s3://bucket/x:latest", ["is an address", "llamarec checkpoints restore s3://bucket/x RUN"]),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(root: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(text, root)
    for part in parts:
        assert part in str(caught.value)
    assert "--resume_from_checkpoint" not in str(caught.value)


def test_a_path_to_a_checkpoint_that_is_not_there_names_the_nearest(root: Path) -> None:
    folder = root / "llm" / "beauty" / "checkpoints"
    with pytest.raises(CheckpointError, match=r"checkpoint not found") as caught:
        find_checkpoint(str(folder / "checkpoint-210"), root)
    assert f"{folder}:200" in str(caught.value)


def test_a_checkpoint_is_no_run(root: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a run is needed"):
        find_run(str(root / "llm" / "beauty" / "checkpoints" / "checkpoint-100"), root)


def test_a_run_that_is_yet_to_be_has_its_place(root: Path, tmp_path: Path) -> None:
    assert find_new_run("toys", root).path == root / "llm" / "toys" / "checkpoints"
    assert find_new_run(str(tmp_path / "new"), root).path == tmp_path / "new"
    assert find_new_run("beauty", root).path == root / "llm" / "beauty" / "checkpoints"
