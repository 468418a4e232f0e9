"""docs/benchmarks.md, made from the summary alone, and the summary as a file from which it can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.standard.choice import SHORT, to_choose
from benchmarks.standard.protocol import METRICS
from benchmarks.standard.published import published
from benchmarks.standard.sets import SETS
from benchmarks.standard.summary import Entry, Estimate, Group, Summary
from llamarec.checkpoints.storage import json_shapes
from llamarec.files import write_json, write_text

_NAMES: Final = {"ndcg@10": "NDCG@10", "recall@10": "Recall@10", "recall@20": "Recall@20"}

_INTRODUCTION: Final = """\
# The field's standard comparison

Every system below was fitted and ranked by one protocol on the same data: all test users, the whole catalogue.
Published figures stand beneath, with their source. The first command measures what is missing and prints these tables;
a stop loses the measurement in progress. The second puts them into this page, beside what it has of before.

    python -m benchmarks.standard --data_root DATA
    python -m benchmarks.standard --write

SASRec and eSASRec need RecTools, which is not among this project's requirements; without it the command leaves them
out and says what to type.
"""

_PROTOCOL: Final = """\
## How it is measured

- A user's label is the item after the validation part. The history is everything before it, the validation item
  included. Choices are made on the validation part, the test part is ranked once.
- *Last item*: each user's last item is the label, the one before it is for validation. No system is trained on it.
- *Cut in time*: two points in time for all users; a user's first item after the second is the label, so nothing is
  fitted on the future. Once its choices are made, a system may use everything before the cut: counts count it, and
  models (this project's, SASRec, eSASRec) are trained once more on it, for as many epochs as were best on validation.
- Every item of the catalogue is ranked but those of the history (unless people of the set come back to items). A label
  that a system cannot score is a miss. An item with the same score as the label ranks before it.
- Figures are means over users and seeds. In brackets: the 95% interval, a bootstrap over users, each the mean over the
  seeds. **Bold**: the best NDCG@10, and every one whose difference to it has an interval that holds zero; the
  difference is paired where all of a table was measured in one sweep. Beside the number of seeds: half the range of
  their NDCG@10.
- Seconds are processor time of fitting, choices on validation included, and *users a second* is of processor time too;
  memory is the peak of the whole process. One process for each measurement.
"""

_PROTOCOLS: Final = """\
## How published protocols differ

| | here | eSASRec's authors | TGH (arXiv 2605.07125) | TIGER, ActionPiece and others that generate |
|---|---|---|---|---|
| history excluded from the ranks | yes | yes | not from the rings | as a rule no |
| validation item in the history at test | yes | yes | yes | yes |
| fitted on the validation item | no | no | no | differs |
| equal scores | count against the system | by the order of a sort | by the order of a sort | by the order of a search |
| test labels that training has not seen | a miss | left out | a miss | differs |
| sub-sequences of a history as samples of their own | no | no | - | in many data readers (arXiv 2604.05309) |
| width of SASRec and eSASRec | 256 | 256 in their files, 64 in their table | | |
| their epochs | until Recall@10 on validation has not risen for 10, at most 200 | the same with 50 | | |

A published figure is therefore a bearing, not a rank in these tables. What can be compared to the last digit was
measured here.
"""

_DATA: Final = """\
## The data, and how to check that they are the same

Beauty, Toys and Sports are the Amazon reviews of 2014 (McAuley et al. 2015): users and items with at least five
interactions, every item, titled or not (`--untitled_items key`). Games is LlamaRec's form: titled items only.
[Data sets](data.md) says which files to fetch.

The command refuses a set of other sizes. It compares users, items, interactions, and the different transitions in the
training parts: 114,582 in Beauty, 102,268 in Toys and 180,610 in Sports. These are the numbers of arXiv 2605.07125,
which took its sequences from the files of P5, so the sequences are the same, down to the order of a day's items. The
digests cover who took what in which order and where it is cut, and the titles; they do not depend on versions of
libraries.
*Unseen*: test labels that no training part has.
"""


def write_page(summary: Summary, page: Path, stored: Path) -> None:
    """Replaces the page and the file that it is made from."""
    write_json(stored, asdict(summary))
    write_text(page, rendered(summary))


def read_summary(path: Path) -> Summary:
    """The summary that `write_page` stored."""
    return json_shapes.read(path, Summary)


def rendered(summary: Summary) -> str:
    """The page."""
    parts = [
        _INTRODUCTION,
        *(_set_section(summary, code) for code in summary.sets),
        _PROTOCOL,
        _PROTOCOLS,
        _data_section(summary),
        _notes_section(summary),
        _choice_section(summary),
    ]
    return "\n".join(parts)


def _set_section(summary: Summary, code: str) -> str:
    groups = [group for split in ("leave_one_out", "temporal") if (group := summary.group(code, split))]
    sizes = groups[0].counts
    tested = ", ".join(f"{group.counts['test']:,} ({SHORT[group.split]})" for group in groups)

    lines = [
        f"## {code.capitalize()}",
        "",
        f"{sizes['users']:,} users, {sizes['items']:,} items, {sizes['interactions']:,} interactions. Test users: "
        f"{tested}.",
        "",
    ]
    for group in groups:
        lines += [*_table(group), ""]
    return "\n".join(lines)


def _table(group: Group) -> Iterator[str]:
    heads = [_NAMES[metric] for metric in METRICS]
    yield f"| {SHORT[group.split]} | {' | '.join(heads)} | seeds | seconds | users a second | memory |"
    yield "|---|" + "---|" * (len(heads) + 4)

    for entry in group.entries:
        yield _row(entry)
    if group.split == "leave_one_out":
        yield from _published_rows(group.set_code)


def _row(entry: Entry) -> str:
    mark = "**" if entry.is_with_best else ""
    figures = [_figure(entry.estimates[metric]) for metric in METRICS]
    figures[0] = f"{mark}{figures[0].partition(' ')[0]}{mark} {figures[0].partition(' ')[2]}"
    name = f"{entry.title}{', ours' if entry.is_ours else ''}"
    cost = f"{entry.fit_seconds:,.0f} | {entry.users_per_second:,.0f} | {entry.peak_bytes / 1e9:.1f} GB"
    seeds = f"{entry.seeds} (±{entry.seed_range / 2:.4f})" if entry.seeds > 1 else str(entry.seeds)
    return f"| {name} | {' | '.join(figures)} | {seeds} | {cost} |"


def _figure(estimate: Estimate) -> str:
    return f"{estimate.mean:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _published_rows(code: str) -> Iterator[str]:
    for name, figures in published().figures.get(code, {}).items():
        cells = [f"{figures[metric]:.4f}" if metric in figures else "" for metric in METRICS]
        source = list(published().sources).index(published().systems[name].source) + 1
        yield f"| *published: {name}* [{source}] | {' | '.join(cells)} | | | | |"


def _data_section(summary: Summary) -> str:
    lines = [
        _DATA,
        "| set | split | unseen test labels | SHA-256 of the sequences | of the titles |",
        "|---|---|---|---|---|",
    ]
    for group in summary.groups:
        digests = " | ".join(f"`{group.digests[name][:16]}`" for name in ("sequences", "titles"))
        lines.append(f"| {group.set_code} | {SHORT[group.split]} | {group.counts['unseen']:,} | {digests} |")

    return "\n".join([*lines, *_form_lines(summary), ""])


def _form_lines(summary: Summary) -> Iterator[str]:
    if any(SETS[code].form is None for code in summary.sets):
        yield ""
        yield "This is the generated set of `--quick`: its figures say that the command works, and nothing else."


def _notes_section(summary: Summary) -> str:
    lines = [
        "## What was chosen and what it ran on",
        "",
        "| set | split | system | chosen on validation |",
        "|---|---|---|---|",
    ]
    for group in summary.groups:
        for entry in group.entries:
            if entry.notes:
                notes = ", ".join(f"{name} {_value(value)}" for name, value in entry.notes.items())
                lines.append(f"| {group.set_code} | {SHORT[group.split]} | {entry.title} | {notes} |")

    entries = [entry for group in summary.groups for entry in group.entries]
    machines = sorted({entry.machine for entry in entries})
    commits = sorted({commit for entry in entries for commit in entry.commits})
    sources = [f"{number}. {text}" for number, text in enumerate(published().sources.values(), 1)]
    return "\n".join(
        [
            *lines,
            "",
            *(f"- {machine}" for machine in machines),
            f"- commits (+: with changes): {', '.join(commits)}",
            "",
            "Sources of the published figures:",
            "",
            *sources,
            "",
        ]
    )


def _value(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _choice_section(summary: Summary) -> str:
    return "\n".join(["## What to choose", "", *(f"- {line}" for line in to_choose(summary)), ""])
