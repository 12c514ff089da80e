"""Figures of heads against the threshold: what is drawn is what the view holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from analyzer.views.view import View
from reports import style
from reports.figures import limits, limits_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

pytestmark = pytest.mark.usefixtures("paper")
HOSTILE = r"$x_{ --><img src=x onerror=alert(1)>"
PLACES = ("0", "2", "10", HOSTILE)  # not in the order of their names


def view(rows: list[dict[str, Any]], **parameters: Any) -> View:
    return View("v", "title", pa.Table.from_pylist(rows), "method", "", parameters)


def band(ratio: float) -> str:
    return "below" if ratio < 0.8 else "above" if ratio > 1.25 else "near"


def heads() -> View:
    rng = np.random.default_rng(0)
    rows = []
    for place in PLACES:
        for head in range(3):
            logit, entries = (float(r) for r in rng.uniform(0.3, 3.0, 2))
            rows.append(
                {"place": place, "head": head, "ratio_logit": logit, "ratio_as": entries,
                 "band_logit": band(logit), "band_as": band(entries)}
            )  # fmt: skip
    return view(rows)


def norms() -> View:
    return view(
        [
            {"side": side, "place": place, "part": part, "value": 1.0 + i + 10 * j + 100 * k}
            for k, side in enumerate(("queries", "keys"))
            for j, place in enumerate(PLACES)
            for i, part in enumerate(limits.PARTS)
        ],
        threshold=2.0,
    )


def bounds() -> View:
    return view(
        [
            {"norm": norm, "layer": 0, "head": i, "measured": 1.0 + i, "bound": 3.0 + 2 * i}
            for norm in ("queries", "keys", "√max|S|")
            for i in range(3)
        ]
    )


def condensation() -> View:
    return view(
        [{"kind": "hypercube", "rem_ratio": 0.1 * i, "ipr": 0.01 + 0.1 * i, "L": 64}
         for i in range(5)]
        + [{"kind": "heads", "rem_ratio": 0.5, "ipr": 0.2, "L": 64}],
        uniform=0.07,
    )  # fmt: skip


def lengths() -> View:
    return view(
        [
            {"line": line, "L": L, "ratio": i + 1.0 / L, "low": i + 0.5 / L, "high": i + 2.0 / L}
            for i, line in enumerate(("layer 0", HOSTILE))
            for L in (2, 4, 8)
        ],
        ratio="ratio_as",
    )


def phase() -> View:
    return view(
        [{"kind": "threshold", "L": float(2**i), "norm": 1.0 * i, "low": None, "high": None}
         for i in range(1, 5)]
        + [{"kind": "heads", "L": 4.0, "norm": 0.7, "low": None, "high": None},
           {"kind": "swept", "L": 2.0, "norm": 0.5, "low": 0.4, "high": 0.6}],
        source="activations",
    )  # fmt: skip


def intervals() -> View:
    return view(
        [
            {"line": "0.0", "low": 0.0, "high": 3.0, "state": "within"},
            {"line": "0.1", "low": 0.5, "high": 0.75, "state": "over"},
            {"line": HOSTILE, "low": None, "high": None, "state": "base over"},
            {"line": "1.1", "low": None, "high": None, "state": "unbounded"},
        ]
    )


def alpha() -> View:
    return view(
        [
            {"alpha": a, "lower": 0.1 * a, "upper": 0.2 * a, "low": -1.0, "high": 6.0,
             "lora_alpha": 4.0}
            for a in (0.0, 4.0, 8.0)
        ]
    )  # fmt: skip


DRAWN: dict[str, tuple[Callable[[View], Figure], View]] = {
    "head_map": (limits.head_map, heads()),
    "norms": (limits.norms, norms()),
    "bounds": (limits.bounds, bounds()),
    "condensation": (limits.condensation, condensation()),
    "length_sweep": (limits_curves.length_sweep, lengths()),
    "phase": (limits_curves.phase, phase()),
    "alpha_intervals": (limits_curves.alpha_intervals, intervals()),
    "alpha_curve": (limits_curves.alpha_curve, alpha()),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_the_same_every_time_and_empty_axes(
    name: str, check_figure: Callable[..., None]
) -> None:
    check_figure(*DRAWN[name])


def test_the_map_has_every_ratio_at_its_layer_and_head() -> None:
    figure = limits.head_map(heads())
    for axes, ratio in zip(figure.axes, ("ratio_logit", "ratio_as"), strict=False):
        mesh, *marks = axes.collections
        grid = np.asarray(mesh.get_array()).reshape(len(PLACES), 3)
        for row in heads().rows():
            assert grid[PLACES.index(row["place"]), row["head"]] == row[ratio]
        low, high = mesh.get_clim()
        assert low * high == pytest.approx(1.0)  # centred at 1 on a log scale
        counts = [len(m.get_offsets()) for m in marks]
        bands = [row[ratio.replace("ratio", "band")] for row in heads().rows()]
        assert counts == [bands.count(name) for name in ("below", "near", "above")]
        assert axes.yaxis_inverted()  # the first layer above
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        style.escaped(place) for place in PLACES
    ]


def test_bars_of_queries_and_keys() -> None:
    figure = limits.norms(norms())
    for axes, side in zip(figure.axes, ("queries", "keys"), strict=True):
        drawn = sorted(bar.get_height() for bar in axes.patches)
        assert drawn == sorted(r["value"] for r in norms().rows() if r["side"] == side)
        # in the order of the layers
        ordered = [bar.get_height() for bar in sorted(axes.patches, key=lambda bar: bar.get_x())]
        assert ordered == drawn
        assert axes.lines[0].get_ydata()[0] == 2.0


def test_sweeps_have_their_lines_and_the_threshold() -> None:
    axes = limits_curves.length_sweep(lengths()).axes[0]
    first, second, threshold = axes.lines
    assert list(first.get_ydata()) == [1.0 / L for L in (2, 4, 8)]
    assert list(second.get_xdata()) == [2, 4, 8]
    assert threshold.get_ydata()[0] == 1.0
    assert first.get_linestyle() != second.get_linestyle()


def test_many_lines_have_no_legend_of_their_own() -> None:
    rows = [
        {"line": f"head {i}", "L": L, "ratio": float(i), "low": float(i), "high": float(i)}
        for i in range(40)
        for L in (2, 4)
    ]
    figure = limits_curves.length_sweep(view(rows, ratio="ratio_as"))
    assert len(figure.axes[0].lines) == 41
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["threshold"]


def test_intervals_are_bars_and_their_absence_marks() -> None:
    axes = limits_curves.alpha_intervals(intervals()).axes[0]
    bars = [(b.get_x(), b.get_x() + b.get_width()) for b in axes.patches]
    assert bars == [(0.0, 3.0), (0.5, 0.75)]
    assert [t.get_text() for t in axes.texts] == ["×", "∞"]


def test_the_interval_is_shaded_within_what_is_shown() -> None:
    axes = limits_curves.alpha_curve(alpha()).axes[0]
    (span,) = axes.patches
    assert (span.get_x(), span.get_x() + span.get_width()) == (0.0, 6.0)
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(1.6) and band.min() == pytest.approx(0.0)
