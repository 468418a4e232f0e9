"""Items with similar titles start side by side."""

from __future__ import annotations

import torch

from llamarec.retriever.title_embeddings import title_vectors

# Two of each brand and kind; the last word occurs once and is no common word.
BRANDS, KINDS = ("Kiehl", "Olay", "Nivea", "Avène"), ("shampoo", "balm", "soap", "powder")
TITLES = [f"{brand} {kind} {brand}{kind}{n}" for brand in BRANDS for kind in KINDS for n in "12"]


def _vectors(titles: list[str], width: int = 8, seed: int = 0) -> torch.Tensor:
    return title_vectors(titles, width, std=0.02, generator=torch.Generator().manual_seed(seed))


def test_similar_titles_are_near() -> None:
    vectors = torch.nn.functional.normalize(_vectors(TITLES), dim=1)
    nearness = vectors @ vectors.T
    same_brand_and_kind = nearness[range(0, 32, 2), range(1, 32, 2)]
    another_brand_and_kind = nearness[range(16), range(31, 15, -1)]
    assert same_brand_and_kind.mean() > another_brand_and_kind.mean() + 0.5


def test_the_standard_deviation_is_the_one_asked_for() -> None:
    # The noise of a quarter adds 1 - sqrt(1 + 1/16), about 3%.
    assert 0.018 < _vectors(TITLES).std().item() < 0.023


def test_the_same_generator_gives_the_same_vectors() -> None:
    assert torch.equal(_vectors(TITLES), _vectors(TITLES))
    assert not torch.equal(_vectors(TITLES), _vectors(TITLES, seed=1))


def test_titles_without_common_words_start_at_random() -> None:
    vectors = _vectors(["alpha", "beta", "gamma", "delta"], width=64)
    assert vectors.shape == (4, 64)
    assert 0.01 < vectors.std().item() < 0.03


def test_fewer_words_than_width() -> None:
    vectors = _vectors(["red pen", "red ink", "blue pen", "blue ink", "green"], width=32)
    assert vectors.shape == (5, 32)
    assert torch.isfinite(vectors).all()
