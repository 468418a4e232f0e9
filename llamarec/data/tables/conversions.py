"""Forms of tables that are not read: how each is converted into one that is. Nothing is opened."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

from llamarec.data.tables.endings import TABLE_ENDINGS, compressed_ending

READ: Final = f"one of {', '.join(TABLE_ENDINGS)}"
"""The usual forms that are read, for an error."""

_SHEET: Final = "save it as .xlsx or CSV"
_UNPACK: Final = "unpack it, and give the path of the table"
_SQLITE: Final = 'sqlite3 -header -csv {name} "SELECT * FROM TABLE" > {stem}.csv'


def _polars(read: str, write: str = "write_parquet") -> str:
    return f"""python -c "import polars as pl; pl.{read}('{{name}}').{write}('{{stem}}.parquet')\""""


def _pandas(read: str) -> str:
    return f"""python -c "import pandas as pd; pd.{read}('{{name}}').to_csv('{{stem}}.csv', index=False)\""""


_STREAM: Final = f"for a stream of Arrow, as Hugging Face Datasets write it: {_polars('read_ipc_stream')}"
_FORMS: Final[dict[tuple[str, ...], tuple[str, ...]]] = {
    (".xls", ".xlsb", ".ods", ".numbers"): (_SHEET,),
    (".feather",): (_polars("read_ipc"),),
    (".arrow", ".ipc"): (_polars("read_ipc"), _STREAM),
    (".avro",): (_polars("read_avro"),),
    (".orc",): (_pandas("read_orc"),),
    (".pkl", ".pickle"): ("if you trust the file: " + _pandas("read_pickle"),),
    (".h5", ".hdf", ".hdf5"): (_pandas("read_hdf"),),
    (".sas7bdat", ".xpt"): (_pandas("read_sas"),),
    (".dta",): (_pandas("read_stata"),),
    (".sav",): (_pandas("read_spss"),),
    (".xml",): (_pandas("read_xml"),),
    (".db", ".db3", ".sqlite", ".sqlite3"): (_SQLITE,),
    (".duckdb",): ("""duckdb {name} "COPY TABLE_NAME TO '{stem}.parquet'\"""",),
    (".sql",): ("load it into a database, and export the table as CSV",),
    (".rds",): ("""Rscript -e "write.csv(readRDS('{name}'), '{stem}.csv', row.names = FALSE)\"""",),
    (".npy", ".npz", ".mat", ".pt", ".rdata"): ("write its rows as CSV or Parquet",),
    (".7z", ".rar"): (_UNPACK,),
}
_BY_ENDING: Final = {ending: lines for endings, lines in _FORMS.items() for ending in endings}
OTHER_ENDINGS: Final = tuple(_BY_ENDING)
"""Endings of known forms that are not read."""


def conversion(path: str) -> list[str]:
    """What to type for a file of a known form that is not read; empty for others.

    Args:
        path: Of the file, compressed or not.
    """
    bare = path.removesuffix(compressed_ending(path))
    ending = next((one for one in OTHER_ENDINGS if bare.lower().endswith(one)), "")
    if not ending:
        return []

    stem = bare[: -len(ending)]
    lines = [line.format(name=bare, stem=stem) for line in _BY_ENDING[ending]]
    return lines if bare == path else [f"unpack {PurePosixPath(path).name}", *lines]
