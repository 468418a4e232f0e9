"""The manifest: what it says survives, and a changed byte does not pass."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamarec.checkpoints.resume.progress import Progress
from llamarec.checkpoints.storage.manifest import (
    FileEntry,
    Manifest,
    Session,
    _checksum,
    inside,
    parse_manifest,
    read_manifest,
)
from llamarec.errors import CheckpointError
from tests.checkpoints.factory import manifest

MANIFEST = replace(
    manifest(200, 1, datetime(2026, 1, 1, tzinfo=UTC), best=200),
    files={"a.bin": FileEntry(3, "0" * 64), "sub/b.bin": FileEntry(0, "1" * 64)},
)
SPECIFICATION = Path(__file__).resolve().parents[3] / "docs/checkpoint-format.md"

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(hyperparameters=st.dictionaries(st.text(), plain, max_size=5), given_=st.dictionaries(st.text(), plain))
def test_what_is_written_is_read(hyperparameters: dict[str, Any], given_: dict[str, Any]) -> None:
    written = replace(MANIFEST, hyperparameters=hyperparameters, given=given_)
    assert parse_manifest(written.to_bytes(), "here") == written


def test_a_loss_that_is_no_number_is_written_too() -> None:
    found = parse_manifest(replace(MANIFEST, metrics={"loss": math.nan, "best": math.inf}).to_bytes(), "here")
    assert math.isnan(found.metrics["loss"])
    assert found.metrics["best"] == math.inf


def test_the_same_content_is_the_same_bytes() -> None:
    shuffled = replace(MANIFEST, files=dict(reversed(MANIFEST.files.items())))
    assert shuffled.to_bytes() == MANIFEST.to_bytes()
    assert MANIFEST.num_bytes == 3


@given(data=st.data())
def test_a_changed_byte_is_seen(data: st.DataObject) -> None:
    raw = bytearray(MANIFEST.to_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    value = data.draw(st.integers(0, 255))
    before, raw[place] = raw[place], value
    try:
        found = parse_manifest(bytes(raw), "here")
    except CheckpointError:
        return
    # Only white space between JSON's tokens means nothing.
    assert found == MANIFEST
    assert before == value or chr(before).isspace()


def _with(**changes: Any) -> bytes:
    """A manifest of another writer, with a right checksum."""
    content = json.loads(MANIFEST.to_bytes())
    del content["checksum"]
    content |= changes
    content = {name: value for name, value in content.items() if value is not None}
    return json.dumps({**content, "checksum": _checksum(content)}).encode()


def test_a_later_writer_of_the_same_format_may_say_more() -> None:
    content = json.loads(MANIFEST.to_bytes())
    raw = _with(
        news={"x": 1},
        files={name: {**entry, "owner": "me"} for name, entry in content["files"].items()},
        sessions=[{**session, "user": "me"} for session in content["sessions"]],
    )
    assert parse_manifest(raw, "here") == MANIFEST


def test_an_earlier_writer_may_have_said_less() -> None:
    found = parse_manifest(_with(fingerprints=None, sessions=[{"started": "x", "from_step": 0}]), "here")
    assert found.fingerprints == {}
    assert found.sessions == (Session(started="x", from_step=0),)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b"{}", "damaged"),
        (b'{"format": 1}', "damaged"),
        (b"\xff\xfe", "damaged"),
        (_with(format=2), "format 2"),
        (_with(step=None), "not a valid manifest"),
        (_with(files=[]), "not a valid manifest"),
        (_with(sessions=[1]), "not a valid manifest"),
        (_with(files={"../x": {"num_bytes": 1, "sha256": ""}}), "refused"),
        (MANIFEST.to_bytes().replace(b'"step": 200\n}', b'"step": 300\n}'), "damaged"),
    ],
)
def test_what_is_no_manifest_is_said_to_be_none(raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=said):
        read_manifest(tmp_path)


def test_none_at_all(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "C:/x", "a\\b", "", "a\0b", "manifest.json"])
def test_names_that_lead_outside(name: str) -> None:
    with pytest.raises(CheckpointError, match="not a name inside a checkpoint"):
        inside(name)


@pytest.mark.parametrize("name", ["adapter_model.bin", "default/adapter_model.bin", "..a", "a b"])
def test_names_inside(name: str) -> None:
    assert inside(name) == name


def test_every_key_is_specified() -> None:
    text = SPECIFICATION.read_text(encoding="utf-8")
    names = {item.name for cls in (Manifest, Session, FileEntry) for item in fields(cls)} | {"format", "checksum"}
    names |= set(Progress().as_dict())
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
