"""A small shop for the recipes."""

from tests.ranker.shop import folder, shop

__all__ = ["folder", "shop"]
