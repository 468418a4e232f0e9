"""Titles as a prompt shows them: cut to a number of tokens, as text and as ids, computed once and cached on disk.

The name of a cache file is the digest of everything that the ids depend on: the tokenizer, the titles and the rest. So
another folder changes nothing, and another tokenizer of the same name changes the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import tokenizers
import transformers
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from llamarec.files import write_bytes

_FORMAT_VERSION: Final = 2
_DIGEST_BYTES: Final = 32


class Titles(NamedTuple):
    """Titles by item_id.

    Attributes:
        texts: The cut titles.
        ids: Token ids of each title in its context; the space before a title belongs to it.
    """

    texts: list[str]
    ids: list[list[int]]


def tokenised(
    tokenizer: PreTrainedTokenizerBase,
    titles: Sequence[str],
    before: str,
    after: str,
    max_title_tokens: int,
    cache_folder: Path | None = None,
) -> Titles:
    """Titles, cut and tokenised for prompts.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        titles: Titles by item_id.
        before: Text before a title.
        after: Text after a title; its tokens belong to the title's ids.
        max_title_tokens: Longer titles are cut.
        cache_folder: Folder of cache files, read and written. A file that cannot be read is computed again; one that
            cannot be written is left out.
    """
    tokenizer_text = _serialised(tokenizer)
    if cache_folder is None or tokenizer_text is None:
        return _computed(tokenizer, titles, before, after, max_title_tokens)

    # The libraries' versions matter too: they cut and decode.
    versions = (tokenizers.__version__, transformers.__version__)
    content = json.dumps([_FORMAT_VERSION, *versions, tokenizer_text, before, after, max_title_tokens, list(titles)])
    path = cache_folder / f"{hashlib.sha256(content.encode()).hexdigest()}.titles"

    cached = _read(path)
    if cached is None:
        cached = _computed(tokenizer, titles, before, after, max_title_tokens)
        # Without a cache file the next start is slower, nothing else.
        with contextlib.suppress(OSError):
            _write(path, cached)
    return cached


def cut_titles(tokenizer: PreTrainedTokenizerBase, titles: Sequence[str], max_title_tokens: int) -> list[str]:
    """Titles of at most `max_title_tokens` tokens each, as text.

    They are cut as text, not as ids, so that any other program tokenises the prompt's text to the same ids. For the
    same reason a title that spells a control token (`</s>`) has a space put into it.
    """
    control = _control_tokens(tokenizer)
    cut = [_spelled(" ".join(title.split()), control) for title in titles]
    lengths = [len(ids) for ids in batch_ids(tokenizer, [f" {title}" for title in cut])]
    too_long = [i for i, length in enumerate(lengths) if length > max_title_tokens]

    for i in too_long:
        keep = max_title_tokens
        while len(ids := plain_ids(tokenizer, f" {cut[i]}")) > max_title_tokens and keep:
            # A cut inside a character leaves a replacement mark; a cut word may need more tokens than before.
            cut[i] = str(tokenizer.decode(ids[:keep], skip_special_tokens=True)).replace("\ufffd", "").strip()
            keep -= 1

    return cut


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    # A tokenizer written in Python may have neither.
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {*(token.content for token in added if token.special), *getattr(tokenizer, "all_special_tokens", [])}
    return sorted(token for token in map(str, special) if len(token) > 1)


def _spelled(title: str, control: Sequence[str]) -> str:
    for token in control:
        title = title.replace(token, f"{token[0]} {token[1:]}")
    return title


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def batch_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """`plain_ids` of many texts at once, which is faster."""
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]


def _computed(
    tokenizer: PreTrainedTokenizerBase, titles: Sequence[str], before: str, after: str, max_title_tokens: int
) -> Titles:
    texts = cut_titles(tokenizer, titles, max_title_tokens)

    # Tokenizers join a word with the space before it.
    skip = len(plain_ids(tokenizer, before.removesuffix(" ")))
    return Titles(texts, [ids[skip:] for ids in batch_ids(tokenizer, [f"{before}{text}{after}" for text in texts])])


def _serialised(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Everything that ids and decoded text depend on; None for a tokenizer written in Python, which hides it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None

    names = ("clean_up_tokenization_spaces", "split_special_tokens", "special_tokens_map")
    settings = {name: getattr(tokenizer, name, None) for name in names}
    return json.dumps([type(tokenizer).__name__, settings, backend.to_str()], sort_keys=True, default=str)


def _write(path: Path, titles: Titles) -> None:
    texts = [text.encode() for text in titles.texts]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        text_bytes=np.frombuffer(b"".join(texts), dtype=np.uint8),
        text_lengths=np.array([len(text) for text in texts], dtype=np.int64),
        ids=np.array([token for ids in titles.ids for token in ids], dtype=np.int32),
        id_lengths=np.array([len(ids) for ids in titles.ids], dtype=np.int64),
    )

    content = buffer.getvalue()
    write_bytes(path, hashlib.sha256(content).digest() + content)


def _read(path: Path) -> Titles | None:
    try:
        whole = path.read_bytes()
    except OSError:
        return None

    content = whole[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != whole[:_DIGEST_BYTES]:
        return None

    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        text_bytes, ids = arrays["text_bytes"].tobytes(), arrays["ids"].tolist()
        texts = [text_bytes[start:end].decode() for start, end in _ranges(arrays["text_lengths"])]
        return Titles(texts, [ids[start:end] for start, end in _ranges(arrays["id_lengths"])])


def _ranges(lengths: NDArray[np.int64]) -> list[tuple[int, int]]:
    ends = np.cumsum(lengths)
    return list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))
