"""What a run tests and writes down: figures of every user, and the fusion that is stored and served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llamarec.checkpoints.storage.best_model import read_best
from llamarec.errors import ArtifactError, ConfigError
from llamarec.evaluation.fusion import Fusion, read_fusion
from llamarec.evaluation.metrics import ndcg_at
from llamarec.experts.title_words import TitleSimilarity
from llamarec.files import stored
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.prompts.first_stage import FirstStage
from llamarec.ranker.trained.final_fusion import FINAL_FUSION
from llamarec.recommend.recommender import Recommender
from llamarec.retriever.config import RetrieverConfig
from llamarec.vocabulary import Experiment
from tests.ranker.shop import NUM_USERS, argv_of, checkpoints_of, run_shop
from tests.recommend.conftest import ranker_of


def _metrics(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def test_every_test_user_is_written_down(folder: Path) -> None:
    run_shop(folder)
    run = folder / "experiments" / "llm" / "shop"
    metrics = _metrics(run)
    users = pl.read_parquet(run / "test.parquet")
    assert len(users) == NUM_USERS
    for column, table in (("final_rank", metrics), ("letters_rank", metrics["letters"])):
        row = next(row for row in table["overall"] if row["metric"] == "ndcg@10")
        assert ndcg_at(users[column].to_numpy(), 10) == pytest.approx(row["ranker"])
        assert ndcg_at(users["retriever_rank"].to_numpy(), 10) == pytest.approx(row["retriever"])
    asked = users.filter(pl.col("retriever_rank") > 0)
    assert len(asked) == metrics["num_covered"] == users["candidate_ids"].count()
    for user in asked.iter_rows(named=True):
        assert user["candidate_ids"][user["retriever_rank"] - 1] == user["label_id"]
        assert user["scores"] == sorted(user["scores"], reverse=True)
        ordered = sorted(user["final_scores"], reverse=True)
        assert user["final_scores"][user["retriever_rank"] - 1] == ordered[user["final_rank"] - 1]


def test_the_fusion_lies_beside_the_best_adapter_and_is_used(folder: Path) -> None:
    run_shop(folder)
    metrics = _metrics(folder / "experiments" / "llm" / "shop")
    fusion, best = read_fusion(checkpoints_of(folder)), read_best(checkpoints_of(folder))
    assert fusion is not None
    assert best is not None
    assert "fusion.json" in best.files
    assert best.step == fusion.step == metrics["best_step"]
    assert metrics["fusion"] == json.loads((checkpoints_of(folder) / "fusion.json").read_text(encoding="utf-8"))
    # Each checkpoint has its own, so that any can become the best one.
    for path in checkpoints_of(folder).glob("checkpoint-*"):
        of_step = read_fusion(path)
        assert of_step is not None
        assert path.name == f"checkpoint-{of_step.step}"


def test_without_a_stored_fusion_it_is_fitted_again(folder: Path) -> None:
    first = run_shop(folder)
    (checkpoints_of(folder) / "fusion.json").unlink()
    assert run_shop(folder, "--resume_from_checkpoint") == first
    without = run_shop(folder, "--restart", "--eval_strategy", "no", "--load_best_model_at_end", "false")
    assert without.num_users == NUM_USERS


def test_the_weights_are_fitted_on_more_users_than_the_adapter_is_chosen_on(folder: Path) -> None:
    few, run = ("--max_eval_users", "10"), folder / "experiments" / "llm" / "shop"
    first = run_shop(folder, *few)
    fusion = _metrics(run)["fusion"]
    beside_best = read_fusion(checkpoints_of(folder))
    assert beside_best is not None
    # What each validation fits is of its own users.
    assert (fusion["num_users"], beside_best.num_users) == (NUM_USERS, 10)
    assert fusion["num_prompts"] > beside_best.num_prompts
    assert fusion["step"] == beside_best.step == _metrics(run)["tested_step"]
    # A run that was killed in its test, or before, comes to the same.
    (run / "metrics.json").unlink()
    assert run_shop(folder, "--resume_from_checkpoint") == first
    (checkpoints_of(folder) / FINAL_FUSION).unlink()
    assert run_shop(folder, "--resume_from_checkpoint") == first
    assert _metrics(run)["fusion"] == fusion
    recommender = Recommender.load(run, device="cpu")
    assert ranker_of(recommender).fusion == stored(fusion, Fusion, "metrics.json")
    # No more users than the validation had: then it stays as that fitted it.
    run_shop(folder, "--resume_from_checkpoint", "--max_fusion_users", "10")
    assert _metrics(run)["fusion"] == json.loads(beside_best.as_bytes())


def test_what_was_fitted_after_training_is_served_also_when_the_test_was_in_shuffles(folder: Path) -> None:
    run_shop(folder, "--max_eval_users", "10", "--test_shuffles", "2", "--order_prompts", "4")
    run = folder / "experiments" / "llm" / "shop"
    assert _metrics(run)["fusion"]["shuffles"] == 2
    served = ranker_of(Recommender.load(run, device="cpu")).fusion
    assert (served.num_users, served.shuffles) == (NUM_USERS, 1)


def test_another_adapter_of_the_same_step_is_not_given_the_weights_of_the_one_before(folder: Path) -> None:
    few, run = ("--max_eval_users", "10"), folder / "experiments" / "llm" / "shop"
    run_shop(folder, *few)
    final = (checkpoints_of(folder) / FINAL_FUSION).read_bytes()
    run_shop(folder, *few, "--restart", "--learning_rate", "1e-4", "--seed", "3")
    # Killed before its test.
    (checkpoints_of(folder) / FINAL_FUSION).write_bytes(final)
    best = read_best(checkpoints_of(folder))
    assert best is not None
    served = ranker_of(Recommender.load(run, device="cpu")).fusion
    assert served == read_fusion(checkpoints_of(folder))
    assert (served.step, served.num_users) == (best.step, 10)


def test_the_published_recipe_by_flags(folder: Path) -> None:
    (folder / "experiments" / "lru" / "shop" / "hard_negatives.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"hard_negatives\.parquet: .*missing"):
        run_shop(folder)
    run_shop(folder, "--hard_negatives", "0", "--candidate_order", "retriever", "--order_prompts", "0")
    metrics = _metrics(folder / "experiments" / "llm" / "shop")
    assert set(metrics["fusion"]["letter_prior"]) == {0.0}
    assert metrics["orders"] is None


@pytest.mark.parametrize("change", ["{ broken", "altered"])
def test_a_fusion_that_is_not_the_saved_one_is_fitted_again(
    folder: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    first = run_shop(folder)
    path = checkpoints_of(folder) / "fusion.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    altered = json.dumps({**content, "letters": 1.0 - content["letters"], "alpha": -7.0})
    path.write_text(altered if change == "altered" else change, encoding="utf-8")
    assert run_shop(folder, "--resume_from_checkpoint") == first
    # It belongs to the best model, which is put back as it was saved.
    assert "was changed after it was saved; restored from checkpoint-" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == json.dumps(content, indent=2) + "\n"


def test_metrics_say_what_was_done(folder: Path) -> None:
    run_shop(folder, "--seed", "5")
    metrics = _metrics(folder / "experiments" / "llm" / "shop")
    assert metrics["seed"] == 5
    assert metrics["config"]["llm_base_model"] == "tiny"
    assert metrics["retriever_config"]["seed"] == RetrieverConfig().seed
    assert set(metrics["versions"]) >= {"llamarec", "torch", "transformers"}


def test_titles_left_out_on_a_resume_are_left_out_of_the_fusion_that_is_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with a retriever of an earlier version, or with --experts none: titles are no part of its order.
    monkeypatch.setattr("llamarec.ranker.training.build.has_experts", lambda _: False)
    monkeypatch.setattr(
        "llamarec.ranker.training.build.fit_first_stage", lambda data, *_: FirstStage(TitleSimilarity(data.titles), 2.0)
    )
    run_shop(folder)
    experiment = Experiment(folder / "experiments", "shop")
    metrics = experiment.ranker / "metrics.json"
    assert json.loads(metrics.read_text(encoding="utf-8"))["fusion"]["title_weight"] == 2.0
    run_shop(folder, "--resume_from_checkpoint", "--title_similarity", "false")
    assert json.loads(metrics.read_text(encoding="utf-8"))["fusion"]["title_weight"] == 0.0
    recommender = Recommender.load(experiment.ranker, device="cpu")
    assert ranker_of(recommender).fusion.title_weight == 0.0


def test_a_test_in_shuffles(folder: Path) -> None:
    run_shop(folder, "--test_shuffles", "3", "--max_steps", "4")
    metrics = _metrics(folder / "experiments" / "llm" / "shop")
    assert metrics["fusion"]["shuffles"] == 3
    with pytest.raises(ConfigError, match="--test_shuffles 3 with --candidate_order retriever"):
        parse(argv_of(folder, "--test_shuffles", "3", "--candidate_order", "retriever"))


def test_a_part_of_the_users_is_tested_where_asked(folder: Path) -> None:
    assert run_shop(folder, "--max_steps", "2", "--max_test_users", "15").num_users == 15
