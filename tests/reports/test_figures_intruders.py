"""Paper figures of intruder dimensions: what is drawn is what the view holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports import style
from reports.figures import intruders, intruders_strength, intruders_vectors

HOSTILE = "$x_{ <img src=x onerror=alert(1)> \\frac"


def counts(x: str) -> list[dict[str, Any]]:
    return [
        {"checkpoint": name, "kind": "full", x: at, "n_intruders": n * i, "n_judged": 20}
        for n, name in enumerate((HOSTILE, "b"), start=1)
        for i, at in enumerate((0.0, 0.5, 1.0))
    ]


@pytest.mark.parametrize("name", ["epsilon", "k"])
def test_counts_are_a_line_a_checkpoint(drawn: Callable[..., Figure], name: str) -> None:
    draw = intruders.count_against_epsilon if name == "epsilon" else intruders.count_against_k
    figure = drawn(draw, counts(name))
    lines = figure.axes[0].get_lines()
    np.testing.assert_array_equal([line.get_ydata() for line in lines], [[0, 1, 2], [0, 2, 4]])
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == 2  # to be told apart in grey
    assert figure.get_figwidth() == style.COLUMN


def cosines(matrices: int) -> list[dict[str, Any]]:
    return [
        {"checkpoint": "c", "matrix": f"{HOSTILE}{m}", "i": i, "j": j, "cosine": 0.1 * i + 0.01 * j,
         "maxcos": 0.3, "argmax_base": 1, "is_intruder": j == 2}
        for m in range(matrices) for i in (1, 2, 3) for j in (1, 2, 3)
    ]  # fmt: skip


def test_maps_have_base_down_tuned_across_and_intruders_outlined(
    drawn: Callable[..., Figure],
) -> None:
    figure = drawn(intruders_vectors.cosine_maps, cosines(1))
    axes = figure.axes[0]
    grid = np.asarray(axes.collections[0].get_array()).reshape(3, 3)
    i, j = np.mgrid[1:4, 1:4]
    np.testing.assert_allclose(grid, 0.1 * i + 0.01 * j)
    assert axes.yaxis_inverted()
    (outline,) = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert (outline.get_x(), outline.get_width()) == (1.5, 1)
    assert to_hex(outline.get_edgecolor()).upper() == style.INTRUDER
    assert figure.get_figwidth() == style.COLUMN


def test_several_maps_take_a_page_with_a_label_each(drawn: Callable[..., Figure]) -> None:
    figure = drawn(intruders_vectors.cosine_maps, cosines(4))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert figure.get_figwidth() == style.PAGE
    assert len(set(titles)) == 4


def test_largest_cosines_with_their_band_and_the_threshold(drawn: Callable[..., Figure]) -> None:
    rows = [
        {"checkpoint": HOSTILE, "kind": "full", "j": j, "maxcos": 0.1 * j, "lo": 0.1 * j - 0.05,
         "hi": 0.1 * j + 0.05, "n_matrices": 3}
        for j in (1, 2, 3)
    ]  # fmt: skip
    axes = drawn(intruders_vectors.maxcos_against_rank, rows, epsilon=0.42).axes[0]
    line, threshold = axes.get_lines()
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(np.asarray(threshold.get_ydata(), float), 0.42)


def test_tracks_with_an_intruder_are_red_in_all_panels(drawn: Callable[..., Figure]) -> None:
    rows = [
        {"track": t, "step": s, "j": t, "sigma": 2.0 / t + s, "maxcos": 0.9 - 0.3 * t,
         "is_intruder": t == 2 and s == 20, "ever_intruder": t == 2}
        for t in (1, 2) for s in (10, 20)
    ]  # fmt: skip
    figure = drawn(intruders_vectors.dynamics, rows, epsilon=0.5)
    for axes, name in zip(figure.axes, ("sigma", "j", "maxcos"), strict=True):
        red = [
            line
            for line in axes.get_lines()
            if to_hex(line.get_color()).upper() == style.INTRUDER and len(line.get_xdata()) == 2  # pyright: ignore[reportArgumentType]
        ]
        (line,) = red
        np.testing.assert_array_equal(line.get_xdata(), [10, 20])
        np.testing.assert_array_equal(line.get_ydata(), [r[name] for r in rows if r["track"] == 2])
    assert figure.axes[1].yaxis_inverted()


def strengths() -> list[dict[str, Any]]:
    return [
        {"checkpoint": HOSTILE, "kind": "full", "matrix": HOSTILE, "layer": n, "role": HOSTILE,
         "theta_star": 0.1 + n, "delta_spectral_norm": 0.2 * (n + 1), "n_intruders": n % 2,
         "has_intruders": n % 2 == 1, "expected": n < 1, "k": 10, "epsilon": 0.5,
         "critical_multiplier": None if n == 3 else 0.5 + n, "critical_limit": 64.0}
        for n in range(4)
    ]  # fmt: skip


def test_scatter_of_predicted_thresholds_has_a_diagonal(drawn: Callable[..., Figure]) -> None:
    axes = drawn(intruders_strength.predicted_against_strength, strengths()).axes[0]
    none, some, diagonal = axes.get_lines()
    np.testing.assert_allclose(np.asarray(none.get_xdata(), float), [0.1, 2.1])
    np.testing.assert_allclose(np.asarray(some.get_ydata(), float), [0.4, 0.8])
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert to_hex(some.get_color()).upper() == style.INTRUDER


def test_multipliers_up_to_one_are_red_and_missing_ones_are_not_drawn(
    drawn: Callable[..., Figure],
) -> None:
    axes = drawn(intruders_strength.critical_multipliers, strengths()).axes[0]
    points: Any = axes.collections[0]
    np.testing.assert_allclose(points.get_offsets()[:, 1], [0.5, 1.5, 2.5])
    colours = [to_hex(colour).upper() for colour in points.get_edgecolors()]
    assert colours == [style.INTRUDER, style.TUNED, style.TUNED]


def test_ranks_of_updates_by_layer(drawn: Callable[..., Figure]) -> None:
    rows = [
        {"checkpoint": HOSTILE, "kind": "full", "layer": n, "effective_rank": 2.0 + n, "lo": 1.0,
         "hi": 9.0, "n_matrices": 7}
        for n in range(3)
    ]  # fmt: skip
    axes = drawn(intruders_strength.update_ranks, rows).axes[0]
    np.testing.assert_allclose(np.asarray(axes.get_lines()[0].get_ydata(), float), [2, 3, 4])


def test_empty_views_draw(drawn: Callable[..., Figure]) -> None:
    columns = (
        "checkpoint", "matrix", "epsilon", "k", "n_intruders", "j", "maxcos", "lo", "hi", "track",
        "step", "sigma", "is_intruder", "ever_intruder", "theta_star", "delta_spectral_norm",
        "has_intruders", "critical_multiplier", "role", "layer", "effective_rank",
    )  # fmt: skip
    for draw in (
        intruders.count_against_epsilon, intruders.count_against_k, intruders_vectors.cosine_maps,
        intruders_vectors.maxcos_against_rank, intruders_vectors.dynamics,
        intruders_strength.predicted_against_strength, intruders_strength.critical_multipliers,
        intruders_strength.update_ranks,
    ):  # fmt: skip
        drawn(draw, [], columns, epsilon=0.5)
