"""The prompt as data: what is shown, and what a template of one's own must have."""

import json
from pathlib import Path

import pytest

from llamarec.errors import ConfigError
from llamarec.ranker.prompts.template import LETTER_LAST, PromptTemplate, load_template


def test_the_recipe_prompt_reads_as_in_the_paper() -> None:
    text = PromptTemplate().render(["Heat", "Fargo"], ["Alien", "Brazil"])
    assert text.splitlines()[1:] == [
        "### Input: User history:",
        "(1) Heat",
        "(2) Fargo",
        "Candidate pool:",
        "(A) Alien",
        "(B) Brazil",
        "### Response:",
    ]
    assert text.endswith(":\n"), "the letter comes on a line of its own"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"text": "{candidates}{history} ?"}, "in this order"),
        ({"text": "\n{history}\n{candidates}"}, "must follow"),
        ({"text": "likes {history} of {candidates} ?"}, "after a newline"),
        ({"text": "\n{history}\n{candidates}{x}?"}, "placeholders"),
        ({"text": "\n{history\n"}, "text:"),
        ({"history_line": "{letter}"}, "history_line"),
        ({"candidate_line": "{letter}{letter}"}, "candidate_line"),
        ({"candidate_line": "{title}"}, "candidate_line"),
        ({"candidate_line": "({letter}) {title!s}"}, "only a name in braces"),
        ({"candidate_line": "{title:.5} ({letter})"}, "only a name in braces"),
        ({"candidate_line": "{{title}} {letter}"}, "doubled braces"),
        ({"candidate_line": "({letter}){title}"}, "{title} must come first or after a space"),
    ],
)
def test_a_template_that_does_not_fit_is_refused_with_the_reason(fields: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        PromptTemplate(**fields)


def test_a_template_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompt.json"
    file.write_text(json.dumps({"candidate_line": "[{letter}]"}), encoding="utf-8")
    assert load_template(str(file)).render(["Heat"], ["Alien", "Brazil"]).splitlines()[-2] == "[B] Brazil"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("{title} ({letter})", "Brazil (B)"),
        ("({letter}) {title}", "(B) Brazil"),
        ("{letter}: {title} [{letter}]", "B: Brazil [B]"),
    ],
)
def test_the_title_stands_where_the_line_says(line: str, shown: str) -> None:
    assert PromptTemplate(candidate_line=line).render(["Heat"], ["Alien", "Brazil"]).splitlines()[-2] == shown


@pytest.mark.parametrize("content", ["not json", "[1]", '{"letters": "abc"}'])
def test_a_file_that_is_no_template_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "prompt.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"prompt\.json"):
        load_template(str(file))


def test_an_absent_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--prompt_template nowhere\.json"):
        load_template("nowhere.json")
    with pytest.raises(
        ConfigError, match=r"(?s)letter-last.*one of recipe, letter_last.*--prompt_template letter_last"
    ):
        load_template("letter-last")


def test_templates_have_names() -> None:
    assert load_template("recipe") == load_template("") == PromptTemplate()
    said = load_template(LETTER_LAST).render(["Heat"], ["Alien", "Brazil"])
    assert said.splitlines() == [
        "A customer bought these products:",
        "- Heat",
        "Products for sale:",
        "- Alien (A)",
        "- Brazil (B)",
        "The next product that the customer buys is (",
    ]
