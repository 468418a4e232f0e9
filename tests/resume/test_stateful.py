"""Objects beside the model that a program passes: saved, restored and undone with the rest, or refused by name."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Trainer, TrainerCallback

from llamarec.checkpoints import CheckpointConfig, ResumableTrainer, Stateful
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.storage.layout import STATEFUL
from llamarec.checkpoints.storage.verification import verify
from llamarec.errors import CheckpointError, ConfigError
from tests.resume.processes import run_in_processes
from tests.resume.runs import At, stopped
from tests.resume.training import digest, make_args, make_model, make_trainer, state_of

SHORT: dict[str, Any] = {"num_samples": 24, "max_steps": 6, "save_steps": 2, "eval_steps": 2}


class Ema(TrainerCallback):
    """An average of the trained weights, in an object that keeps what it is given."""

    def __init__(self, model: Any, decay: float = 0.9) -> None:
        self.decay, self.updates = decay, 0
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One update, without torch's knowledge."""
        self.updates += 1
        for name, parameter in kwargs["model"].named_parameters():
            if name in self.shadow:
                self.shadow[name].data.lerp_(parameter.detach(), 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        """See there."""
        return {"shadow": self.shadow, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See there."""
        self.shadow, self.updates = state["shadow"], state["updates"]


class Holds:
    """A state that a test gives."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        """See there."""
        return self.state

    def load_state_dict(self, state: Any) -> None:
        """See there."""
        self.state = state


def _with_ema(folder: Path, *callbacks: Any, config: CheckpointConfig | None = None, **changes: Any) -> Any:
    model = make_model()
    ema = Ema(model)

    class WithEma(ResumableTrainer):
        """Passes it."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs, stateful={"ema": ema})

    trainer = make_trainer(
        folder, config, cls=WithEma, model=model, callbacks=(ema, *callbacks), **{**SHORT, **changes}
    )
    trainer.ema = ema
    return trainer


def _with(folder: Path, config: CheckpointConfig | None = None, callbacks: Any = (), **stateful: Any) -> Any:
    class With(ResumableTrainer):
        """Passes objects."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs, stateful=stateful)

    return make_trainer(folder, config, cls=With, callbacks=callbacks, **SHORT)


@pytest.mark.parametrize("event", ["on_step_begin", "on_step_end", "on_evaluate", "on_save"])
def test_an_average_of_weights_is_the_same_after_a_stop_anywhere(event: str, tmp_path: Path) -> None:
    whole = _with_ema(tmp_path / "whole")
    whole.train()
    stopped(_with_ema(tmp_path / "run"), 4, event=event)
    resumed = _with_ema(tmp_path / "run")
    resumed.train("latest")

    assert resumed.ema.updates == whole.ema.updates == 6
    assert digest(resumed.ema.state_dict()) == digest(whole.ema.state_dict())
    ends = [tmp_path / name / "checkpoint-6" for name in ("run", "whole")]
    assert state_of(ends[0]) == state_of(ends[1])
    assert digest(load_pickled(ends[0] / STATEFUL)) == digest(load_pickled(ends[1] / STATEFUL))
    assert "stateful.pt" in verify(ends[0]).manifest.files  # type: ignore[union-attr]


def _fail() -> None:
    raise RuntimeError("no luck")


@pytest.mark.parametrize("event", ["on_step_end", "on_evaluate", "on_substep_end", "on_optimizer_step"])
def test_an_exception_leaves_it_at_the_step_boundary(event: str, tmp_path: Path) -> None:
    whole = _with_ema(tmp_path / "whole")
    whole.train()
    with pytest.raises(RuntimeError, match="no luck"):
        _with_ema(tmp_path / "run", At(4, event, _fail)).train()
    resumed = _with_ema(tmp_path / "run")
    resumed.train("latest")
    assert digest(resumed.ema.state_dict()) == digest(whole.ema.state_dict())


def test_torchs_own_average_is_taken_as_it_is(tmp_path: Path) -> None:
    class Average(TrainerCallback):
        """Of the whole model."""

        def __init__(self, model: Any) -> None:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.average.update_parameters(kwargs["model"])

    def make(folder: Path) -> Any:
        model = make_model()
        average = Average(model)

        class WithAverage(ResumableTrainer):
            """Passes it."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs, stateful={"average": average.average})

        trainer = make_trainer(folder, cls=WithAverage, model=model, callbacks=(average,), **SHORT)
        return trainer, average.average

    whole, expected = make(tmp_path / "whole")
    whole.train()
    stopped(make(tmp_path / "run")[0], 3)
    resumed, average = make(tmp_path / "run")
    resumed.train("latest")
    assert digest(dict(average.state_dict())) == digest(dict(expected.state_dict()))


class Running:
    """A mean over all evaluations, called batch by batch; it runs out of memory where a test wants."""

    def __init__(self, fits: int = 100) -> None:
        self.sum, self.count, self._fits = torch.zeros(()), 0, fits
        self.shape: list[float] = []

    def __call__(self, found: Any, compute_result: bool = False) -> dict[str, float]:
        logits = torch.as_tensor(found.predictions)
        self.sum += logits.sum()
        self.count += len(logits)
        if len(logits) > self._fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

        if compute_result:
            self.shape.append(float(self.sum) / self.count)
        return {"running": float(self.sum) / self.count}

    def state_dict(self) -> dict[str, Any]:
        """See there."""
        return {"sum": self.sum, "count": self.count, "means": self.shape}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See there."""
        self.sum, self.count, self.shape = state["sum"], state["count"], state["means"]


def _evaluating(folder: Path, running: Running) -> Any:
    class Evaluating(ResumableTrainer):
        """Passes the metric, twice."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs, compute_metrics=running, stateful={"running": running})

    return make_trainer(
        folder, cls=Evaluating, batch_eval_metrics=True, per_device_eval_batch_size=4, noisy=False, **SHORT
    )


def test_a_running_metric_goes_on_and_a_repeated_validation_counts_once(tmp_path: Path) -> None:
    whole, repeated, resumed = Running(), Running(fits=2), Running()
    _evaluating(tmp_path / "whole", whole).train()
    _evaluating(tmp_path / "repeated", repeated).train()
    stopped(_evaluating(tmp_path / "run", Running()), 4, event="on_evaluate")
    _evaluating(tmp_path / "run", resumed).train("latest")

    assert whole.count == repeated.count == resumed.count == 3 * 8
    assert resumed.shape == whole.shape
    torch.testing.assert_close(repeated.sum, whole.sum)


@pytest.mark.parametrize(("before", "after"), [(["ema"], []), (["ema"], ["emma"]), ([], ["ema"])])
def test_other_names_are_refused_and_may_be_allowed(
    before: list[str], after: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: dict[str, Any] = {name: Holds({"x": 1}) for name in before}
    _with(tmp_path, **saved).train()
    objects: dict[str, Any] = {name: Holds({"x": 2}) for name in after}
    with pytest.raises(CheckpointError, match=r'(?s)"em.*stateful=.*--allow_partial_resume'):
        _with(tmp_path, **objects).train(str(tmp_path / "checkpoint-4"))

    config = CheckpointConfig(allow_partial_resume=True)
    _with(tmp_path, config, **objects).train(str(tmp_path / "checkpoint-4"))
    assert "lost:        stateful: em" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.zeros(2), r"\['a'\]\[1\].*ndarray"),
        (np.float32(1.0), "float32"),
        ({1, 2}, "holds a set"),
        (Counter("ab"), "Counter"),
        (Holds({}), "Holds"),
        ({("x", 1): 2}, "key"),
    ],
)
def test_what_no_resume_could_read_is_refused_before_the_first_step(value: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf'(?s)stateful\["ema"\].*{named}'):
        _with(tmp_path, ema=Holds({"a": [0, value]})).train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_what_becomes_unsafe_later_stops_at_the_boundary_before(tmp_path: Path) -> None:
    held = Holds({"seen": 0})

    class Spoils(TrainerCallback):
        """Adds a number of numpy."""

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            held.state = {"seen": np.float32(state.global_step)}

    with pytest.raises(CheckpointError, match=r"stateful\[\"held\"\]\['seen'\]"):
        _with(tmp_path, callbacks=(Spoils(),), held=held).train()
    assert load_pickled(tmp_path / "checkpoint-2" / STATEFUL) == {"held": {"seen": 0}}


def test_a_state_that_is_not_taken_back_ends_training_at_the_first_save(tmp_path: Path) -> None:
    class Forgets(Holds):
        """Takes nothing."""

        def load_state_dict(self, state: Any) -> None:
            self.state = {"seen": 0}

    held = Forgets({"seen": 0})
    counts = At(1, "on_step_end", lambda: held.state.update(seen=1))
    with pytest.raises(CheckpointError, match=r"does not take its state back: state_dict\(\)\['seen'\] differs"):
        _with(tmp_path, callbacks=(counts,), held=held).train()


def test_only_objects_that_follow_the_protocol_are_taken(tmp_path: Path) -> None:
    assert isinstance(Holds({}), Stateful)
    with pytest.raises(ConfigError, match=r"metric is a int: state_dict\(\) and load_state_dict\(\)"):
        _with(tmp_path, metric=3)


def test_a_plain_trainer_resumes_from_the_folder(tmp_path: Path) -> None:
    _with_ema(tmp_path).train()
    trainer = make_trainer(tmp_path, cls=Trainer, **SHORT)
    trainer.train(str(tmp_path / "checkpoint-4"))
    assert trainer.state.global_step == 6


def test_state_that_nobody_passed_and_training_changes_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model()
    average = AveragedModel(model)
    average.avg_fn = None
    counts = At(2, "on_step_end", lambda: average.update_parameters(model))
    trainer = make_trainer(tmp_path, model=model, callbacks=(counts,), **SHORT)
    trainer.average, trainer.reference = average, make_model()
    trainer.train()
    said = capsys.readouterr()
    (line,) = [line for line in (said.out + said.err).splitlines() if "no checkpoint holds" in line]
    assert "training changes trainer.average," in line


def test_plain_attributes_of_one_that_nobody_passed_are_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(folder: Path) -> tuple[Any, Ema]:
        model = make_model()
        ema = Ema(model)
        return make_trainer(folder, model=model, callbacks=(ema,), **SHORT), ema

    whole, expected = make(tmp_path / "whole")
    whole.train()
    stopped(make(tmp_path / "run")[0], 3)
    resumed, ema = make(tmp_path / "run")
    resumed.train("latest")
    assert digest(ema.state_dict()) == digest(expected.state_dict())
    said = capsys.readouterr()
    assert "no checkpoint holds" not in said.out + said.err


def _of_each_rank(folder: Path, resume: Any, counts: bool) -> Any:
    rank = int(os.environ.get("RANK", "0"))
    held = Holds({"rank": rank if counts else 0, "steps": 0})

    class Steps(TrainerCallback):
        """Counts them."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            held.state = {**held.state, "steps": held.state["steps"] + 1}

    class With(ResumableTrainer):
        """Passes it."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs, stateful={"held": held})

    backend = {"ddp_backend": "gloo"} if "RANK" in os.environ else {}
    args = {**SHORT, "gradient_accumulation_steps": 1, "max_steps": 4 if resume else 2, **backend}
    trainer = make_trainer(folder, cls=With, callbacks=(Steps(),), noisy=False, **args)
    try:
        trainer.train(resume)
    except CheckpointError as error:
        return str(error)
    return held.state


def test_each_process_keeps_its_own(tmp_path: Path) -> None:
    assert run_in_processes(2, _of_each_rank, tmp_path, None, True)
    assert {path.name for path in (tmp_path / "checkpoint-2").glob("stateful*")} == {"stateful_0.pt", "stateful_1.pt"}
    found = run_in_processes(2, _of_each_rank, tmp_path, "latest", True)
    assert found == [{"rank": 0, "steps": 4}, {"rank": 1, "steps": 4}]

    (refused,) = run_in_processes(1, _of_each_rank, tmp_path, str(tmp_path / "checkpoint-2"), True)
    assert "holds the states of 2 processes, which differ" in refused


def test_what_all_processes_share_is_in_one_file(tmp_path: Path) -> None:
    run_in_processes(2, _of_each_rank, tmp_path, None, False)
    assert {path.name for path in (tmp_path / "checkpoint-2").glob("stateful*")} == {STATEFUL}
    assert run_in_processes(1, _of_each_rank, tmp_path, "latest", False) == [{"rank": 0, "steps": 4}]


def test_without_objects_there_is_no_file(tmp_path: Path) -> None:
    trainer = ResumableTrainer(
        model=make_model(), args=make_args(tmp_path, max_steps=1, eval_strategy="no", load_best_model_at_end=False),
        train_dataset=make_trainer(tmp_path).train_dataset, data_collator=make_trainer(tmp_path).data_collator,
    )  # fmt: skip
    trainer.train()
    assert not (tmp_path / "checkpoint-1" / STATEFUL).exists()
