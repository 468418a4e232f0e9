"""No base model's own code is run: said at every call that could."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("llamarec", "benchmarks", "examples")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    # Its models are drawn from classes of transformers; nothing is loaded.
    if "gpu" not in path.parts
)
CALLS = ("from_pretrained", "from_config", "pipeline")
# Configurations of adapters: JSON, which names no code that these calls would run.
JSON_ONLY = ("PeftConfig", "LoraConfig")


def _calls(source: str) -> list[ast.Call]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        call
        for call in calls
        if ast.unparse(call.func).rpartition(".")[2] in CALLS
        and ast.unparse(call.func).partition(".")[0] not in JSON_ONLY
    ]


def _is_safe(call: ast.Call) -> bool:
    found = {keyword.arg: keyword.value for keyword in call.keywords}.get("trust_remote_code")
    return isinstance(found, ast.Constant) and found.value is False


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_call_says_it(path: Path) -> None:
    unsafe = [ast.unparse(call) for call in _calls(path.read_text(encoding="utf-8")) if not _is_safe(call)]
    assert not unsafe, f"{path}: add trust_remote_code=False to {unsafe}"


@pytest.mark.parametrize(
    ("call", "is_safe"),
    [
        ("AutoModel.from_pretrained(x, trust_remote_code=False)", True),
        ("AutoModel.from_pretrained(x, **how)", False),
        ("AutoModel.from_pretrained(x, trust_remote_code=True)", False),
        ("AutoModel.from_pretrained(x, trust_remote_code=flag)", False),
    ],
)
def test_the_contract_sees_what_it_forbids(call: str, is_safe: bool) -> None:
    (found,) = _calls(call)
    assert _is_safe(found) is is_safe
