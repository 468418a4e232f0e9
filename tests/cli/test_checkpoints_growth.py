"""How long a disk lasts, with the arithmetic in sight."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from llamarec.cli.checkpoints.growth import Growth, Save, growth, hours_left

START = datetime(2026, 1, 1, tzinfo=UTC)


def _saves(*minutes: float, num_bytes: int = 100) -> list[Save]:
    return [Save(START + timedelta(minutes=minute), num_bytes) for minute in minutes]


def _at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def test_the_rate_is_size_by_median_pause() -> None:
    # Pauses of 30, 30 and 600 minutes (a night): 100 bytes each half hour are 200 an hour.
    found = growth(_saves(0, 30, 60, 660), None, _at(670))
    assert (found.state, found.bytes_per_hour) == ("growing", 200.0)
    assert hours_left([found], 1000) == 5.0


def test_a_run_that_deletes_what_it_writes_is_steady() -> None:
    assert growth(_saves(0, 30, 60), 3, _at(61)).state == "steady"


def test_until_the_limit_is_reached_it_grows_by_what_is_left() -> None:
    found = growth(_saves(0, 30), 5, _at(31))
    assert (found.state, found.at_most) == ("growing", 300.0)
    assert hours_left([found], 1000) == "steady"
    assert hours_left([found], 299) == 299 / 200


@pytest.mark.parametrize("saves", [_saves(0), _saves(30, 0), [Save(None, 1), Save(None, 1)]])
def test_without_a_pause_the_rate_is_unknown(saves: list[Save]) -> None:
    assert growth(saves, None, _at(31)).state == "unknown"
    assert hours_left([growth(saves, None, _at(31))], 10) == "unknown"


def test_finished_silent_and_empty_runs_write_nothing() -> None:
    finished = [*_saves(0, 30), Save(_at(60), 100, "final")]
    assert growth(finished, None, _at(61)).state == "idle"
    assert growth(_saves(0, 30), None, _at(30 + 301)).state == "idle"
    assert growth(_saves(0, 30), None, _at(30 + 299)).state == "growing"
    assert growth([], None, _at(0)).state == "idle"
    assert hours_left([growth(finished, None, _at(61))], 10) == "idle"
    assert hours_left([], 10) == "idle"


def test_rates_add_up() -> None:
    growths = [Growth("growing", 30.0), Growth("growing", 20.0), Growth("steady"), Growth("unknown")]
    assert hours_left(growths, 100) == 2.0
