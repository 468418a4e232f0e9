"""What an export wrote into a folder, and what the user keeps beside it: only the former is replaced."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage.json_shapes import ShapeError, shaped
from llamarec.errors import ConfigError
from llamarec.files import read_json, write_json

EXPORT_FILE: Final = "export.json"
"""Lists the files that an export wrote."""

# Exports of earlier versions have no list.
_OF_EXPORTS: Final = re.compile(
    r"README\.md|prompt\.json|fusion\.json|adapter_config\.json|adapter_model\.safetensors|config\.json"
    r"|generation_config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|tokenizer\.(json|model)"
    r"|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template\.jinja"
)


def keep_own_files(target: Path, staging: Path) -> None:
    """Adds the files of the user's own to a new export, and lists what the export wrote.

    They are linked or copied, so that a kill at any moment leaves them where they were.

    Args:
        target: The folder to be replaced; may not exist.
        staging: The new export.

    Raises:
        ConfigError: the export would replace one of them.
    """
    written = sorted(path.relative_to(staging).as_posix() for path in _files(staging))
    write_json(staging / EXPORT_FILE, {"files": [*written, EXPORT_FILE]})
    there, earlier = (path.relative_to(target).as_posix() for path in _files(target)), _written_before(target)
    own = sorted(
        name for name in there if not (name in earlier if earlier is not None else _OF_EXPORTS.fullmatch(name))
    )

    taken = [name for name in own if name in written or name == EXPORT_FILE]
    if taken:
        raise ConfigError(
            f"--to {target}: the export would replace files that no export wrote",
            found=", ".join(taken),
            hint="move them away, or choose another folder",
        )
    for name in own:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        _keep(target / name, staging / name)


def _keep(source: Path, copy: Path) -> None:
    if not source.is_symlink():
        try:
            os.link(source, copy)
            return
        except OSError:
            # Not on every file system.
            pass
    shutil.copy2(source, copy, follow_symlinks=False)


def _written_before(target: Path) -> list[str] | None:
    """What the export in a folder lists as its own; None where it has no list."""
    content: dict[str, Any] = read_json(target / EXPORT_FILE) or {}
    try:
        return shaped(content["files"], list[str])
    except (KeyError, ShapeError):
        return None


def _files(folder: Path) -> Iterator[Path]:
    """Files and links, in folders too; a link to a folder is not entered."""
    for above, folders, names in os.walk(folder):
        for name in [*names, *(one for one in folders if (Path(above) / one).is_symlink())]:
            yield Path(above) / name
