"""The page on clusters: the same in both languages, and its commands run."""

from __future__ import annotations

from pathlib import Path

from llamarec.cli.main import parser
from tests.docs.guide import DOCS, Guide, quoted
from tests.docs.project import Project, run, small_defaults

ENGLISH, VIETNAMESE = Guide(DOCS / "en" / "cluster.md"), Guide(DOCS / "vi" / "cluster.md")


def test_both_languages_have_the_same_sections_blocks_and_tables() -> None:
    assert [section.level for section in ENGLISH.sections] == [section.level for section in VIETNAMESE.sections]
    assert [(b.kind, b.lines) for b in ENGLISH.blocks] == [(b.kind, b.lines) for b in VIETNAMESE.blocks]
    for english, vietnamese in zip(ENGLISH.sections, VIETNAMESE.sections, strict=True):
        for one, other in zip(english.tables, vietnamese.tables, strict=True):
            assert [[quoted(cell) for cell in row] for row in one.rows] == [
                [quoted(cell) for cell in row] for row in other.rows
            ]


def test_the_plan_on_the_page_is_computed(project: Project, folder: Path) -> None:
    (line,) = [line for block in ENGLISH.blocks for line in block.commands if "plan" in line]
    with small_defaults():
        ran = run(line, project.copy("ready", folder))
    assert ran.code == 0, ran.said
    assert "(200 h for a machine)" in ran.said, ran.said


def test_the_start_on_the_page_is_that_of_the_recipe() -> None:
    (line,) = [line for block in ENGLISH.blocks for line in block.commands if "launch" in line]
    words = parser().parse_args(line.split()[1:])
    assert words.until_done
    script = (DOCS.parent / "examples" / "launch" / "one_node.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    assert " ".join(line.split()[:6]) in " ".join(script.split())
