"""`llamarec recommend`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamarec.cli.main import main
from llamarec.errors import EXIT_FINISHED, EXIT_USAGE
from llamarec.recommend.recommender import Recommender


def _recommend(finished: Path, *words: str) -> int:
    root = str(finished / "experiments")
    return main(["recommend", "--dataset_code", "shop", "--experiment_root", root, "--device", "cpu", *words])


def test_for_a_user_as_a_table_and_as_json(
    finished: Path, recommender: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = recommender.recommend(user="u3", k=4)
    assert _recommend(finished, "--user", "u3", "-k", "4") == EXIT_FINISHED
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines()[1:5]] == [one.item for one in wanted]
    assert wanted[0].title in said
    assert _recommend(finished, "--user", "u3", "-k", "4", "--json") == EXIT_FINISHED
    assert json.loads(capsys.readouterr().out)["recommendations"] == [one.as_dict() for one in wanted]


def test_for_a_history_and_for_a_file(
    finished: Path, recommender: Recommender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _recommend(finished, "--history", "Film <3> & more", "i4", "--json") == EXIT_FINISHED
    found = json.loads(capsys.readouterr().out)
    assert found["recommendations"] == [one.as_dict() for one in recommender.recommend(["i3", "i4"])]
    users, output = tmp_path / "users.txt", tmp_path / "out.jsonl"
    users.write_text("u1\nu2\nnobody\n", encoding="utf-8")
    assert _recommend(finished, "--users", str(users), "--output", str(output)) == EXIT_FINISHED
    said = capsys.readouterr()
    assert "3 users -> " in said.out
    assert "1 of 3 could not be answered" in said.err
    assert len(output.read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "for which user or history?"),
        (("--user", "u1", "--history", "i1"), "--user, --history"),
        (("--users", "a.txt"), "must be given together"),
        (("--user", "u1", "-k", "0"), "-k 0: at least 1"),
        (("--user", "u_3"), "no user 'u_3'"),
        (("--history", "Film"), "no item has the key or title 'Film'"),
        (("--users", "absent.txt", "--output", "a.jsonl"), "absent.txt: cannot be read"),
        (("--users", "absent.txt", "--output", "a.txt"), ".jsonl or .parquet"),
    ],
)
def test_what_does_not_fit_is_refused(
    finished: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _recommend(finished, *words) == EXIT_USAGE
    assert said in capsys.readouterr().err


def test_a_run_that_is_not_there_names_those_that_are(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(finished / "experiments")
    assert main(["recommend", "--dataset_code", "shp", "--experiment_root", root, "--user", "u1"]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "there is no run of the ranker" in said
    assert "shop" in said
