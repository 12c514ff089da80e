"""Paper figures of heavy tails and WeLore ranks: what is drawn is what the view holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from reports import style
from reports.figures import tails, tails_fit, welore

HOSTILE = "$x_{ <img src=x onerror=alert(1)> \\frac"


def test_depth_has_a_panel_a_role_with_intervals(drawn: Callable[..., Figure]) -> None:
    rows = [
        {"series": series, "role": role, "layer": n, "alpha": 2.0 + n, "lo": 1.5 + n,
         "hi": None if n == 1 else 4.0 + n, "n_matrices": 1}
        for role in ("attn_q", HOSTILE) for series in ("base", "tuned") for n in range(3)
    ]  # fmt: skip
    figure = drawn(tails.alpha_by_depth, rows)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 2
    base, tuned = panels[0].containers
    for container, colour in ((base, style.BASE), (tuned, style.TUNED)):
        line, _, (bars,) = container  # pyright: ignore[reportGeneralTypeIssues]
        assert to_hex(line.get_color()).upper() == colour
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [2, 3, 4])
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, [[1.5, 4], [2.5, 3], [3.5, 6]])
    assert base[0].get_linestyle() != tuned[0].get_linestyle()


def test_histogram_keeps_empty_bins_between(drawn: Callable[..., Figure]) -> None:
    rows = [
        {"series": series, "low": low, "high": low + 0.5, "n": n}
        for series, low, n in (("base", 2.0, 3.0), ("base", 3.5, 1.0), ("tuned", 2.0, 4.0),
                               ("random", 2.5, 0.7))
    ]  # fmt: skip
    figure = drawn(tails.alpha_histogram, rows, **{"bin width": 0.5})
    steps = [p for p in figure.axes[0].patches if isinstance(p, StepPatch)]
    values, edges, _ = steps[0].get_data()
    np.testing.assert_allclose(values, [3, 0, 0, 1])
    np.testing.assert_allclose(edges, [2.0, 2.5, 3.0, 3.5, 4.0])


CURVES = [
    {"curve": "tuned", "x": x, "y": y, "y_hi": None}
    for x, y in ((8.0, 0.25), (2.0, 0.5), (0.5, 0.75), (1e-12, 1.0))
] + [
    {"curve": name, "x": x, "y": y, "y_hi": 2 * y if name == "noise" else None}
    for name in ("noise", "bulk", "fit") for x, y in ((2.0, 0.5), (8.0, 0.2))
]  # fmt: skip


def test_tail_shows_all_curves_and_both_edges(drawn: Callable[..., Figure]) -> None:
    figure = drawn(tails_fit.tail_fit, CURVES, xmin=2.0, edge_tw99=3.0)
    axes = figure.axes[0]
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    np.testing.assert_array_equal(lines["tuned"].get_ydata(), [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(lines["power law"].get_ydata(), [0.5, 0.2])
    np.testing.assert_array_equal(np.asarray(lines["xmin"].get_xdata()), [2.0, 2.0])
    np.testing.assert_array_equal(np.asarray(lines["Tracy-Widom 99 %"].get_xdata()), [3.0, 3.0])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlim()[0] > 1e-7  # a value at rounding level does not squeeze the others
    assert axes.get_ylim()[0] < 0.25 < axes.get_ylim()[1]


def test_scan_marks_the_chosen_start(drawn: Callable[..., Figure]) -> None:
    rows = [
        {"xmin": x, "alpha": 1.0 + x, "lo": 1.0, "hi": 3.0 + x, "ks_d": 1 / x, "n_tail": n}
        for x, n in ((1.0, 50), (2.0, 20), (4.0, 2))
    ]
    figure = drawn(tails_fit.xmin_scan, rows, xmin=2.0, alpha=3.0, ks_d=0.5)
    upper, lower = figure.axes
    np.testing.assert_array_equal(upper.get_lines()[0].get_ydata(), [2, 3, 5])
    np.testing.assert_array_equal(lower.get_lines()[0].get_ydata(), [1, 0.5, 0.25])
    np.testing.assert_array_equal(np.asarray(lower.get_lines()[-1].get_ydata()), [0.5])
    assert upper.get_ylim()[1] < 5  # two values give any exponent


def test_bars_of_ranks_are_coloured_and_hatched_by_kind(drawn: Callable[..., Figure]) -> None:
    rows = [
        {"place": str(n), "stack": None, "layer": n, "role": HOSTILE, "n": 1, "value": 0.5,
         "low": 0.5, "high": 0.5, "matrices": "", "rank_kept": 2 + 4 * n, "full_rank": 8,
         "is_lrc": n == 0}
        for n in range(2)
    ]  # fmt: skip
    figure = drawn(welore.rank_bars, rows)
    bars = [
        bar
        for container in figure.axes[0].containers
        if isinstance(container, BarContainer)
        for bar in container
    ]
    assert [bar.get_height() for bar in bars] == [0.25, 0.75]
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == [welore.LRC, welore.N_LRC]
    assert [bool(bar.get_hatch()) for bar in bars] == [False, True]


def test_normalised_spectra_are_a_line_a_matrix(drawn: Callable[..., Figure]) -> None:
    rows = [
        {"name": name, "role": "attn_q", "layer": 0, "is_lrc": name == "a", "q": q, "z": 1 - q,
         "threshold": 0.3}
        for name in ("a", HOSTILE) for q in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    lines = drawn(welore.normalised_spectra, rows).axes[0].get_lines()
    assert len(lines) == 3
    np.testing.assert_allclose(np.asarray(lines[1].get_ydata(), float), [1, 0.5, 0])
    np.testing.assert_allclose(np.asarray(lines[2].get_ydata(), float), 0.3)


def test_empty_views_draw(drawn: Callable[..., Figure]) -> None:
    columns = ("series", "role", "layer", "alpha", "lo", "hi", "low", "high", "n", "curve", "x",
               "y", "y_hi", "xmin", "ks_d", "n_tail", "place", "stack", "is_lrc", "rank_kept",
               "full_rank", "name", "q", "z", "threshold")  # fmt: skip
    for draw in (
        tails.alpha_by_depth, tails.alpha_histogram, tails_fit.tail_fit, tails_fit.xmin_scan,
        welore.rank_bars, welore.normalised_spectra,
    ):  # fmt: skip
        drawn(draw, [], columns, **{"bin width": 0.5})
