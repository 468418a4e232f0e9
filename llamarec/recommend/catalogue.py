"""Items by key or title, as people type them. An unknown one is answered with similar ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from rapidfuzz import fuzz, process

from llamarec.data.prepared import OTHERS, PreparedData
from llamarec.errors import ConfigError
from llamarec.texts import normal, words_of
from llamarec.vocabulary import ITEM_IDS, USER

_MOST_COMPARED = 200
_MOST_CHARACTERS, _MOST_WORDS = 120, 8
_NEAR = 0.4
_NEAR_WORD = 0.75
# Higher than for titles: two keys that differ in several digits are different keys.
_NEAR_KEY = 0.8


class UnknownError(ConfigError):
    """A user, key or title that is not in the data.

    Args:
        problem: One sentence.
        near: Similar ones that are there.
        otherwise: Hint if there is no similar one.
    """

    def __init__(self, problem: str, near: Sequence[str], otherwise: str) -> None:
        self.near = list(near)
        super().__init__(problem, hint="one of: " + "; ".join(near) if near else otherwise)


class Catalogue:
    """The items and users of a prepared data set.

    Args:
        data: Prepared.
    """

    def __init__(self, data: PreparedData) -> None:
        self._data = data
        self._by_key = {key: item for item, key in enumerate(data.items) if item}
        self._by_title: dict[str, int] = {}
        # If several items have one title, it means the one that most people took.
        for item in np.argsort(-self._counts, kind="stable").tolist():
            if item:
                self._by_title.setdefault(plain(data.titles[item]), item)

    def item(self, text: str, *, propose: bool = True) -> int:
        """The item of a key, or of a title in any case and spacing.

        Args:
            text: Key or title.
            propose: Look for titles similar to an unknown one.

        Raises:
            UnknownError: no item has it; the error names the most similar titles.
        """
        item = self._by_key.get(text) or self._by_title.get(plain(text)) or self._by_plain_key.get(plain(text))
        if item is None:
            near = [self._data.titles[one] for one in self.near(text)] if propose else []
            raise UnknownError(f"no item has the key or title {text!r}", near, "check that this is the right data set")
        return item

    def items(self, texts: Sequence[str], *, propose: bool = True) -> list[int]:
        """The items of several keys or titles.

        Raises:
            UnknownError: no item has one of them.
        """
        return [self.item(text, propose=propose) for text in texts]

    def near(self, text: str, limit: int = 3) -> list[int]:
        """Items whose titles are most similar to a text, best first; fewer than `limit` if few are similar."""
        # A request may contain a text of any length.
        wanted = plain(text)[:_MOST_CHARACTERS]
        similarity = {item: _similarity(wanted, plain(self._data.titles[item])) for item in self._with_words_of(wanted)}
        near = [item for item, value in similarity.items() if value >= _NEAR]
        return sorted(near, key=lambda item: (-similarity[item], item))[:limit]

    def search(self, text: str, limit: int = 20) -> list[int]:
        """Items whose titles contain all words of a text; the last word may be unfinished. Most taken first."""
        words = words_of(plain(text))
        if not words:
            return []
        *whole, start = words
        found = {item for word, items in self._words.items() if word.startswith(start) for item in items}
        for word in whole:
            found &= set(self._words.get(word, ()))
        return sorted(found, key=lambda item: (-int(self._counts[item]), item))[:limit]

    def taken_by(self, key: str, *, propose: bool = True) -> list[int]:
        """Items of a user, oldest first, even of one with too few interactions for training.

        Args:
            key: The user's key.
            propose: Look for keys similar to an unknown one.

        Raises:
            UnknownError: there is no such user; the error names the most similar keys.
        """
        user = self._users.get(key)
        if user is not None:
            return [int(item) for item in self._data.sequences.whole(user)]

        # They are sorted by key, and a public data set has a million of them.
        others = self._data.others
        row = int(others[USER].search_sorted(key)) if len(others) else 0
        if row < len(others) and others[USER][row] == key:
            return [int(item) for item in others[ITEM_IDS][row]]

        near = _alike(key[:_MOST_CHARACTERS], self._data.users, _NEAR_KEY) if propose else []
        raise UnknownError(
            f"there is no user {key!r} in {self._data.dataset_code}{self._of_others()}",
            near,
            'give a history instead: --history "a title" "another" (history=[...])',
        )

    def _of_others(self) -> str:
        if OTHERS in self._data.manifest.get("outputs", {}):
            return ", or this user took none of its items"
        kept = self._data.manifest.get("options", {}).get("min_user_interactions")
        return f" (users with fewer than {kept} interactions were dropped when it was prepared)"

    @cached_property
    def _by_plain_key(self) -> dict[str, int]:
        """Items by key in lower case, except keys that differ only in case."""
        times = Counter(plain(key) for key in self._by_key)
        return {plain(key): item for key, item in self._by_key.items() if times[plain(key)] == 1}

    @cached_property
    def _users(self) -> dict[str, int]:
        return {key: user for user, key in enumerate(self._data.users)}

    @cached_property
    def _counts(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.bincount(self._data.sequences.item_ids, minlength=self._data.num_items + 1)

    @cached_property
    def _words(self) -> dict[str, list[int]]:
        """Items by word of their titles."""
        words: dict[str, list[int]] = {}
        for item, title in enumerate(self._data.titles):
            for word in dict.fromkeys(words_of(plain(title))):
                words.setdefault(word, []).append(item)
        return words

    def _with_words_of(self, text: str) -> list[int]:
        """Items whose titles share the rarest words with a text, or have similar words."""
        shared: Counter[int] = Counter()
        for word in list(dict.fromkeys(words_of(text)))[:_MOST_WORDS]:
            alike = [word] if word in self._words else _alike(word, list(self._words), _NEAR_WORD)
            for one in alike:
                items = self._words[one]
                shared.update(dict.fromkeys(items, 1 + round(1000 / len(items))))
        return [item for item, _ in shared.most_common(_MOST_COMPARED)]


def plain(text: str) -> str:
    """A title in lower case, with single spaces, its accents in one spelling."""
    return normal(text.casefold())


def _alike(text: str, others: Sequence[str], least: float) -> list[str]:
    """The three most similar texts, best first; none below a similarity of `least`, from 0 to 1."""
    return [other for other, *_ in process.extract(text, others, scorer=fuzz.ratio, limit=3, score_cutoff=100 * least)]


def _similarity(wanted: str, title: str) -> float:
    """Similarity from 0 to 1: half for shared words, half for letters in the same order."""
    words, there = set(words_of(wanted)), set(words_of(title))
    whole = fuzz.ratio(wanted, title) / 100
    # People often type the start of a long title.
    start = fuzz.ratio(wanted, title[: len(wanted)]) / 100
    return 0.5 * max(whole, 0.95 * start) + 0.5 * len(words & there) / max(len(words), 1)
