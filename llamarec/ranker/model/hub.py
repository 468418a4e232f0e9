"""Whether the hub can be asked at all: without a network its client tries six times before it looks into its cache."""

from __future__ import annotations

import socket
import time
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants


def load_options(source: str) -> dict[str, Any]:
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
    if getproxies().keys() - {"no"}:
        return False
    # Once more after a second: a single failure may pass.
    return all(_is_unknown(pause) for pause in (0.0, 1.0))


def _is_unknown(pause: float) -> bool:
    time.sleep(pause)
    try:
        socket.getaddrinfo(hub_name(), urlsplit(constants.ENDPOINT).port or 443)
    except OSError as error:
        return isinstance(error, socket.gaierror)
    return False
