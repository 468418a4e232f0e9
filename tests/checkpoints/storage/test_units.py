"""Sizes stay short and close to the number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamarec.checkpoints.storage.readable_units import readable


@given(num_bytes=st.integers(0, 10**15))
def test_sizes_are_short_and_close(num_bytes: int) -> None:
    number, unit = readable(num_bytes).split()
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}[unit]
    assert abs(float(number) * factor - num_bytes) <= 0.051 * factor
    assert float(number) <= 1000.0
