"""A guide in Markdown, as far as a test reads it: sections, fenced blocks, tables, and notes to the test.

A note stands in a comment, which no reader sees, before the block that it is about:

<!-- in: interrupted -->    in a copy of that state (`project.STATES`); otherwise where the last block was
<!-- makes: interrupted --> the command that makes a state; it is run once
<!-- exit: 75 -->           the exit code; 75: a training is stopped after some steps
<!-- shortened -->          gets a `--max_steps` that is soon reached: thousands of steps take too long
<!-- watches -->            goes on until Ctrl-C
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

COMMANDS = ("python ", "llamarec ")
_MARKDOWN: Final = MarkdownIt("commonmark").enable("table")
_NOTE = re.compile(r"<!-- (\w+)(?:: (.*))? -->$", re.MULTILINE)
_NUMBER = re.compile(r"(\d+(?:\.\d+)*)\.? ")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        kind: sh, powershell, text, python.
        lines: Between the fences.
        notes: To the test.
        number: Of the line in the file, for messages.
    """

    kind: str
    lines: tuple[str, ...]
    notes: dict[str, str]
    number: int

    @property
    def commands(self) -> list[str]:
        """The commands of the program in a shell's block, each on one line, with `/` in paths."""
        continued = "`\n" if self.kind == "powershell" else "\\\n"
        text = "\n".join(self.lines).replace(continued, " ").replace("\\", "/")
        lines = [" ".join(line.split()) for line in text.splitlines()]
        return [line for line in lines if line.startswith(COMMANDS)]

    @property
    def is_script(self) -> bool:
        """Whether there is more than commands of the program."""
        joined = "\n".join(self.lines).replace("\\\n", " ").splitlines()
        return len(self.commands) < len(joined)


@dataclass(frozen=True)
class Table:
    """A table: the cells of each row below its head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, number: int) -> list[str]:
        """The cells of a column."""
        return [row[number] for row in self.rows]


@dataclass
class Section:
    """A heading and what follows until the next one.

    Attributes:
        level: Number of `#`.
        number: As written ("3.1"), or empty.
    """

    level: int
    number: str
    blocks: list[Block] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


class Guide:
    """A parsed guide.

    Args:
        path: The Markdown file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def sections(self) -> list[Section]:
        """All of them, in order."""
        found: list[Section] = []
        notes: dict[str, str] = {}
        tree = SyntaxTreeNode(_MARKDOWN.parse(self.path.read_text(encoding="utf-8")))

        for node in tree.walk():
            if node.type == "heading":
                number = _NUMBER.match(node.children[0].content)
                found.append(Section(int(node.tag[1:]), number[1] if number else ""))
            elif node.type == "html_block":
                notes |= {name: value or "" for name, value in _NOTE.findall(node.content)}
            elif node.type == "fence":
                assert node.map is not None
                found[-1].blocks.append(Block(node.info, tuple(node.content.splitlines()), notes, node.map[0] + 1))
                notes = {}
            elif node.type == "table":
                found[-1].tables.append(_table(node))

        assert not notes, f"{self.path.name}: notes {notes} without a block"
        return found

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in order."""
        return [block for section in self.sections for block in section.blocks]

    def section(self, number: str) -> Section:
        """The section of that number."""
        return next(section for section in self.sections if section.number == number)


def quoted(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def _table(node: SyntaxTreeNode) -> Table:
    head, *rows = (
        tuple(cell.children[0].content for cell in row.children) for part in node.children for row in part.children
    )
    return Table(head, tuple(rows))


DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
ENGLISH, VIETNAMESE = Guide(DOCS / "en" / "resume.md"), Guide(DOCS / "vi" / "resume.md")


def executed(program: Block, names: dict[str, Any]) -> dict[str, Any]:
    """The names that a block of Python leaves, begun with these."""
    exec(compile("\n".join(program.lines), "guide", "exec"), names)  # noqa: S102
    return names
