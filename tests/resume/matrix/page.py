"""The matrix as a page of the documentation."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tests.resume.matrix.verdict import BAD

Row = tuple[str, Mapping[str, Mapping[str, str]]]
"""Name of a row, and its verdict for each Trainer."""

_PACKAGES: Final = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "trl", "optuna", "datasets")
_WORDS: Final = {
    "equal but for the summary": "equal¹",
    "refused at the first save": "refused at its first save",
    "DIFFERENT": "**another model**",
    "LOST": "**cannot be resumed**",
}
_LONGEST: Final = 160

_SECTION: Final = re.compile(r"^## (.+)\n(?:(?!## ).*\n?)*", re.MULTILINE)

_HEAD: Final = """\
# What can be resumed

Each row was trained three times on a tiny model: to its end, killed by SIGKILL after step 5 of 8, and resumed from the
checkpoint of step 4. The words of the tables:

- *equal*: weights, optimizer, schedule, log and random states at the end are the same bit for bit.
- *equal¹*: the same, but for the summary at the end, whose `train_loss` is that of the steps since the resume.
- *refused*: before the first step has moved anything, or with it, and the message says what to use instead.
- *not here*: the library itself does not train it on this machine.
- **another model**: the resumed training ends differently, without a word.
- **cannot be resumed**: the checkpoint was saved without a word, and the resume ends in an error.

The last column is `transformers.Trainer` in the same trainings. The command below wrote this page. It fails where a row
of ours is one of the last two. With the names of sections it writes only those.

    python make.py matrix --store
"""


def page(sections: Mapping[str, Sequence[Row]], titles: Sequence[str], before: str) -> str:
    """Markdown of all sections, each a table.

    Args:
        sections: Rows of those that were tried, by title.
        titles: Of all, in their order.
        before: The page as it was, from which the other sections are taken.
    """
    kept = {match[1]: match[0].strip() for match in _SECTION.finditer(before)}
    written = {title: "\n".join(_section(title, rows)).strip() for title, rows in sections.items()}

    texts = [written.get(title) or kept.get(title) for title in titles]
    return "\n\n".join([_HEAD.strip(), *(text for text in texts if text)]) + "\n"


def _versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}, {platform.system()}, CPU"
    for name in _PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name).partition('+')[0]}"
        except importlib.metadata.PackageNotFoundError:
            continue


def _section(title: str, rows: Sequence[Row]) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"{_count(rows)}\n"
    yield f"{datetime.datetime.now(datetime.UTC).date().isoformat()}: {', '.join(_versions())}.\n"
    yield from _compared(rows) if any("plain" in verdicts for _, verdicts in rows) else _grouped(rows)
    yield ""


def _compared(rows: Sequence[Row]) -> Iterator[str]:
    """Each row, beside the plain Trainer's."""
    yield "| | llamarec | plain Trainer |"
    yield "|---|---|---|"

    for name, verdicts in rows:
        yield f"| {name} | {_cell(verdicts['llamarec'])} | {_cell(verdicts['plain'])} |"


def _grouped(rows: Sequence[Row]) -> Iterator[str]:
    """Rows that share the first part of their names ("model: ...") in one, with those that are not equal."""
    if not any(": " in name for name, _ in rows):
        yield "| | llamarec |"
        yield "|---|---|"
        yield from (f"| {name} | {_cell(verdicts['llamarec'])} |" for name, verdicts in rows)
        return

    groups: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    for name, verdicts in rows:
        group, _, rest = name.partition(": ")
        groups.setdefault(group, []).append((rest, verdicts["llamarec"]))

    yield "| | equal | else |"
    yield "|---|---|---|"
    for group, members in groups.items():
        equal = sum(verdict["kind"] == "equal" for _, verdict in members)
        others: dict[str, list[str]] = {}
        for rest, verdict in members:
            if verdict["kind"] != "equal":
                others.setdefault(_WORDS.get(verdict["kind"], verdict["kind"]), []).append(rest)

        said = "; ".join(f"{word}: {', '.join(rests)}" for word, rests in others.items())
        yield f"| {group} | {equal} of {len(members)} | {said} |"


def _count(rows: Sequence[Row]) -> str:
    kinds = [verdicts["llamarec"]["kind"] for _, verdicts in rows]
    counted = {kind: kinds.count(kind) for kind in dict.fromkeys(sorted(kinds))}
    said = f"{len(rows)} rows: " + ", ".join(f"{number} {kind}" for kind, number in counted.items()) + "."
    plain = [verdicts["plain"]["kind"] in BAD for _, verdicts in rows if "plain" in verdicts]
    if not plain:
        return said

    return f"{said} With the plain Trainer {sum(plain)} end as another model, or cannot be resumed."


def _cell(verdict: Mapping[str, str]) -> str:
    word = _WORDS.get(verdict["kind"], verdict["kind"])
    if verdict["kind"].startswith("equal"):
        return word

    why = " ".join(verdict["why"].replace("|", "\\|").replace("<", "&lt;").split())
    return f"{word}: {why[:_LONGEST]}" if why else word
