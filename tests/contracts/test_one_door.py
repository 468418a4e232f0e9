"""One way to open what is in a run's folder, and one way to delete it: links and FIFOs are thought of once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "llamarec"
DOORS = ("checkpoints/storage/entries.py", "checkpoints/storage/durable.py")
FILES = [
    path
    for room in ("checkpoints", "cli/checkpoints")
    for path in sorted((PACKAGE / room).rglob("*.py"))
    if path.relative_to(PACKAGE).as_posix() not in DOORS
]

DELETES = {"rmtree", "unlink", "rmdir", "removedirs"}
OPENS = {"open", "read_bytes", "read_text", "write_bytes", "write_text"}
WALKS = {"rglob", "walk"}
# Calls of other things that have such a name, and what they are.
OTHERS = {
    ("backup/stores.py", "self.filesystem.open"): "fsspec's, for stores that are not on this machine's disks",
    ("saves/staged_files.py", "path.read_bytes"): "PEFT's model card in a folder that this process has just made",
}


def _calls(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every call in a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            text = ast.unparse(node.func)
            yield text.rpartition(".")[2], text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nobody_else_opens_deletes_or_walks(path: Path) -> None:
    end = "/".join(path.parts[-2:])
    found = [
        text
        for name, text in _calls(path)
        if name in DELETES | OPENS | WALKS or text in ("os.remove", "os.open")
        if (end, text) not in OTHERS and not text.startswith("entries.")
    ]
    # The doors have functions of the same names, which are imported by name.
    doors = {"read_bytes"} if "storage.entries import" in path.read_text(encoding="utf-8") else set()
    assert not set(found) - doors, f"{path}: {found}: use storage/entries.py to read, storage/durable.py to delete"


def test_there_is_one_deletion() -> None:
    for door in DOORS:
        text = (PACKAGE / door).read_text(encoding="utf-8")
        assert "rmtree" not in text
    assert not [name for name, _ in _calls(PACKAGE / DOORS[0]) if name in DELETES]


def test_the_contract_sees_what_it_forbids(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("import shutil\nshutil.rmtree(run)\npath.unlink()\nopen(path)\n", encoding="utf-8")
    assert [name for name, _ in _calls(source)] == ["rmtree", "unlink", "open"]
