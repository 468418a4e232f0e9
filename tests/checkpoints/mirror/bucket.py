"""An object store over a folder, which every user can run: no renames, no folders, whole objects; and faults.

bucket://anything/key     the file `key` below the folder that the variable BUCKET_ROOT names
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec import AbstractFileSystem


class BucketFileSystem(AbstractFileSystem):
    """Objects appear whole, when their writer closes them.

    Attributes:
        observer: Told (what, key) before every request; raises what the store would answer, or kills the process.
        torn: Keys whose next upload is cut in half, and reported as done.
        unlisted: Keys that listings do not show yet.
    """

    protocol = "bucket"
    cachable = False
    observer: ClassVar[Callable[[str, str], object] | None] = None
    torn: ClassVar[set[str]] = set()
    unlisted: ClassVar[set[str]] = set()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix("bucket://").partition("?")[0].strip("/")

    def _file(self, path: str) -> Path:
        key = self._strip_protocol(path).partition("/")[2]
        return Path(os.environ["BUCKET_ROOT"]) / key

    def _request(self, what: str, path: str) -> None:
        observer = type(self).observer
        if observer is not None:
            observer(what, self._strip_protocol(path))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        self._request("list", path)
        path = self._strip_protocol(path)
        folder = self._file(path)
        names = {f"{path}/{one.name}": one for one in _in(folder)}
        found = [
            {"name": name, "size": one.stat().st_size, "type": _kind(one)}
            for name, one in names.items()
            if not name.endswith(tuple(type(self).unlisted))
        ]
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        self._request("head", path)
        file = self._file(path)
        if not file.exists():
            raise FileNotFoundError(path)
        return {"name": self._strip_protocol(path), "size": file.stat().st_size, "type": _kind(file)}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode == "rb":
            self._request("get", path)
            return self._file(path).open("rb")
        return _Upload(self, path)

    def put_object(self, path: str, content: bytes) -> None:
        """One request that takes a whole object."""
        self._request("put", path)
        file = self._file(path)
        if file.name in type(self).torn:
            type(self).torn.discard(file.name)
            content = content[: len(content) // 2]
        file.parent.mkdir(parents=True, exist_ok=True)
        # Beside the objects, so that a kill leaves none of it among them.
        staging = Path(os.environ["BUCKET_ROOT"]).with_name(f"upload-{os.getpid()}")
        staging.write_bytes(content)
        staging.replace(file)

    def rm_file(self, path: str) -> None:
        self._request("delete", path)
        self._file(path).unlink()
        with_nothing = self._file(path).parent
        while with_nothing != Path(os.environ["BUCKET_ROOT"]) and not list(with_nothing.iterdir()):
            with_nothing.rmdir()
            with_nothing = with_nothing.parent

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        self._request("delete", path)
        shutil.rmtree(self._file(path), ignore_errors=True)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing to do."""


class _Upload(io.BytesIO):
    def __init__(self, bucket: BucketFileSystem, path: str) -> None:
        super().__init__()
        self._bucket, self._path = bucket, path

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        # fsspec's own writers upload what they have, too; an object store must not be trusted with half of it.
        if kind is None:
            self._bucket.put_object(self._path, self.getvalue())
        self.close()


def _in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _kind(path: Path) -> str:
    return "directory" if path.is_dir() else "file"


def register() -> None:
    """Makes bucket:// known to fsspec."""
    fsspec.register_implementation("bucket", BucketFileSystem, clobber=True)


def use_empty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one test: a bucket without objects, which nobody observes and where nothing goes wrong."""
    register()
    monkeypatch.setenv("BUCKET_ROOT", str(folder / "objects"))
    for name, value in (("observer", None), ("torn", set()), ("unlisted", set())):
        monkeypatch.setattr(BucketFileSystem, name, value)
