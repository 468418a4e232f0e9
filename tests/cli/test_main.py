"""The command: exit codes and what is said where."""

from __future__ import annotations

import io
import sys
from functools import partial
from pathlib import Path

import pytest

from llamarec.cli.entry_point import run_main
from llamarec.cli.main import main
from llamarec.command import typed
from llamarec.errors import EXIT_FINISHED, EXIT_USAGE, CheckpointError, ConfigError
from tests.data.raw import WRITERS


def test_prepare_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "games").mkdir()
    WRITERS["games"](tmp_path / "games")
    argv = [
        "prepare",
        "--dataset_code",
        "games",
        "--data_root",
        str(tmp_path),
        "--experiment_root",
        str(tmp_path / "e"),
    ]
    assert main(argv) == EXIT_FINISHED
    assert "games is prepared: 6 users, 6 items, 36 interactions" in capsys.readouterr().out
    assert (tmp_path / "e" / "data" / "games" / "manifest.json").is_file()


@pytest.mark.parametrize("argv", [["prepare"], ["prepare", "--dataset_code", "beauti"], ["unknown"], []])
def test_a_problem_is_said_without_a_traceback(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == EXIT_USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_a_bug_keeps_its_traceback() -> None:
    def bug() -> int:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        run_main(bug)


def test_an_error_has_problem_expected_found_next() -> None:
    error = ConfigError("a problem", expected="this", found="that", hint="type it")
    assert str(error).splitlines() == ["a problem", "  expected: this", "  found:    that", "  next:     type it"]


def test_a_console_that_cannot_show_a_title_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # The code page of many a Windows console.
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)

    def say() -> int:
        print("千と千尋の神隠し")
        return 0

    assert run_main(say) == EXIT_FINISHED


def _fail_with(path: str) -> int:
    hint = f"--resume_from_checkpoint {path}"
    raise CheckpointError("checkpoint not found", hint=hint, retry_with=("--resume_from_checkpoint", path))


def test_where_another_flag_would_do_the_whole_command_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["python", "train_ranker.py", "--dataset_code", "my shop.csv", "--resume_from_checkpoint=a/checkpoint-9"]
    assert run_main(partial(_fail_with, "a/checkpoint-8"), [*command, "--lora_r", "4"]) == EXIT_USAGE
    last = capsys.readouterr().err.splitlines()[-1]
    expected = [*command[:4], "--lora_r", "4", "--resume_from_checkpoint", "a/checkpoint-8"]
    assert last == f"  type:     {typed(expected)}"


def test_nobody_typed_the_command_of_one_of_several_processes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    assert run_main(partial(_fail_with, "a"), ["python", "x.py"]) == EXIT_USAGE
    assert "type:" not in capsys.readouterr().err


def test_an_unknown_flag_of_a_verb_is_answered_by_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--dataset_code", "beauty", "--title_colunm", "label"]) == EXIT_USAGE
    assert "--title_column? (llamarec prepare --help)" in capsys.readouterr().err
    assert main(["checkpoints", "list", "--jsn"]) == EXIT_USAGE
    assert "--json? (llamarec checkpoints list --help)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "typed_flag", "meant"),
    [
        # Mistyped: a wrong letter, one too many or too few, two exchanged; abbreviated; a word left out.
        (["prepare"], "--datset_code", "--dataset_code"),
        (["prepare"], "--title_colum", "--title_column"),
        (["prepare"], "--data", "--data_root"),
        (["checkpoints", "list"], "--verfy", "--verify"),
        (["checkpoints", "show", "beauty"], "--jsno", "--json"),
        (["checkpoints", "verify"], "--exp_root", "--experiment_root"),
        (["checkpoints", "diff", "a", "b"], "--Json", "--json"),
        (["checkpoints", "backup", "a", "b"], "--evry", "--every"),
        (["checkpoints", "restore", "a", "b"], "--replaced", "--replace"),
        (["checkpoints", "prune", "beauty"], "--dry-runn", "--dry_run"),
        (["checkpoints", "prune", "beauty"], "--dry", "--dry_run"),
        (["checkpoints", "du"], "--experiments_root", "--experiment_root"),
        (["report", "beauty"], "--ouput", "--output"),
        (["compare", "a", "b"], "--out", "--output"),
        (["recommend"], "--histroy", "--history"),
        (["recommend"], "--new", "--only_new"),
        (["serve", "beauty"], "--prot", "--port"),
        (["serve", "beauty"], "--timeout", "--timeout_seconds"),
        (["export", "beauty", "--to", "x"], "--overwrit", "--overwrite"),
        (["export", "beauty", "--to", "x"], "--push", "--push_to_hub"),
        # Of another command, where nothing of this one looks like it.
        (["prepare"], "--learning_rate", None),
        (["prepare"], "--json", None),
        (["checkpoints", "list"], "--keep", None),
        (["checkpoints", "list"], "--every", None),
        (["checkpoints", "show", "beauty"], "--save_steps", None),
        (["checkpoints", "verify"], "--seed", None),
        (["checkpoints", "diff", "a", "b"], "--yes", None),
        (["checkpoints", "backup", "a", "b"], "--backup_to", None),
        (["checkpoints", "restore", "a", "b"], "--restart", None),
        (["checkpoints", "prune", "beauty"], "--save_total_limit", None),
        (["checkpoints", "du"], "--data_root", None),
        (["report", "beauty"], "--report_to", None),
        (["compare", "a", "b"], "--seed", None),
        (["recommend"], "--data_root", None),
        (["recommend"], "--num_candidates", None),
        (["serve", "beauty"], "--user", None),
        (["serve", "beauty"], "--batch_size", None),
        (["export", "beauty", "--to", "x"], "--torch_compile", None),
    ],
)
def test_a_flag_is_proposed_only_where_it_is_near(
    verb: list[str], typed_flag: str, meant: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb, typed_flag, "X"]) == EXIT_USAGE
    lines = capsys.readouterr().err.splitlines()
    program = " ".join(["llamarec", *verb[: 2 if verb[0] == "checkpoints" else 1]])
    assert lines[0] == f"error: {program}: unknown flag {typed_flag}"
    assert lines[1] == (
        f"  next:     did you mean {meant}? ({program} --help)" if meant else f"  next:     {program} --help"
    )
