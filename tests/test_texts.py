"""Words and spellings in scripts whose letters have signs of their own."""

from __future__ import annotations

import unicodedata
from typing import Literal

import pytest

from llamarec.texts import normal, words_of


@pytest.mark.parametrize("word", ["điện", "thoại", "हिन्दी", "ภาษาไทย", "ọ̀rọ̀", "naïve", "x_1", "日本語"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_word_stays_whole(word: str, form: Literal["NFC", "NFD"]) -> None:
    spelled = unicodedata.normalize(form, word)
    assert words_of(f"{spelled}, ({spelled})") == [spelled, spelled]


def test_one_spelling() -> None:
    assert normal("  die\u0323\u0302n \n thoa\u0323i ") == "diện thoại"
