"""The arms of the ablation are what they are called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from benchmarks.published_ranker import main, read_after_a_space, whole_vocabulary
from benchmarks.ranker_quality import ARMS, command_of
from llamarec.data.prepared import PreparedData
from llamarec.ranker.base_models import load_letter_model
from llamarec.ranker.config import RankerConfig
from llamarec.ranker.encoding import PromptEncoder
from llamarec.ranker.letter_model import collate
from llamarec.ranker.samples import TrainingSamples


@pytest.fixture(name="model")
def _model(tiny_folder: Path, encoder: PromptEncoder) -> Any:
    config = RankerConfig(llm_base_model="tiny", lora_dropout=0.0)
    return load_letter_model("tiny", str(tiny_folder), config, encoder.letter_ids, bf16=False)


def _plain(folder: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return model.eval()


def test_the_loss_is_over_the_whole_vocabulary(
    model: Any, data: PreparedData, encoder: PromptEncoder, tiny_folder: Path
) -> None:
    samples = TrainingSamples(data, encoder, seed=0)
    batch = collate([samples[0, i] for i in (3, 40)], pad_token_id=1)
    plain = _plain(tiny_folder)
    with torch.no_grad():
        found = whole_vocabulary(model.get_base_model(), **batch)
        losses = []
        for row, end in enumerate(batch["answer_positions"].tolist()):
            logits_V = plain(input_ids=batch["input_ids"][row : row + 1, : end + 1]).logits[0, -1]
            losses.append(F.cross_entropy(logits_V, torch.tensor(encoder.letter_ids)[batch["labels"][row]]))
            torch.testing.assert_close(found["logits"][row], logits_V[encoder.letter_ids])
    torch.testing.assert_close(found["loss"], torch.stack(losses).mean())


class _Spaced:
    """A tokenizer in which a letter after a space is another token."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [7, 100 + ord(text[-1])]}


def test_other_tokens_are_read_than_are_trained(
    model: Any, data: PreparedData, encoder: PromptEncoder, tiny_folder: Path
) -> None:
    read_after_a_space(model, _Spaced())
    base = model.get_base_model()
    assert base.letter_ids_C.tolist() == encoder.letter_ids
    assert base.read_ids == [100 + ord(letter) for letter in "ABCDEFGHIJKLMNOPQRST"]
    batch = collate([TrainingSamples(data, encoder, seed=0)[0, 3]], pad_token_id=1)
    with torch.no_grad():
        ours = whole_vocabulary(base, **batch)["logits"][0]
        plain = _plain(tiny_folder)
        end = int(batch["answer_positions"][0])
        logits_V = plain(input_ids=batch["input_ids"][:1, : end + 1]).logits[0, -1]
    torch.testing.assert_close(ours, logits_V[base.read_ids])


def test_a_tokenizer_with_one_token_for_both_is_refused(model: Any) -> None:
    ids = model.get_base_model().letter_ids_C.tolist()
    same = dict(zip("ABCDEFGHIJKLMNOPQRST", ids, strict=True))
    with pytest.raises(SystemExit, match="the same token"):
        read_after_a_space(model, lambda text, add_special_tokens: {"input_ids": [same[text[-1]]]})


@pytest.mark.parametrize("words", [[], ["letters"], ["loss,other"], ["--dataset_code", "beauty"]])
def test_what_is_no_choice_is_refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["published", *words])
    with pytest.raises(SystemExit, match="expected: loss or loss,letters"):
        main()


def test_arms_are_commands() -> None:
    assert command_of("mixed")[0] == "train_ranker.py"
    assert command_of("published")[:3] == ["-m", "benchmarks.published_ranker", "loss,letters"]
    assert command_of("right letters")[:3] == ["-m", "benchmarks.published_ranker", "loss"]
    assert all("--hard_negatives" in command_of(name) for name in ARMS)
