"""The objects that a resumable Trainer holds: no calls both ways, and nothing that clashes with a subclass."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from transformers import Trainer

import llamarec.checkpoints.trainer.resumable
from llamarec.checkpoints.trainer.resumable import ResumableMixin
from llamarec.checkpoints.trainer.trainer_access import SubclassHooks
from tests.resume.training import make_trainer

ROOM = Path(llamarec.checkpoints.trainer.resumable.__file__).parent
PACKAGE = "llamarec.checkpoints.trainer"
MODULES = {
    ".".join((PACKAGE, *path.relative_to(ROOM).with_suffix("").parts)): path
    for path in ROOM.rglob("*.py")
    if path.stem != "__init__"
}


def _imports_within(path: Path) -> set[str]:
    """Names of modules of the room that a module imports anywhere, for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{PACKAGE}."):
            # Of `from room import module` the module, of `from room.module import name` the module as well.
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {name for name in names if name in MODULES}
    return found


def test_calls_run_one_way() -> None:
    graph = {name: _imports_within(path) for name, path in MODULES.items()}
    # Raises CycleError, which names the cycle.
    order = list(TopologicalSorter(graph).static_order())
    assert order[-1] == f"{PACKAGE}.resumable"


def test_the_mixin_adds_one_private_attribute(tmp_path: Path) -> None:
    """Subclasses of the Trainer have many of their own (trl: _step, _metrics, ...)."""
    ours, plain = make_trainer(tmp_path / "ours"), make_trainer(tmp_path / "plain", cls=Trainer)
    assert vars(ours).keys() - vars(plain).keys() == {"_resumable"}
    added = {name for name in vars(ResumableMixin) if not name.startswith("__")} - {*dir(Trainer)}
    assert {name for name in added if name.startswith("_")} == set()


def test_every_hook_of_a_subclass_is_the_mixins() -> None:
    hooks = {*vars(SubclassHooks).get("__annotations__", {})} | {
        name for name, value in vars(SubclassHooks).items() if callable(value) and not name.startswith("_")
    }
    assert hooks == {
        "samples_by_epoch",
        "beyond_flags",
        "origins",
        "memory_flags",
        "program_hints",
        "ends_when_diverged",
        "epoch_order",
        "split_batch",
        "files_beside_model",
    }
    assert hooks <= {*vars(ResumableMixin)}
