"""What is recommended is what was tested: the same candidates, letters and scores."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import llamarec
from llamarec.errors import ArtifactError, ConfigError, LlamarecError
from llamarec.experts.known import known_at, queries_of
from llamarec.experts.title_words import TitleSimilarity
from llamarec.ranker.prompts.first_stage import stored_first_stage
from llamarec.recommend.catalogue import UnknownError
from llamarec.recommend.letter_order import LetterOrder
from llamarec.recommend.recommender import Recommendation, Recommender
from llamarec.retriever.serving import load_retriever
from llamarec.vocabulary import Experiment
from tests.recommend.conftest import ranker_of


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The folder of a run of one's own."""
    return Path(shutil.copytree(finished / "experiments", tmp_path / "moved")) / "llm" / "shop"


def test_the_scores_are_those_of_the_test(recommender: Recommender, experiment: Experiment) -> None:
    rows = pl.read_parquet(experiment.test).drop_nulls("candidate_ids")
    assert rows.height > 5
    data = recommender.data
    # What the test counted, at the moments at which it asked; otherwise everything counts.
    then = load_retriever(experiment, data, known=known_at(data, "test"))
    asked = queries_of(data, "test", rows["user_id"].to_numpy())
    lists = Recommender(data, LetterOrder(then, ranker_of(recommender))).recommend_many(
        [history.tolist() for history in asked.histories], k=20, times=asked.times.tolist()
    )
    for row, found in zip(rows.iter_rows(named=True), lists, strict=True):
        by_item = {one.item: one for one in found}
        assert len(by_item) == 20
        for place, item in enumerate(row["candidate_ids"]):
            one = by_item[data.items[item]]
            assert one.retriever_rank == place + 1
            assert one.retriever_score == pytest.approx(row["scores"][place], abs=1e-4)
            assert one.letter_log_probability == pytest.approx(row["letter_logp"][place], abs=1e-3)
            assert one.score == pytest.approx(row["final_scores"][place], abs=1e-3)
        assert by_item[data.items[row["label_id"]]].rank == row["final_rank"]
        assert sorted(one.letter or "" for one in found) == [chr(65 + place) for place in range(20)]


def test_by_user_by_keys_and_by_titles_is_the_same(recommender: Recommender) -> None:
    assert llamarec.Recommender is Recommender
    by_user = recommender.recommend(user="u3", k=5)
    items = recommender.items_of("u3")
    titles = [recommender.data.titles[item].upper() for item in items]
    keys = [recommender.data.items[item] for item in items]
    assert by_user == recommender.recommend(titles, k=5) == recommender.recommend(history=keys, k=5)
    assert [one.rank for one in by_user] == [1, 2, 3, 4, 5]
    assert not {one.item for one in by_user} & set(keys), "what was taken is not recommended again"
    assert json.loads(json.dumps(by_user[0].as_dict()))["title"] == by_user[0].title


def test_who_took_too_little_to_be_trained_on_is_asked_by_key_too(recommender: Recommender) -> None:
    assert "few" not in recommender.data.users
    assert recommender.recommend(user="few", k=5) == recommender.recommend(["i7", "i8"], k=5)


def test_titles_count_with_the_weight_of_the_fusion(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    data, ranker = recommender.data, ranker_of(recommender)
    plain = recommender.recommend(["i3", "i4"], k=20)
    assert {one.title_similarity for one in plain} == {0.0}
    monkeypatch.setattr(ranker, "_first_stage", stored_first_stage(data.titles, 50.0))
    monkeypatch.setattr(ranker, "fusion", replace(ranker.fusion, letters=0.0, alpha=1.0, deviation=2.0))
    found = recommender.recommend(["i3", "i4"], k=20)
    history = np.array(recommender.catalogue.items(["i3", "i4"]))
    ids = np.array([data.items.index(one.item) for one in found])
    similarities = TitleSimilarity(data.titles)(history, ids)
    assert [one.title_similarity for one in found] == pytest.approx(similarities)
    raw = np.array([one.retriever_score for one in found]) + 50.0 * similarities
    assert [one.score for one in found] == pytest.approx((raw - raw.mean()) / 2.0, abs=1e-4)
    assert (np.diff(raw) <= 0).all()


def test_only_new_leaves_out_what_was_taken(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamarec.retriever.config.RetrieverConfig.excludes", lambda *_: False)
    place = finished / "experiments" / "llm" / "shop"
    taken = ["i3", "i4"]
    for only_new in (False, True):
        recommender = Recommender.load(place, device="cpu", only_new=only_new)
        found = {one.item for one in recommender.recommend(taken, k=recommender.data.num_items)}
        assert (not found & set(taken)) is only_new


def test_beyond_the_rankers_candidates_the_retriever_goes_on(recommender: Recommender) -> None:
    found = recommender.recommend(user="u3", k=1000)
    assert len(found) == recommender.data.num_items - len(set(recommender.items_of("u3")))
    assert sorted(one.retriever_rank for one in found[:20]) == list(range(1, 21))
    assert [one.retriever_rank for one in found[20:]] == list(range(21, len(found) + 1))
    assert {(one.score, one.letter) for one in found[20:]} == {(None, None)}
    assert all((first.score or 0.0) >= (second.score or 0.0) for first, second in itertools.pairwise(found[:20]))


def test_a_history_that_leaves_fewer_than_twenty(recommender: Recommender) -> None:
    history = list(range(1, 46))
    (found,) = recommender.recommend_many([history], k=20)
    assert len(found) == recommender.data.num_items - 45
    assert all(one.score is not None and np.isfinite(one.score) for one in found)
    (nothing,) = recommender.recommend_many([list(range(1, recommender.data.num_items + 1))], k=20)
    assert nothing == []


def test_many_at_once_are_each_as_alone(recommender: Recommender) -> None:
    histories = [recommender.items_of(f"u{user}") for user in range(30)]
    together = recommender.recommend_many(histories, k=3)
    for history, found in list(zip(histories, together, strict=True))[::7]:
        (alone,) = recommender.recommend_many([history], k=3)
        assert [one.item for one in alone] == [one.item for one in found]
        assert [one.score for one in alone] == pytest.approx([one.score for one in found], abs=1e-4)
    assert recommender.recommend_many([]) == []


def test_what_does_not_fit_is_refused(recommender: Recommender) -> None:
    with pytest.raises(UnknownError, match=r"(?s)'Film 3'.*Film <3>"):
        recommender.recommend(["Film 3"])
    with pytest.raises(UnknownError, match="no user 'u99'"):
        recommender.recommend(user="u99")
    for history, user in ((None, None), (["i1"], "u1")):
        with pytest.raises(ConfigError, match="either a history or a user"):
            recommender.recommend(history, user=user)
    with pytest.raises(ConfigError, match="an empty history"):
        recommender.recommend([])
    with pytest.raises(ConfigError, match="not one text"):
        recommender.recommend("i1")
    with pytest.raises(ConfigError, match="k 0"):
        recommender.recommend(user="u1", k=0)


def test_memory_that_does_not_suffice_halves_the_batch(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recommender.recommend_many([recommender.items_of(f"u{user}") for user in range(9)], k=3)
    forward, sizes = ranker_of(recommender)._forward, []

    def small(ids: list[list[int]]) -> object:
        sizes.append(len(ids))
        if len(ids) > 3:
            raise MemoryError
        return forward(ids)

    monkeypatch.setattr(ranker_of(recommender), "_forward", small)
    monkeypatch.setattr(ranker_of(recommender), "_batch_size", 32)
    found = recommender.recommend_many([recommender.items_of(f"u{user}") for user in range(9)], k=3)
    assert [[one.item for one in row] for row in found] == [[one.item for one in row] for row in wanted]
    assert sizes[:2] == [9, 4]
    assert max(sizes[2:]) <= 3


def _first(run: Path) -> list[Recommendation]:
    return Recommender.load(run, device="cpu").recommend(user="u3", k=5)


def test_a_moved_run_and_one_whose_best_adapter_is_damaged(recommender: Recommender, copy: Path) -> None:
    wanted = [one.item for one in recommender.recommend(user="u3", k=5)]
    assert [one.item for one in _first(copy)] == wanted
    by_code = Recommender.load("shop", experiment_root=copy.parent.parent, device="cpu")
    assert [one.item for one in by_code.recommend(user="u3", k=5)] == wanted
    step = recommender.order.adapter.step
    (copy / "checkpoints" / "adapter_model.bin").write_bytes(b"damaged")
    again = Recommender.load(copy, device="cpu")
    assert again.order.adapter.folder.name.startswith("checkpoint-")
    if (copy / "checkpoints" / f"checkpoint-{step}").is_dir():
        assert [one.item for one in again.recommend(user="u3", k=5)] == wanted


def test_without_a_best_adapter_the_newest_checkpoint(copy: Path) -> None:
    (copy / "checkpoints" / "best.json").unlink()
    ranker = ranker_of(Recommender.load(copy, device="cpu"))
    assert (ranker.adapter.step, ranker.adapter.is_best) == (12, False)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("llm/shop/ranker.json", "no run of the ranker"),
        ("llm/shop/checkpoints", "no trained adapter"),
        (
            "lru/shop/retriever.safetensors",
            r"(?s)retriever.safetensors: the file is missing.*python train_retriever.py --dataset_code shop",
        ),
    ],
)
def test_what_is_missing_is_named(copy: Path, gone: str, said: str) -> None:
    path = copy.parent.parent / gone
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.unlink()
    with pytest.raises(LlamarecError, match=said):
        _first(copy)


def test_parts_of_other_data_are_refused(copy: Path) -> None:
    for name, said in (
        ("lru/shop/metrics.json", r"metrics\.json: not as it was written"),
        ("llm/shop/ranker.json", "this ranker was made from other data"),
    ):
        path = copy.parent.parent / name
        before = path.read_text(encoding="utf-8")
        path.write_text(json.dumps({**json.loads(before), "data_fingerprint": "0" * 64}), encoding="utf-8")
        with pytest.raises(ArtifactError, match=said):
            _first(copy)
        path.write_text(before, encoding="utf-8")
    weights = copy.parent.parent / "lru" / "shop" / "retriever.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"retriever\.safetensors: not as it was written"):
        _first(copy)


def test_a_checkpoint_that_was_never_validated_gives_the_retrievers_order(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "checkpoints" / "best.json").unlink()
    # Nor tested: a test fits weights of its own.
    monkeypatch.setattr("llamarec.ranker.trained.serving.read_fusion", lambda folder: None)
    monkeypatch.setattr("llamarec.ranker.trained.serving.read_final", lambda folder, digest: None)
    recommender = Recommender.load(copy, device="cpu")
    assert (ranker_of(recommender).fusion.letters, ranker_of(recommender).fusion.num_prompts) == (0.0, 0)
    assert [one.retriever_rank for one in recommender.recommend(user="u3", k=20)] == list(range(1, 21))


def test_where_the_test_fitted_a_fusion_it_is_used(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ranker_of(Recommender.load(copy, device="cpu")).fusion
    monkeypatch.setattr("llamarec.ranker.trained.serving.read_fusion", lambda folder: None)
    assert ranker_of(Recommender.load(copy, device="cpu")).fusion == wanted


def test_a_retriever_that_was_trained_anew_is_refused(copy: Path) -> None:
    description = copy / "ranker.json"
    content = json.loads(description.read_text(encoding="utf-8"))
    assert len(content["retriever_digest"]) == 64
    description.write_text(json.dumps({**content, "retriever_digest": "0" * 64}), encoding="utf-8")
    # With all that it was given.
    command = r"python train_ranker\.py --dataset_code .*--experiment_root .*--llm_base_model tiny.*--restart\n?"
    with pytest.raises(ArtifactError, match=rf"(?s)the retriever was trained again.*{command}"):
        _first(copy)


def test_the_adapter_of_the_run_before_a_restart_is_not_taken_for_the_new_ones(copy: Path) -> None:
    description = copy / "ranker.json"
    content = json.loads(description.read_text(encoding="utf-8"))
    assert content["run_id"]
    description.write_text(json.dumps({**content, "run_id": "another"}), encoding="utf-8")
    with pytest.raises(
        ArtifactError, match=r"(?s)the run after --restart has no adapter yet.*of the run before --restart"
    ):
        _first(copy)
    # A run of an earlier version does not say which one it is.
    del content["run_id"]
    description.write_text(json.dumps(content), encoding="utf-8")
    _first(copy)


@pytest.mark.parametrize("device", ["nonsense", "cuda:77", "xpu"])
def test_a_device_that_is_not_there_is_refused(copy: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"--device {device}: not on this machine"):
        Recommender.load(copy, device=device)
