"""Section 12 of the guides: programs with a Trainer of one's own do what is said, and its tables are the code's."""

from __future__ import annotations

import contextlib
import inspect
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from llamarec import errors
from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.compatibility import _REFUSED
from llamarec.checkpoints.trainer.resumable import ResumableMixin, ResumableTrainer
from llamarec.checkpoints.trainer.signals import EndNow, Interrupted
from llamarec.ranker.options.parser import RECIPE
from tests.docs.guide import COMMANDS, ENGLISH, VIETNAMESE, Guide, executed, quoted
from tests.docs.project import run

# A plain Trainer's default; torch says so where there is no GPU.
NO_PINNED_MEMORY = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


@NO_PINNED_MEMORY
def test_a_trainer_of_ones_own_starts_and_goes_on_as_shown(tmp_path: Path) -> None:
    program = next(block for block in ENGLISH.section("12").blocks if block.kind == "python")
    with contextlib.chdir(tmp_path):
        first = executed(program, _model_and_data())["trainer"]
        again = executed(program, _model_and_data())["trainer"]
    assert first.state.global_step == again.state.global_step == 6
    assert again._resumable.training.run.resume.step == 6
    assert [path.name for path in (tmp_path / "runs" / "mine").glob("checkpoint-*")] == ["checkpoint-6"]
    (plan,) = (command for command in quoted(_text_of(ENGLISH, "12.2")) if command.startswith(COMMANDS))
    assert f"`{plan}`" in _text_of(VIETNAMESE, "12.2")
    ran = run(plan, tmp_path)
    assert ran.code == 0
    assert "applied:     learning_rate  5e-05 -> 0.0001" in ran.said


@NO_PINNED_MEMORY
def test_state_beside_the_model_is_the_same_after_a_kill(tmp_path: Path) -> None:
    page = Guide(ENGLISH.path.parents[1] / "trainer.md")
    (program,) = (block for section in page.sections for block in section.blocks if "stateful=" in str(block.lines))

    def trained(folder: Path) -> Any:
        names = _model_and_data()
        folder.mkdir(exist_ok=True)
        with contextlib.chdir(folder):
            return executed(program, {**names, "train": names["dataset"]})

    whole = trained(tmp_path / "whole")
    # What a kill after step 2 leaves.
    run = tmp_path / "run" / "runs" / "averaged"
    run.mkdir(parents=True)
    shutil.copytree(tmp_path / "whole" / "runs" / "averaged" / "checkpoint-2", run / "checkpoint-2")
    again = trained(tmp_path / "run")

    assert again["trainer"]._resumable.training.run.resume.step == 2
    assert torch.equal(again["ema"].average["weight"], whole["ema"].average["weight"])
    assert not torch.equal(again["ema"].average["weight"], torch.ones(1))


def _text_of(guide: Guide, number: str) -> str:
    text = guide.path.read_text(encoding="utf-8")
    return " ".join(text.partition(f"### {number} ")[2].partition("\n#")[0].split())


def _own_trainer(folder: Path, maker: Any = ResumableTrainer, **changes: Any) -> Any:
    names = _model_and_data()
    args = TrainingArguments(str(folder), report_to="none", disable_tqdm=True, save_steps=4, **changes)
    return maker(model=names["model"], args=args, train_dataset=names["dataset"])


@NO_PINNED_MEMORY
def test_refusals_and_stops_end_as_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = executed(ENGLISH.section("12.3").blocks[0], {})["train"]
    trainer = _own_trainer(tmp_path)
    trainer.add_callback(_StopsOnce())
    with pytest.raises(Interrupted) as stop:
        train(trainer)
    assert stop.value.code == 75
    assert f"SIGINT: saved in {tmp_path / 'checkpoint-2'}\n" in capsys.readouterr().err
    assert train(_own_trainer(tmp_path, seed=7)) == 2
    assert "error: " in capsys.readouterr().err
    assert train(_own_trainer(tmp_path)) == 0


class _StopsOnce(TrainerCallback):
    """As Ctrl-C after the second step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)


class _Looks(TrainerCallback):
    """Whether the folder is there when `on_save` is called."""

    def __init__(self) -> None:
        self.found: list[bool] = []

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.found.append((Path(args.output_dir) / f"checkpoint-{state.global_step}").exists())


@NO_PINNED_MEMORY
def test_on_save_comes_before_the_folder_and_after_save_after_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = executed(ENGLISH.section("12.4").blocks[0], {})
    trainer, looks = _own_trainer(tmp_path, names["make"]), _Looks()
    for callback in (looks, _StopsOnce()):
        trainer.add_callback(callback)
    with pytest.raises(Interrupted):
        trainer.train("latest")
    assert looks.found == []
    trainer = _own_trainer(tmp_path, names["make"])
    trainer.add_callback(looks)
    trainer.train("latest")
    assert looks.found == [False, False]
    said = capsys.readouterr().out
    for step in (2, 4, 6):
        assert f"{tmp_path / f'checkpoint-{step}'} is complete and verified" in said


def test_the_options_of_an_own_trainer_are_those_of_the_tables() -> None:
    options, arguments = ENGLISH.section("12.1").tables
    expected = {name: item.default for name, item in CheckpointConfig.__dataclass_fields__.items()}
    rows = [[quoted(cell)[0] for cell in row[:4]] for row in options.rows]
    assert rows == [
        [name, f"--{name}", _shown(default), _shown(RECIPE.get(name, default))] for name, default in expected.items()
    ]
    parameters = inspect.signature(ResumableMixin.__init__).parameters.values()
    own = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert [quoted(cell)[0] for cell in arguments.column(0)] == own
    refused = set(quoted(ENGLISH.section("12.2").tables[0].rows[2][1]))
    assert refused == {*_REFUSED, "base_model", "lora", "data"}


def _shown(default: Any) -> str:
    if isinstance(default, str):
        return default or '""'
    return f"{default:g}" if isinstance(default, float) else json.dumps(default)


def test_what_training_raises_is_named_by_its_class() -> None:
    rows = ENGLISH.section("12.3").tables[0].rows
    names = [quoted(row[0])[-1] if quoted(row[0]) else "" for row in rows]
    kinds = [getattr(errors, name) for name in names[:6]]
    assert all(issubclass(kind, errors.LlamarecError) for kind in kinds)
    assert names[6:] == [Interrupted.__name__, EndNow.__name__, ""]
    codes = [int(row[2].partition(",")[0]) for row in rows]
    assert codes == [errors.EXIT_USAGE] * 6 + [errors.EXIT_INTERRUPTED, errors.EXIT_KILLED, errors.EXIT_FAILED]


def _model_and_data() -> dict[str, Any]:
    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": ((self.weight * x - labels) ** 2).mean()}

    samples = [{"x": torch.tensor([float(i)]), "labels": torch.tensor([2.0 * i])} for i in range(16)]
    return {"model": Line(), "dataset": samples}
