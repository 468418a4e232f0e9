"""The older import path of `run_main`, kept for scripts that use it."""

from __future__ import annotations

from llamarec.cli.entry_point import run_main

__all__ = ["run_main"]
