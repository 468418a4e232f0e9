"""Titles as a prompt shows them: cut to a number of tokens, as text and as ids; made once and kept on disk.

A kept file belongs to its content: its name is the digest of the tokenizer, the titles and everything else that the ids
depend on, so that another place changes nothing, and another tokenizer of the same name everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import tokenizers
import transformers
from numpy.typing import NDArray

from llamarec.files import write_bytes

_FORMAT_VERSION: Final = 1
_DIGEST_BYTES: Final = 32


class Titles(NamedTuple):
    """By item_id.

    Attributes:
        texts: Cut.
        ids: Token ids of each between what stands before and after it; a space before it is its own.
    """

    texts: list[str]
    ids: list[list[int]]


def tokenised(
    tokenizer: Any,
    titles: Sequence[str],
    before: str,
    after: str,
    max_title_tokens: int,
    kept_in: Path | None = None,
) -> Titles:
    """The titles for prompts.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        titles: By item_id.
        before: What stands before a title.
        after: What stands after it, and belongs to its ids.
        max_title_tokens: Longer titles are cut.
        kept_in: A folder where an earlier start may have left them, and where they are left for the next. What cannot
            be read there is made again; what cannot be written is not.
    """
    tokenizer_text = _serialised(tokenizer)
    if kept_in is None or tokenizer_text is None:
        return _made(tokenizer, titles, before, after, max_title_tokens)
    # The libraries cut and decode too.
    versions = (tokenizers.__version__, transformers.__version__)
    content = json.dumps([_FORMAT_VERSION, *versions, tokenizer_text, before, after, max_title_tokens, list(titles)])
    path = kept_in / f"{hashlib.sha256(content.encode()).hexdigest()}.titles"
    kept = _read(path)
    if kept is None:
        kept = _made(tokenizer, titles, before, after, max_title_tokens)
        # Without them the next start is slower, no more.
        with contextlib.suppress(OSError):
            _write(path, kept)
    return kept


def cut_titles(tokenizer: Any, titles: Sequence[str], max_title_tokens: int) -> list[str]:
    """Titles of at most `max_title_tokens` tokens each, as text.

    Cut as text, not as ids, so that the prompt remains a text that any other program tokenises alike.
    """
    cut = [" ".join(title.split()) for title in titles]
    lengths = [len(ids) for ids in batch_ids(tokenizer, [f" {title}" for title in cut])]
    too_long = [i for i, length in enumerate(lengths) if length > max_title_tokens]
    for i in too_long:
        keep = max_title_tokens
        while len(ids := plain_ids(tokenizer, f" {cut[i]}")) > max_title_tokens and keep:
            # A cut inside a character leaves a replacement mark; a cut word may need more tokens than it had.
            cut[i] = tokenizer.decode(ids[:keep], skip_special_tokens=True).replace("\ufffd", "").strip()
            keep -= 1
    return cut


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text, with nothing put before or after it."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def batch_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """`plain_ids` of many texts, which is faster."""
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]


def _made(tokenizer: Any, titles: Sequence[str], before: str, after: str, max_title_tokens: int) -> Titles:
    texts = cut_titles(tokenizer, titles, max_title_tokens)
    # Tokenizers write a word with the space before it.
    skip = len(plain_ids(tokenizer, before.removesuffix(" ")))
    return Titles(texts, [ids[skip:] for ids in batch_ids(tokenizer, [f"{before}{text}{after}" for text in texts])])


def _serialised(tokenizer: Any) -> str | None:
    """All that ids and decoded text depend on; None for a tokenizer in Python, which cannot say it."""
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
        texts = [text_bytes[start:end].decode() for start, end in _borders(arrays["text_lengths"])]
        return Titles(texts, [ids[start:end] for start, end in _borders(arrays["id_lengths"])])


def _borders(lengths: NDArray[np.int64]) -> list[tuple[int, int]]:
    ends = np.cumsum(lengths)
    return list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))
