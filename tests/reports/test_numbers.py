"""How numbers are printed, against cases worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.numbers import number, percent, plural, whole, yes_no


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0.0644123, "0.0644"), (3.2419, "3.24"), (77.94, "77.9"), (1234.5, "1,230"),
        (0.00012345, "1.23e-4"), (12345678.0, "1.23e7"), (0.0, "0"), (-2.5, "-2.50"),
        (None, "–"), (math.nan, "–"), (math.inf, "–"), (999.6, "1,000"),
    ],
)  # fmt: skip
def test_three_significant_digits(value: float | None, printed: str) -> None:
    assert number(value) == printed


@given(st.floats(1e-3, 1e5) | st.floats(-1e5, -1e-3))
def test_what_is_printed_is_within_half_of_the_third_digit(value: float) -> None:
    printed = float(number(value).replace(",", ""))
    assert abs(printed - value) <= 0.5001 * 10.0 ** (math.floor(math.log10(abs(value))) - 2)


def test_the_rest() -> None:
    assert percent(0.8731) == "87.3 %"
    assert whole(12345) == "12,345"
    assert (plural(1, "matrix", "matrices"), plural(2, "matrix", "matrices")) == (
        "1 matrix",
        "2 matrices",
    )
    assert (yes_no(True), yes_no(False), yes_no(None)) == ("yes", "no", "–")
