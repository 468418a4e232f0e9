"""Tables in every form in which people have them: read right, or refused with the reason and what to type."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.errors import LlamarecError
from tests.data.cases import CASES as CASES_OF_FORMS
from tests.data.cases import Case
from tests.data.cases_of_defects import CASES as CASES_OF_DEFECTS
from tests.data.cases_of_values import CASES as CASES_OF_VALUES

CASES: Final = [*CASES_OF_FORMS, *CASES_OF_VALUES, *CASES_OF_DEFECTS]
_SCREEN: Final = (24, 2_000)
"""Lines and characters of a message."""
_PLACEHOLDER: Final = r"NAME|FILE|DATE,CLOCK|\.\.\."
"""What stands for a value in a message that cannot know it."""


def _write(case: Case, folder: Path) -> None:
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_table_is_read_right_or_refused(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(case, tmp_path)

    if case.refused:
        with pytest.raises(LlamarecError) as caught:
            prepare(DataConfig(dataset_code=case.code, **case.options))  # type: ignore[arg-type]
        said = str(caught.value)
        assert re.search(case.refused, said), said
        assert said.count("\n") < _SCREEN[0], said
        assert len(said) < _SCREEN[1], said
        return

    data = prepare(DataConfig(dataset_code=case.code, **case.options), Console(soft_wrap=True, width=500))  # type: ignore[arg-type]
    found = {user: [data.items[item] for item in data.sequences.whole(n)] for n, user in enumerate(data.users)}
    assert found == dict(case.expected)
    assert all(
        title.endswith(key[-1]) or key[-1] in title for key, title in zip(data.items, data.titles, strict=True) if key
    )
    assert data.dataset_code == case.data_set
    assert case.printed in capsys.readouterr().out


@pytest.mark.parametrize("case", [case for case in CASES if case.refused], ids=lambda case: case.name)
def test_what_a_refusal_advises_helps(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each flag that it names with a value, typed beside those of before, gives a set or another refusal."""
    monkeypatch.chdir(tmp_path)
    _write(case, tmp_path)
    with pytest.raises(LlamarecError) as caught:
        prepare(DataConfig(dataset_code=case.code, **case.options))  # type: ignore[arg-type]

    for advised in _advised(caught.value):
        assert _problem({"dataset_code": case.code, **case.options, **advised}) != caught.value.problem, advised
        shutil.rmtree(tmp_path / "experiments" / "data" / case.data_set, ignore_errors=True)


def _problem(options: Mapping[str, str | bool | int]) -> str:
    """Why a table is refused; empty where it is not."""
    try:
        prepare(DataConfig(**options))  # type: ignore[arg-type]
    except LlamarecError as error:
        return error.problem
    return ""


def _advised(error: LlamarecError) -> list[dict[str, str | bool]]:
    """The options of each alternative of a message whose values are not left to the reader."""
    lines = [*re.findall(r"(?m)^ *[^-\s].*?: (--.*)$", error.problem), *(error.hint or "").splitlines()]
    found = list[dict[str, str | bool]]()
    for alternative in [one for line in lines for one in re.split(r" or |, or ", line)]:
        options = dict[str, str | bool]()
        for flag, value in re.findall(r"""--([a-z_]+)(?: ("[^"]*"|'[^']*'|[^\s-]\S*))?""", alternative):
            kind = DataConfig.__dataclass_fields__.get(flag)
            if kind is not None:
                options[flag] = True if kind.type == "bool" else shlex.split(value.rstrip(",;:"))[0] if value else ""
        is_whole = all(value and not re.fullmatch(_PLACEHOLDER, str(value)) for value in options.values())
        if options and is_whole and not re.search(" would |leave|{", alternative):
            found.append(options)
    return found


def test_each_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
