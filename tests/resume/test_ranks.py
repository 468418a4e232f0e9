"""Everything that processes decide, each varied in one of two: agreed on, or refused by name, and never a hang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.storage.layout import RunFolder
from tests.resume import ranks
from tests.resume.processes import run_in_processes


def _refusals(found: list[dict[str, dict[str, Any]]]) -> dict[str, str]:
    """By row of a table, the text with which every process refused it."""
    first, last = found
    assert first == last
    return {name: one["text"] if one["kind"] == "DisagreementError" else f"NO: {one}" for name, one in first.items()}


def test_every_argument_is_refused_where_it_differs(tmp_path: Path) -> None:
    found = _refusals(run_in_processes(2, ranks.vary_arguments, tmp_path))
    assert "'kind': ''" in found.pop("")
    assert len(found) > 60
    missing = {name: text for name, text in found.items() if f"{name} of rank 1" not in text}
    assert not missing
    assert "seed of rank 0: 42\n" in found["seed"]
    assert "seed of rank 1: 43\n" in found["seed"]


def test_every_other_thing_a_program_gives_is_refused_where_it_differs(tmp_path: Path) -> None:
    found = _refusals(run_in_processes(2, ranks.vary_programs, tmp_path / "run"))
    missing = {name: text for name, text in found.items() if name not in text}
    assert not missing
    assert str(tmp_path / "another") in found["run's folder"]
    assert not RunFolder(tmp_path / "run").checkpoints()


@pytest.mark.slow
@pytest.mark.parametrize("flag", ranks.FLAGS)
def test_what_one_callback_asks_for_all_processes_do(flag: str, tmp_path: Path) -> None:
    """A flag at each event."""
    first, last = run_in_processes(2, ranks.vary_flags, tmp_path, flag)
    if flag == "should_evaluate":
        # The Trainer evaluates before anything can be agreed on.
        refused = first.pop("on_log")
        assert refused["kind"] == "DisagreementError"
        assert "evaluation after step" in refused["text"]
    for event, found in first.items():
        assert found["kind"] == "", (event, found["text"])
        assert last[event] == found, event
    ends = {event: found["step"] for event, found in first.items()}
    if flag == "should_training_stop":
        # As in one process: a training that is stopped before its first step has none.
        assert ends.pop("on_train_begin") == 0
        assert set(ends.values()) <= {2, 3, 4, 5}, ends
    elif flag == "should_epoch_stop":
        assert ends["on_step_end"] == 7
    else:
        assert set(ends.values()) == {8}, ends


@pytest.mark.slow
def test_an_error_in_one_process_is_saved_by_all(tmp_path: Path) -> None:
    """At each event; the resumed training ends as one that nothing happened to."""
    first, last = run_in_processes(2, ranks.vary_failures, tmp_path)
    whole = first.pop("")["weights"]
    for event, found in first.items():
        assert found["kind"] == "PeerEndedError", (event, found)
        assert "ValueError: only here" in found["text"]
        assert last[event]["kind"] == "ValueError"
        assert found["resumed"] == "", (event, found)
        assert found["from"] == last[event]["from"]
        assert found["from"] in (2, 3, 4), (event, found["from"])
        assert found["weights"] == whole, event


def test_what_a_callback_changes_in_one_process_is_refused(tmp_path: Path) -> None:
    found = _refusals(run_in_processes(2, ranks.vary_state, tmp_path))
    missing = {name: text for name, text in found.items() if name not in text}
    assert not missing
    assert "the evaluation after step 3" in found["operations"]
    assert "what follows step 3" in found["operations"]


def test_the_first_process_chooses_the_best_model(tmp_path: Path) -> None:
    first, last = run_in_processes(2, ranks.vary_metric, tmp_path)
    assert first["best"] == (8, 8)
    assert last == first


@pytest.mark.parametrize("resume", [None, True])
def test_two_nodes_with_folders_of_their_own_are_refused(resume: Any, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    found = run_in_processes(2, ranks.vary_checkpoints, folders, resume)
    assert found[0] == found[1]
    assert found[0]["kind"] == "DisagreementError"
    assert "rank 1 cannot see the run's folder of rank 0" in found[0]["text"]
    assert str(folders[1]) in found[0]["text"]


def test_a_mean_loss_counts_each_sample_once(tmp_path: Path) -> None:
    """7 samples in batches of 2: the last batch of two processes is filled up."""
    (one,) = run_in_processes(1, ranks.evaluate_there, tmp_path, 7)
    for number in (2, 3):
        assert run_in_processes(number, ranks.evaluate_there, tmp_path, 7) == pytest.approx([one] * number, rel=1e-6)


def test_each_process_draws_from_a_stream_of_its_own(tmp_path: Path) -> None:
    first, last = run_in_processes(2, ranks.dropout_there, tmp_path)
    assert not set(first) & set(last)


def test_the_embedded_model_is_whole_on_every_node(tmp_path: Path) -> None:
    first, last = run_in_processes(2, ranks.tiny_there, [tmp_path / "one", tmp_path / "two"])
    assert "model.safetensors" in first["files"]
    assert last == first


def test_a_process_that_does_not_come_in_time_is_named_as_lost(tmp_path: Path) -> None:
    first, _ = run_in_processes(2, ranks.late_there, tmp_path)
    assert first["kind"] == "PeerLostError"
    assert "the beginning of step 3" in first["text"]
    assert "--ddp_timeout 2 seconds" in first["text"]


@pytest.mark.parametrize(("event", "most"), [("on_substep_end", 11), ("on_prediction_step", 3)])
def test_a_signal_ends_a_step_and_an_evaluation_of_several_processes(event: str, most: int, tmp_path: Path) -> None:
    """To one of them. A step is four micro-batches of each, an evaluation four prediction steps."""
    found = run_in_processes(2, ranks.signal_there, tmp_path / "run", event)
    for one in found:
        assert one["code"] == 75, one
        assert one["counted"] <= most
        assert one["weights"] == one["whole"]
