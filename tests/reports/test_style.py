"""The colours of dashboard and paper: told apart in grey and by colour-blind readers."""

import itertools
import re

import numpy as np
import pytest

from reports import style

# Viénot, Brettel & Mollon 1999: linear RGB as dichromats see it; tritanopia after Brettel 1997.
SEEN = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deuteranopia": np.array(
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]
    ),
    "tritanopia": np.array([[1, 0.14461, -0.14461], [0, 0.85924, 0.14076], [0, 0.85924, 0.14076]]),
}


def linear(color: str) -> np.ndarray:
    """sRGB #rrggbb → linear RGB (3,)."""
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab (D65) of linear RGB."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    t = np.array(to_xyz) @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", SEEN)
def test_the_four_meanings_are_told_apart(eyes: str) -> None:
    """ΔE (CIE 1976) of 15 is six times a just noticeable difference."""
    meanings = (style.BASE, style.TUNED, style.DELTA, style.INTRUDER)
    for one, other in itertools.combinations(meanings, 2):
        apart = np.linalg.norm(lab(SEEN[eyes] @ linear(one)) - lab(SEEN[eyes] @ linear(other)))
        assert apart > 15, (one, other)


def test_a_figure_is_the_same_file_every_time_and_letters_stay_letters() -> None:
    def draw() -> bytes:
        with style.paper():
            figure = style.new_figure()
            figure.subplots().plot([1, 2], label=style.escaped("$x_{"))
            figure.axes[0].legend()
            return style.to_bytes(figure, "pdf")

    first = draw()
    assert first == draw()
    assert b"/Type3" not in first and b"/FontFile2" in first
    assert not re.search(rb"/CreationDate", first)


def test_a_user_s_settings_do_not_leak_in() -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30.0, "text.usetex": True}), style.paper():
        assert mpl.rcParams["font.size"] == 8.0 and not mpl.rcParams["text.usetex"]
