"""The prompt as data: a text with two checked placeholders, and line formats for history and candidates.

Every line ends with a newline, so a prompt is head + history lines + middle + candidate lines + tail, and `encoding`
needs to tokenise each title only once. The default is the recipe's prompt (LlamaRec, section 3.3): titles of history
and candidates, the candidates behind letters, and the answer's letter on its own line.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.errors import ConfigError, check_all
from llamarec.ranker.options.config import MAX_CANDIDATES

PROMPT_FILE: Final = "prompt.json"
"""File of an export: the template, and what else is needed to build and score prompts."""
LETTERS = string.ascii_uppercase[:MAX_CANDIDATES]

_CANDIDATE_LINES = (["letter"], ["letter", "title"], ["title", "letter"], ["letter", "title", "letter"])

_DEFAULT_TEXT = (
    "### Instruction: Given user history in chronological order, recommend an item from the candidate pool "
    "with its index letter.\n"
    "### Input: User history:\n"
    "{history}"
    "Candidate pool:\n"
    "{candidates}"
    "### Response:\n"
)


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with checked placeholders.

    Attributes:
        text: The whole prompt, with `{history}` before `{candidates}`, once each, at the start of a line.
        history_line: Text before a history title; `{number}` is optional and counts from 1, oldest first.
        candidate_line: A candidate's line; `{letter}` is A, B, C, ... The title follows after a space, or replaces
            `{title}`.
    """

    text: str = _DEFAULT_TEXT
    history_line: str = "({number})"
    candidate_line: str = "({letter})"

    def __post_init__(self) -> None:
        check_all(
            "the prompt template does not fit",
            [(False, problem) for problem in self._problems()],
            expected="text with {history} and then {candidates}, history_line with {number}, "
            "candidate_line with {letter}",
        )

    def _problems(self) -> list[str]:
        problems = [
            *_placeholder_problems("text", self.text, ["history", "candidates"]),
            *_placeholder_problems("history_line", self.history_line, ["number"], []),
            *_placeholder_problems("candidate_line", self.candidate_line, *_CANDIDATE_LINES),
        ]
        if problems:
            return problems
        before, _ = self._around_title()
        if before and not before.endswith(" "):
            problems.append("candidate_line: {title} must come first or after a space")
        for part, name in ((self.head, "{history}"), (self.middle, "{candidates}")):
            if not part.endswith("\n"):
                problems.append(f"text: {name} must be at the start of a line, after a newline")
        if not self.tail:
            problems.append("text: some text must follow {candidates}, before the answer's letter")
        return problems

    @property
    def head(self) -> str:
        """Text before the history."""
        return self.text.partition("{history}")[0]

    @property
    def middle(self) -> str:
        """Text between history and candidates."""
        return self.text.partition("{history}")[2].partition("{candidates}")[0]

    @property
    def tail(self) -> str:
        """Text after the candidates; the answer's letter comes next."""
        return self.text.partition("{candidates}")[2]

    def history_prefix(self, number: int) -> str:
        """Text before the `number`-th history title (from 1)."""
        return self.history_line.format(number=number)

    def candidate_before(self, slot: int) -> str:
        """Text before the title of the candidate in letter slot `slot` (0 = A): empty, or ending in a space."""
        return self._around_title()[0].format(letter=LETTERS[slot])

    def candidate_after(self, slot: int) -> str:
        """Text after that title, newline included."""
        return self._around_title()[1].format(letter=LETTERS[slot]) + "\n"

    @property
    def ends_in_title(self) -> bool:
        """Whether a candidate's line ends with its title, as a history line does."""
        return not self._around_title()[1]

    def _around_title(self) -> tuple[str, str]:
        line = self.candidate_line if "{title}" in self.candidate_line else f"{self.candidate_line} {{title}}"
        before, _, after = line.partition("{title}")
        return before, after

    def render(self, history: Sequence[str], candidates: Sequence[str]) -> str:
        """The whole prompt as text, up to the answer's letter."""
        history_lines = (f"{self.history_prefix(i + 1)} {title}\n" for i, title in enumerate(history))
        candidate_lines = (
            f"{self.candidate_before(i)}{title}{self.candidate_after(i)}" for i, title in enumerate(candidates)
        )
        return self.head + "".join(history_lines) + self.middle + "".join(candidate_lines) + self.tail

    def as_dict(self) -> dict[str, str]:
        """The fields, for manifests and files."""
        return asdict(self)


def load_template(path: str) -> PromptTemplate:
    """The template with a name (`TEMPLATES`) or in a JSON file with the fields of `PromptTemplate`.

    Args:
        path: Name or file; empty means the recipe's.

    Raises:
        ConfigError: the file is missing or not JSON, or its fields or placeholders do not fit.
    """
    if not path or path in TEMPLATES:
        return TEMPLATES[path or "recipe"]

    try:
        content = json_shapes.parse(Path(path).read_bytes())
    except FileNotFoundError:
        near = difflib.get_close_matches(path, TEMPLATES, n=1)
        raise ConfigError(
            f"--prompt_template {path}: no such file",
            expected=f"a JSON file (docs/prompt.md), or one of {', '.join(TEMPLATES)}",
            hint=f"--prompt_template {near[0]}" if near else None,
        ) from None
    except (OSError, ShapeError) as error:
        raise ConfigError(f"--prompt_template {path}: cannot be read as JSON", found=str(error)) from error

    names = {item.name for item in fields(PromptTemplate)}
    if not isinstance(content, dict) or set(content) - names:
        raise ConfigError(
            f"--prompt_template {path}: unknown content",
            expected=f"an object with some of the keys {', '.join(sorted(names))}",
            found=", ".join(sorted(content)) if isinstance(content, dict) else type(content).__name__,
        )

    try:
        return json_shapes.shaped(content, PromptTemplate)
    except ShapeError as error:
        raise ConfigError(f"--prompt_template {path}: every field is a text", found=str(error)) from error


def _placeholder_problems(where: str, text: str, *allowed: list[str]) -> list[str]:
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        return [f"{where}: {error}"]

    found = [name for _, name, _, _ in parsed if name is not None]
    if any(form or conversion for _, _, form, conversion in parsed):
        return [f"{where}: a placeholder is only a name in braces"]
    if where != "text" and ("{{" in text or "}}" in text):
        return [f"{where}: doubled braces are not allowed"]
    if found in allowed:
        return []

    expected = " or ".join(str(names) if names else "none" for names in allowed)
    return [f"{where}: expected the placeholders {expected} once each and in this order, found {found}"]


# At the end of the module, because a template checks itself with the functions above.
LETTER_LAST: Final = "letter_last"
"""Template that small models can learn (docs/decisions/0009-ranker-quality.md)."""
TEMPLATES: Final = {
    "recipe": PromptTemplate(),
    LETTER_LAST: PromptTemplate(
        text="A customer bought these products:\n{history}Products for sale:\n{candidates}"
        "The next product that the customer buys is (",
        history_line="-",
        candidate_line="- {title} ({letter})",
    ),
}
