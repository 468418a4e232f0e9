"""The files of a table: one, one in an archive, or the parts in a folder."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from llamarec.data.config import DataConfig
from llamarec.data.containers import is_archive, is_hidden, members, real_file
from llamarec.data.inputs import INTERACTIONS_FLAG, files_of
from llamarec.data.prepared import HISTORIES, MANIFEST
from llamarec.data.sources import SOURCES
from llamarec.data.tables import endings
from llamarec.data.tables.content import check_content
from llamarec.data.tables.conversions import READ, conversion
from llamarec.data.tables.parquet import parquet_part
from llamarec.data.tables.parts import (
    Part,
    TableOptions,
    check_alike,
    options_of_tables,
    with_folder_names,
)
from llamarec.data.tables.spreadsheet import sheet_part
from llamarec.data.tables.text import delimited_part, json_part
from llamarec.errors import ConfigError

_MOST_LISTED: Final = 10
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_UNPACK: Final = "if they are parts of one table, unpack the archive and give the path of the folder"
# What marks the folder of a table with versions.
_LAKES: Final = {"_delta_log": "Delta Lake", "metadata/*.metadata.json": "Iceberg", ".hoodie": "Hudi"}
# What comes with data and is none.
_DOCUMENTS: Final = re.compile(r"(?:read.?me|license|licence|changes|changelog)[^/]*\.txt$", re.IGNORECASE)


def table_files(config: DataConfig) -> dict[str, Path]:
    """The table and, where given, the table of titles, by flag: paths of files, of folders, or into archives.

    Raises:
        ConfigError: a file does not exist, or the table has the name of a public data set.
    """
    public = next((code for code in SOURCES if code.casefold() == config.name.casefold()), None)
    if public:
        # Its results would be taken for those of the public set, and replace them; on Windows also those of Beauty.
        raise ConfigError(
            f"{INTERACTIONS_FLAG} {config.dataset_code}: {public} is the name of a public data set",
            expected="a table with a name of its own, which names the folders of its results",
            hint=[
                f"rename the file, to my_{config.name}.csv for example",
                f"the public set: {INTERACTIONS_FLAG} {public}",
            ],
        )

    tables = options_of_tables(config)
    for table in tables:
        file = real_file(table.path)
        if file is not None and not (file.is_file() or file.is_dir()):
            raise ConfigError(
                f"{table.flag} {table.path}: neither a file nor a folder",
                expected="a table that can be read more than once",
                hint="write it into a file",
            )
        if file is None:
            kind = "interactions" if table.flag == INTERACTIONS_FLAG else "items and titles"
            raise ConfigError(
                f"{table.flag} {table.path}: no such file",
                expected=f"the path of a table of {kind}",
                hint=_instead_of_no_file(table),
            )
    return {table.flag: table.path for table in tables}


def open_parts(options: TableOptions, asked: Sequence[str]) -> list[Part]:
    """The parts of a table, in their order.

    Args:
        options: How it is to be read.
        asked: Names of columns that flags give.

    Raises:
        ConfigError: it is not clear which file is meant.
        DataError: a file cannot be read, or the parts have different columns.
    """
    # A column without a name is none that was asked for.
    path, asked = options.path, list(filter(None, asked))
    if path.is_dir():
        parts = [with_folder_names(_part(file, options, asked), path) for file in _files_in(options)]
        check_alike(parts, path)
        return parts

    file = real_file(path)
    if file == path and is_archive(path):
        return [_part(path / _only_member(options), options, asked)]
    if file is not None and file != path and is_archive(file):
        _check_is_member(options, file)
    return [_part(path, options, asked)]


def _part(path: Path, options: TableOptions, asked: Sequence[str]) -> Part:
    kind = endings.kind_of(path.name)
    if kind:
        check_content(path, kind)
    if kind == "sheet" or (not kind and endings.kind_of(path.parent.name) == "sheet"):
        return sheet_part(path, options, asked)
    if kind == "parquet":
        return parquet_part(path, options)
    if kind == "json":
        return json_part(path, options)
    if kind == "text":
        return delimited_part(path, options, asked)
    _check_is_read(options.flag, path, [path.name])
    raise ConfigError(
        f"{options.flag} {path}: its ending says no kind of table",
        expected=READ,
        hint="rename a text, save a spreadsheet as .xlsx or CSV, write other kinds as Parquet",
    )


def _check_is_read(flag: str, path: Path, names: Sequence[str]) -> None:
    """Refuses a file of a known form that is not read, or a folder or an archive that has nothing else.

    Raises:
        ConfigError: a name is that of such a form; says how it is converted.
    """
    for name in names:
        inside = "" if name == path.name else f", with {name} in it"
        if hint := conversion(name if inside else str(path)):
            raise ConfigError(f"{flag} {path}{inside}: a table in a form that is not read", expected=READ, hint=hint)


def _files_in(options: TableOptions) -> list[Path]:
    """The parts in a folder, all of one kind."""
    _check_is_folder_of_parts(options)
    found = [file for file in files_of(options.path) if endings.kind_of(file.name) and not _is_document(file.name)]
    if not found:
        _check_is_read(options.flag, options.path, [file.name for file in files_of(options.path)])
        raise ConfigError(
            f"{options.flag} {options.path}: a folder without a table in it",
            expected=f"parts of one table ({', '.join(endings.TABLE_ENDINGS)})",
        )

    kinds = {endings.kind_of(file.name) for file in found}
    if len(kinds) > 1:
        raise ConfigError(
            f"{options.flag} {options.path}: a folder with tables of several kinds",
            found=_listed([str(file.relative_to(options.path)) for file in found]),
            hint=f"give the path of one: {options.flag} {found[0]}",
        )
    return found


def _check_is_folder_of_parts(options: TableOptions) -> None:
    """Refuses folders whose files are not all of the table, or not one.

    Raises:
        ConfigError: the folder is of Delta Lake, Iceberg or Hudi, or a prepared set.
    """
    folder = options.path
    for mark, kind in _LAKES.items():
        if any(folder.glob(mark)):
            raise ConfigError(
                f"{options.flag} {folder}: a table of {kind}, whose folder has rows that were deleted, too",
                expected="a folder with the parts of one table",
                hint="export the table as Parquet or CSV",
            )
    if (folder / MANIFEST).is_file() and (folder / HISTORIES).is_file():
        raise ConfigError(
            f"{options.flag} {folder}: a data set that is prepared already",
            expected="the raw table, or the name of the set",
            hint=f"{options.flag} {folder.resolve().name}",
        )


def _only_member(options: TableOptions) -> str:
    tables = [name for name in members(options.path) if endings.kind_of(name) and not _is_document(name)]
    if len(tables) == 1:
        return tables[0]
    if not tables:
        _check_is_read(options.flag, options.path, members(options.path))
    raise ConfigError(
        f"{options.flag} {options.path}: an archive with {'several tables' if tables else 'no table'} in it",
        found=_listed(tables or members(options.path)) or "no file",
        hint=(_UNPACK if _are_parts(tables) else f"name one: {options.flag} {options.path / tables[0]}")
        if tables
        else None,
    )


def _check_is_member(options: TableOptions, file: Path) -> None:
    name, there = options.path.relative_to(file).as_posix(), members(file)
    if name not in there:
        near = difflib.get_close_matches(name, there, n=1)
        raise ConfigError(
            f"{options.flag} {options.path}: no {name} in the archive",
            found=_listed(there),
            hint=f"{options.flag} {file / near[0]}" if near else None,
        )


def _is_document(name: str) -> bool:
    return _DOCUMENTS.search(name) is not None or is_hidden(name)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _are_parts(names: Sequence[str]) -> bool:
    """Whether names of files differ in numbers alone, as those of the parts of one table do."""
    return len({re.sub(r"\d+", "0", name) for name in names}) == 1 < len(names)


def _instead_of_no_file(table: TableOptions) -> str | None:
    """What to type in the place of a path where there is no file; None where nothing is near."""
    path = table.path
    if _ADDRESS.match(path.as_posix()):
        return "download it, and give the path of the file"
    if path.parts[:1] == ("~",) and path.expanduser().exists():
        return f"{table.flag} {path.expanduser()}"

    there = {one.name: one for one in path.parent.iterdir() if one.is_file()} if path.parent.is_dir() else {}
    near = difflib.get_close_matches(path.name, there, n=1)
    return f"{table.flag} {there[near[0]]}" if near else None
