"""Text files record by record: any dialect that can be written, in blocks of any size, gives what was written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamarec.data import lines
from llamarec.data.lines import LINE, BadLines, csv_format, jsonl_format, read_lines
from llamarec.errors import DataError

NAMES = ("a", "b", "c")
SCHEMA: lines.Schema = dict.fromkeys(NAMES, pl.String)
# What dialects trip over, beside any text.
_FIELD = st.one_of(
    st.sampled_from(["x", '"', '""', "a,b", "a;b", "one\ntwo", "one\r\ntwo", " ", "\t", "é", "19", "1e16", "a'b"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=6),
)
_ROWS = st.lists(st.tuples(_FIELD, _FIELD, _FIELD), max_size=12)
_PROPERTY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


def _read(path: Path, form: lines.LineFormat, block_bytes: int, bad: BadLines | None = None) -> pl.DataFrame:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lines, "BLOCK_BYTES", block_bytes)
        return read_lines(path, form, bad or BadLines(), numbered=True)


@_PROPERTY
@given(
    rows=_ROWS,
    separator=st.sampled_from([",", ";", "\t", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
    block_bytes=st.integers(1, 40),
)
def test_what_csv_writes_is_read(
    tmp_path: Path,
    rows: list[tuple[str, str, str]],
    separator: str,
    quoting: Literal[0, 1],
    line_end: str,
    encoding: str,
    block_bytes: int,
) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=line_end).writerows(rows)
    path = tmp_path / "rows.csv"
    path.write_bytes(text.getvalue().encode(encoding))

    found = _read(path, csv_format(NAMES, SCHEMA, (), separator=separator), block_bytes)

    assert found.select(NAMES).rows() == [tuple(field or None for field in row) for row in rows]
    whole = _read(path, csv_format(NAMES, SCHEMA, (), separator=separator), 2**20)
    assert found.equals(whole)


def _agree(path: Path, form: lines.LineFormat, block_bytes: int) -> None:
    """The fast ways take only what the other would read alike."""
    slow = lines.LineFormat(form.schema, form.required, form.parse, encoding=form.encoding)
    skipped, skipped_slowly = BadLines("skip"), BadLines("skip")

    assert _read(path, form, block_bytes, skipped).equals(
        _read(path, slow, block_bytes, skipped_slowly), null_equal=True
    )
    assert skipped == skipped_slowly


@_PROPERTY
@given(
    rows=st.lists(
        st.lists(
            st.sampled_from(["1", "x", "", " ", "nan", "é", "1.5", '"a"', '"a,""b"', '"one\ntwo"', '"', 'a"b', '"a"b']),
            min_size=1,
            max_size=4,
        ),
        max_size=8,
    ),
    separator=st.sampled_from([",", "::"]),
    ends=st.sampled_from(["\n", "\n\n", "\r\n", "\r", "\n \n"]),
    block_bytes=st.integers(1, 40),
    encoding=st.sampled_from(["utf-8", "cp1252"]),
)
def test_all_ways_to_read_csv_agree_on_every_file(
    tmp_path: Path, rows: list[list[str]], separator: str, ends: str, block_bytes: int, encoding: str
) -> None:
    """Short, long, blank and broken lines among it, and bytes of another encoding."""
    path = tmp_path / "rows.csv"
    path.write_bytes(ends.join(separator.join(row) for row in rows).encode("cp1252" if block_bytes % 2 else "utf-8"))
    schema: lines.Schema = {"a": pl.String, "c": pl.Float64}
    _agree(path, csv_format(NAMES, schema, ("a",), separator=separator, encoding=encoding), block_bytes)


_ODD_LINES = st.sampled_from(
    [
        *("", " ", "[]", "null", "3", '"a"', "{", '{"a": }', '{"a": [1]}', '{"a": {"b": 1}}', '{"a": "1", "a": 2}'),
        *('{"a": 1e400}', '{"a": true, "b": null}', '{"a": "\\ud800"}', '{"a": "é"}', '{"a": "x"} {', '{"b": "nan"}'),
    ]
)


@_PROPERTY
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from("abz"), st.none() | st.integers() | st.floats() | st.text(max_size=5)).map(
            json.dumps
        )
        | _ODD_LINES,
        max_size=8,
    ),
    block_bytes=st.integers(1, 60),
    encoding=st.sampled_from(["utf-8", "cp1252"]),
    as_numbers=st.booleans(),
)
def test_both_ways_to_read_json_agree_on_every_file(
    tmp_path: Path, rows: list[str], block_bytes: int, encoding: str, as_numbers: bool
) -> None:
    """Objects of one kind, of many, and lines that are none."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    schema: lines.Schema = {"a": pl.String, "b": pl.Float64 if as_numbers else pl.String}
    _agree(path, jsonl_format(schema, ("a",), encoding=encoding, list_fields=("b",)), block_bytes)


@pytest.mark.parametrize("blank", ["", "\n", "  \n", "\r\n"])
@pytest.mark.parametrize(
    ("spelled", "expected"),
    [("19", "19"), ("19.0", "19.0"), ("1e16", "1e16"), ("true", "true"), ('"a\\u00e9"', "aé"), ("null", None)],
)
def test_json_values_keep_their_spelling_wherever_a_blank_line_is(
    tmp_path: Path, blank: str, spelled: str, expected: str | None
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((f'{{"a": {spelled}, "z": [1]}}\n{blank}{{"a": {spelled}}}\n').encode())
    bad = BadLines("skip")
    found = _read(path, jsonl_format({"a": pl.String}, ()), 2**20, bad)

    assert found["a"].to_list() == [expected, expected]
    assert found[LINE].to_list() == [1, 3 if blank else 2]
    assert bad.count == 0


@_PROPERTY
@given(
    rows=st.lists(st.dictionaries(st.sampled_from("abz"), st.none() | st.integers() | st.text(max_size=5)), max_size=8),
    block_bytes=st.integers(1, 60),
)
def test_what_json_writes_is_read(tmp_path: Path, rows: list[dict[str, int | str | None]], block_bytes: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows), encoding="utf-8")

    found = _read(path, jsonl_format({"a": pl.String, "b": pl.String}, ()), block_bytes)

    expected = [tuple(None if row.get(name) in (None, "") else str(row[name]) for name in "ab") for row in rows]
    assert found.select("a", "b").rows() == expected


def test_a_quote_that_never_closes_costs_its_own_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    good = [f"u{number},i{number},{number}" for number in range(2_000)]
    path.write_text("\n".join([*good[:3], 'u,"no end,3', *good[3:]]) + "\n", encoding="utf-8")
    form = csv_format(NAMES, SCHEMA, NAMES)

    with pytest.raises(DataError, match=r"(?s)line 4: a quote is opened here.*no end"):
        _read(path, form, 4_000)
    bad = BadLines("skip")
    assert _read(path, form, 4_000, bad).select(NAMES).rows() == [tuple(row.split(",")) for row in good]
    assert bad.count == 1


def test_a_record_of_several_lines_has_the_number_of_its_first(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'1,"one\r\ntwo",x\r\n2,y,"z"\r\n3,4\r\n')
    bad = BadLines("skip")
    found = _read(path, csv_format(NAMES, SCHEMA, NAMES), 5, bad)

    assert found.rows() == [("1", "one\r\ntwo", "x", 1), ("2", "y", "z", 3)]
    assert bad.listed == ["rows.csv, line 4: expected 3 fields separated by ',', found 2"]
