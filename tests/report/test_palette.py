"""The series of a figure can be told apart in both themes, also with red-green and blue-yellow blindness."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Final

import matplotlib.colors
import numpy as np
import pytest
from numpy.typing import NDArray

import llamarec.report

# Machado, Oliveira and Fernandes (2009), severity 1.0, for linear RGB.
EYES: Final = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# CIE XYZ of linear sRGB, white point D65.
XYZ: Final = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# A difference of 2.3 is just noticeable; thin lines need much more. The former green and brown had 5 to 13.
LEAST_DIFFERENCE: Final = 30.0
# WCAG 2.2, 1.4.11: graphical objects.
LEAST_CONTRAST: Final = 3.0


def _themes() -> dict[str, dict[str, str]]:
    """Colours by name, of the light and the dark theme."""
    text = (Path(llamarec.report.__path__[0]) / "style.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S)
    )

    return {"light": light, "dark": dark}


def _linear(colour: str) -> NDArray[np.float64]:
    value = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _lab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    t = XYZ @ np.clip(linear, 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)

    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _contrast(one: str, other: str) -> float:
    low, high = sorted(float(XYZ[1] @ _linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eye", EYES)
def test_series_differ_for_every_eye(theme: str, eye: str) -> None:
    colours = [_themes()[theme][f"series-{number}"] for number in (1, 2, 3)]
    labs = [_lab(EYES[eye] @ _linear(colour)) for colour in colours]

    for one, other in combinations(labs, 2):
        assert np.linalg.norm(one - other) >= LEAST_DIFFERENCE


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_series_stand_out_from_the_paper(theme: str) -> None:
    colours = _themes()[theme]

    for name in ("series-1", "series-2", "series-3", "mark"):
        assert _contrast(colours[name], colours["paper"]) >= LEAST_CONTRAST, name
    for name in ("ink", "soft", "good", "mark"):
        # Text: WCAG 2.2, 1.4.3.
        assert _contrast(colours[name], colours["paper"]) >= 4.5, name


def test_the_measure_knows_a_bad_palette() -> None:
    brown, green = _linear("#b3500b"), _linear("#5a7d1e")
    deuteranopia = EYES["deuteranopia"]

    assert np.linalg.norm(_lab(brown) - _lab(green)) > LEAST_DIFFERENCE
    assert np.linalg.norm(_lab(deuteranopia @ brown) - _lab(deuteranopia @ green)) < LEAST_DIFFERENCE
    assert _contrast("#ffffff", "#000000") == pytest.approx(21)
