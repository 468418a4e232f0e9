"""Prepares a data set, or takes the prepared one if it fits the options and the raw files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import polars as pl
from rich.console import Console

from llamarec import __version__
from llamarec.assets import sha256_of
from llamarec.data.config import DataConfig
from llamarec.data.lines import BadLines
from llamarec.data.prepared import (
    FORMAT_VERSION,
    HISTORIES,
    ITEMS,
    MANIFEST,
    PreparedData,
    load_prepared,
    read_manifest,
)
from llamarec.data.raw import find_source, present_files, raw_files
from llamarec.data.recipe import build
from llamarec.data.source import RawTables
from llamarec.data.sources.table import read_table, table_files
from llamarec.errors import ArtifactError
from llamarec.files import write_json, write_text
from llamarec.vocabulary import ITEM_IDS

# Where files lie changes nothing in what comes out of them.
_PLACES: Final = ("data_root", "experiment_root", "dataset_code", "items_file")
_SEEN: Final = ".inputs.json"  # sizes and times of inputs already hashed; a cache, not an artifact


def prepare(config: DataConfig, console: Console | None = None) -> PreparedData:
    """The prepared data set for these options.

    Raises:
        ConfigError: unknown data set, or a column that is not there.
        DataError: raw files are missing or malformed, or nothing is left of them.
    """
    console = console or Console(markup=False, emoji=False)
    folder = config.experiment.data
    reused = _reuse(config, folder)
    if reused is not None:
        console.print(_summary(reused, "is prepared already"), soft_wrap=True)
        return reused
    paths = table_files(config) if config.is_own_table else raw_files(find_source(config), Path(config.data_root))
    bad = BadLines(config.on_bad_line)
    with console.status(f"preparing {config.name}"):
        tables = _read(config, paths, bad)
        histories, items = build(tables.interactions, tables.items, config)
        _publish(config, folder, histories, items, paths, bad)
    prepared = load_prepared(folder)
    console.print(_summary(prepared, "prepared"), soft_wrap=True)
    if bad.count:
        console.print(f"{bad.count:,} malformed lines were skipped, first: {bad.listed[0]}", soft_wrap=True)
    return prepared


def _read(config: DataConfig, paths: Mapping[str, Path], bad: BadLines) -> RawTables:
    return read_table(config, bad) if config.is_own_table else find_source(config).read(paths, bad)


def _reuse(config: DataConfig, folder: Path) -> PreparedData | None:
    """The prepared set, if it was made with these options from these raw files (or they are no longer here)."""
    if config.is_own_table:
        paths: dict[str, Path] | None = table_files(config)
    else:
        paths = present_files(find_source(config), Path(config.data_root))
    manifest = read_manifest(folder)
    if manifest is None or manifest["options"] != _options(config):
        return None
    if paths is not None and manifest["inputs"] != _inputs(paths, folder):
        return None
    try:
        return load_prepared(folder)
    except ArtifactError:
        return None


def _publish(
    config: DataConfig,
    folder: Path,
    histories: pl.DataFrame,
    items: pl.DataFrame,
    paths: Mapping[str, Path],
    bad: BadLines,
) -> None:
    """Writes everything beside its place, the manifest last, and moves it there."""
    staging = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    histories.write_parquet(staging / HISTORIES, compression="zstd", statistics=False)
    items.write_parquet(staging / ITEMS, compression="zstd", statistics=False)
    outputs = {name: _described(staging / name) for name in (HISTORIES, ITEMS)}
    manifest = {
        "format_version": FORMAT_VERSION,
        "dataset_code": config.name,
        "num_users": histories.height,
        "num_items": items.height,
        "num_interactions": int(histories[ITEM_IDS].list.len().sum()),
        "has_repeats": _has_repeats(histories),
        "options": _options(config),
        "inputs": _inputs(paths, staging),
        "outputs": outputs,
        "fingerprint": hashlib.sha256("".join(file["sha256"] for file in outputs.values()).encode()).hexdigest(),
        "bad_lines": {"count": bad.count, "listed": bad.listed},
        "versions": {"llamarec": __version__, "polars": pl.__version__},
    }
    write_json(staging / MANIFEST, manifest)
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def _options(config: DataConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in _PLACES}


def _inputs(paths: Mapping[str, Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each raw file; one that has not changed since it was hashed is not read again."""
    seen_file = folder / _SEEN
    try:
        seen = json.loads(seen_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        seen = {}
    described, marks = {}, {}
    for name, path in sorted(paths.items()):
        stat = path.stat()
        mark = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
        known = seen.get(name, {})
        described[name] = known["described"] if known.get("mark") == mark else _described(path)
        marks[name] = {"mark": mark, "described": described[name]}
    if marks != seen and folder.is_dir():
        write_text(seen_file, json.dumps(marks))
    return described


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _has_repeats(histories: pl.DataFrame) -> bool:
    return bool((histories[ITEM_IDS].list.n_unique() < histories[ITEM_IDS].list.len()).any())


def _summary(data: PreparedData, what: str) -> str:
    return (
        f"{data.dataset_code} {what}: {data.num_users:,} users, {data.num_items:,} items, "
        f"{data.num_interactions:,} interactions -> {data.folder}"
    )
