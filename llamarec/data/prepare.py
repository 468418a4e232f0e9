"""Preparation of a data set; a prepared one is reused where it fits the options and the raw files."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import polars as pl
from rich.console import Console

from llamarec import __version__
from llamarec.data.config import NO_THRESHOLD, DataConfig
from llamarec.data.containers import real_file
from llamarec.data.inputs import TITLES_FLAG, Inputs, describe, hash_inputs, known_titles_path
from llamarec.data.lines import BadLines, RowLimit
from llamarec.data.parquet import write_parquet
from llamarec.data.prepared import (
    FORMAT_VERSION,
    HISTORIES,
    ITEMS,
    MANIFEST,
    OTHERS,
    Manifest,
    PreparedData,
    load_prepared,
    options_from,
    options_of,
    read_manifest,
)
from llamarec.data.ratings import LeastRating
from llamarec.data.raw import files_here, find_source, present_files, raw_files
from llamarec.data.recipe import Built, build
from llamarec.data.replacement import check_same_data, check_same_options, was_trained_on
from llamarec.data.source import RawInput, RawTables
from llamarec.data.sources import SOURCES
from llamarec.data.summary import Summary, size_line, summary_lines, summary_of
from llamarec.data.tables.files import table_files
from llamarec.data.tables.table import read_table
from llamarec.errors import ArtifactError, ConfigError, DataError
from llamarec.files import replacing_folder, write_json

DRY_RUN_ROWS: Final = 1_000_000


def resolve_options(config: DataConfig, given: Container[str]) -> DataConfig:
    """The options, with those of the prepared set wherever the command line gives none.

    Args:
        config: Options, with defaults for what is not given.
        given: Names of the options on the command line.
    """
    folder = config.experiment.data
    manifest = read_manifest(folder)
    then = manifest["options"] if manifest is not None else {}
    kept = {name: then[name] for name in options_from(config) if name in then and name not in given}

    if config.is_own_table and TITLES_FLAG.removeprefix("--") not in given:
        kept["items_file"] = known_titles_path(folder) or config.items_file
    return replace(config, **kept)  # type: ignore[arg-type]  # values of these very fields


def prepare(config: DataConfig, console: Console | None = None, *, again: bool = False) -> PreparedData:
    """The prepared data set for these options, made where it is not there yet.

    Args:
        config: Options.
        console: Receives a summary.
        again: Replace a set that a model was trained on.

    Raises:
        ConfigError: the data set is unknown, or a column is missing.
        DataError: raw files are missing or malformed, or nothing is left of them.
        ArtifactError: a model was trained on the prepared set, and this would be another one.
    """
    console = console or Console(markup=False, emoji=False)
    folder = config.experiment.data

    reused = _reuse(config, folder)
    if reused is not None:
        _print(console, [size_line(reused.manifest, folder, "is already prepared")])
        return reused

    trained_on = read_manifest(folder) if was_trained_on(config.experiment) else None
    protected = None if again else trained_on
    check_same_options(config, options_from(config), protected)

    paths = table_files(config) if config.is_own_table else raw_files(find_source(config), Path(config.data_root))
    bad = BadLines(config.on_bad_line)
    with console.status(f"preparing {config.name}"):
        built, summary = _build(config, paths, bad)
        _write(config, built, summary, paths, protected)
    prepared = load_prepared(folder)

    lines = [size_line(prepared.manifest, folder, "is prepared"), *summary_lines(prepared.manifest)]
    if trained_on is not None and trained_on["fingerprint"] != prepared.fingerprint:
        lines.append("The retriever and ranker were trained on the previous data. Retrain both.")
    _print(console, lines)
    return prepared


def dry_run(config: DataConfig, console: Console | None = None) -> Summary:
    """Reads the first rows and prints what `prepare` would; writes nothing, and fetches nothing.

    Args:
        config: Options.
        console: Receives the summary.

    Raises:
        ConfigError: the data set is unknown, or a column is missing.
        DataError: raw files are missing or malformed, or nothing is left of them.
    """
    console = console or Console(markup=False, emoji=False)
    if not config.is_own_table and config.dataset_code not in SOURCES and read_manifest(config.experiment.data):
        raise ConfigError(
            f"--dataset_code {config.dataset_code}: this set is prepared, and its table is not named",
            expected="the path of the table",
            hint=f"llamarec prepare --dry_run --dataset_code path/to/{config.dataset_code}.csv",
        )

    paths = table_files(config) if config.is_own_table else files_here(find_source(config), Path(config.data_root))
    bad = BadLines(config.on_bad_line, limit=RowLimit(DRY_RUN_ROWS))
    with console.status(f"reading {config.name}"):
        summary = _first_rows(config, paths, bad)

    what = "would be prepared"
    if rows := summary.get("first_rows"):
        what = f"has more rows; of the first {rows:,} alone, it would be prepared as"
    _print(console, [size_line(summary, None, what), *summary_lines(summary), "dry run      nothing was written"])
    return summary


def _first_rows(config: DataConfig, paths: Mapping[str, Path], bad: BadLines) -> Summary:
    try:
        return _build(config, paths, bad)[1]
    except DataError as error:
        if not bad.limit.is_cut:
            raise
        raise DataError(
            f"of the first {bad.limit.max_rows:,} rows alone: {error.problem}",
            expected=error.expected,
            found=error.found,
            hint=[*(error.hint or "").splitlines(), "the whole table: the same command without --dry_run"],
        ) from error


def _print(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


def _build(config: DataConfig, paths: Mapping[str, Path], bad: BadLines) -> tuple[Built, Summary]:
    least = None if config.least_rating is None else LeastRating(config.least_rating)
    tables = _read(config, paths, bad, least)
    built = build(tables.interactions, tables.items, config)
    return built, summary_of(tables, built, bad, config)


def _read(config: DataConfig, paths: Mapping[str, Path], bad: BadLines, least: LeastRating | None) -> RawTables:
    if config.is_own_table:
        tables = read_table(config, bad, least)
    else:
        source = find_source(config)
        if least and not source.has_ratings:
            raise ConfigError(
                f"--min_rating {config.min_rating}: {source.code} has no ratings",
                hint=f"leave it out, or: --min_rating {NO_THRESHOLD}",
            )
        tables = source.read(RawInput(paths, bad, least))

    if least is None:
        return tables
    least.check_kept(config.dataset_code)
    warnings = (*tables.warnings, *filter(None, [least.warning]))
    return tables._replace(left_out={**tables.left_out, **least.left_out}, warnings=warnings)


def _reuse(config: DataConfig, folder: Path) -> PreparedData | None:
    """The prepared set, if it was made with these options from these raw files (or they are no longer here)."""
    manifest = read_manifest(folder)
    paths = _raw_files_here(config, is_prepared=manifest is not None)
    if manifest is None or options_of(manifest) != options_from(config):
        return None

    # A table of titles may be left out of a later command.
    inputs = hash_inputs(paths, folder) if paths is not None else Inputs({}, {})
    if any(manifest["inputs"].get(name) != described for name, described in inputs.described.items()):
        return None
    inputs.remember(folder)

    try:
        return load_prepared(folder)
    except ArtifactError:
        return None


def _raw_files_here(config: DataConfig, *, is_prepared: bool) -> dict[str, Path] | None:
    """The raw files by name; None where some are missing and a prepared set can do without them."""
    if not config.is_own_table:
        # A user's own table, once prepared, is known by its name alone.
        known = config.dataset_code in SOURCES or not is_prepared
        return present_files(find_source(config), Path(config.data_root)) if known else None

    if is_prepared and real_file(Path(config.dataset_code)) is None:
        return None
    return table_files(config)


def _write(
    config: DataConfig, built: Built, summary: Summary, paths: Mapping[str, Path], protected: Manifest | None
) -> None:
    """Writes a new folder, the manifest last, and puts it in place, unless it differs from a `protected` set."""
    inputs = hash_inputs(paths, config.experiment.data)
    parts = {HISTORIES: built.histories, ITEMS: built.items, OTHERS: built.others}

    with replacing_folder(config.experiment.data) as staging:
        inputs.remember(staging)
        for name, table in parts.items():
            write_parquet(table, staging / name, statistics=False)

        manifest = _manifest(config, summary, inputs, staging)
        write_json(staging / MANIFEST, {**manifest})
        check_same_data(config, manifest, protected)


def _manifest(config: DataConfig, summary: Summary, inputs: Inputs, folder: Path) -> Manifest:
    outputs = {name: describe(folder / name) for name in (HISTORIES, ITEMS, OTHERS)}
    # Only the files that models are trained on.
    digests = [outputs[name]["sha256"] for name in (HISTORIES, ITEMS)]

    return {
        "format_version": FORMAT_VERSION,
        **summary,
        "options": options_from(config),
        "inputs": inputs.described,
        "outputs": outputs,
        "fingerprint": hashlib.sha256("".join(digests).encode()).hexdigest(),
        "versions": {"llamarec": __version__, "polars": pl.__version__},
    }
