"""A history as one text: its titles, each followed by a newline, as token ids.

    Doom
    Quake
    Half-Life

The language model's state at each newline is the user's state after that item. No other word is in the text, so an item
costs its title and one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from llamarec.errors import ConfigError, ModelError
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.encoding import special_prefix
from llamarec.ranker.prompts.tokenized_titles import plain_ids, tokenised

SEPARATOR: Final = "\n"


class EncodedHistory(NamedTuple):
    """Token ids of a history.

    Attributes:
        input_ids: [length].
        ends: [num_items] position of the last token of each item.
        first: Index of the first item shown; earlier ones did not fit.
    """

    input_ids: list[int]
    ends: list[int]
    first: int


class HistoryEncoder:
    """Token ids of histories.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        titles: Item titles by item_id; `titles[0]` is padding.
        max_history: Items of a history, at most.
        max_title_tokens: Longer titles are cut.
        max_tokens: Longer histories lose their oldest items.
        cache_folder: Folder for tokenised titles; None tokenises them at every start.

    Raises:
        ModelError: the tokenizer has no token for a newline.
        ConfigError: a single title can exceed `max_tokens`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        titles: Sequence[str],
        *,
        max_history: int,
        max_title_tokens: int,
        max_tokens: int,
        cache_folder: Path | None = None,
    ) -> None:
        self.max_history, self.max_title_tokens, self.max_tokens = max_history, max_title_tokens, max_tokens
        before = f"{SEPARATOR} "
        self.cut_titles, self.title_ids = tokenised(tokenizer, titles, before, "", max_title_tokens, cache_folder)
        self.prefix = special_prefix(tokenizer)

        # Put behind the ids of a title, not its text: a tokenizer may join a full stop and a newline.
        self.separator = plain_ids(tokenizer, f"x{SEPARATOR}")[len(plain_ids(tokenizer, "x")) :]
        if not self.separator:
            raise ModelError(
                "this tokenizer has no token for a newline, which separates the titles of a history",
                hint="--readout letters, or another --llm_base_model",
            )

        longest = len(self.prefix) + max(map(len, self.title_ids)) + len(self.separator)
        if longest > max_tokens:
            raise ConfigError(
                f"--max_prompt_tokens {max_tokens} cannot hold the longest title",
                expected=f"at least {longest}",
                hint="a higher --max_prompt_tokens, or a lower --max_title_tokens",
            )

    def encode(self, items: Sequence[int] | NDArray[np.int32]) -> EncodedHistory:
        """A history as token ids.

        Args:
            items: Item ids, oldest first; the last `max_history` are shown, fewer where tokens run short.
        """
        first = max(len(items) - self.max_history, 0)
        lengths = [len(self.title_ids[int(item)]) + len(self.separator) for item in items[first:]]
        total = len(self.prefix) + sum(lengths)
        while total > self.max_tokens:
            total -= lengths.pop(0)
            first += 1

        input_ids, ends = list(self.prefix), []
        for item in items[first:]:
            input_ids += self.title_ids[int(item)]
            input_ids += self.separator
            ends.append(len(input_ids) - 1)
        return EncodedHistory(input_ids, ends, first)


def history_encoder_for(
    tokenizer: PreTrainedTokenizerBase, titles: Sequence[str], config: RankerConfig, run_folder: Path
) -> HistoryEncoder:
    """The encoder of a run.

    Args:
        tokenizer: Tokenizer of the base model.
        titles: Titles by item_id.
        config: Options of the run.
        run_folder: Folder of the results; tokenised titles are cached in it.
    """
    return HistoryEncoder(
        tokenizer,
        titles,
        max_history=config.max_history,
        max_title_tokens=config.max_title_tokens,
        max_tokens=config.max_prompt_tokens,
        cache_folder=run_folder / "titles",
    )
