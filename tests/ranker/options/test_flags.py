"""The stored flags of `train_ranker.py` are those of its parser, on every machine."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import transformers

from llamarec.errors import ConfigError
from llamarec.ranker.options import flags
from llamarec.ranker.options.flags import Flags, store_flags, stored_flags, unknown_words
from llamarec.ranker.options.parser import RankerArgumentParser

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def parsers() -> Flags:
    return RankerArgumentParser().flags()


def test_what_is_stored_is_what_the_parser_says(parsers: Flags) -> None:
    pinned = re.search(r"^transformers==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    if transformers.__version__ != pinned[1]:
        pytest.skip(f"flags.json belongs to the pinned transformers {pinned[1]}; this is {transformers.__version__}")
    assert stored_flags() == parsers, "a flag has changed; type: python make.py flags"


def test_storing_is_reading_back(parsers: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "__file__", str(tmp_path / "flags.py"))
    monkeypatch.setattr(flags, "files", lambda _: tmp_path)
    store_flags(parsers)
    assert stored_flags() == parsers
    store_flags(replace(parsers, transformers="0.1"))
    assert stored_flags() is None, "another version has other arguments"


def test_nothing_in_it_depends_on_the_machine(parsers: Flags, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAREC_DATA_ROOT", "/elsewhere")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert RankerArgumentParser().flags() == parsers


def test_every_option_of_ours_is_in_the_help(parsers: Flags) -> None:
    shown = {flag.name for group in (*parsers.groups.values(), parsers.rare) for flag in group}
    spelled = {name for name in parsers.spellings if "-" not in name.lstrip("-") and not name.startswith("--no_")}
    assert spelled - shown == {"-h", "--help", "--help_all"}


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_help_is_laid_out_for_the_terminal(parsers: Flags, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = parsers.help().splitlines()
    # A flag with its choices can be longer than a narrow line.
    assert max(len(line) for line in lines if not line.startswith("  --")) <= columns
    assert "usage: train_ranker.py --dataset_code DATASET [options]" in " ".join(lines)


def test_only_what_can_be_no_value_is_an_unknown_flag() -> None:
    known = ["--seed", "--run_name"]
    assert unknown_words(["--seed", "-1", "--run_name", "-- a -b", "x"], known) == []
    assert unknown_words(["--seed=3", "--sed=3", "--", "--other"], known) == ["--sed=3"]


def test_a_mistyped_flag_is_answered_with_the_nearest(parsers: Flags) -> None:
    parsers.refuse([])
    with pytest.raises(ConfigError, match=r"(?s)unknown argument --sed\b.*--seed"):
        parsers.refuse(["--sed=3"])
