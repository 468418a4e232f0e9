"""The finished run of the recommender's tests."""

from tests.recommend.conftest import experiment, finished, recommender
from tests.report.conftest import run

__all__ = ["experiment", "finished", "recommender", "run"]
