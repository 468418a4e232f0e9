"""A module of a program that keeps its generator beside its functions."""

from __future__ import annotations

import random

import numpy as np

RNG = np.random.default_rng(5)
PYTHON = random.Random(5)
