"""Whether the hub can be asked at all: without a network its client tries six times before it looks into its cache."""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants


def how_to_load(source: str) -> dict[str, Any]:
    """What `from_pretrained` is told besides: to use the cache where the hub's name is not known here.

    Args:
        source: A folder, or a hub name.
    """
    return {"local_files_only": True} if not Path(source).is_dir() and is_unreachable() else {}


def hub_name() -> str:
    """The hub's host."""
    return urlsplit(constants.ENDPOINT).hostname or constants.ENDPOINT


@cache
def is_unreachable() -> bool:
    """Whether nobody here knows the hub's address; behind a proxy that is the proxy's business."""
    if getproxies():
        return False
    try:
        socket.getaddrinfo(hub_name(), urlsplit(constants.ENDPOINT).port or 443)
    except socket.gaierror:
        return True
    except OSError:
        return False
    return False
