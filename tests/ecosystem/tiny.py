"""What the trainings of other libraries are made of here: a tiny Llama, a tokenizer of ten words, a few samples."""

from __future__ import annotations

from typing import Any, Final

from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast, set_seed

from tests.tiny_llama import tiny_llama

SPECIAL: Final = ("<pad>", "<s>", "</s>", "<unk>")
WORDS: Final = ("red", "blue", "green", "cat", "dog", "bird", "sees", "likes", "the", "a")
NUM_SAMPLES: Final = 22

_SIZES: Final = {"num_hidden_layers": 2, "hidden_size": 16, "tie_word_embeddings": False}
_TOKENS: Final = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tokenizer() -> Any:
    """One token per word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *WORDS))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    pad, start, end, unknown = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=pad, bos_token=start, eos_token=end, unk_token=unknown
    )


def llama(seed: int = 1, **changes: Any) -> LlamaForCausalLM:
    """A Llama of two layers, always the same for a seed."""
    set_seed(seed)
    return tiny_llama(**{**_SIZES, **_TOKENS, "attention_dropout": 0.1, **changes})


def scorer() -> LlamaForSequenceClassification:
    """The same with one number as its output."""
    set_seed(1)
    return LlamaForSequenceClassification(llama(num_labels=1).config)


def sentence(number: int) -> str:
    """Three to five words, another for each number."""
    return " ".join(WORDS[(number * 3 + i) % len(WORDS)] for i in range(3 + number % 3))


def texts() -> list[dict[str, str]]:
    """For fine-tuning."""
    return [{"text": sentence(number)} for number in range(NUM_SAMPLES)]


def preferences() -> list[dict[str, str]]:
    """A prompt, a chosen and a rejected completion."""
    return [
        {"prompt": sentence(number), "chosen": " " + sentence(number + 1), "rejected": " " + sentence(number + 2)}
        for number in range(NUM_SAMPLES)
    ]


def prompts() -> list[dict[str, str]]:
    """For generation."""
    return [{"prompt": sentence(number)} for number in range(NUM_SAMPLES)]
