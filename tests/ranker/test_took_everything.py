"""A user who took nearly everything: left out of both stages and counted, and no limit for anybody else."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from llamarec.data.prepared import load_prepared
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.prompts.training_samples import _has_candidates
from llamarec.ranker.training.run import train_ranker
from llamarec.recommend.recommender import Recommender
from llamarec.retriever.candidates import load_candidates
from llamarec.retriever.train import train_retriever
from tests.ranker.shop import NUM_ITEMS, NUM_USERS, SHOP_RETRIEVER, argv_of

NUM_TAKEN = 57


def _write_shop(folder: Path) -> None:
    lines = ["user,item,timestamp,title"]
    for user in range(NUM_USERS):
        items = [(7 * user + step * (1 + user % 3)) % NUM_ITEMS for step in range(9)]
        lines += [f"u{user},i{item},{time},Film {item} of many" for time, item in enumerate(items)]
    lines += [f"collector,i{item},{item},Film {item} of many" for item in range(NUM_TAKEN)]
    (folder / "shop.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_both_stages_leave_that_user_out_and_say_so(tmp_path: Path) -> None:
    _write_shop(tmp_path)
    said = io.StringIO()
    console = Console(file=said, width=200)
    parsed = parse(argv_of(tmp_path, "--eval_steps", "4"))
    report = train_retriever(parsed.data, replace(SHOP_RETRIEVER, num_epochs=8), console)

    assert report.num_users == {"validation": NUM_USERS + 1, "test": NUM_USERS + 1}
    assert report.ranker_candidates == 20, "not the few that the collector could have"
    assert "1 of 41 users of the test are left out: they took all but fewer than 20 items (--top_k)" in said.getvalue()

    data = load_prepared(parsed.data.experiment.data)
    collector = data.users.index("collector")
    for of_split in load_candidates(parsed.data.experiment, data).values():
        assert of_split.item_ids.shape == (NUM_USERS, 20)
        assert np.isfinite(of_split.scores).all()
        assert collector not in of_split.user_ids

    train_ranker(parsed, console)
    # Of the collector's 54 training positions, those with more than 41 items of 60 before or at them.
    assert "14 more are left out: fewer than 20 items are outside the history" in said.getvalue()
    metrics = json.loads((tmp_path / "experiments" / "llm" / "shop" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["num_users"] == NUM_USERS
    tested = pl.read_parquet(tmp_path / "experiments" / "llm" / "shop" / "test.parquet")
    assert "collector" not in tested["user"]

    recommender = Recommender.load("shop", experiment_root=tmp_path / "experiments", device="cpu")
    assert {one.item for one in recommender.recommend(user="collector", k=5)} == {"i57", "i58", "i59"}


def test_prompts_are_left_out_from_the_first_position_on_that_has_too_few(tmp_path: Path) -> None:
    _write_shop(tmp_path)
    data, *_ = parse(argv_of(tmp_path))
    from llamarec.data.prepare import prepare

    prepared = prepare(data, Console(quiet=True))
    possible = _has_candidates(prepared, 20)
    counts = prepared.sequences.num_training_positions()
    assert (len(possible), int((~possible).sum())) == (int(counts.sum()), 14)
    # With n items before it, a label has 60 - n candidates: itself and those that are outside the history.
    assert possible[-54:].tolist() == [60 - before >= 20 for before in range(1, 55)]
    assert possible[:-54].all()
    assert _has_candidates(replace(prepared, has_repeats=True), 20).all()
