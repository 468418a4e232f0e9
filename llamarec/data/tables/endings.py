"""What the name of a file says: which kind of table it is, and how its data set is called. Nothing is opened."""

from __future__ import annotations

from typing import Final, Literal

Kind = Literal["text", "json", "parquet", "sheet", ""]
"""How a file is read; "" where its name does not say."""

_KINDS: Final[dict[Kind, tuple[str, ...]]] = {
    "text": (".csv", ".tsv", ".tab", ".psv", ".dat", ".data", ".txt", ".inter", ".item"),
    "json": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet", ".pq"),
    "sheet": (".xlsx", ".xlsm"),
}
_COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst")
_ARCHIVES: Final = (".zip", ".tar", ".tgz", ".tbz2", ".txz")
_TABLES: Final = tuple(ending for endings in _KINDS.values() for ending in endings)
TABLE_ENDINGS: Final = (".csv", ".tsv", ".dat", ".jsonl", ".json", ".parquet", ".xlsx", ".zip", ".tar.gz")
"""The usual endings, for an error."""
# Windows opens a device instead of a file of such a name.
_NUMBERED: Final = (f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))
_DEVICES: Final = frozenset({"con", "prn", "aux", "nul", *_NUMBERED})


def kind_of(name: str) -> Kind:
    """The kind of table that a file's name says, compressed or not."""
    bare = _without(name, _COMPRESSED).lower()
    return next((kind for kind, endings in _KINDS.items() if bare.endswith(endings)), "")


def compressed_ending(name: str) -> str:
    """The ending that says how a file is compressed; empty where none does."""
    return name[len(_without(name, _COMPRESSED)) :]


def is_archive(name: str) -> bool:
    """Whether a file's name says that it holds other files."""
    return _without(name, _COMPRESSED).lower().endswith(_ARCHIVES)


def is_a_table(code: str) -> bool:
    """Whether a `--dataset_code` is the path of a table: it has a folder, or a known ending."""
    names = _names(code)
    return len(names) > 1 or code != names[-1] or bool(kind_of(code)) or is_archive(code)


def data_set_name(path: str) -> str:
    """The name of a table's file or folder without endings; a sheet has the name of its workbook."""
    names = _names(path)
    books = [name for name in names[:-1] if kind_of(name) == "sheet"]
    return _without(_without(books[-1] if books else names[-1], _COMPRESSED), (*_TABLES, *_ARCHIVES))


def can_name_a_folder(name: str) -> bool:
    """Whether a folder can have this name, on Windows too, and is one inside its parent."""
    stem = name.partition(".")[0].lower()
    is_usual = bool(name.strip(". ")) and name == name.strip() and not name.endswith(".") and name.isprintable()
    return is_usual and not set(name) & set('<>:"/\\|?*') and stem not in _DEVICES


def _names(path: str) -> list[str]:
    # A path typed on Windows gives the same name on every system.
    return path.replace("\\", "/").rstrip("/").split("/")


def _without(name: str, endings: tuple[str, ...]) -> str:
    found = next((ending for ending in endings if name.lower().endswith(ending)), "")
    return name[: len(name) - len(found)]
