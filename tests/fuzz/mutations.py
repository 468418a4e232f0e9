"""What is done to one checkpoint of a run: bytes, JSON, pickles, headers and entries, each drawn from a seed."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from llamarec.checkpoints.resume.random_state_file import as_stored
from llamarec.checkpoints.storage.durable import seal_file
from llamarec.checkpoints.storage.manifest import FileEntry, _checksum, read_manifest
from llamarec.checkpoints.trainer.samples.rng import capture

Mutation = Callable[[random.Random, Path], str]
"""Changes a checkpoint's folder and says what it did; the folder's hashes may fit afterwards or not."""

JSON_FILES: Final = ("manifest.json", "trainer_state.json", "adapter_config.json")
PICKLES: Final = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin", "training_args.bin")
ODD_VALUES: Final[list[Any]] = [
    None,
    True,
    -1,
    0,
    1.5,
    2**63,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "12",
    "\ud800",
    "\x1b[2J\r\n<script>",
    "../../../x",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": {"b": [None]}},
    [1, "x", None],
]


class Executed:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def marker_of(checkpoint: Path) -> Path:
    """The file that code in a checkpoint would make."""
    return checkpoint.parent.parent / "executed"


# ---- Bytes, whose hashes do not fit ----


def change_bytes(draw: random.Random, checkpoint: Path) -> str:
    """Flips, cuts, empties, repeats or replaces bytes of a file."""
    path = draw.choice(sorted(path for path in checkpoint.iterdir() if path.is_file()))
    content = bytearray(path.read_bytes())
    how = draw.choice(["flip", "cut", "empty", "repeat", "noise", "longer"])
    if how == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del content[draw.randrange(len(content)) :]
    elif how == "empty":
        content.clear()
    elif how == "repeat":
        content *= 2
    elif how == "noise":
        start = draw.randrange(len(content))
        content[start : start + 64] = draw.randbytes(64)
    else:
        content += draw.randbytes(draw.randrange(1, 100))
    path.write_bytes(content)
    return f"bytes: {how} {path.name}"


# ---- JSON, with hashes that fit ----


def change_json(draw: random.Random, checkpoint: Path) -> str:
    """Replaces, removes or nests values in a JSON file."""
    path = checkpoint / draw.choice(JSON_FILES)
    if not path.is_file():
        return "json: none"
    content = json.loads(path.read_bytes())
    done = [_change_one(draw, content) for _ in range(draw.choice([1, 1, 1, 3]))]
    _write_json(path, content)
    if path.name != "manifest.json":
        relist(checkpoint)
    return f"json: {path.name}: {'; '.join(done)}"


def _change_one(draw: random.Random, content: Any) -> str:
    holder, key = draw.choice(list(_slots(content)) or [(content, "new")])
    how = draw.choice(["replace", "remove", "nest", "odd name"])
    if how == "replace":
        holder[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    elif how == "remove" and isinstance(holder, dict):
        holder.pop(key, None)
    elif how == "odd name" and isinstance(holder, dict):
        holder[draw.choice(["", "\ud800", "\x1b]0;x\x07", "a" * 3000, "../x", "step"])] = copy.deepcopy(
            draw.choice(ODD_VALUES)
        )
    else:
        for _ in range(draw.choice([1, 50, 150])):
            holder[key] = [holder[key]] if isinstance(holder, list) or key in holder else []
    return f"{how} {str(key)[:20]!r}"


def _slots(content: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        found += [(content, key), *_slots(value)]
    return found


def _write_json(path: Path, content: Any) -> None:
    if path.name == "manifest.json" and isinstance(content, dict):
        content.pop("checksum", None)
        content["checksum"] = _checksum(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def replace_json(draw: random.Random, checkpoint: Path) -> str:
    """Puts something else in the place of a JSON file."""
    path = checkpoint / draw.choice(JSON_FILES)
    texts = [
        "",
        "[" * 200_000,
        '{"a":' * 100_000,
        "null",
        "[]",
        '"x"',
        "1" * 5000,
        "\x00",
        '{"a":1}',
        "NaN",
        '"\\ud800"',
    ]
    path.write_text(draw.choice(texts), encoding="utf-8")
    if path.name != "manifest.json":
        relist(checkpoint)
    return f"json: another {path.name}"


# ---- Pickles, with hashes that fit ----


def change_pickle(draw: random.Random, checkpoint: Path) -> str:
    """Writes other objects into a pickled file."""
    path = checkpoint / draw.choice(PICKLES)
    name, value = draw.choice(sorted(_objects(draw, marker_of(checkpoint)).items(), key=lambda item: item[0]))
    is_zip = draw.random() < 0.7
    if is_zip:
        torch.save(value, path)
    else:
        torch.save(value, path, _use_new_zipfile_serialization=False)
    relist(checkpoint)
    return f"pickle: {path.name} is {name}, {'zip' if is_zip else 'old'}"


def _objects(draw: random.Random, marker: Path) -> dict[str, Any]:
    states = as_stored(capture())
    odd = draw.choice(ODD_VALUES)
    return {
        "a number": 5,
        "a list": [1, 2],
        "an odd value": odd,
        "code": {"state": Executed(marker)},
        "numpy's array": {"state": np.zeros(3)},
        "random states with an odd value": {**states, draw.choice([*states]): odd},
        "random states of another position": {**states, "numpy": (*states["numpy"][:2], 10**6, 0, 0.0)},
        "an array of objects": {**states, "numpy": ("MT19937", np.array([None] * 624), 0, 0, 0.0)},
        "moments of another shape": {
            "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(draw.choice([0, 1, 7, 16]))}},
            "param_groups": [{"lr": odd, "params": [0]}],
        },
        "a schedule with an odd value": {"last_epoch": odd, "_last_lr": odd, "base_lrs": [odd], "step": odd},
        "a stretched tensor": {"weight": torch.zeros(1).expand(10**12)},
        "a sparse tensor": {"weight": torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (3,))},
        "a meta tensor": {"weight": torch.zeros(3, device="meta")},
        "deep": _deep(draw.choice([10, 500])),
        "itself": _itself(),
        "an ordered dictionary": OrderedDict({"a": torch.zeros(2)}),
    }


def _deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _itself() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def change_instructions(draw: random.Random, checkpoint: Path) -> str:
    """Changes instructions of a pickle inside its archive."""
    path = checkpoint / draw.choice(PICKLES)
    if not zipfile.is_zipfile(path):
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] = draw.choice(b"cR\x81bq(tx0.")
        path.write_bytes(content)
        relist(checkpoint)
        return f"pickle: instruction of plain {path.name}"

    changed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            content = bytearray(old.read(entry))
            if entry.filename.endswith("data.pkl"):
                for _ in range(draw.choice([1, 2, 8])):
                    content[draw.randrange(len(content))] = draw.choice(
                        [draw.randrange(256), *b"cR\x81bq(tx0.NK\x88}]u"]
                    )
            new.writestr(entry.filename, bytes(content))
    path.write_bytes(changed.getvalue())
    relist(checkpoint)
    return f"pickle: instructions of {path.name}"


def inflate(draw: random.Random, checkpoint: Path) -> str:
    """An archive that is far larger unpacked, or huge by its own account."""
    path = checkpoint / draw.choice(PICKLES)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", bytes(2**24))
        archive.writestr("archive/version", b"3\n")
    relist(checkpoint)
    return f"pickle: {path.name} unpacks to more"


# ---- safetensors ----


def change_header(draw: random.Random, checkpoint: Path) -> str:
    """Writes adapter_model.safetensors with an odd header in the place of the weights."""
    (checkpoint / "adapter_model.bin").unlink(missing_ok=True)
    offsets: Any = draw.choice([[0, 16], [0, 2**62], [16, 0], [-8, 8], ["0", "16"], [], [0, 15]])
    shape: Any = draw.choice([[4], [2**40, 2**40], [-4], [0], "4", [4.5], [[4]]])
    entry = {"dtype": draw.choice(["F32", "F99", 5, "U8"]), "shape": shape, "data_offsets": offsets}
    header = json.dumps({draw.choice(["weight", "", "__metadata__", "\x1b[2J"]): entry}).encode()
    length = draw.choice([len(header), 2**63, 0, len(header) + 5, 100_000_000])
    path = checkpoint / "adapter_model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + bytes(16))
    relist(checkpoint)
    return "safetensors: odd header"


# ---- Entries ----


def change_entry(draw: random.Random, checkpoint: Path) -> str:
    """Puts a link, a folder, a FIFO or a hole in the place of a file, or adds one."""
    names = sorted(path.name for path in checkpoint.iterdir())
    path = checkpoint / draw.choice([*names, "model.safetensors", "notes", "stateful.pt", "rng_state_1.pth"])
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    kinds = ["folder", "hole", "deep"]
    kinds += ["fifo", "zero", "dangling", "circle", "other checkpoint"] if os.name != "nt" else []
    kind = draw.choice(kinds)
    if kind == "folder":
        path.mkdir()
    elif kind == "deep":
        (path / "/".join("d" * 60)).mkdir(parents=True)
    elif kind == "hole":
        with path.open("wb") as file:
            file.truncate(2**31)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        targets = {"zero": "/dev/zero", "dangling": "nowhere", "circle": path.name, "other checkpoint": ".."}
        path.symlink_to(targets[kind])
    return f"entry: {path.name} is {kind}"


FITTING: Final[tuple[Mutation, ...]] = (
    change_json,
    change_json,
    change_json,
    replace_json,
    change_pickle,
    change_pickle,
    change_instructions,
    change_instructions,
    inflate,
    change_header,
)
MUTATIONS: Final[tuple[Mutation, ...]] = (change_bytes, change_bytes, change_entry, change_entry, *FITTING)


def relist(checkpoint: Path) -> None:
    """Makes the manifest fit what is in the folder, as an attacker would."""
    manifest = read_manifest(checkpoint)
    assert manifest is not None
    files = {path.name: path for path in sorted(checkpoint.iterdir()) if path.name != "manifest.json"}
    entries = {name: FileEntry(*seal_file(path)) for name, path in files.items() if path.is_file()}
    (checkpoint / "manifest.json").write_bytes(replace(manifest, files=entries).to_bytes())
