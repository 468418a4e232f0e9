"""Headless Chromium for tests of pages; they are skipped where there is none."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

import pytest

CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")


def content_of(address: str, *more: str, width: int, dark: bool) -> str:
    """A page after its scripts have run.

    Args:
        address: Of the page.
        more: Further flags.
        width: Of the window, in pixels.
        dark: Colours that the reader prefers.
    """
    command = [
        str(CHROMIUM),
        *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},900"),
        *(f"--blink-settings=preferredColorScheme={0 if dark else 1}", *more, "--dump-dom", address),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
