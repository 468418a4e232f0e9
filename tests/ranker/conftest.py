"""A tiny model and its tokenizer, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llamarec.data.prepared import PreparedData
from llamarec.ranker.model.tiny import tiny_model
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.template import PromptTemplate
from tests.ranker.shop import folder, shop
from tests.samples import make_data

__all__ = ["folder", "shop"]


@pytest.fixture(scope="session")
def data() -> PreparedData:
    return make_data()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", data.titles[1:])


@pytest.fixture(scope="session")
def tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def encoder(tokenizer: Any, data: PreparedData) -> PromptEncoder:
    return PromptEncoder(tokenizer, data.titles, PromptTemplate())
