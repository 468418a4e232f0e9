"""Files inside compressions and archives, opened by a path that leads into them: `ml-1m.zip/ml-1m/ratings.dat`."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import importlib
import io
import lzma
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Final

from llamarec.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
_UTF_8, _UTF_16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_LONGEST_HEAD: Final = 6
_ENCRYPTED: Final = 0x1  # of a zip member's flags
# What unpacks to more than both is made to fill a disk or the memory.
_MAX_RATIO: Final = 500
_ALWAYS_ALLOWED: Final = 256 * 2**20
_DAMAGED: Final = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


def real_file(path: Path) -> Path | None:
    """The file or folder on the disk that a path leads to, or into; None where there is none."""
    if path.exists():
        return path
    return next((parent for parent in path.parents if parent.is_file()), None)


def is_archive(path: Path) -> bool:
    """Whether a file holds other files, by its content."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    if zipfile.is_zipfile(path):
        # A workbook is a zip too, and one table.
        with zipfile.ZipFile(path) as archive:
            return "[Content_Types].xml" not in archive.namelist()
    try:
        with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r|"):
            return True
    except (OSError, *_DAMAGED):
        return False


def members(path: Path) -> list[str]:
    """Names of the files in an archive, without what systems add.

    Raises:
        DataError: the archive cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [_usual(one.filename) for one in archive.infolist() if not one.is_dir()]
        else:
            with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                names = [_usual(one.name) for one in tar if one.isfile()]
    except (OSError, *_DAMAGED) as error:
        raise _unreadable(path, error) from error

    return [name for name in names if not is_hidden(name) and ".." not in name.split("/")]


def is_hidden(name: str) -> bool:
    """Whether a file is no content but what a system or Spark left: `__MACOSX/._a`, `_SUCCESS`, `.part-0.crc`."""
    return any(part.startswith((".", "_")) and part not in (".", "..") for part in PurePosixPath(name).parts)


def open_binary(path: Path) -> IO[bytes]:
    """The bytes of a file, decompressed where it is compressed, out of the archive that the path leads into.

    Raises:
        DataError: the archive is encrypted, has no such file, or unpacks to far more than any table does.
    """
    file = real_file(path)
    if file is None or file == path:
        return _unpacked(path)

    name = path.relative_to(file).as_posix()
    try:
        inside = _zip_member(file, name) if zipfile.is_zipfile(file) else _tar_member(file, name)
        return _decompressed(path, inside, file.stat().st_size)
    except KeyError:
        raise DataError(f"{file}: there is no {name} in it") from None
    except (OSError, *_DAMAGED) as error:
        raise _unreadable(file, error) from error


def open_bytes(path: Path) -> IO[bytes]:
    """The text of a file as `open_binary` gives it, without a byte-order mark; UTF-16 as UTF-8."""
    opened = open_binary(path)
    try:
        head = _head(opened, 3)
    except BaseException:
        opened.close()
        raise
    if head.startswith(_UTF_16):
        return io.BufferedReader(_AsUtf8(opened, path))
    if head == _UTF_8:
        opened.read(len(_UTF_8))
    return opened


@contextlib.contextmanager
def reading(path: Path, opened: Callable[[Path], IO[bytes]] = open_bytes) -> Iterator[IO[bytes]]:
    """The text of a file, or what another function opens; damage is a DataError."""
    try:
        with opened(path) as stream:
            yield stream
    except (OSError, *_DAMAGED) as error:
        raise _unreadable(path, error) from error


def marked_encoding(path: Path) -> str:
    """The encoding that a file's byte-order mark says, as `open_bytes` gives it; empty without one."""
    with reading(path, open_binary) as opened:
        head = _head(opened, 3)
    return "utf-8" if head == _UTF_8 or head.startswith(_UTF_16) else ""


def _unpacked(path: Path) -> IO[bytes]:
    return _decompressed(path, path.open("rb"), path.stat().st_size)


def _decompressed(path: Path, opened: IO[bytes], size: int) -> IO[bytes]:
    """The content of a compressed file; `size` is that of the file on the disk."""
    head = _head(opened, _LONGEST_HEAD)
    stream: IO[bytes]
    if head.startswith(_GZIP):
        stream = gzip.GzipFile(fileobj=opened)  # type: ignore[assignment]
    elif head.startswith(_BZIP2):
        stream = bz2.BZ2File(opened)
    elif head.startswith(_XZ):
        stream = lzma.LZMAFile(opened)  # noqa: SIM115  # closed by its reader
    elif head.startswith(_ZSTD):
        stream = _zstd(path, opened)
    else:
        return opened
    return io.BufferedReader(_Guarded(path, stream, size, [opened.close]))


def _zstd(path: Path, opened: IO[bytes]) -> IO[bytes]:
    if sys.version_info >= (3, 14):
        stream: IO[bytes] = importlib.import_module("compression.zstd").ZstdFile(opened)
        return stream
    opened.close()
    raise DataError(
        f"{path}: this Python does not read zstd",
        expected="Python 3.14, or a file compressed as .gz, .bz2 or .xz",
        hint=f"zstd -d {path.name}",
    )


def _zip_member(file: Path, name: str) -> IO[bytes]:
    with zipfile.ZipFile(file) as archive:
        info = {_usual(one.filename): one for one in archive.infolist()}[name]
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"{file}: the archive is encrypted", hint="unpack it, and give the path of the table")
        opened = archive.open(info)
    return io.BufferedReader(_Guarded(file / name, opened, file.stat().st_size))


def _tar_member(file: Path, name: str) -> IO[bytes]:
    stream = _unpacked(file)
    tar = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115  # closed with the member
    for one in tar:
        opened = tar.extractfile(one) if one.isfile() and _usual(one.name) == name else None
        if opened is not None:
            return io.BufferedReader(_Guarded(file / name, opened, file.stat().st_size, [tar.close, stream.close]))

    tar.close()
    stream.close()
    raise KeyError(name)


def _usual(name: str) -> str:
    """A member's name as that of a file inside its archive: no root, no folder of its own."""
    return PurePosixPath(name.lstrip("/")).as_posix()


def _head(opened: IO[bytes], count: int) -> bytes:
    return opened.peek(count)[:count]  # type: ignore[attr-defined, no-any-return]


def _unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(
        f"{path}: cannot be read", found=str(error) or type(error).__name__, hint="the file may be incomplete"
    )


class _Guarded(io.RawIOBase):
    """A decompressed stream that refuses to be endless; damage in it is an OSError.

    Args:
        path: For an error.
        stream: What is read.
        size: Bytes on the disk that it comes from.
        closes: What is closed after it.
    """

    def __init__(self, path: Path, stream: IO[bytes], size: int, closes: Sequence[Callable[[], object]] = ()) -> None:
        self._path, self._stream, self._closes = path, stream, closes
        self._left = max(_MAX_RATIO * size, _ALWAYS_ALLOWED)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        try:
            data = self._stream.read(len(view))
        except _DAMAGED as error:
            raise OSError(str(error) or type(error).__name__) from error

        self._left -= len(data)
        if self._left < 0:
            raise DataError(
                f"{self._path}: it unpacks to more than {_MAX_RATIO} times its size, as no table does",
                hint="unpack it, and give the path of the table",
            )
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            for close in (self._stream.close, *self._closes):
                close()
        super().close()


class _AsUtf8(io.RawIOBase):
    """A stream of UTF-16 with its mark, as UTF-8."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path, self._ready = stream, path, b""
        self._decoder = codecs.getincrementaldecoder("utf-16")()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        while not self._ready:
            raw = self._stream.read(2**16)
            try:
                self._ready = self._decoder.decode(raw, final=not raw).encode()
            except UnicodeDecodeError as error:
                raise DataError(f"{self._path}: its mark says UTF-16, and it is not", found=str(error)) from error
            if not raw:
                break

        data, self._ready = self._ready[: len(view)], self._ready[len(view) :]
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
