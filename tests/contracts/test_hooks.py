"""The table of hooks is complete and true: derived from our source, compared with the installed transformers."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers.trainer
from accelerate import Accelerator
from accelerate.state import GradientState
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from llamarec.checkpoints import ResumableMixin
from llamarec.checkpoints.trainer.guards import hooks
from llamarec.errors import EXIT_USAGE, ConfigError
from tests.resume.training import make_trainer

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "llamarec/checkpoints/trainer"
# `hooks` is the table itself; `versions` asks for what not every supported version has.
TREES = [
    ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(ROOM.rglob("*.py"))
    if path.stem not in ("hooks", "versions")
]
METHODS = [hook.name for hook in (*hooks.OVERRIDDEN, *hooks.CALLED)]
HELD: dict[str, type] = {
    "args": TrainingArguments,
    "state": TrainerState,
    "control": TrainerControl,
    "callback_handler": CallbackHandler,
    "accelerator": Accelerator,
    "accelerator.gradient_state": GradientState,
}


def _stored(cls: type) -> set[str]:
    """Attributes that a class's methods set on self."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }


def _members(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("__")} | _stored(cls) | {*_fields(cls)}


def _fields(cls: type) -> dict[str, object]:
    fields: dict[str, object] = getattr(cls, "__dataclass_fields__", {})
    return fields


def _accesses() -> Iterator[tuple[str, str]]:
    """Every (object, member) of our source: `self.state.epoch` gives ("self.state", "epoch")."""
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node.value), node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            holder, name = node.args[:2]
            if isinstance(name, ast.Constant):
                yield ast.unparse(holder), str(name.value)


def _is_held(holder: str, path: str) -> bool:
    return holder == path or holder.endswith(f".{path}")


def test_the_table_names_every_member_of_the_trainer_that_our_source_uses() -> None:
    members = _members(Trainer)
    elsewhere = {path.split(".")[0] for path in HELD} | {"torch", "callback", "config"}
    used = {
        name
        for holder, name in _accesses()
        if name in members and holder.split(".")[-1] not in elsewhere and not holder.startswith("torch")
    }
    defined = {
        method.name
        for node in (node for tree in TREES for node in ast.walk(tree))
        if isinstance(node, ast.ClassDef) and "Protocol" not in {ast.unparse(base) for base in node.bases}
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name in members
    }
    listed = {*METHODS, *hooks.ATTRIBUTES, *hooks.LOOP_ATTRIBUTES}
    # The newest attributes are not in every supported version, where writing them changes nothing.
    optional = {name for name, users in hooks.LOOP_ATTRIBUTES.items() if not users}
    assert (used | defined) - listed == set(), "used, and not in the table"
    assert listed - (used | defined) - optional == set(), "in the table, and not used any more"
    assert defined == {hook.name for hook in hooks.OVERRIDDEN}


@pytest.mark.parametrize("path", HELD)
def test_the_table_names_what_is_used_of_the_objects_that_a_trainer_holds(path: str) -> None:
    members = _members(HELD[path])
    used = {name for holder, name in _accesses() if _is_held(holder, path) and name in members}
    assert used == set(hooks.MEMBERS[path])


def test_the_installed_transformers_has_every_hook(tmp_path: Path) -> None:
    hooks.check_hooks(make_trainer(tmp_path), Trainer)
    assert not [one for one in hooks.LOOP_ATTRIBUTES if one != "_initial_global_step" and one not in _members(Trainer)]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_was_renamed_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, f"{name}_of_another_name", getattr(Trainer, name), raising=False)
    monkeypatch.delattr(Trainer, name)
    with pytest.raises(ConfigError, match=rf"no Trainer\.{name}") as refusal:
        hooks.check_hooks(object(), Trainer, members={})
    assert transformers.__version__ in refusal.value.problem
    assert refusal.value.hint is not None
    assert refusal.value.hint.startswith('pip install "transformers>=')


def test_without_the_epochs_of_the_trainer_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_train_one_epoch", Trainer._run_epoch, raising=False)
    monkeypatch.delattr(Trainer, "_run_epoch")
    with pytest.raises(ConfigError, match=r"no Trainer\._run_epoch"):
        make_trainer(tmp_path)


def test_a_loop_that_calls_another_method_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old name may stay for a while; an override of it is silent all the same."""

    def loop(self: Any, batch_size: Any = None, args: Any = None, *more: Any) -> None:
        self._train_one_epoch()

    monkeypatch.setattr(Trainer, "_inner_training_loop", loop)
    with pytest.raises(ConfigError, match=r"Trainer\._inner_training_loop does not use _run_epoch"):
        make_trainer(tmp_path)


def test_other_parameters_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(self: Any, train_dataloader: Any, max_steps: int, resume_from_checkpoint: Any) -> None: ...

    def clip(self: Any, model: Any, norm: float) -> None: ...

    def norm(self: Any, model: Any) -> None: ...

    monkeypatch.setattr(Trainer, "_prepare_for_training", prepare)
    monkeypatch.setattr(Trainer, "_clip_grad_norm", clip)
    monkeypatch.setattr(Trainer, "_get_grad_norm", norm)
    with pytest.raises(ConfigError) as refusal:
        make_trainer(tmp_path)
    found = str(refusal.value.found)
    assert "Trainer._prepare_for_training takes (train_dataloader, max_steps, resume_from_checkpoint), not" in found
    assert "Trainer._clip_grad_norm needs norm too" in found
    assert "Trainer._get_grad_norm takes no grad_norm" in found


def test_a_wrapper_that_hands_everything_on_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", lambda *args, **kwargs: before(*args, **kwargs))
    make_trainer(tmp_path)


def test_a_new_method_of_the_trainer_that_ours_would_hide_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "run_id", property(lambda self: "theirs"), raising=False)
    with pytest.raises(ConfigError, match=r"Trainer\.run_id, which ResumableMixin hides"):
        make_trainer(tmp_path)


def test_a_member_of_the_state_that_was_renamed_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.raises(ConfigError, match=r"no Trainer\.state\.best_step_of_all"):
        hooks.check_hooks(trainer, Trainer, members={"state": ("best_step_of_all",)})


@pytest.mark.parametrize("name", ["train", "_inner_training_loop"])
def test_a_subclass_with_a_loop_of_its_own_is_refused(name: str, tmp_path: Path) -> None:
    def own_loop(self: Any, *args: Any, **kwargs: Any) -> None:
        for batch in self.get_train_dataloader():
            self.training_step(self.model, batch)

    theirs = type("TheirTrainer", (Trainer,), {name: own_loop})
    with pytest.raises(ConfigError, match=rf"TheirTrainer\.{name} has a training loop of its own"):
        make_trainer(tmp_path, cls=type("Mine", (ResumableMixin, theirs), {}))


def test_a_subclass_that_calls_the_trainers_loop_is_taken(tmp_path: Path) -> None:
    class TheirTrainer(Trainer):  # type: ignore[misc,unused-ignore]
        def train(self, *args: Any, **kwargs: Any) -> Any:
            return super().train(*args, **kwargs)

        def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
            return super()._inner_training_loop(*args, **kwargs)

    make_trainer(tmp_path, cls=type("Mine", (ResumableMixin, TheirTrainer), {}))


def test_a_version_without_what_is_imported_is_refused() -> None:
    code = "import sys, transformers.trainer; del transformers.trainer_callback.ExportableState; "
    code += "import llamarec.checkpoints as ours; from llamarec import run_main; "
    code += "sys.exit(run_main(lambda: ours.ResumableTrainer and 0))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_USAGE, done.stderr
    assert f"checkpoints do not work with transformers {transformers.__version__}" in done.stderr
    assert 'pip install "transformers>=5.' in done.stderr
    assert "Traceback" not in done.stderr
