"""A run as it is found: not begun, running, cut off, moved, of an earlier end, damaged, or of another Trainer."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import RunLock
from llamarec.checkpoints.storage.manifest import Session
from llamarec.checkpoints.storage.restart import mark_superseded
from llamarec.cli.main import main
from llamarec.errors import ArtifactError
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.trained.locations import experiment_of
from llamarec.ranker.training.run import train_ranker
from llamarec.report.curves import Curves, Event, curves_of
from llamarec.report.page import render, write_report
from llamarec.report.run import RunFacts, read_run
from llamarec.report.sessions import Interruption, interruptions, seconds_a_step
from llamarec.vocabulary import Experiment
from tests.report.conftest import QUIET, argv


def test_a_run_that_was_not_tested_is_shown_as_far_as_it_is(experiment: Experiment, tmp_path: Path) -> None:
    copy = Experiment(tmp_path, "shop")
    shutil.copytree(experiment.ranker, copy.ranker)
    for name in ("metrics.json", "test.parquet", "ranker.json"):
        (copy.ranker / name).unlink()
    shutil.rmtree(copy.ranker / "logs")
    text = render(read_run(RunFolder(copy.checkpoints), copy))
    assert "Trained to the end, step 12. The test is running or was interrupted" in text
    assert "Not tested yet" in text
    assert "A few users" not in text
    with RunLock(RunFolder(copy.checkpoints)):
        assert "Running: step 12 of 12" in render(read_run(RunFolder(copy.checkpoints), copy))


def test_before_the_first_checkpoint_there_is_a_page_too(experiment: Experiment, tmp_path: Path) -> None:
    new = Experiment(tmp_path, "shop")
    new.ranker.mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"(?s)no run to report on.*llamarec checkpoints list"):
        write_report(RunFolder(new.checkpoints), new)
    shutil.copy(experiment.ranker / "ranker.json", new.ranker)
    assert "nothing is saved" in write_report(RunFolder(new.checkpoints), new).read_text(encoding="utf-8")


def test_figures_of_an_earlier_end_are_not_shown_as_this_trainings(experiment: Experiment, tmp_path: Path) -> None:
    copy = Experiment(tmp_path, "shop")
    shutil.copytree(experiment.ranker, copy.ranker)
    path = copy.ranker / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    for changed in ({"step": 8}, {"run_id": "of another"}):
        path.write_text(json.dumps({**metrics, **changed}), encoding="utf-8")
        text = render(read_run(RunFolder(copy.checkpoints), copy))
        assert "These metrics are from an earlier test" in text
        assert "Finished" not in text
        assert "Trained to the end, step 12. The test is running or was interrupted" in text
    path.write_text(json.dumps({"overall": []}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"(?s)metrics\.json: a field is missing.*--resume_from_checkpoint"):
        write_report(RunFolder(copy.checkpoints), copy)


def test_curves_leave_out_what_a_restart_or_a_resume_gave_up(experiment: Experiment) -> None:
    logs = experiment.ranker / "logs"
    events = curves_of({}, logs).events
    last = events[-1].time
    later = Session(started=(last + timedelta(seconds=1)).isoformat(), from_step=0)
    assert curves_of({}, logs, [later]).values == {}
    first = Session(started=events[0].time.isoformat(), from_step=0)
    resumed = Session(started=(last + timedelta(seconds=1)).isoformat(), from_step=6)
    assert curves_of({}, logs, [first, resumed]).last_step == 6


def test_data_that_were_prepared_otherwise_since_are_not_shown(experiment: Experiment, tmp_path: Path) -> None:
    copy = Experiment(tmp_path, "shop")
    shutil.copytree(experiment.root, tmp_path, dirs_exist_ok=True)
    assert read_run(RunFolder(copy.checkpoints), copy).data is not None
    path = copy.ranker / "ranker.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "data_fingerprint": "0" * 64}), encoding="utf-8")
    assert read_run(RunFolder(copy.checkpoints), copy).data is None


def test_checkpoints_elsewhere_are_found_and_find_their_ranker(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Experiment(tmp_path / "experiments", "shop")
    shutil.copytree(experiment.root, tmp_path / "experiments")
    elsewhere = tmp_path / "elsewhere"
    shutil.move(str(copy.checkpoints), str(elsewhere))
    path = copy.ranker / "ranker.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "checkpoints": str(elsewhere)}), encoding="utf-8")
    for words in (["shop", "--experiment_root", str(copy.root)], [str(copy.ranker)]):
        assert main(["report", *words, "--output", str(tmp_path / "page.html")]) == 0
        assert "Finished at step 12" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert experiment_of(RunFolder(elsewhere)) is None


def test_runs_with_folders_of_their_own_do_not_replace_each_other(
    finished: Path, experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (experiment.ranker / "metrics.json").read_bytes()
    folder = tmp_path / "shop-2" / "checkpoints"
    train_ranker(parse(argv(finished, "--max_steps", "4", "--output_dir", str(folder))), QUIET)
    assert (experiment.ranker / "metrics.json").read_bytes() == before
    assert (tmp_path / "shop-2" / "metrics.json").is_file()
    for words in (str(tmp_path / "shop-2"), str(folder)):
        assert main(["report", words]) == 0
        text = (tmp_path / "shop-2" / "report.html").read_text(encoding="utf-8")
        assert "Finished at step 4 of 4" in text
        assert "Took next" in text
    capsys.readouterr()
    assert main(["compare", str(experiment.ranker), str(folder)]) == 0
    assert "max_steps" in capsys.readouterr().out


def test_a_restart_that_saved_nothing_shows_nothing_of_before(experiment: Experiment, tmp_path: Path) -> None:
    copy = Experiment(tmp_path, "shop")
    shutil.copytree(experiment.ranker, copy.ranker)
    folder = RunFolder(copy.checkpoints)
    mark_superseded(folder, folder.steps())
    text = render(read_run(folder, copy))
    assert "Stopped at step 0; nothing is saved" in text
    assert "Nothing has been logged yet" in text
    assert "These metrics are from an earlier test" in text


def test_damaged_files_are_left_out(experiment: Experiment, tmp_path: Path) -> None:
    copy = Experiment(tmp_path, "shop")
    shutil.copytree(experiment.ranker, copy.ranker)
    for name in ("metrics.json", "test.parquet", "ranker.json"):
        (copy.ranker / name).write_bytes(b"{")
    (copy.checkpoints / "checkpoint-12" / "adapter_model.bin").write_bytes(b"x")
    text = render(read_run(RunFolder(copy.checkpoints), copy))
    assert "damaged" in text
    assert "Not tested yet" in text


@pytest.mark.parametrize("key", ["num_users", "coverage", "fusion", "letters", "overall"])
def test_figures_that_lack_one_are_named(experiment: Experiment, tmp_path: Path, key: str) -> None:
    copy = Experiment(tmp_path, "shop")
    shutil.copytree(experiment.ranker, copy.ranker)
    figures = json.loads(copy.ranker_metrics.read_text(encoding="utf-8"))
    copy.ranker_metrics.write_text(json.dumps({name: value for name, value in figures.items() if name != key}))

    with pytest.raises(ArtifactError, match=f"(?s)metrics.json: a field .*{key}"):
        read_run(RunFolder(copy.checkpoints), copy)


def test_a_trainer_of_ones_own_has_its_training_shown(experiment: Experiment, tmp_path: Path) -> None:
    shutil.copytree(experiment.checkpoints, tmp_path / "mine")
    folder = RunFolder(tmp_path / "mine")
    for path in folder.checkpoints():
        # As a plain Trainer leaves them.
        (path / "manifest.json").unlink()
    assert experiment_of(folder) is None
    text = write_report(folder, None).read_text(encoding="utf-8")
    assert "Test: retriever" not in text
    assert "Interruptions" in text
    assert "validation" in text
    assert experiment_of(RunFolder(experiment.checkpoints)) == Experiment(experiment.root.resolve(), "shop")


def test_values_of_files_without_a_time_or_number_are_passed_over(tmp_path: Path) -> None:
    state = {"log_history": [{"step": 1, "loss": 2.0, "epoch": 0.1}, {"step": 2, "loss": float("nan")}, "?"]}
    curves = curves_of(state, tmp_path / "absent")
    assert curves.values == {"loss": {1: 2.0}}
    assert curves_of({}, tmp_path).last_step == 0


def test_where_nothing_tells_how_long_a_step_took_nothing_is_made_up() -> None:
    one = Interruption(None, 4, None, None, "", ())
    assert (one.steps_lost, one.seconds_lost, one.seconds_saved) == (None, None, None)


def test_where_nothing_tells_how_far_a_process_came_it_is_as_far_as_was_resumed() -> None:
    sessions = [
        Session(started="2026-01-01T10:00:00.5+00:00", from_step=0),
        Session(started="2026-01-01T10:00:00.9+00:00", from_step=4),
    ]
    (one,) = interruptions(sessions, [], Curves(), None)
    assert (one.reached, one.steps_lost) == (4, 0)
    # Killed before it saved anything, the next one resumes from the same step.
    again = [*sessions, Session(started="2026-01-01T10:00:01+00:00", from_step=4)]
    assert interruptions(again, [], Curves(), None)[1].steps_lost is None


def test_a_step_takes_the_median_of_what_was_seen(run: RunFacts) -> None:
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    # Two seconds a step, and an hour's pause between steps 3 and 4.
    times = [begun + timedelta(seconds=2 * step + (3600 if step > 3 else 0)) for step in range(1, 8)]
    events = [Event("loss", step, 1.0, time) for step, time in enumerate(times, start=1)]
    assert seconds_a_step([], [], Curves(events=events)) == 2.0
    assert seconds_a_step([], [], Curves()) is None
    # Of three moments one pair is a pause between two processes.
    few, second = [events[1], events[2], events[3]], Session(started=times[3].isoformat(), from_step=3)
    assert seconds_a_step([second], [], Curves(events=few)) == 2.0
