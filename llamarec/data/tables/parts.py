"""A part of a table: one file, or one in an archive, with the columns that it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import polars as pl

from llamarec.data.config import DataConfig, names_of_columns
from llamarec.data.inputs import INTERACTIONS_FLAG, TITLES_FLAG
from llamarec.data.lines import BadLines, EachBlock
from llamarec.data.tables.columns import listed
from llamarec.data.tables.separators import character_of
from llamarec.errors import ConfigError, DataError

ReadPart = Callable[[Sequence[str], Sequence[str], BadLines, EachBlock, int | None], pl.DataFrame]
"""Rows of these columns; columns that each row needs; what happens to malformed rows; what becomes of a block of rows,
with LINE, numbers of rows; and how many rows are read, None for all."""
_HIVE: Final = re.compile(r"([^=]+)=(.*)")
_HIVE_NULL: Final = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How a table is to be read.

    Attributes:
        path: Of its file or folder, or into an archive.
        flag: That gives the path.
        prefix: Of the flags of this table.
        columns: Names of all columns, where it has no header.
        separator: Of the fields of text; "" where it is to be recognised.
        encoding: Of text.
    """

    path: Path
    flag: str
    prefix: str = ""
    columns: tuple[str, ...] = ()
    separator: str = ""
    encoding: str = "utf-8"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a table.

    Attributes:
        path: Of the file, or into an archive.
        names: Its columns in their order, "" where one has no name.
        read: Reads the rows.
        unit: What a row is to a person: a line, a row, a record.
        types: By column, the kind of its values; empty for text.
        listed: Columns of text with lists that are separated by blanks.
        form: What was recognised beside the columns, in words: "separated by ;".
    """

    path: Path
    names: tuple[str, ...]
    read: ReadPart
    unit: str = "line"
    types: Mapping[str, str] = field(default_factory=dict)
    listed: frozenset[str] = frozenset()
    form: str = ""


def options_of_tables(config: DataConfig) -> list[TableOptions]:
    """The user's table and, where it is given, the second one."""
    main = TableOptions(
        path=Path(config.dataset_code),
        flag=INTERACTIONS_FLAG,
        columns=names_of_columns(config.columns),
        separator=character_of(config.separator),
        encoding=config.encoding,
    )
    if not config.items_file:
        return [main]

    second = TableOptions(
        path=Path(config.items_file),
        flag=TITLES_FLAG,
        prefix="items_",
        columns=names_of_columns(config.items_columns),
        separator=character_of(config.items_separator),
        encoding=config.items_encoding or config.encoding,
    )
    return [main, second]


def check_has_names(path: Path, options: TableOptions, kind: str) -> None:
    """Refuses --columns for a kind of file that names its columns.

    Raises:
        ConfigError: it was given.
    """
    if options.columns:
        flag = f"--{options.prefix}columns"
        raise ConfigError(
            f"{flag}: {path} is {kind}, which names its columns",
            expected="a CSV or TSV without a header line",
            hint=f"leave {flag} out; name columns with --user_column, --item_column, ...",
        )


def with_folder_names(part: Part, folder: Path) -> Part:
    """A part with the columns that Hive writes as names of folders: `day=2020-01-01/part-0.parquet`."""
    folders = part.path.relative_to(folder).parts[:-1]
    found = {match[1]: unquote(match[2]) for name in folders if (match := _HIVE.fullmatch(name))}
    constants = {name: value for name, value in found.items() if name not in part.names}
    if not constants:
        return part

    def read(
        columns: Sequence[str], required: Sequence[str], bad: BadLines, each: EachBlock, max_rows: int | None
    ) -> pl.DataFrame:
        own, own_required = ([name for name in names if name not in constants] for names in (columns, required))
        texts = {name: None if value == _HIVE_NULL else value for name, value in constants.items()}
        added = [pl.lit(texts[name], dtype=pl.String).alias(name) for name in columns if name in texts]
        return part.read(own, own_required, bad, lambda block: each(block.with_columns(added)), max_rows)

    return replace(part, names=(*part.names, *constants), read=read)


def check_alike(parts: Sequence[Part], where: Path) -> None:
    """Checks that the parts of a table have the same columns.

    Raises:
        DataError: two differ; names both.
    """
    first = parts[0]
    for part in parts[1:]:
        if sorted(part.names) != sorted(first.names):
            lacking = sorted({*first.names, *part.names} - ({*first.names} & {*part.names}))
            raise DataError(
                f"{where}: its parts have different columns",
                expected=f"in each the columns of {first.path.name}: {listed(first.names)}",
                found=f"{part.path.name} differs in {listed(lacking) if lacking else 'columns of one name'}",
                hint="give the path of one part, or write them anew with the same columns",
            )
        for name, kind in part.types.items():
            if kind != first.types.get(name, kind):
                raise DataError(
                    f"{where}: column {name!r} has different types in its parts",
                    expected=f"the type of {first.path.name}: {first.types[name]}",
                    found=f"{part.path.name}: {kind}",
                    hint="write the parts anew with one type",
                )
