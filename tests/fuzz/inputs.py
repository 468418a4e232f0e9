"""Cases of the fuzzer beside checkpoints: a user's tables, files of users, and what the stages hand to one another."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import polars as pl

from llamarec.checkpoints.storage.file_set import FileSet
from llamarec.checkpoints.storage.publish import Staging
from llamarec.cli.entry_point import run_main
from llamarec.cli.main import main
from tests.fuzz.checks import BrokenPromiseError
from tests.fuzz.dialects import check_dialects
from tests.fuzz.mutations import ODD_VALUES, _change_one
from tests.resume.torture.syscalls.scenarios import with_export

_ODD_FIELDS: Final[list[bytes]] = [
    *(b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b'"', b'"never closed', b"1e400", b"-1e400", b"nan", b"inf", b"-0"),
    *(b"2020-02-30", b"9999999999999999999999", b"0001-01-01T00:00:00Z", b"99999-01-01", b"\x1b[2J", b"=cmd()"),
    *(b"\xe2\x80\xae", b"../../x", b"\r", b"\xc2\x85", b"a,b\tc", b"x" * 70_000, b"null", b"true", b"1_000"),
]
_ODD_LINES: Final[list[bytes]] = [
    *(b"[" * 100_000, b'{"a":' * 50_000, b"{}", b"[]", b"null", b"NaN", b'{"user": 1e400}', b"1" * 5000, b"\0\0\0"),
    *(b'{"user": "\\ud800", "item": "x", "timestamp": 1}', b"," * 5000, b'"', b"\xef\xbb\xbf", b"\n\n\n"),
]


def run_input_case(seed: int, folder: Path) -> str:
    """One case in an empty folder; returns what was changed.

    Raises:
        BaseException: what did not hold; a panic of polars is no `Exception`.
    """
    draw = random.Random(seed)
    case = draw.choice(CASES)
    try:
        return case(draw, folder)
    except BaseException as error:
        error.add_note(f"seed {seed}: {case.__name__}")
        raise


def _command(words: list[str], allowed: tuple[int, ...] = (0, 2)) -> int:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run_main(lambda: main(words))
    text = said.getvalue()
    for what, holds in (
        ("code", code in allowed),
        ("Traceback", "Traceback" not in text),
        ("\x1b", "\x1b" not in text),
    ):
        if not holds:
            raise BrokenPromiseError(f"{' '.join(words)} ended with {code} ({what}): {text[-600:]}")
    return code


# ---- A user's own table ----


def change_table(draw: random.Random, folder: Path) -> str:
    """Text with odd fields, lines and bytes, as CSV, TSV or JSON lines."""
    ending = draw.choice(["csv", "tsv", "jsonl"])
    path = folder / f"shop.{ending}"
    lines = _lines(ending)
    for _ in range(draw.choice([1, 1, 3])):
        _spoil_lines(draw, lines, ending)
    path.write_bytes(b"\n".join(lines) + b"\n")
    _prepare(draw, folder, path)
    return f"table: {ending}"


def _lines(ending: str) -> list[bytes]:
    rows = [(f"u{user}", f"i{item}", 1_577_836_800 + item, f"Film {item}") for user in range(6) for item in range(6)]
    if ending == "jsonl":
        names = ("user", "item", "timestamp", "title")
        return [json.dumps(dict(zip(names, row, strict=True))).encode() for row in rows]
    separator = "\t" if ending == "tsv" else ","
    return [separator.join(["user", "item", "timestamp", "title"]).encode()] + [
        separator.join(map(str, row)).encode() for row in rows
    ]


def _spoil_lines(draw: random.Random, lines: list[bytes], ending: str) -> None:
    number = draw.randrange(len(lines))
    how = draw.choice(["field", "field", "line", "bytes", "long", "cut"])
    line = bytearray(lines[number])
    if how == "field":
        parts = lines[number].split(b":" if ending == "jsonl" else b"\t" if ending == "tsv" else b",")
        parts[draw.randrange(len(parts))] = draw.choice(_ODD_FIELDS)
        lines[number] = (b":" if ending == "jsonl" else b"\t" if ending == "tsv" else b",").join(parts)
    elif how == "line":
        lines.insert(number, draw.choice(_ODD_LINES))
    elif how == "long":
        lines[number] = lines[number] + b"x" * 10_000_000
    elif how == "cut":
        del line[draw.randrange(len(line)) :]
        lines[number] = bytes(line)
    else:
        line[draw.randrange(len(line))] = draw.randrange(256)
        lines[number] = bytes(line)


def _prepare(draw: random.Random, folder: Path, path: Path) -> None:
    words = ["prepare", "--dataset_code", str(path), "--experiment_root", str(folder / "experiments")]
    _command([*words, "--min_item_interactions", "1", "--on_bad_line", draw.choice(["stop", "skip"])])


def change_parquet_table(draw: random.Random, folder: Path) -> str:
    """A Parquet file of a user's with flipped, cut or noisy bytes, or with columns of odd types."""
    path = folder / "shop.parquet"
    rows = [{"user": f"u{u}", "item": f"i{i}", "timestamp": 10**9 + i} for u in range(6) for i in range(6)]
    table = pl.DataFrame(rows)
    if draw.random() < 0.3:
        name = draw.choice(table.columns)
        odd: list[Any] = [None, [1], {"a": 1}, b"\xff", 1e308, True, "\x1b[2J"]
        table = table.with_columns(pl.Series(name, [draw.choice(odd)] * table.height, strict=False))
        table.write_parquet(path)
    else:
        table.write_parquet(path, compression=draw.choice(["zstd", "snappy", "uncompressed"]))
        path.write_bytes(_spoiled(draw, path.read_bytes()))
    _prepare(draw, folder, path)
    return "table: parquet"


def _spoiled(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    how = draw.choice(["flip", "flip", "flip", "noise", "cut", "longer", "end"])
    if how == "flip":
        for _ in range(draw.choice([1, 1, 8])):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    elif how == "noise":
        start = draw.randrange(len(changed))
        changed[start : start + 32] = draw.randbytes(32)
    elif how == "cut":
        del changed[draw.randrange(len(changed)) :]
    elif how == "longer":
        changed += draw.randbytes(20)
    else:
        # What Parquet reads first: the length of its table of contents, and that.
        changed[-draw.randrange(5, 200)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def write_in_dialects(draw: random.Random, folder: Path) -> str:
    """One table in several dialects, which must give one set."""
    check_dialects(draw, folder, num_dialects=5)
    return "table: dialects"


# ---- What the stages hand on ----


@cache
def _whole() -> Path:
    """A retriever, a ranker, an export and files of users, made once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with_export(str(folder))
    return folder


def _copy(folder: Path) -> Path:
    return Path(shutil.copytree(_whole(), folder / "shop"))


def change_users(draw: random.Random, folder: Path) -> str:
    """A file of users in each format."""
    from llamarec.errors import LlamarecError
    from llamarec.recommend.requests import read_requests

    ending = draw.choice(["csv", "tsv", "jsonl", "txt", "parquet"])
    path = folder / f"users.{ending}"
    if ending == "parquet":
        pl.DataFrame({"user": [f"u{user}" for user in range(9)]}).write_parquet(path)
        path.write_bytes(_spoiled(draw, path.read_bytes()))
    else:
        lines = _lines("csv" if ending == "txt" else ending)
        _spoil_lines(draw, lines, ending)
        path.write_bytes(b"\n".join(lines))
    with contextlib.suppress(LlamarecError):
        read_requests(path)
    return f"users: {ending}"


def change_lists(draw: random.Random, folder: Path) -> str:
    """A retriever's file with other bytes: refused where its hash does not fit, read or refused where it does."""
    shop = _copy(folder)
    files = FileSet(shop / "experiments/lru/shop")
    name = draw.choice(sorted(files.entries() or {}))
    whole = files.read(name)
    changed = _spoiled(draw, whole)
    if draw.random() < 0.5:
        (files.folder / name).write_bytes(changed)
        allowed = (0, 2) if changed == whole else (2,)
    else:
        contents = {one: files.read(one) for one in files.entries() or {}} | {name: changed}

        def fill(staging: Staging) -> None:
            for one, content in contents.items():
                staging.write(one, content)

        files.publish(fill, {})
        allowed = (0, 2)
    _command(["export", str(shop / "experiments/llm/shop"), "--to", str(shop / "new")], allowed)
    _command(["recommend", str(shop / "experiments/llm/shop"), "--user", "u1"])
    _read_lists(shop)
    return f"retriever: {name}"


def _read_lists(shop: Path) -> None:
    from llamarec.data.prepared import load_prepared
    from llamarec.errors import LlamarecError
    from llamarec.retriever.candidates import load_candidates
    from llamarec.retriever.hard_negatives import load_hard_negatives
    from llamarec.vocabulary import Experiment

    experiment = Experiment(shop / "experiments", "shop")
    data = load_prepared(experiment.data)
    for read in (lambda: load_candidates(experiment, data), lambda: load_hard_negatives(experiment, data, 5)):
        with contextlib.suppress(LlamarecError):
            read()


_OF_RUN: Final = (
    *("experiments/llm/shop/ranker.json", "experiments/llm/shop/metrics.json", "experiments/lru/shop/metrics.json"),
    *("experiments/llm/shop/checkpoints/final_fusion.json", "experiments/data/shop/manifest.json"),
    *("experiments/llm/shop/checkpoints/final_experts.json", "experiments/lru/shop/experts.json"),
    *("experiments/llm/shop/test.parquet", "experiments/data/shop/histories.parquet"),
    *("out/model/export.json", "out/model/README.md", "out/model/adapter_config.json", "out/model/prompt.json"),
)


def change_run(draw: random.Random, folder: Path) -> str:
    """A file of a run or of an export: odd values, or other bytes."""
    shop = _copy(folder)
    path = shop / draw.choice([name for name in _OF_RUN if (shop / name).is_file()])
    if path.suffix == ".json" and draw.random() < 0.7:
        content = json.loads(path.read_bytes())
        _change_one(draw, content)
        if draw.random() < 0.1:
            content = draw.choice(ODD_VALUES)
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        path.write_bytes(_spoiled(draw, path.read_bytes()))

    run = str(shop / "experiments/llm/shop")
    _command(["recommend", run, "--user", "u1"])
    _command(["recommend", run, "--users", str(shop / "users.txt"), "--output", str(shop / "out/top.jsonl")])
    _command(["export", run, "--to", str(shop / "out/model"), "--overwrite"])
    _command(["report", run])
    if (shop / "out/model/notes.txt").read_bytes() != b"my own" or (shop / "users.txt").stat().st_size < 100:
        raise BrokenPromiseError("a user's own file was changed")
    return f"run: {path.name}"


CASES: Final[tuple[Callable[[random.Random, Path], str], ...]] = (
    *(change_table, change_table, change_parquet_table, change_parquet_table),
    *(write_in_dialects, write_in_dialects),
    *(change_users, change_lists, change_run, change_run),
)
