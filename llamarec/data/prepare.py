"""Prepares a data set, or takes the prepared one if it fits the options and the raw files."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl
from rich.console import Console

from llamarec import __version__
from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.command import flags_of, typed, with_flags
from llamarec.data.config import DataConfig
from llamarec.data.lines import BadLines
from llamarec.data.prepared import (
    FORMAT_VERSION,
    HISTORIES,
    ITEMS,
    MANIFEST,
    OTHERS,
    PreparedData,
    load_prepared,
    read_manifest,
)
from llamarec.data.raw import find_source, present_files, raw_files
from llamarec.data.recipe import Built, build
from llamarec.data.source import RawTables
from llamarec.data.sources import SOURCES
from llamarec.data.sources.table import read_table, table_files
from llamarec.errors import ArtifactError
from llamarec.files import read_json, replacing_folder, write_bytes, write_json
from llamarec.vocabulary import ITEM, ITEM_IDS, TIMESTAMP, USER, Experiment

# Where files lie changes nothing in what comes out of them.
_PLACES: Final = ("data_root", "experiment_root", "dataset_code", "items_file")
_MANY_BAD: Final = 0.01  # of the lines
_TABLE: Final = "--dataset_code"  # what an own table is called among the inputs
_SEEN: Final = ".inputs.json"  # sizes and times of inputs already hashed; a cache, not an artifact


def resolve_options(config: DataConfig, given: Container[str]) -> DataConfig:
    """The options, where they are not given as they were when the set was prepared: a flag may be left out later.

    Args:
        config: With defaults for what is not given.
        given: Names of options on the command line.
    """
    folder = config.experiment.data
    manifest = read_manifest(folder)
    then = manifest["options"] if manifest is not None else {}
    kept = {name: then[name] for name in _options(config) if name in then and name not in given}
    if config.is_own_table and "items_file" not in given:
        kept["items_file"] = _place_of_items(folder) or config.items_file
    return replace(config, **kept)


def prepare(config: DataConfig, console: Console | None = None, *, again: bool = False) -> PreparedData:
    """The prepared data set for these options.

    Args:
        config: Options.
        console: Is told what was done.
        again: Replace a set that something was trained on.

    Raises:
        ConfigError: unknown data set, or a column that is not there.
        DataError: raw files are missing or malformed, or nothing is left of them.
        ArtifactError: something was trained on the set that is there, and this would be another one.
    """
    console = console or Console(markup=False, emoji=False)
    folder = config.experiment.data
    reused = _reuse(config, folder)
    if reused is not None:
        console.print(_summary(reused, "is prepared already"), soft_wrap=True)
        return reused
    trained_on = read_manifest(folder) if _was_trained_on(config.experiment) else None
    before = None if again else trained_on
    _refuse_other_options(config, before)
    paths = table_files(config) if config.is_own_table else raw_files(find_source(config), Path(config.data_root))
    bad = BadLines(config.on_bad_line)
    with console.status(f"preparing {config.name}"):
        tables = _read(config, paths, bad)
        built = build(tables.interactions, tables.items, config)
        _publish(config, built, paths, bad, before)
    prepared = load_prepared(folder)
    console.print(_summary(prepared, "prepared"), soft_wrap=True)
    for line in [*_read_as(tables, prepared), *_left_out(built, prepared, config)]:
        console.print(line, soft_wrap=True)
    if trained_on is not None and trained_on["fingerprint"] != prepared.fingerprint:
        text = "what was trained on the data of before does not fit these: retriever and ranker are to be trained anew"
        console.print(text, soft_wrap=True)
    if bad.count:
        share = bad.count / (bad.count + tables.interactions.height)
        loud = "WARNING: " if share > _MANY_BAD else ""
        text = f"{loud}{bad.count:,} malformed lines ({share:.1%}) were skipped, first: {bad.listed[0]}"
        console.print(text, soft_wrap=True)
    return prepared


def changed_inputs(folder: Path, table: str = "") -> list[str]:
    """Raw files that are there and have other content than when they were prepared.

    Args:
        folder: Of the prepared set.
        table: A path by which an own table is called now, perhaps another than then.
    """
    manifest, seen = read_manifest(folder), _seen(folder)
    then = manifest["inputs"] if manifest is not None else {}
    places = {name: Path(known["mark"][0]) for name, known in seen.items() if name in then}
    if _TABLE in places and Path(table).is_file():
        places[_TABLE] = Path(table)
    changed = []
    for name, path in places.items():
        # Somebody else's, perhaps, and this is only a warning.
        with contextlib.suppress(OSError):
            if not path.is_file():
                continue
            inputs = _inputs({name: path}, folder)
            if inputs.described[name] != then[name]:
                changed.append(str(path))
            elif name != _TABLE or not table:
                inputs.remember(folder)
    return changed


def _place_of_items(folder: Path) -> str:
    """Where the table of titles was when the set was prepared."""
    known = _seen(folder).get("--items_file")
    with contextlib.suppress(OSError):
        return str(known["mark"][0]) if known and Path(known["mark"][0]).is_file() else ""
    return ""


def _options_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """As a set was prepared; an earlier version did as the defaults of what it had no option for."""
    return {**_options(DataConfig()), **manifest["options"]}


def _was_trained_on(experiment: Experiment) -> bool:
    """Whether a retriever or a ranker has left anything: with other data it would be of no use."""
    places = (experiment.retriever, experiment.checkpoints)
    return any(place.is_dir() and any(place.iterdir()) for place in places)


def _refuse_other_options(config: DataConfig, before: Mapping[str, Any] | None) -> None:
    now = _options(config)
    then = _options_of(before) if before is not None else now
    other = [name for name in now if now[name] != then.get(name)]
    if not other:
        return
    flags = "".join(f"\n            --{name} {now[name]}: it was prepared with {then.get(name)}" for name in other)
    raise ArtifactError(
        f"{config.experiment.data} was prepared with other options, and something was trained on it",
        expected="these options left out; they stay as they were",
        found=flags.lstrip(),
        hint=_ways_to_other_data(config, other),
    )


def _refuse_other_data(config: DataConfig, before: Mapping[str, Any] | None, manifest: Mapping[str, Any]) -> None:
    if before is None or before["fingerprint"] == manifest["fingerprint"]:
        return
    inputs = manifest["inputs"]
    names = {"--dataset_code": config.dataset_code, "--items_file": config.items_file}
    changed = [names.get(name, name) for name in inputs if inputs[name] != before["inputs"].get(name)]
    go_on = f"--dataset_code {config.name}" if config.is_own_table else "a --data_root without these files"
    raise ArtifactError(
        f"{config.experiment.data} was prepared from other raw files, and something was trained on it",
        expected=f"the files of then ({before['num_interactions']:,} interactions are prepared)",
        found=f"{manifest['num_interactions']:,} interactions; changed: {', '.join(changed) or 'the raw files'}",
        hint=f"to go on with what is prepared: {go_on}\n            {_ways_to_other_data(config)}",
    )


def _ways_to_other_data(config: DataConfig, other: Sequence[str] = ()) -> str:
    """Commands; options in `other` are named also where they are at their default, since what is not named stays."""
    wanted = [word for name in other for word in (f"--{name}", str(getattr(config, name)))]
    train = with_flags(["python", "train_retriever.py", *flags_of(config)], wanted)
    return (
        f"to begin anew with the new data: {typed([*train, '--prepare_again'])}\n"
        "            to have both: another --experiment_root, in this and all later commands"
    )


def _read(config: DataConfig, paths: Mapping[str, Path], bad: BadLines) -> RawTables:
    return read_table(config, bad) if config.is_own_table else find_source(config).read(paths, bad)


def _reuse(config: DataConfig, folder: Path) -> PreparedData | None:
    """The prepared set, if it was made with these options from these raw files (or they are no longer here)."""
    manifest = read_manifest(folder)
    paths = _raw_files_here(config, is_prepared=manifest is not None)
    if manifest is None or _options_of(manifest) != _options(config):
        return None
    # A table of titles need not be named again.
    inputs = _inputs(paths, folder) if paths is not None else _Inputs({}, {})
    if any(manifest["inputs"].get(name) != described for name, described in inputs.described.items()):
        return None
    inputs.remember(folder)
    try:
        return load_prepared(folder)
    except ArtifactError:
        return None


def _raw_files_here(config: DataConfig, *, is_prepared: bool) -> dict[str, Path] | None:
    """The raw files by name; None where they are not all here and a prepared set can do without."""
    if not config.is_own_table:
        # A table that was prepared before is known by its name alone.
        known = config.dataset_code in SOURCES or not is_prepared
        return present_files(find_source(config), Path(config.data_root)) if known else None
    if is_prepared and not Path(config.dataset_code).is_file():
        return None
    return table_files(config)


def _publish(
    config: DataConfig,
    built: Built,
    paths: Mapping[str, Path],
    bad: BadLines,
    before: Mapping[str, Any] | None,
) -> None:
    """Writes everything beside its place, the manifest last, and moves it there; refuses another set than `before`."""
    histories, items = built.histories, built.items
    inputs = _inputs(paths, config.experiment.data)
    with replacing_folder(config.experiment.data) as staging:
        inputs.remember(staging)
        histories.write_parquet(staging / HISTORIES, compression="zstd", statistics=False)
        items.write_parquet(staging / ITEMS, compression="zstd", statistics=False)
        built.others.write_parquet(staging / OTHERS, compression="zstd", statistics=False)
        outputs = {name: _described(staging / name) for name in (HISTORIES, ITEMS, OTHERS)}
        # What something is trained on.
        digests = [outputs[name]["sha256"] for name in (HISTORIES, ITEMS)]
        manifest = {
            "format_version": FORMAT_VERSION,
            "dataset_code": config.name,
            "num_users": histories.height,
            "num_items": items.height,
            "num_interactions": int(histories[ITEM_IDS].list.len().sum()),
            "has_repeats": _has_repeats(histories),
            "options": _options(config),
            "inputs": inputs.described,
            "outputs": outputs,
            "fingerprint": hashlib.sha256("".join(digests).encode()).hexdigest(),
            "raw": {**built.raw, "interactions_without_title": built.untitled},
            "bad_lines": {"count": bad.count, "listed": bad.listed},
            "versions": {"llamarec": __version__, "polars": pl.__version__},
        }
        write_json(staging / MANIFEST, manifest)
        _refuse_other_data(config, before, manifest)


def _options(config: DataConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in _PLACES}


class _Inputs(NamedTuple):
    """Size and hash of each raw file, and where and of what time it was when it was hashed."""

    described: dict[str, dict[str, Any]]
    marks: dict[str, dict[str, Any]]

    def remember(self, folder: Path) -> None:
        """So that a file that has not changed need not be hashed again."""
        # A table of titles that was not named stays known.
        before = _seen(folder)
        merged = {**before, **self.marks}
        if merged != before:
            write_bytes(folder / _SEEN, json.dumps(merged).encode())


def _inputs(paths: Mapping[str, Path], folder: Path) -> _Inputs:
    """Of the raw files; one that has not changed since it was hashed is not read again."""
    seen, described, marks = _seen(folder), {}, {}
    for name, path in sorted(paths.items()):
        stat = path.stat()
        mark = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
        known = seen.get(name, {})
        described[name] = known["described"] if known.get("mark") == mark else _described(path)
        marks[name] = {"mark": mark, "described": described[name]}
    return _Inputs(described, marks)


def _seen(folder: Path) -> dict[str, Any]:
    return read_json(folder / _SEEN) or {}


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _has_repeats(histories: pl.DataFrame) -> bool:
    return bool((histories[ITEM_IDS].list.n_unique() < histories[ITEM_IDS].list.len()).any())


def _read_as(tables: RawTables, data: PreparedData) -> list[str]:
    """How an own table was understood: what is wrong here is wrong in all that follows."""
    if not tables.times or tables.interactions.is_empty():
        return []
    first, last = (_day(second) for second in _ends(tables.interactions))
    lines = [f"times        read as {tables.times}: {first} to {last}"]
    if data.has_repeats:
        rows = tables.interactions.height
        repeats = rows - tables.interactions.select(USER, ITEM).unique().height
        text = (
            f"repeats      {repeats:,} of {rows:,} interactions are with an item that the user took before: what people"
        )
        lines.append(f"{text} have can be proposed to them again (train_retriever.py --exclude_history always: never)")
    return lines


def _day(second: int) -> str:
    try:
        return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        return f"{second:,} s since 1970"


def _ends(interactions: pl.DataFrame) -> tuple[int, int]:
    times = interactions[TIMESTAMP]
    return int(times.min() or 0), int(times.max() or 0)  # type: ignore[arg-type]


def _left_out(built: Built, data: PreparedData, config: DataConfig) -> list[str]:
    """What of the files is not in the prepared set, and why; nothing where all of it is."""
    raw, lines = built.raw, []
    if built.untitled:
        lines.append(f"left out     {built.untitled:,} interactions with items that have no title")
    too_few = raw["interactions"] - built.untitled - data.num_interactions
    if too_few:
        least = f"users with fewer than {config.min_user_interactions} or items with fewer than"
        flags = "--min_user_interactions, --min_item_interactions"
        lines.append(f"left out     {too_few:,} interactions of {least} {config.min_item_interactions} ({flags})")
    if built.others.height:
        count = built.others.height
        lines.append(f"             {count:,} users are neither trained nor tested on, but can be recommended to")
    if lines:
        counts = ", ".join(f"{count:,} {name}" for name, count in raw.items())
        lines.append(f"of all       {counts} in the files")
    return lines


def _summary(data: PreparedData, what: str) -> str:
    return (
        f"{data.dataset_code} {what}: {data.num_users:,} users, {data.num_items:,} items, "
        f"{data.num_interactions:,} interactions -> {data.folder}"
    )
