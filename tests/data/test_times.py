"""Times as people write them; what cannot be told is not guessed."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from llamarec.data.times import read_times
from llamarec.errors import DataError


def _read(*texts: str, form: str = "") -> tuple[list[str | None], str]:
    found = read_times(pl.Series(texts, dtype=pl.String), form, "shop.csv")
    seconds = found.seconds.to_list()
    return [
        one if one is None else f"{datetime.fromtimestamp(one, UTC):%Y-%m-%d %H:%M:%S}" for one in seconds
    ], found.form


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1559300000", "2019-05-31 10:53:20"),
        ("1559300000.9", "2019-05-31 10:53:20"),
        ("1559300000123", "2019-05-31 10:53:20"),
        ("1559300000123456", "2019-05-31 10:53:20"),
        ("20190531", "2019-05-31 00:00:00"),
        ("201905311053", "2019-05-31 10:53:00"),
        ("20190531105320", "2019-05-31 10:53:20"),
        ("20190531105320.0", "2019-05-31 10:53:20"),
        ("43616.5", "2019-05-31 12:00:00"),
        ("2019-05-31", "2019-05-31 00:00:00"),
        ("2019/5/31 9:05", "2019-05-31 09:05:00"),
        ("2019-05-31T12:00:00Z", "2019-05-31 12:00:00"),
        ("2019-05-31T12:00:00.250+02:00", "2019-05-31 10:00:00"),
        ("2019-05-31 12:00:00-0130", "2019-05-31 13:30:00"),
        ("31/05/2019 10:20", "2019-05-31 10:20:00"),
        ("05/31/2019 3:20 PM", "2019-05-31 15:20:00"),
        ("05/31/2019 12:20 am", "2019-05-31 00:20:00"),
        ("1.2.2020", "2020-02-01 00:00:00"),
        ("31-05-2019", "2019-05-31 00:00:00"),
    ],
)
def test_each_form_by_itself(text: str, wanted: str) -> None:
    assert _read(text)[0] == [wanted]


def test_one_number_above_twelve_says_it_for_all() -> None:
    assert _read("03/04/2020", "01/02/2020", "13/01/2020") == (
        ["2020-04-03 00:00:00", "2020-02-01 00:00:00", "2020-01-13 00:00:00"],
        "day/month/year",
    )
    assert _read("03/04/2020", "01/13/2020") == (["2020-03-04 00:00:00", "2020-01-13 00:00:00"], "month/day/year")


def test_where_nothing_says_it_nothing_is_guessed() -> None:
    with pytest.raises(DataError, match=r"shop\.csv: nothing says whether the day or the month comes first") as refused:
        _read("03/04/2020 10:00", "01/02/2020 11:00")
    assert '--timestamp_format "%d/%m/%Y %H:%M"' in str(refused.value)
    assert '"%m/%d/%Y %H:%M"' in str(refused.value)
    assert _read("03/04/2020 10:00", form="%m/%d/%Y %H:%M")[0] == ["2020-03-04 10:00:00"]
    assert _read("03/04/2020", form="%d/%m/%Y")[0] == ["2020-04-03 00:00:00"]


def test_what_most_are_all_must_be() -> None:
    found, form = _read(*["13/01/2020"] * 10, "01/15/2020")
    assert (found[0], found[10], form) == ("2020-01-13 00:00:00", None, "day/month/year")
    assert _read("2020-01-01", "2020-01-02", "5")[0] == ["2020-01-01 00:00:00", "2020-01-02 00:00:00", None]
    assert _read("5", "6", "2020-01-02")[0][2] is None


def test_what_is_no_time_is_none() -> None:
    assert _read("yesterday", "2020-02-30", "31/05/19", "inf", "")[0] == [None] * 5
    assert _read("2020-01-01", "x", form="%Y-%m-%d")[0] == ["2020-01-01 00:00:00", None]


@pytest.mark.parametrize(
    "texts",
    [
        # What is of another form says nothing of this one's order.
        (*["03/04/2019"] * 10, "2019-05-31"),
        ("3.4.2019", *["03/04/2019"] * 10),
        ("13/01/2020", "01/13/2020"),
        (*["13/01/2020"] * 9, "01/13/2020"),
    ],
)
def test_what_says_little_or_both_decides_nothing(texts: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="nothing says whether"):
        _read(*texts)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2019-10-01 00:00:00+00", "2019-10-01 00:00:00"),
        ("2019-10-01 00:00:00 UTC", "2019-10-01 00:00:00"),
        ("1569888000000000", "2019-10-01 00:00:00"),
        ("1569888000000000000", "2019-10-01 00:00:00"),
        ("05/31/2019 13:00 PM", None),
    ],
)
def test_forms_of_data_bases(text: str, wanted: str | None) -> None:
    assert _read(text)[0] == [wanted]


def test_a_form_in_which_nothing_is_is_refused() -> None:
    with pytest.raises(DataError, match=r"--timestamp_format %Q: no time of shop\.csv has this format"):
        _read("03/04/2019", form="%Q")
    assert _read("3 PM 03/04/2019", form="%I %p %d/%m/%Y")[0] == ["2019-04-03 15:00:00"]


def test_a_zone_in_a_given_form_counts() -> None:
    assert _read("03/04/2020 10:00 +0200", form="%d/%m/%Y %H:%M %z")[0] == ["2020-04-03 08:00:00"]


def test_each_number_has_its_unit() -> None:
    found, form = _read("1559300000", "1559300001000", "1559300002000000", "1559300003")
    assert [one and one[-8:] for one in found] == ["10:53:20", "10:53:21", "10:53:22", "10:53:23"]
    assert form == (
        "seconds and milliseconds and microseconds since 1970 (2 in seconds, 1 in milliseconds, 1 in microseconds)"
    )


def test_digits_that_are_no_dates_are_order_numbers() -> None:
    found = read_times(pl.Series(["20191331", "20190231", "99999999"]), "", "shop.csv")
    assert found.form == "order numbers"
    assert found.seconds.to_list() == [20_191_331, 20_190_231, 99_999_999]


def test_one_old_date_is_a_date() -> None:
    assert _read("2019-05-31", "2019-06-01", "1965-03-01")[0][2] == "1965-03-01 00:00:00"
