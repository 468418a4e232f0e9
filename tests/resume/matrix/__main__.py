"""Adapters, optimizers, schedulers, overrides and libraries: each killed and resumed, and the table of what came of it.

python make.py matrix                          all of it, some half an hour on two cores
python make.py matrix optimizers schedulers    two of its sections
python make.py matrix --store                  also writes docs/matrix.md, the sections that it tried;
                                               it needs what `test-ecosystem` installs
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import torch

from tests.ecosystem.jobs import missing
from tests.resume import forks
from tests.resume.jobs import warm_up
from tests.resume.matrix import adapters, generators, libraries, optimizers, overrides, schedulers
from tests.resume.matrix.page import Row, page
from tests.resume.matrix.subjects import Judged, Subject
from tests.resume.matrix.verdict import BAD, verdicts

SECTIONS: Final[dict[str, tuple[str, Callable[[], Iterable[Subject | Judged]]]]] = {
    module.__name__.rpartition(".")[2]: (module.TITLE, module.subjects)
    for module in (adapters, optimizers, schedulers, overrides, generators, libraries)
}
STORED: Final = forks.ROOT / "docs" / "matrix.md"


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if every row of ours is equal, refused, or not to be trained on this machine."""
    options = _options(arguments)
    if not forks.CAN_FORK:
        print(f"skipped: {forks.WHY_NOT}")
        return 0

    torch.set_num_threads(1)
    sections: dict[str, Sequence[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        warm_up(Path(folder) / "warm-up")
        for name in options.sections:
            title, subjects = SECTIONS[name]
            sections[title] = _tried(list(subjects()), Path(folder) / name)

    if options.store:
        before = STORED.read_text(encoding="utf-8") if STORED.is_file() else ""
        text = page(sections, [title for title, _ in SECTIONS.values()], before)
        STORED.write_text(text, encoding="utf-8", newline="\n")
    bad = [name for rows in sections.values() for name, row in rows if row["llamarec"]["kind"] in BAD]
    print(f"\n{len(bad)} rows are bad" + "".join(f"\n  {name}" for name in bad))
    return 1 if bad else 0


def _tried(subjects: Sequence[Subject | Judged], folder: Path) -> list[Row]:
    """Every subject, in its order; each is printed when it is done."""
    rows: dict[str, Row] = {}
    for point, ending in forks.each(subjects, verdicts, folder, at_once=2):
        if ending.result is None:
            raise RuntimeError(f"{point.name}: the verdict itself failed\n{ending.log}")

        rows[point.name] = (point.name, ending.result)
        said = [f"{name}: {verdict['kind']} {verdict['why']}".strip() for name, verdict in ending.result.items()]
        print(f"{point.name:60} {'; '.join(said)}", flush=True)

    return [rows[subject.name] for subject in subjects]


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make.py matrix", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--store", action="store_true", help="write the page docs/matrix.md")

    options = parser.parse_args(arguments)
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    options.sections = options.sections or list(SECTIONS)
    if options.store and missing():
        parser.error(f"--store: {missing()}")

    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
