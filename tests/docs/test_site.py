"""The documentation site knows every page and every command; `python make.py docs` builds it, and warnings fail it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamarec.cli.main import parser
from tests.named import ROOT, is_there


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "_site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_page_has_every_command_with_its_flags(hooks: Any) -> None:
    page = hooks.on_page_markdown((ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8"))
    for title in ("python train_retriever.py", "python train_ranker.py", "llamarec checkpoints verify"):
        assert f"\n## {title}\n" in page
    for verb in hooks._below(parser(), []):
        section = page.partition(f"\n## llamarec {' '.join(verb)}\n")[2].partition("\n## ")[0]
        assert "usage:" in section, verb
        assert len(section.splitlines()) > 8, f"the help of {verb} is missing"
    for flag in ("--prepare_again", "--resume_from_checkpoint", "--max_queue", "--push_to_hub", "--users"):
        assert flag in page


def test_every_page_is_in_the_menu() -> None:
    def pages(entries: list[Any]) -> list[str]:
        found: list[str] = []
        for entry in entries:
            (value,) = entry.values()
            found += [value] if isinstance(value, str) else pages(value)
        return found

    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = pages(yaml.safe_load(text)["nav"])
    there = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(there)
    for word in ("http://", "https://", "font: true"):
        assert word not in text, "built and read without network"


def _links(path: Path) -> set[str]:
    """Targets of the page's links to files, without their anchors."""
    found = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    return {target for target in found if "://" not in target}


def test_the_map_links_every_page() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert _links(ROOT / "docs" / "index.md") == pages - {"index.md"}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_pages_beside_the_documentation_link_to_what_is_there(name: str) -> None:
    for target in _links(ROOT / name):
        assert (ROOT / target).exists(), target


PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_and_modules_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"\b((?:llamarec|tests|benchmarks|examples)/[\w/.-]*\w)", text):
        assert (ROOT / path).exists(), path
    for name in [*re.findall(r"\bllamarec(?:\.\w+)+", text), *re.findall(r"python -m (benchmarks[\w.]*\w)", text)]:
        assert is_there(name), name
