"""A base model that comes with code: refused by every way that loads one, and never asked about."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from llamarec.errors import ModelError
from llamarec.ranker.model import base_models
from llamarec.ranker.model.foreign_code import configuration
from llamarec.ranker.options.config import RankerConfig

CODE = "import pathlib\npathlib.Path(__file__).with_name('executed').touch()\n"
WAYS: dict[str, Callable[[str], object]] = {
    "configuration": lambda source: base_models.load_configuration("theirs", source),
    "tokenizer": lambda source: base_models.load_tokenizer("theirs", source),
    "model": lambda source: base_models.load_letter_model(
        "theirs", source, RankerConfig(quantization="none"), [1, 2], bf16=False
    ),
}


def _folder(folder: Path, **changes: Any) -> str:
    content = {**LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2).to_dict(), **changes}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    auto_map = {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}, "tokenizer_class": "Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(auto_map), encoding="utf-8")
    (folder / "code.py").write_text(CODE, encoding="utf-8")
    return str(folder)


AUTO_MAP = {
    "AutoConfig": "code.Config",
    "AutoModelForCausalLM": "code.Model",
    "AutoTokenizer": ["code.Tokenizer", None],
}


@pytest.mark.parametrize("way", WAYS)
def test_code_is_refused_and_nobody_is_asked(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("asked")

    monkeypatch.setattr("builtins.input", ask)
    source = _folder(tmp_path, model_type="theirs", architectures=["Model"], auto_map=AUTO_MAP)

    with pytest.raises(ModelError, match="theirs comes with code of its own, which is never run here"):
        WAYS[way](source)

    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("value", ["theirs/kernel", "theirs/kernel:forward", "paged|theirs/kernel@v1"])
def test_a_kernel_is_code_too(key: str, value: str, tmp_path: Path) -> None:
    source = _folder(tmp_path, **{key: value})
    for way in ("configuration", "model"):
        with pytest.raises(ModelError, match=r"comes with code of its own(?s:.*)kernel"):
            WAYS[way](source)


@pytest.mark.parametrize("value", ["sdpa", "eager", "flash_attention_2"])
def test_implementations_of_transformers_pass(value: str, tmp_path: Path) -> None:
    assert configuration("ours", _folder(tmp_path, attn_implementation=value)).hidden_size == 16
