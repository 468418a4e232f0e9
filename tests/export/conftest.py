"""The finished run of the recommender's tests."""

from tests.recommend.conftest import experiment, finished, recommender

__all__ = ["experiment", "finished", "recommender"]
