"""Whether the Hugging Face Hub can be reached: offline, its client retries six times before using its cache."""

from __future__ import annotations

import socket
import time
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants


def load_options(source: str) -> dict[str, bool]:
    """Options for `from_pretrained`: only the cache if the hub's name cannot be resolved.

    Args:
        source: A folder or a hub name.
    """
    return {"local_files_only": True} if not Path(source).is_dir() and is_unreachable() else {}


def hub_name() -> str:
    """Host name of the hub."""
    return urlsplit(constants.ENDPOINT).hostname or constants.ENDPOINT


@cache
def is_unreachable() -> bool:
    """Whether the hub's name cannot be resolved; behind a proxy, resolving it is the proxy's task."""
    if getproxies().keys() - {"no"}:
        return False
    # A second attempt after a second, because a single failure may be temporary.
    return all(_is_unknown(pause) for pause in (0.0, 1.0))


def _is_unknown(pause: float) -> bool:
    time.sleep(pause)
    try:
        socket.getaddrinfo(hub_name(), urlsplit(constants.ENDPOINT).port or 443)
    except OSError as error:
        return isinstance(error, socket.gaierror)
    return False
