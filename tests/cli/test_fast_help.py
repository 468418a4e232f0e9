"""What `train_ranker.py` answers before torch and transformers are loaded, and what it leaves to its parser."""

from __future__ import annotations

import gc

import pytest

from llamarec.cli import fast_help
from llamarec.cli.fast_help import answer_early, importing
from llamarec.errors import ConfigError


@pytest.mark.parametrize("flag", ["-h", "--help", "--help_all"])
def test_help(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        answer_early(["--dataset_code", "beauty", flag])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: train_ranker.py")
    assert ("--fsdp" in text) == (flag == "--help_all")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "--dataset_code is missing"),
        (["--dataset_code", "beuty"], r"(?s)unknown data set.*next: .*--dataset_code beauty"),
        (
            ["--dataset_code", "beauty", "--learning_rat", "1"],
            r"(?s)unknown argument --learning_rat\b.*--learning_rate",
        ),
        (["--dataset_code", "beauty", "--split", "half"], "--split 'half'"),
        (["--dataset_code", "beauty", "--min_user_interactions", "x"], "train_ranker.py: argument --min_user_int"),
    ],
)
def test_what_cannot_be_meant_is_refused(argv: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        answer_early(argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["--dataset_code", "beauty", "--resume_from_checkpoint", "--learning_rate=5e-5", "--bf16"],
        ["--dataset-code=shop.csv", "--no_skip_memory_metrics", "--run_name", "--x y"],
        ["--data_root", "a", "--dataset_code", "ml-100k", "--seed", "many"],
    ],
)
def test_everything_else_is_left_to_the_parser(argv: list[str]) -> None:
    answer_early(argv)


def test_another_version_of_transformers_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_help, "stored_flags", lambda: None)
    answer_early(["--help", "--of_a_later_version"])


def test_what_is_imported_is_not_looked_through_for_garbage() -> None:
    before = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
