"""The embedded base model `tiny`: a random Llama with a byte-level tokenizer trained on the titles.

It serves tests, demonstrations and dry runs of a whole pipeline in seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llamarec.files import read_json, replacing_folder
from llamarec.ranker.prompts.template import PromptTemplate

_WEIGHTS: Final = "model.safetensors"
_VOCABULARY = 1024
_SEED = 20231107  # the weights are part of what `tiny` means, not of a run


def tiny_model(folder: Path, titles: Sequence[str]) -> Path:
    """Writes the model for these titles into `folder`, unless it is there already, and returns the folder."""
    fingerprint = hashlib.sha256("\n".join(titles).encode()).hexdigest()
    mark = folder / "tiny.json"
    if (read_json(mark) or {}).get("titles_sha256") == fingerprint and (folder / _WEIGHTS).is_file():
        return folder

    with replacing_folder(folder) as staging:
        tokenizer = _tokenizer(titles)
        tokenizer.save_pretrained(staging)
        model = _model(len(tokenizer))
        model.save_pretrained(staging)
        if not (staging / _WEIGHTS).is_file():
            # In a process that is not the first of several, `save_pretrained` writes no weights.
            save_file(model.state_dict(), staging / _WEIGHTS, metadata={"format": "pt"})
            model.config.save_pretrained(staging)
            model.generation_config.save_pretrained(staging)
        (staging / mark.name).write_text(json.dumps({"titles_sha256": fingerprint}), encoding="utf-8")
    return folder


def _tokenizer(titles: Sequence[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([PromptTemplate().text, *(f" {title}" for title in titles)], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def _model(vocabulary: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return LlamaForCausalLM(config)
