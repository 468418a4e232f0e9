"""A file of users becomes a file of recommendations, wherever it is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import polars as pl
import pytest

from llamarec.errors import ConfigError, DataError, LockedError
from llamarec.recommend import batch
from llamarec.recommend.batch import BatchJob, Done
from llamarec.recommend.engines import LocalEngine
from llamarec.recommend.recommender import Recommender
from llamarec.recommend.requests import Request, read_requests

USERS = [Request(f"u{user}", user=f"u{user}") for user in range(20)]


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_AT_ONCE", 4)


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_json_lines_and_parquet_hold_the_same(recommender: Recommender, tmp_path: Path) -> None:
    requests = [*USERS[:5], Request("nobody", user="nobody"), Request("mine", history=("i3", "FILM <4> & more"))]
    told: list[int] = []
    done = BatchJob(LocalEngine(recommender), requests, tmp_path / "new" / "a.jsonl", k=3).run(progress=told.append)
    assert done == Done(num_requests=7, num_before=0, num_failed=1)
    assert told == [0, 4, 7]
    lines = _lines(tmp_path / "new" / "a.jsonl")
    assert [line["id"] for line in lines] == [request.id for request in requests]
    assert "no user 'nobody'" in str(lines[5]["error"])
    of_first = [one["item"] for one in cast(list[dict[str, object]], lines[0]["recommendations"])]
    assert of_first == [one.item for one in recommender.recommend(user="u0", k=3)]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.jsonl"]

    BatchJob(LocalEngine(recommender), requests, tmp_path / "a.parquet", k=3).run()
    rows = pl.read_parquet(tmp_path / "a.parquet")
    assert rows.height == 6 * 3 + 1
    assert rows.filter(pl.col("id") == "mine")["item"].to_list() == [
        one.item for one in recommender.recommend(["i3", "i4"], k=3)
    ]
    assert rows.filter(pl.col("error").is_not_null())["id"].to_list() == ["nobody"]


class _Killed(BaseException):
    """As a kill: nothing after it runs."""


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("cut", [0, 7])
def test_killed_after_any_part_it_goes_on_to_the_same_file(
    recommender: Recommender, tmp_path: Path, name: str, cut: int
) -> None:
    BatchJob(LocalEngine(recommender), USERS, tmp_path / "whole" / name, k=3).run()
    for killed_at in (0, 8, 20):
        output = tmp_path / f"{killed_at}" / name

        def kill(done: int, at: int = killed_at) -> None:
            if done == at:
                raise _Killed

        with pytest.raises(_Killed):
            BatchJob(LocalEngine(recommender), USERS, output, k=3).run(progress=kill)
        assert not output.exists()
        partial = output.with_name(output.name + ".partial")
        content = partial.read_bytes()
        # A kill of the machine may leave half of the last line.
        partial.write_bytes(content[: len(content) - cut] if content else content)
        done = BatchJob(LocalEngine(recommender), USERS, output, k=3).run()
        assert done.num_before == max(0, killed_at - (4 if cut else 0)), "parts are answered whole"
        assert output.read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert [path.name for path in output.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_killed_when_it_only_had_to_tidy_up(recommender: Recommender, tmp_path: Path, name: str) -> None:
    requests = [*USERS[:3], Request("nobody", user="nobody")]
    job = BatchJob(LocalEngine(recommender), requests, tmp_path / name, k=3)
    job.run()
    content = (tmp_path / name).read_bytes()
    (tmp_path / f"{name}.partial.json").write_text(json.dumps(job._identity()), encoding="utf-8")
    assert BatchJob(LocalEngine(recommender), requests, tmp_path / name, k=3).run() == Done(4, 4, 1)
    assert (tmp_path / name).read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_published_file_that_has_changed_is_refused(recommender: Recommender, tmp_path: Path, name: str) -> None:
    job = BatchJob(LocalEngine(recommender), USERS[:3], tmp_path / name, k=3)
    job.run()
    (tmp_path / name).write_bytes(b'{"id": "u0", \n')
    (tmp_path / f"{name}.partial.json").write_text(json.dumps(job._identity()), encoding="utf-8")

    with pytest.raises(ConfigError, match=f"(?s)--output .*{name}: the file has changed.*add --restart"):
        BatchJob(LocalEngine(recommender), USERS[:3], tmp_path / name, k=3).run()
    assert BatchJob(LocalEngine(recommender), USERS[:3], tmp_path / name, k=3).run(restart=True).num_before == 0


def test_other_options_do_not_mix_and_a_finished_file_is_not_replaced(recommender: Recommender, tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"

    def kill(done: int) -> None:
        if done == 8:
            raise _Killed

    with pytest.raises(_Killed):
        BatchJob(LocalEngine(recommender), USERS, output, k=3).run(progress=kill)
    with pytest.raises(ConfigError, match=r"(?s)was not finished.*different: k 3 -> 4, requests.*--restart"):
        BatchJob(LocalEngine(recommender), USERS[1:], output, k=4).run()
    assert BatchJob(LocalEngine(recommender), USERS[1:], output, k=4).run(restart=True).num_before == 0
    assert len(_lines(output)) == 19
    before = output.read_bytes()
    with pytest.raises(ConfigError, match=r"(?s)the file exists.*a finished output.*a\.jsonl\.partial"):
        BatchJob(LocalEngine(recommender), USERS, output, k=3).run()
    assert output.read_bytes() == before
    assert BatchJob(LocalEngine(recommender), USERS, output, k=3).run(restart=True).num_requests == 20
    with pytest.raises(ConfigError, match=r"\.jsonl or \.parquet"):
        BatchJob(LocalEngine(recommender), USERS, tmp_path / "a.csv", k=3)


def test_files_of_requests_in_each_form(tmp_path: Path) -> None:
    wanted = [Request("u1", user="u1"), Request("ü 2", user="ü 2")]
    texts = {
        "users.txt": "u1\r\n\n  ü 2 \nu1\n",
        "users.csv": "name,user\nx,u1\ny,ü 2\nz,u1\n",
        "users.tsv": "User_ID\tname\nu1\tx\nü 2\ty\n",
        "users.jsonl": '{"user": "u1"}\n{"user": "ü 2"}\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8-sig" if name == "users.txt" else "utf-8")
        assert read_requests(tmp_path / name) == wanted, name
    pl.DataFrame({"user": ["u1", "ü 2"]}).write_parquet(tmp_path / "users.parquet")
    assert read_requests(tmp_path / "users.parquet") == wanted
    # pandas writes its index into a column without a name.
    (tmp_path / "pandas.csv").write_text(",user\n0,u1\n1,u2\n", encoding="utf-8")
    assert [one.user for one in read_requests(tmp_path / "pandas.csv")] == ["u1", "u2"]
    (tmp_path / "one.tsv").write_text("user\na,b\nc\n", encoding="utf-8")
    assert [one.user for one in read_requests(tmp_path / "one.tsv")] == ["a,b", "c"]
    # As exported with the orders.
    (tmp_path / "kunden.csv").write_text("user;Kunde\n1;u1\n2;u2\n", encoding="utf-8")
    assert [one.user for one in read_requests(tmp_path / "kunden.csv", "Kunde")] == ["u1", "u2"]
    lines = '{"id": "x", "history": ["Halo", 7]}\n{"history": ["a\u2028b"]}\n'
    (tmp_path / "histories.jsonl").write_text(lines, encoding="utf-8")
    assert read_requests(tmp_path / "histories.jsonl") == [
        Request("x", history=("Halo", "7")),
        Request("2", history=("a\u2028b",)),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "\n \n", "the file names no user"),
        ("a.csv", "name\nx\n", r"(?s)no column 'user'.*found: +name"),
        ("a.jsonl", '{"user": "u1"}\nnot json\n', "line 2"),
        ("a.jsonl", '{"name": "u1"}\n', r"line 1: expected an object with either user or history"),
        ("a.jsonl", '{"history": []}\n', "line 1: history must be a non-empty list"),
        ("a.jsonl", '{"user": null}\n', "line 1: user and id must be"),
        ("a.jsonl", '{"user": "u1", "id": ["x"]}\n', "line 1: user and id must be"),
        ("a.jsonl", '{"user": "\\ud800"}\n', "line 1: user and id must be"),
        ("a.jsonl", '{"history": [["a"]]}\n', "line 1: history must be a non-empty list"),
        ("a.parquet", "no parquet", "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_requests(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_requests(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("text", "lines", "said"),
    [
        # A line without an id is called by its number, which is the id of another line.
        ('{"id": "2", "history": ["a"]}\n{"history": ["b"]}\n', "1 and 2", "line 2 has no id"),
        ('{"history": ["b"]}\n{"id": 1, "history": ["a"]}\n', "1 and 2", "line 1 has no id"),
        ('{"history": ["b"]}\n\n{"user": "1"}\n', "1 and 3", "line 1 has no id"),
        # The same request, too: its answer would have a name that nobody gave it.
        ('{"id": "2", "history": ["a"]}\n{"history": ["a"]}\n', "1 and 2", "line 2 has no id"),
        ('{"id": "x", "history": ["a"]}\n{"user": "u1"}\n{"id": "x", "history": ["b"]}\n', "1 and 3", "both lines"),
        ('{"id": "u1", "history": ["a"]}\n{"user": "u1"}\n', "1 and 2", "both lines"),
        ('{"id": "x", "user": "u1"}\n{"id": "x", "user": "u2"}\n', "1 and 2", "both lines"),
    ],
)
def test_two_requests_never_have_one_id(text: str, lines: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"(?s)a\.jsonl, lines {lines}: two requests with the id.*{said}.*add \"id\""):
        read_requests(tmp_path / "a.jsonl")


def test_a_request_that_stands_twice_is_answered_once(tmp_path: Path) -> None:
    text = '{"id": "x", "history": ["a"]}\n{"id": "x", "history": ["a"]}\n{"history": ["a"]}\n'
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    assert [one.id for one in read_requests(tmp_path / "a.jsonl")] == ["x", "3"]


def test_answers_that_have_changed_are_not_taken_for_those_that_were_written(
    recommender: Recommender, tmp_path: Path
) -> None:
    output, partial = tmp_path / "a.jsonl", tmp_path / "a.jsonl.partial"

    def kill(done: int) -> None:
        if done == 8:
            raise _Killed

    with pytest.raises(_Killed):
        BatchJob(LocalEngine(recommender), USERS, output, k=3).run(progress=kill)
    content = partial.read_bytes()
    for position in range(0, len(content), len(content) // 20):
        partial.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(ConfigError, match=r"(?s)a\.jsonl\.partial: .* have changed.*--restart"):
            BatchJob(LocalEngine(recommender), USERS, output, k=3).run()

    # Lines behind those whose hash is known are answered again.
    partial.write_bytes(content + b'{"id": "u8"}\n')
    assert BatchJob(LocalEngine(recommender), USERS, output, k=3).run().num_before == 8
    BatchJob(LocalEngine(recommender), USERS, tmp_path / "b.jsonl", k=3).run()
    assert output.read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_two_at_once_do_not_mix(recommender: Recommender, tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    told: list[int] = []

    def meanwhile(done: int) -> None:
        told.append(done)
        if done == 8:
            with pytest.raises(LockedError, match="another process is writing it"):
                BatchJob(LocalEngine(recommender), USERS, output, k=3).run(restart=True)

    BatchJob(LocalEngine(recommender), USERS, output, k=3).run(progress=meanwhile)
    assert 8 in told
    assert len(_lines(output)) == len(USERS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_restart_that_was_killed_goes_on_with_the_same_command(recommender: Recommender, tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    BatchJob(LocalEngine(recommender), USERS[:3], output, k=3).run()

    def kill(done: int) -> None:
        if done == 8:
            raise _Killed

    with pytest.raises(_Killed):
        BatchJob(LocalEngine(recommender), USERS, output, k=3).run(restart=True, progress=kill)
    assert len(_lines(output)) == 3, "replaced only in the end"
    assert BatchJob(LocalEngine(recommender), USERS, output, k=3).run(restart=True).num_before == 8
    assert len(_lines(output)) == 20
    assert BatchJob(LocalEngine(recommender), USERS, output, k=3).run(restart=True).num_before == 0, "begun anew"
