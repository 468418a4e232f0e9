"""Prompts as token ids, assembled from pieces that are tokenised once.

The text of `PromptTemplate.render` defines a prompt; the pieces are a faster way to the same ids. When an encoder is
made, it checks on real prompts whether the tokenizer splits at the borders of the pieces. If not, whole texts are
tokenised.

The label of a prompt is the token that the tokenizer writes for the letter after that prompt. It differs from the token
of the letter alone: after a newline Llama 2 writes `A` as 29909, while "A" by itself is 319.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from llamarec.errors import ConfigError, ModelError
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.template import LETTERS, PromptTemplate
from llamarec.ranker.prompts.tokenized_titles import plain_ids, tokenised

_NUM_CHECKED_PROMPTS = 32


class PromptEncoder:
    """Token ids of prompts, and of the letters that answer them.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        titles: Item titles by item_id; `titles[0]` is padding.
        template: The prompt.
        num_candidates: Candidates of a prompt, one letter each.
        max_history: History items that a prompt shows, at most.
        max_title_tokens: Longer titles are cut.
        max_prompt_tokens: Longer prompts lose their oldest history items.
        cache_folder: Folder for tokenised titles; None tokenises them at every start.

    Raises:
        ModelError: after the prompt, a letter is not a single token of its own.
        ConfigError: candidates alone can exceed `max_prompt_tokens`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        titles: Sequence[str],
        template: PromptTemplate,
        *,
        num_candidates: int = 20,
        max_history: int = 20,
        max_title_tokens: int = 32,
        max_prompt_tokens: int = 1536,
        cache_folder: Path | None = None,
    ) -> None:
        self._tokenizer, self.template = tokenizer, template
        self.num_candidates, self.max_history = num_candidates, max_history
        self.max_prompt_tokens = max_prompt_tokens

        tokenise = partial(tokenised, tokenizer, titles, max_title_tokens=max_title_tokens, cache_folder=cache_folder)
        self.cut_titles, self._titles = tokenise(before=f"{template.history_prefix(1)} ", after="\n")
        self._candidate_titles = self._titles
        if not template.ends_in_title:
            self._candidate_titles = tokenise(before=template.candidate_before(0) or "\n", after="").ids

        self._special = special_prefix(tokenizer)
        self._head = self._special + self._piece("", template.head)
        self._middle = self._piece("\n", template.middle)
        self._tail = self._piece("\n", template.tail)
        self._numbers = [self._piece("\n", template.history_prefix(i + 1)) for i in range(max_history)]
        slots = range(num_candidates)
        self._letters = [self._piece("\n", template.candidate_before(slot).removesuffix(" ")) for slot in slots]
        self._line_ends = [
            [] if template.ends_in_title else self._piece("x", template.candidate_after(slot)) for slot in slots
        ]

        self._check_budget()
        self.assembles = self._pieces_match_text()
        self.letter_ids = self._find_letter_ids()

    def encode(self, history: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """Token ids of a prompt, up to the answer's letter.

        Args:
            history: Item ids, oldest first; the last `max_history` are shown, fewer where tokens run short.
            candidates: Item ids in the order of their letters.
        """
        history = self.shown_history(history, candidates)
        return self._assemble(history, candidates) if self.assembles else self._whole(history, candidates)

    def shown_history(self, history: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """The last items of the history that fit into `max_prompt_tokens` together with all candidates."""
        shown = [int(item) for item in history[-self.max_history :]] if len(history) else []
        rest = self.max_prompt_tokens - self._fixed_tokens(candidates)
        lengths = [len(self._titles[item]) for item in shown]

        while shown and sum(lengths) + sum(len(piece) for piece in self._numbers[: len(shown)]) > rest:
            del shown[0], lengths[0]

        return shown

    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """The prompt of `encode` as text."""
        shown = self.shown_history(history, candidates)
        return self.template.render(
            [self.cut_titles[item] for item in shown], [self.cut_titles[int(item)] for item in candidates]
        )

    def _fixed_tokens(self, candidates: Sequence[int]) -> int:
        count = len(candidates)
        return self._frame_tokens(count) + sum(len(self._candidate_titles[int(item)]) for item in candidates)

    def _frame_tokens(self, count: int) -> int:
        """Tokens of everything but titles, with `count` candidates."""
        pieces = (self._head, self._middle, self._tail, *self._letters[:count], *self._line_ends[:count])
        return sum(map(len, pieces))

    def _assemble(self, history: Sequence[int], candidates: Sequence[int]) -> list[int]:
        ids = list(self._head)
        for number, item in zip(self._numbers, history, strict=False):
            ids += number
            ids += self._titles[item]

        ids += self._middle
        for letter, item, end in zip(self._letters, candidates, self._line_ends, strict=False):
            ids += letter
            ids += self._candidate_titles[int(item)]
            ids += end

        return ids + self._tail

    def _whole(self, history: Sequence[int], candidates: Sequence[int]) -> list[int]:
        text = self.template.render(
            [self.cut_titles[item] for item in history], [self.cut_titles[int(item)] for item in candidates]
        )
        return self._special + plain_ids(self._tokenizer, text)

    def _piece(self, context: str, text: str) -> list[int]:
        """Token ids of `text` after `context`."""
        before, both = plain_ids(self._tokenizer, context), plain_ids(self._tokenizer, context + text)
        # If the border falls inside a token, the check on whole prompts fails and the pieces are not used.
        return both[len(before) :]

    def _check_budget(self) -> None:
        longest = np.sort([len(ids) for ids in self._candidate_titles[1:]])[::-1][: self.num_candidates]
        fixed = self._frame_tokens(self.num_candidates)

        if fixed + int(longest.sum()) > self.max_prompt_tokens:
            raise ConfigError(
                f"--max_prompt_tokens {self.max_prompt_tokens} cannot hold {self.num_candidates} candidates",
                expected=f"at least {fixed + int(longest.sum())} for the longest titles",
                hint="a higher --max_prompt_tokens, or a lower --max_title_tokens or --num_candidates",
            )

    def _example_prompts(self) -> list[tuple[list[int], list[int]]]:
        rng = np.random.default_rng(0)
        num_items = len(self.cut_titles) - 1
        size = self.max_history + self.num_candidates
        picks: NDArray[np.int64] = rng.integers(1, num_items + 1, size=(_NUM_CHECKED_PROMPTS, size))
        return [(row[: self.max_history].tolist(), row[self.max_history :].tolist()) for row in picks]

    def _pieces_match_text(self) -> bool:
        prompts = [(self.shown_history(history, items), items) for history, items in self._example_prompts()]
        return all(self._assemble(*prompt) == self._whole(*prompt) for prompt in prompts)

    def _find_letter_ids(self) -> list[int]:
        history, candidates = self._example_prompts()[0]
        text = self.text(history, candidates)
        prompt_ids = plain_ids(self._tokenizer, text)

        ids = []
        for letter in LETTERS[: self.num_candidates]:
            answered = plain_ids(self._tokenizer, text + letter)
            if answered[:-1] != prompt_ids:
                raise ModelError(
                    f"this tokenizer does not write the letter {letter} as one token after the prompt",
                    found=f"...{answered[-4:]} after a prompt that ends in ...{prompt_ids[-3:]}",
                    hint="a --prompt_template whose text ends with a newline, or another --llm_base_model",
                )
            ids.append(answered[-1])

        if len(set(ids)) != len(ids):
            raise ModelError("this tokenizer gives two letters the same token", found=str(ids))
        return ids


def encoder_for(
    tokenizer: PreTrainedTokenizerBase,
    titles: Sequence[str],
    template: PromptTemplate,
    config: RankerConfig,
    run_folder: Path,
) -> PromptEncoder:
    """The encoder of a run.

    Args:
        tokenizer: Tokenizer of the base model.
        titles: Titles by item_id.
        template: The prompt.
        config: Options of the run.
        run_folder: Folder of the results; tokenised titles are cached in it.
    """
    return PromptEncoder(
        tokenizer,
        titles,
        template,
        num_candidates=config.num_candidates,
        max_history=config.max_history,
        max_title_tokens=config.max_title_tokens,
        max_prompt_tokens=config.max_prompt_tokens,
        cache_folder=run_folder / "titles",
    )


def special_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that the tokenizer puts before every text: beginning of sequence, or nothing."""
    plain, special = plain_ids(tokenizer, "A"), list(tokenizer("A")["input_ids"])
    for start in range(len(special) - len(plain) + 1):
        if special[start : start + len(plain)] == plain:
            return special[:start]
    return []
