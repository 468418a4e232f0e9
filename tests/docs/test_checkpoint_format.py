"""The specification's words on manifests and fingerprints, followed by hand, give what the program writes."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from llamarec.checkpoints.storage.manifest import FileEntry, Manifest, Session, parse_manifest, read_manifest
from llamarec.checkpoints.trainer.fingerprints import base_model_of, fingerprints_of
from llamarec.errors import CheckpointError
from tests.docs.guide import Guide, quoted
from tests.docs.project import STEPS_UNTIL_STOP, Project, run, small_defaults
from tests.docs.troubles import CHECKPOINTS, TRAIN
from tests.resume.training import make_model
from tests.resume.worker_data import Words

SPECIFICATION = Guide(Path(__file__).resolve().parents[2] / "docs" / "checkpoint-format.md")
_KEYS = next(table for section in SPECIFICATION.sections for table in section.tables if table.head[0] == "key")
REQUIRED = {quoted(row[0])[0]: row[2] == "yes" for row in _KEYS.rows}

MANIFEST = Manifest(
    step=4,
    epoch=0.5,
    position={},
    sequence=0,
    reason="scheduled",
    created="2026-01-01T00:00:00+00:00",
    run_id="0123456789ab",
    sessions=(Session(started="2026-01-01T00:00:00+00:00", from_step=0),),
    files={"optimizer.pt": FileEntry(3, "0" * 64)},
)


# ---- Manifest ----


def _written(content: dict[str, Any]) -> bytes:
    """With the checksum that the specification says."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps({**content, "checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()


def test_the_smallest_manifest_is_read() -> None:
    content = {"format": 1, **asdict(MANIFEST)}
    needed = {name: value for name, value in content.items() if REQUIRED[name]}
    needed |= {"sessions": [], "files": {}}
    found = parse_manifest(_written(needed), "here")
    assert (found.parent, found.metrics, found.fingerprints) == (None, {}, {})
    assert REQUIRED.keys() == {*content, "checksum"}


@pytest.mark.parametrize("name", [name for name, required in REQUIRED.items() if required])
def test_without_a_required_key_it_is_damaged(name: str) -> None:
    content = {"format": 1, **asdict(MANIFEST)}
    raw = json.loads(_written({key: value for key, value in content.items() if key != name}))
    if name == "checksum":
        del raw[name]
    with pytest.raises(CheckpointError):
        parse_manifest(json.dumps(raw).encode(), "here")


@pytest.mark.parametrize(("inside", "name"), [("files", "num_bytes"), ("files", "sha256"), ("sessions", "started")])
def test_without_a_required_key_of_an_entry_too(inside: str, name: str) -> None:
    content = json.loads(json.dumps({"format": 1, **asdict(MANIFEST)}))
    (entry,) = content[inside].values() if inside == "files" else content[inside]
    del entry[name]
    with pytest.raises(CheckpointError):
        parse_manifest(_written(content), "here")


def test_a_session_may_say_no_more_than_where_it_began() -> None:
    content = {"format": 1, **asdict(MANIFEST), "sessions": [{"started": "then", "from_step": 3}]}
    assert parse_manifest(_written(content), "here").sessions == (Session(started="then", from_step=3),)


# ---- Fingerprints of any Trainer ----


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _base_model_by_hand(model: Any) -> str:
    dropped = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures"}
    config = {name: value for name, value in model.config.to_dict().items() if name not in dropped}
    parts = [json.dumps(config, sort_keys=True, default=str).encode()]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        values = parameter.detach().numpy().flatten()
        stride = max(values.size // 16, 1)
        picked = [values[place] for place in range(0, values.size, stride)][:16]
        parts += [f"{name} {tuple(parameter.shape)} ".encode(), *(value.tobytes() for value in picked)]
    return _digest(*parts)


def _content(value: Any) -> bytes:
    if isinstance(value, torch.Tensor):
        return bytes(value.numpy().tobytes())
    if isinstance(value, Mapping):
        pairs = sorted(value.items(), key=str)
        return b"".join(str(name).encode() + _content(item) for name, item in pairs)
    if isinstance(value, list | tuple):
        return b"".join(_content(item) for item in value)
    if isinstance(value, str | int | float | bool) or value is None:
        return f"{value!r};".encode()
    return pickle.dumps(value, protocol=4)


def _data_by_hand(dataset: Any, seed: int) -> str:
    size = len(dataset)
    parts = [str(size).encode()]
    for place in range(min(4, size)):
        index = place * (size - 1) // 3
        a, b, c, d = np.random.SeedSequence([seed % 2**63, 11, 0, index]).generate_state(4).tolist()
        random.seed(a)
        np.random.seed(b)
        torch.default_generator.manual_seed((c << 31) + d)
        parts.append(_content(dataset[index]))
    return f"{size} samples, {_digest(*parts)}"


@pytest.mark.parametrize("num_samples", [1, 2, 3, 50])
def test_fingerprints_of_a_trainer(num_samples: int) -> None:
    model, words = make_model(), Words(num_samples)
    found = fingerprints_of(model, words, seed=42, by_epoch=False)
    assert base_model_of(model) == _base_model_by_hand(model)
    assert found["data"] == _data_by_hand(words, 42)
    assert found["lora"] == {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}


def test_samples_of_all_kinds() -> None:
    samples: list[Any] = [
        {"b": 1, "a": [True, None], 3: ("x", 0.1)},
        [torch.ones(2, 3, dtype=torch.int8), torch.zeros(0)],
        "text",
        np.arange(3),
    ]
    assert fingerprints_of(None, samples, seed=1, by_epoch=False) == {"data": _data_by_hand(samples, 1)}


def test_a_whole_torch_model_has_the_digest_of_nothing() -> None:
    (nothing,) = re.findall(r"digest of no bytes, `(\w+)`", SPECIFICATION.path.read_text(encoding="utf-8"))
    assert base_model_of(torch.nn.Linear(2, 3)) == nothing == _digest()


# ---- Fingerprints of the ranker ----


def test_fingerprints_of_the_ranker(project: Project, folder: Path) -> None:
    with small_defaults():
        project.copy("ready", folder)
        assert run(f"{TRAIN} --hard_negatives 0.5", folder, stop_after=STEPS_UNTIL_STOP).code == 75
    manifest = read_manifest(next((folder / CHECKPOINTS).glob("checkpoint-*")))
    assert manifest is not None
    prepared = json.loads((folder / "experiments/data/beauty/manifest.json").read_text(encoding="utf-8"))
    files = [folder / "experiments/data/beauty" / name for name in ("histories.parquet", "items.parquet")]
    hashes = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    assert prepared["fingerprint"] == hashlib.sha256(hashes.encode()).hexdigest()
    ranker = json.loads((folder / CHECKPOINTS.parent / "ranker.json").read_text(encoding="utf-8"))
    template = {name: ranker["prompt"][name] for name in ("text", "history_line", "candidate_line")}
    config = ranker["config"]
    prompt = json.dumps([template, ranker["letter_ids"], config["max_history"], config["max_prompt_tokens"]])
    names = ("prepared_data", "prompt", "validation_candidates", "training_lists")
    assert {name: manifest.fingerprints[name] for name in names} == {
        "prepared_data": prepared["fingerprint"][:16],
        "prompt": _digest(prompt.encode()),
        "validation_candidates": _candidates_by_hand(folder, config),
        "training_lists": _lists_by_hand(folder, config),
    }


def _lists_by_hand(folder: Path, config: dict[str, Any]) -> str:
    rows = pl.read_parquet(folder / "experiments/lru/beauty/hard_negatives.parquet")
    columns = (rows["candidate_ids"].list.head(config["num_candidates"] - 1).explode(), rows["label_place"])
    return _digest(*(column.to_numpy().astype("<i4").tobytes() for column in columns))


def _candidates_by_hand(folder: Path, config: dict[str, Any]) -> str:
    rows = pl.read_parquet(folder / "experiments/lru/beauty/candidates.parquet").filter(split="validation")
    chosen = np.random.default_rng([3, 0]).choice(rows.height, size=config["max_eval_users"], replace=False)
    ranks, users = (rows[name].to_numpy()[np.sort(chosen)].astype("<i8") for name in ("label_rank", "user_id"))
    order = b"" if config["candidate_order"] == "retriever" else config["candidate_order"].encode()
    return _digest(np.where(ranks > config["num_candidates"], 0, ranks).tobytes(), users.tobytes(), order)
