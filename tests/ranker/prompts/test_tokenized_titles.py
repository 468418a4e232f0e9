"""Tokenised titles: made once, kept by content, made again where the file is not whole."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import AutoTokenizer

from llamarec.data.prepared import PreparedData
from llamarec.ranker.prompts import tokenized_titles as module
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.template import PromptTemplate
from llamarec.ranker.prompts.tokenized_titles import Titles, cut_titles, tokenised

TITLES = ["", "Heat", "Amélie 日本語", "A long title of many words " * 5]
FRAME = ("(A) ", "\n")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many titles each call that tokenised had."""
    counts: list[int] = []
    make: Callable[..., Titles] = module._computed

    def counted(tokenizer: Any, titles: list[str], *rest: Any) -> Titles:
        counts.append(len(titles))
        return make(tokenizer, titles, *rest)

    monkeypatch.setattr(module, "_computed", counted)
    return counts


def test_a_second_start_tokenises_no_title(tokenizer: Any, tmp_path: Path, made: list[int]) -> None:
    first = tokenised(tokenizer, TITLES, *FRAME, 32, tmp_path / "titles")
    second = tokenised(tokenizer, TITLES, *FRAME, 32, tmp_path / "titles")
    assert made == [4]
    assert first == second == tokenised(tokenizer, TITLES, *FRAME, 32)
    assert [path.suffix for path in (tmp_path / "titles").iterdir()] == [".titles"]


def test_an_encoder_of_kept_titles_is_the_same(
    tokenizer: Any, data: PreparedData, tmp_path: Path, made: list[int]
) -> None:
    first, second = (PromptEncoder(tokenizer, data.titles, PromptTemplate(), cache_folder=tmp_path) for _ in range(2))
    assert len(made) == 1
    prompt = list(range(1, 26)), list(range(30, 50))
    assert first.encode(*prompt) == second.encode(*prompt)
    assert first.cut_titles == second.cut_titles


def test_content_counts_and_places_do_not(
    tokenizer: Any, tiny_folder: Path, tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(own: Any = tokenizer, titles: list[str] = TITLES, frame: tuple[str, str] = FRAME, limit: int = 32) -> int:
        tokenised(own, titles, *frame, limit, tmp_path / "titles")
        return len(made)

    assert start() == 1
    elsewhere = tmp_path / "another name"
    tokenizer.save_pretrained(elsewhere)
    assert start(own=AutoTokenizer.from_pretrained(elsewhere)) == 1
    assert start(titles=[*TITLES[:-1], "Another"]) == 2
    assert start(titles=["", "Heat A", "mélie", *TITLES[3:]]) == 3
    assert start(limit=31) == 4
    assert start(frame=("[A] ", "\n")) == 5
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["Heat"])
    assert start(own=other) == 6
    monkeypatch.setattr("tokenizers.__version__", "0.0")
    assert start() == 7


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_damaged_file_is_made_again(tokenizer: Any, tmp_path: Path, made: list[int], share: float) -> None:
    whole = tokenised(tokenizer, TITLES, *FRAME, 32, tmp_path)
    (path,) = tmp_path.iterdir()
    right = path.read_bytes()
    at = int(share * len(right))
    for damaged in (right[:at], right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :], right + b"x"):
        path.write_bytes(damaged)
        assert tokenised(tokenizer, TITLES, *FRAME, 32, tmp_path) == whole
        assert path.stat().st_size == len(right)
    assert made == [4] * 4
    tokenised(tokenizer, TITLES, *FRAME, 32, tmp_path)
    assert len(made) == 4, "the file is whole again"


def test_what_cannot_be_written_is_made_at_every_start(tokenizer: Any, tmp_path: Path, made: list[int]) -> None:
    (tmp_path / "file").write_text("where the folder should be", encoding="utf-8")
    for _ in range(2):
        assert tokenised(tokenizer, TITLES, *FRAME, 32, tmp_path / "file").texts[1] == "Heat"
    assert made == [4, 4]


def test_a_tokenizer_that_cannot_say_what_it_is_is_used_itself(tokenizer: Any, tmp_path: Path, made: list[int]) -> None:
    class InPython:
        decode = tokenizer.decode

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return tokenizer(*args, **kwargs)

    for _ in range(2):
        assert tokenised(cast(Any, InPython()), TITLES, *FRAME, 32, tmp_path) == tokenised(
            tokenizer, TITLES, *FRAME, 32
        )
    assert made == [4] * 4
    assert not list(tmp_path.iterdir())


def test_a_title_that_spells_a_control_token_is_text(tokenizer: Any) -> None:
    """For any other program that reads the prompt's text, too."""
    control = [str(token) for token in tokenizer.all_special_tokens]
    titles = [f"Before {token} after" for token in control]

    for text in cut_titles(tokenizer, titles, 50):
        assert not set(tokenizer(text, add_special_tokens=False)["input_ids"]) & set(tokenizer.all_special_ids)
        assert text.startswith("Before ")
        assert text.endswith(" after")
    assert control
