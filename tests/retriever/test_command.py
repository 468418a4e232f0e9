"""`train_retriever.py`: what is refused before training, what is said in a file, and what comes next."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train_retriever
from llamarec.checkpoints.trainer.signals import Interrupted
from llamarec.cli.entry_point import run_main
from llamarec.errors import EXIT_FINISHED, EXIT_INTERRUPTED, EXIT_USAGE
from llamarec.ranker.options.command_line import parse
from llamarec.retriever.progress import FitProgress

NUM_USERS, LENGTH = 12, 8


def _write_shop(folder: Path, num_items: int) -> Path:
    """A table without titles, and the titles: users who walk round a circle."""
    rows = [(user, (3 * user + 2 * day) % num_items, day) for user in range(NUM_USERS) for day in range(LENGTH)]
    table, titles = folder / "my shop.csv", folder / "it's titles.csv"
    table.write_text("user,item,timestamp\n" + "".join(f"u{u},i{i},{t}\n" for u, i, t in rows), encoding="utf-8")
    lines = "".join(f"i{item},Soap [{item}]\n" for item in range(num_items))
    titles.write_text("item,title\n" + lines, encoding="utf-8")
    return table


def _run(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    argv = [
        *("train_retriever.py", "--dataset_code", str(folder / "my shop.csv")),
        *("--items_file", str(folder / "it's titles.csv"), "--experiment_root", str(folder / "(e) 1")),
        *("--min_item_interactions", "1", "--num_epochs", "3", "--hidden_size", "8", *more),
    ]
    monkeypatch.setattr(sys, "argv", argv)
    try:
        return run_main(train_retriever.main, ["python", *argv])
    except Interrupted as stop:
        return int(str(stop.code))


def _next(said: str) -> list[str]:
    words = shlex.split(next(line for line in said.splitlines() if line.startswith("next ")))
    assert words[:3] == ["next", "python", "train_ranker.py"]
    return words[3:]


@pytest.mark.skipif(sys.platform == "win32", reason="quoted for another shell")
def test_what_comes_next_is_a_whole_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_shop(tmp_path, num_items=40)
    assert _run(tmp_path, monkeypatch) == EXIT_FINISHED
    said = capsys.readouterr().out
    data, ranker, *_ = parse(_next(said))
    # How it was prepared is known by the name.
    assert data.dataset_code == "my shop"
    assert data.experiment_root == str(tmp_path / "(e) 1")
    assert data.min_item_interactions == 1
    assert ranker.num_candidates == 20
    assert [line[:12] for line in said.splitlines() if line.startswith("epoch")] == [
        f"epoch {n} of 3"[:12] for n in (1, 2, 3)
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="quoted for another shell")
def test_too_few_items_is_said_before_training_and_what_is_proposed_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_shop(tmp_path, num_items=20)
    assert _run(tmp_path, monkeypatch) == EXIT_USAGE
    said = capsys.readouterr()
    assert "epoch 1" not in said.out
    # 20 items, of which the history before the test item holds 7.
    assert "expected: at most 13" in said.err
    assert "next:     --top_k 13, or a lower --min_item_interactions" in said.err
    assert shlex.split(said.err.splitlines()[-1])[-2:] == ["--top_k", "13"]
    assert _run(tmp_path, monkeypatch, "--top_k", "13") == EXIT_FINISHED
    assert parse(_next(capsys.readouterr().out)).ranker.num_candidates == 13


@pytest.mark.skipif(sys.platform == "win32", reason="quoted for another shell")
def test_the_ranker_is_given_what_it_can_draw_where_the_retriever_excludes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_shop(tmp_path, num_items=20)
    assert _run(tmp_path, monkeypatch, "--exclude_history", "never") == EXIT_FINISHED
    # Six training items: before the sixth, the label, five are history.
    assert parse(_next(capsys.readouterr().out)).ranker.num_candidates == 15


@pytest.mark.skipif(sys.platform == "win32", reason="quoted for another shell")
def test_a_ranker_of_other_data_is_to_be_trained_anew_with_its_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_shop(tmp_path, num_items=40)
    ranker = tmp_path / "(e) 1" / "llm" / "my shop"
    ranker.mkdir(parents=True)
    content = {"data_fingerprint": "of other data", "config": {"llm_base_model": "tiny"}}
    (ranker / "ranker.json").write_text(json.dumps(content), encoding="utf-8")
    assert _run(tmp_path, monkeypatch) == EXIT_FINISHED
    assert _next(capsys.readouterr().out)[-3:] == ["--llm_base_model", "tiny", "--restart"]


def test_a_retriever_on_which_a_ranker_was_trained_is_not_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_shop(tmp_path, num_items=40)
    assert _run(tmp_path, monkeypatch) == EXIT_FINISHED
    assert _run(tmp_path, monkeypatch, "--seed", "5") == EXIT_FINISHED, "nothing depends on it"
    weights = next((tmp_path / "(e) 1" / "lru" / "my shop").glob("*.safetensors"))
    ranker = tmp_path / "(e) 1" / "llm" / "my shop"
    ranker.mkdir(parents=True)
    (ranker / "ranker.json").write_text(json.dumps({"retriever_digest": _digest(weights.parent)}), encoding="utf-8")
    before = weights.read_bytes()
    capsys.readouterr()
    assert _run(tmp_path, monkeypatch, "--seed", "7") == EXIT_USAGE
    said = capsys.readouterr().err
    assert "a ranker was trained on this retriever" in said
    assert "seed 5 -> 7" in said
    # What is advised: the options of then, whole.
    advised = next(line.partition("ranker needs it: ")[2] for line in said.splitlines() if "ranker needs it: " in line)
    wanted = ["--num_epochs", "3", "--seed", "5"]
    assert all(word in shlex.split(advised) for word in wanted)
    for more in (["--num_epochs", "4"], ["--exclude_history", "never"]):
        assert _run(tmp_path, monkeypatch, "--seed", "5", *more) == EXIT_USAGE
        assert f"{more[0][2:]} {'3' if more[1] == '4' else 'auto'} -> {more[1]}" in capsys.readouterr().err
    assert weights.read_bytes() == before
    monkeypatch.setattr(sys, "argv", shlex.split(advised)[1:])
    assert train_retriever.main() == EXIT_FINISHED
    assert weights.read_bytes() == before
    capsys.readouterr()
    assert _run(tmp_path, monkeypatch, "--seed", "7", "--restart") == EXIT_FINISHED
    assert weights.read_bytes() != before
    said = capsys.readouterr().out
    assert "was trained on the previous retriever. Retrain it." in said
    assert _next(said)[-1] == "--restart"


def test_a_restart_that_was_killed_goes_on_although_a_ranker_was_trained_on_what_it_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_shop(tmp_path, num_items=40)
    assert _run(tmp_path, monkeypatch) == EXIT_FINISHED
    weights = next((tmp_path / "(e) 1" / "lru" / "my shop").glob("*.safetensors"))
    ranker = tmp_path / "(e) 1" / "llm" / "my shop"
    ranker.mkdir(parents=True)
    (ranker / "ranker.json").write_text(json.dumps({"retriever_digest": _digest(weights.parent)}), encoding="utf-8")
    again = ("--seed", "7", "--save_seconds", "0", "--num_epochs", "4")
    done = FitProgress.epoch_done

    def cut(self: FitProgress, *, is_last: bool) -> None:
        done(self, is_last=is_last)
        if self._state.epoch == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(FitProgress, "epoch_done", cut)
    before = signal.getsignal(signal.SIGTERM)
    assert _run(tmp_path, monkeypatch, *again, "--restart") == EXIT_INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(FitProgress, "epoch_done", done)
    assert _run(tmp_path, monkeypatch, *again) == EXIT_FINISHED


def _with_a_ranker(folder: Path, name: str = "my shop", **described: Any) -> Path:
    """One that was trained on the retriever that lies there; its folder."""
    of_retriever = folder / "(e) 1" / "lru" / "my shop"
    ranker = folder / "(e) 1" / "llm" / name
    ranker.mkdir(parents=True)
    metrics = json.loads((of_retriever / "metrics.json").read_text(encoding="utf-8"))
    content = {
        "dataset_code": "my shop",
        "data_fingerprint": metrics["data_fingerprint"],
        "retriever_digest": _digest(of_retriever),
        "retriever_config": metrics["config"],
        "config": {"hard_negatives": 1.0, "num_candidates": 20},
        **described,
    }
    (ranker / "ranker.json").write_text(json.dumps(content), encoding="utf-8")
    return ranker


def test_lists_that_were_replaced_can_be_brought_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_shop(tmp_path, num_items=40)
    assert _run(tmp_path, monkeypatch) == EXIT_FINISHED
    _with_a_ranker(tmp_path)
    capsys.readouterr()
    assert _run(tmp_path, monkeypatch, "--hard_negative_folds", "1", "--restart") == EXIT_FINISHED
    assert _next(capsys.readouterr().out)[-1] == "--restart", "the same weights, other lists"
    # The ranker says which lists it was trained on, whatever lies there now.
    assert _run(tmp_path, monkeypatch, "--hard_negative_folds", "1") == EXIT_USAGE
    said = capsys.readouterr().err
    assert "hard_negative_folds 2 -> 1" in said
    assert _run(tmp_path, monkeypatch) == EXIT_FINISHED
    assert _next(capsys.readouterr().out)[-1] != "--restart"


def test_a_restart_with_other_lists_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_shop(tmp_path, num_items=40)
    assert _run(tmp_path, monkeypatch) == EXIT_FINISHED
    _with_a_ranker(tmp_path)
    again = ("--seed", "7", "--hard_negative_folds", "1", "--save_seconds", "0")
    with monkeypatch.context() as patch:
        patch.setattr(FitProgress, "stepped", _interrupt_at(1))
        assert _run(tmp_path, patch, *again, "--restart") == EXIT_INTERRUPTED
    assert not any((tmp_path / "(e) 1" / "lru" / "my shop").glob("*.tmp"))
    # Of that restart, not of any other.
    assert _run(tmp_path, monkeypatch, "--seed", "9") == EXIT_USAGE
    assert _run(tmp_path, monkeypatch, *again) == EXIT_FINISHED


def test_a_ranker_with_a_folder_of_its_own_keeps_its_retriever_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_shop(tmp_path, num_items=40)
    assert _run(tmp_path, monkeypatch) == EXIT_FINISHED
    ranker = _with_a_ranker(tmp_path, "my shop-r16")
    capsys.readouterr()
    for more, changed in (
        (("--seed", "7"), "seed 42 -> 7"),
        (("--top_k", "19"), "top_k 20 -> 19"),
        # Items of equal scores may stand in another order in longer lists.
        (("--top_k", "25", "--num_epochs", "4"), "num_epochs 3 -> 4; top_k 20 -> 25"),
    ):
        assert _run(tmp_path, monkeypatch, *more) == EXIT_USAGE
        assert f"{changed}; used by the ranker in {ranker}" in capsys.readouterr().err
    (tmp_path / "(e) 1" / "lru" / "my shop" / "training_state.pt").unlink()
    assert _run(tmp_path, monkeypatch) == EXIT_USAGE
    assert "its training state is gone" in capsys.readouterr().err
    # Of another data set it would be nothing to this one.
    description = ranker / "ranker.json"
    content = json.loads(description.read_text(encoding="utf-8"))
    description.write_text(json.dumps({**content, "dataset_code": "another"}), encoding="utf-8")
    assert _run(tmp_path, monkeypatch) == EXIT_FINISHED


def _interrupt_at(epoch: int) -> Callable[..., None]:
    def interrupt(self: FitProgress, *_: object) -> None:
        if self._state.epoch == epoch:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.parametrize(("save_seconds", "said"), [("0", "saved up to epoch 1;"), ("60", "no epoch of this")])
def test_stopped_it_says_what_is_saved(
    save_seconds: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_shop(tmp_path, num_items=40)

    monkeypatch.setattr(FitProgress, "stepped", _interrupt_at(1))
    assert _run(tmp_path, monkeypatch, "--save_seconds", save_seconds) == EXIT_INTERRUPTED
    assert f"stopped: {said}" in capsys.readouterr().out


def test_more_parts_than_users_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_shop(tmp_path, num_items=40)
    assert _run(tmp_path, monkeypatch, "--hard_negative_folds", "13") == EXIT_USAGE
    assert "expected: at most 12; two are enough" in capsys.readouterr().err


def _digest(folder: Path) -> str:
    """The hash by which a ranker names its retriever."""
    return str(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["retriever_digest"])
