"""Tables in every form in which people have them: read right, or refused with the reason and what to type."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_table_is_read_right_or_refused(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in case.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

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


def test_each_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
