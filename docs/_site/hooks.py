"""Writes the help of every command into reference/cli.md when the site is built: it shows what the code says."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
from typing import Any

_MARK = "<!-- every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs' hook: called with the text of each page."""
    return markdown.replace(_MARK, commands()) if _MARK in markdown else markdown


def commands() -> str:
    """A section for each command, with its help."""
    sections = []
    for words in [*_training(), *(["llamarec", *verb] for verb in _verbs())]:
        title = " ".join(words)
        sections.append(f"## {title}\n\n```text\n{_help(words)}\n```\n")
    return "\n".join(sections)


def _training() -> list[list[str]]:
    return [["python", "train_retriever.py"], ["python", "train_ranker.py"]]


def _verbs() -> list[list[str]]:
    """Of `llamarec`, those of its verbs included."""
    from llamarec.cli.main import parser

    return list(_below(parser(), []))


def _below(parser: argparse.ArgumentParser, words: list[str]) -> Any:
    children = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if words and not children:
        yield words
    for action in children:
        for name, child in action.choices.items():
            yield from _below(child, [*words, name])


def _help(words: list[str]) -> str:
    os.environ["COLUMNS"] = "100"
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        _ask_for_help(words)
    # Colours of newer Pythons are for a terminal.
    return re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue()).strip()


def _ask_for_help(words: list[str]) -> None:
    if words[0] == "llamarec":
        from llamarec.cli.main import main

        main([*words[1:], "--help"])
    elif words[1] == "train_ranker.py":
        from llamarec.cli.fast_help import answer_early

        answer_early(["--help"])
    else:
        from llamarec.cli.train_retriever import parser as retriever_parser

        print(retriever_parser().format_help())
