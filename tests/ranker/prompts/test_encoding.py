"""Prompts as ids: equal to the tokenised text, within the budget, and answered by the letters' own tokens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError, ModelError
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.template import LETTERS, PromptTemplate
from llamarec.ranker.prompts.tokenized_titles import cut_titles

HISTORY = list(range(1, 26))
CANDIDATES = list(range(30, 50))


def _tokenizers() -> list[Any]:
    """Every tokenizer at hand: our own, those in a folder of the tester's, and the cached real model's."""
    from llamarec.assets import cache_folder

    folder = os.environ.get("LLAMAREC_TEST_MODEL_ROOT")
    there = sorted(path.parent for path in Path(folder).glob("*/tokenizer.model")) if folder else []
    cached = cache_folder() / "models" / "SmolLM2-135M-Instruct"
    there += [cached] if (cached / "tokenizer.json").is_file() else []
    absent = pytest.mark.skip(reason="set LLAMAREC_TEST_MODEL_ROOT to a folder of tokenizers, e.g. Llama 2's")
    return ["tiny", *there] if there else ["tiny", pytest.param("Llama 2", marks=absent)]


@pytest.fixture(params=_tokenizers(), ids=lambda value: getattr(value, "name", str(value)))
def any_tokenizer(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    return tokenizer if request.param == "tiny" else AutoTokenizer.from_pretrained(request.param)


TEMPLATES = [
    PromptTemplate(),
    PromptTemplate(candidate_line="{title} ({letter})"),
    PromptTemplate(candidate_line="({letter}) {title} ({letter})"),
    PromptTemplate("Had:\n{history}Which next?\n{candidates}Answer:\n(", "-", "- {title} ({letter})"),
    PromptTemplate(candidate_line="{letter}: {title};"),
]


@pytest.fixture(params=TEMPLATES, ids=lambda template: template.candidate_line)
def template(request: pytest.FixtureRequest) -> PromptTemplate:
    return cast(PromptTemplate, request.param)


def test_trained_letter_is_scored_letter(any_tokenizer: Any, data: PreparedData, template: PromptTemplate) -> None:
    encoder = PromptEncoder(any_tokenizer, data.titles, template)
    for _ in range(5):
        prompt = encoder.text(HISTORY, CANDIDATES)
        ids = encoder.encode(HISTORY, CANDIDATES)
        for place, letter in enumerate(LETTERS[:20]):
            # What a program sees that tokenises the whole answered prompt, as training by text would.
            answered = any_tokenizer(prompt + letter)["input_ids"]
            assert list(answered) == [*ids, encoder.letter_ids[place]]


def test_pieces_give_the_ids_of_the_text(any_tokenizer: Any, data: PreparedData, template: PromptTemplate) -> None:
    encoder = PromptEncoder(any_tokenizer, data.titles, template)
    assert encoder.assembles
    rng = np.random.default_rng(1)
    for _ in range(50):
        history, candidates = rng.integers(1, 81, 12).tolist(), rng.integers(1, 81, 20).tolist()
        assert encoder.encode(history, candidates) == list(
            any_tokenizer(encoder.text(history, candidates))["input_ids"]
        )


def test_a_tokenizer_that_merges_over_our_borders_is_used_on_whole_texts(data: PreparedData) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    # No split at spaces or brackets: merges run over every border inside a line.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["</s>"],
        show_progress=False,
    )
    lines = [f"({letter}) {title}" for letter in LETTERS for title in data.titles[1:]]
    backend.train_from_iterator(lines * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    encoder = PromptEncoder(tokenizer, data.titles, PromptTemplate())
    assert not encoder.assembles
    assert encoder.encode([1, 2], CANDIDATES) == list(tokenizer(encoder.text([1, 2], CANDIDATES))["input_ids"])


def test_a_letter_that_is_not_a_token_of_its_own_is_refused(data: PreparedData) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(["### Response: ( ) A B"], trainers.WordLevelTrainer(special_tokens=["[UNK]"]))
    with pytest.raises(ModelError, match="letter"):
        PromptEncoder(
            PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"),
            data.titles,
            PromptTemplate(),
        )


def test_history_is_the_last_items_oldest_first(encoder: PromptEncoder) -> None:
    assert encoder.shown_history(HISTORY, CANDIDATES) == HISTORY[-20:]
    assert encoder.shown_history([], CANDIDATES) == []


def test_the_budget_drops_the_oldest_history_and_never_a_candidate(tokenizer: Any, data: PreparedData) -> None:
    roomy = PromptEncoder(tokenizer, data.titles, PromptTemplate())
    budget = len(roomy.encode(HISTORY[-14:], CANDIDATES))
    tight = PromptEncoder(tokenizer, data.titles, PromptTemplate(), max_prompt_tokens=budget)
    ids = tight.encode(HISTORY, CANDIDATES)
    shown = tight.shown_history(HISTORY, CANDIDATES)
    assert len(ids) <= tight.max_prompt_tokens
    assert shown == HISTORY[-len(shown) :]
    assert len(shown) == 14
    assert all(f"({letter}) " in tight.text(HISTORY, CANDIDATES) for letter in LETTERS[:20])
    assert "(1) " + tight.cut_titles[shown[0]] in tight.text(HISTORY, CANDIDATES), "numbers start at 1 again"


def test_a_budget_below_the_candidates_is_refused_at_once(tokenizer: Any, data: PreparedData) -> None:
    with pytest.raises(ConfigError, match="--max_prompt_tokens 50"):
        PromptEncoder(tokenizer, data.titles, PromptTemplate(), max_prompt_tokens=50)


def test_titles_are_cut_to_tokens_and_stay_text(any_tokenizer: Any) -> None:
    long = "Ünïcödé 日本語 " * 30
    (cut,) = cut_titles(any_tokenizer, [long], 32)
    assert len(any_tokenizer(f" {cut}", add_special_tokens=False)["input_ids"]) <= 32
    assert "\ufffd" not in cut
    assert long.startswith(cut[:5])
    assert cut_titles(any_tokenizer, ["", "Heat"], 32) == ["", "Heat"]
