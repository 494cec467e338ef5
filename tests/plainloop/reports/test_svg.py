"""Curves for a page: where a point is drawn, what is escaped, and what a line of many points keeps."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from plainloop.reports.axes import round_numbers
from plainloop.reports.svg import COLUMNS, SIDE, STYLE, curves

SVG = "{http://www.w3.org/2000/svg}"


def read(figure: str) -> ElementTree.Element:
    """It is well-formed, as XML is read more strictly than a page."""
    return ElementTree.fromstring(figure)


def points_of(figure: str, number: int = 0) -> list[tuple[float, float]]:
    """The points of a line, in the square in which it is drawn."""
    paths = [path for path in read(figure).iter("path") if path.get("stroke") and path.get("d") != "M1 5h24"]
    return [tuple(map(float, pair.split())) for pair in re.findall(r"[-\d.]+ [-\d.]+", paths[number].get("d", ""))]


def texts_of(figure: str) -> list[str]:
    return [text.text or "" for text in read(figure).iter("text")]


def test_points_stand_where_their_values_are():
    """In proportion: three points of a straight line lie on one, and the ends of x at the ends of the plot."""
    (x1, y1), (x2, y2), (x3, y3) = points_of(curves({"a": [(2, 10.0), (4, 20.0), (10, 50.0)]}, "t", "x", "y"))
    assert (x1, x2, x3) == (0, SIDE / 4, SIDE)
    assert y1 > y2 > y3  # upwards
    assert (y1 - y2) / (y1 - y3) == pytest.approx(1 / 4, abs=1e-3)


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors():
    figure = curves({"a": [(1, 1.0), (2, 0.1), (3, 0.01), (4, 0.001)]}, "t", "x", "y", log_y=True)
    (_, a), (_, b), (_, c), (_, d) = points_of(figure)
    assert b - a == pytest.approx(c - b, abs=0.2) == pytest.approx(d - c, abs=0.2)
    assert {"1", "0.1", "0.01", "0.001"} <= set(texts_of(figure))


def test_a_line_is_interrupted_where_nothing_can_be_drawn_and_that_is_said():
    values = [(1, 0.5), (2, 0.4), (3, math.nan), (4, 0.3), (5, 0.2), (6, -1.0), (7, 0.1)]
    plain, log = curves({"a": values}, "t", "x", "y"), curves({"a": values}, "t", "x", "y", log_y=True)
    assert "1 point not drawn" in plain
    assert "2 points not drawn" in log
    whole = next(path.get("d", "") for path in read(plain).iter("path") if path.get("stroke"))
    assert whole.count("M") == 2
    dots = [path.get("d") for path in read(log).iter("path") if path.get("class") == "dot"]
    assert len(dots) == 1  # the last one stands alone


def test_names_are_text():
    evil = "<img src=x onerror=alert(1)>\"'&\x1b[31m\u202e</svg>"
    figure = curves({evil: [(1, 1.0), (2, 2.0)]}, evil, evil, evil, {evil: (1, 1.0)})
    assert not {"img", "script"} & {element.tag for element in read(figure).iter()}
    assert "\x1b" not in figure
    assert "\u202e" not in figure
    legend = list(read(figure).iter("li"))
    assert "".join(legend[0].itertext()).startswith("<img src=x onerror=alert(1)>\"'&")


def test_a_plot_loads_nothing_and_runs_nothing():
    page = STYLE + curves({"a": [(1, 1.0)]}, "t", "x", "y", {"best": (1, 1.0)})
    assert not re.search(r"https?:|url\(|@import|<script|\son\w+=", page)


def test_a_long_line_keeps_its_peaks():
    """And is short enough for a page."""
    values = [(float(x), 0.0) for x in range(300_000)]
    values[123_456] = (123_456.0, 7.0)
    values[234_567] = (234_567.0, -3.0)
    figure = curves({"a": values}, "t", "x", "y")
    drawn = points_of(figure)
    assert len(drawn) <= 4 * COLUMNS + 4
    assert len(figure) < 40_000
    highest, lowest = min(drawn, key=lambda point: point[1]), max(drawn, key=lambda point: point[1])
    assert highest[0] == pytest.approx(SIDE * 123_456 / 299_999, abs=0.06)
    assert lowest[0] == pytest.approx(SIDE * 234_567 / 299_999, abs=0.06)
    assert drawn == sorted(drawn, key=lambda point: point[0])


@pytest.mark.parametrize(
    "values",
    [
        [],
        [(1, math.nan)],
        [(1, 0.5)],
        [(1, 0.0), (2, 0.0)],
        [(1, 5e-324), (2, 0.0)],
        [(0, -1.7e308), (1, 1.7e308)],
        [(1e9, 0.9731), (1e9 + 1, 0.97312)],
        [(-1e300, 1.0), (1e300, 2.0)],
        [(1, 10**40), (2, 3)],
    ],
)
@pytest.mark.parametrize("log_y", [False, True])
def test_every_range_is_drawn_within_the_plot(values, log_y):
    figure = curves({"a": values}, "t", "x", "y", log_y=log_y)
    there = [value for value in values if math.isfinite(value[1]) and (value[1] > 0 or not log_y)]
    if not there:
        return
    assert all(-0.1 <= side <= SIDE + 0.1 for point in points_of(figure) for side in point)


def test_many_lines_are_told_apart():
    figure = curves({f"run {n}": [(0, float(n)), (1, float(n))] for n in range(21)}, "t", "x", "y")
    looks = {
        (path.get("stroke"), path.get("stroke-dasharray"))
        for path in read(figure).iter("path")
        if path.get("d") != "M1 5h24" and path.get("stroke")
    }
    assert len(looks) == 21


def test_epochs_are_whole_numbers():
    figure = curves({"a": [(1, 0.3), (2, 0.2), (3, 0.1)]}, "t", "epoch", "y")
    below = [text.text for text in read(figure).iter("text") if text.get("y") == "100%"]
    assert below == ["1", "2", "3"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.973, 0.974), (-5, 40), (1e-7, 3e-7), (0, 1e6), (99_999, 100_003)])
@pytest.mark.parametrize("most", [2, 3, 5, 8])
def test_round_numbers_are_few_and_evenly_spaced(low, high, most):
    numbers = round_numbers(low, high, most)
    assert 1 <= len(numbers) <= most + 1
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    assert all(step == pytest.approx(steps[0]) for step in steps)
    assert all(low - 1e-9 * abs(low) <= number <= high * (1 + 1e-9) for number in numbers)
