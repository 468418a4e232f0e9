"""Damage that a file's own format reveals, where no manifest has its hash. Nothing is loaded or unpacked."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO, Final

from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.entries import open_regular, read_bytes, require_regular
from llamarec.checkpoints.storage.layout import MAX_JSON_BYTES, PICKLE_SUFFIXES, max_bytes_of

_HEADER_BYTES: Final = struct.Struct("<Q")
_MAX_HEADER_BYTES: Final = 100_000_000
"""As in the safetensors library."""


def damage_of(path: Path, *, deep: bool) -> str:
    """Damage that a file's own format reveals; empty if there is none or the format cannot tell.

    Args:
        path: The file.
        deep: Whether the checksums inside are compared too.
    """
    try:
        if require_regular(path, max_bytes_of(path.name)).st_size == 0:
            return f"{path.name} is empty"

        if path.suffix == ".json":
            json_shapes.parse(read_bytes(path, MAX_JSON_BYTES))
        elif path.suffix == ".safetensors":
            _check_safetensors(path)
        elif path.suffix in PICKLE_SUFFIXES:
            return _damage_of_pickle(path, deep)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        return f"{path.name} is damaged: {getattr(error, 'strerror', None) or error}"
    except Exception as error:
        return f"{path.name} is damaged: {type(error).__name__}: {error}"
    return ""


def _damage_of_pickle(path: Path, deep: bool) -> str:
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            # torch before 1.6 wrote plain pickles; these begin with their protocol.
            is_old = re.match(rb"\x80[\x02-\x05]", file.read(2)) is not None
            return "" if is_old else f"{path.name} is truncated or not a PyTorch file"

        check_archive(file)
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip() if deep else None
    return f"{path.name} is damaged at {bad} (checksum differs)" if bad else ""


def check_archive(file: BinaryIO) -> None:
    """Raises if an archive would be larger unpacked than it is: torch compresses nothing, and stores nothing twice.

    Raises:
        ValueError: it would.
        zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        size = file.seek(0, 2)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, which torch does not do")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its parts are larger than the file")


def _check_safetensors(path: Path) -> None:
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        (header_bytes,) = _HEADER_BYTES.unpack(file.read(_HEADER_BYTES.size))
        if header_bytes > min(size - _HEADER_BYTES.size, _MAX_HEADER_BYTES):
            raise ValueError("truncated in its header")
        header = json.loads(file.read(header_bytes))

    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = _HEADER_BYTES.size + header_bytes + max(ends, default=0)
    if size != expected:
        raise ValueError(f"{size:,} bytes instead of {expected:,}")
