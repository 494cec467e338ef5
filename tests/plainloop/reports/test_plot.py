"""Curves of letters: where they stand, and that every range is drawn."""

import itertools
import math

import pytest

from plainloop.reports.plot import plot


def drawn(text: str) -> list[str]:
    """The lines of the plot itself, without numbers and axes."""
    return [line.partition("|")[2] for line in text.splitlines() if "|" in line]


def test_a_straight_line_is_one():
    text = plot({"A": [(0, 0.0), (10, 1.0)]}, "epoch", width=50, height=11)
    rows = drawn(text)
    assert len(rows) == 11
    columns = [[n for n, sign in enumerate(row) if sign == "A"] for row in rows]
    assert all(columns)
    means = [sum(each) / len(each) for each in columns]
    steps = [a - b for a, b in itertools.pairwise(means)]
    assert all(step == pytest.approx((max(columns[0]) - min(columns[-1])) / 10, abs=1.5) for step in steps)
    assert text.splitlines()[-1].rstrip().endswith("epoch")
    assert all(len(line) <= 50 for line in text.splitlines()[:-1])


def test_where_lines_meet_their_letters_take_turns():
    rows = drawn(plot({"A": [(0, 0.0), (1, 0.0)], "B": [(0, 0.0), (1, 0.0)], "C": [(0, 1.0), (1, 1.0)]}, "x", 40, 5))
    assert set(rows[0]) == {"C"}
    assert set(rows[-1]) == {"A", "B"}
    assert "AB" in rows[-1]
    assert "AA" not in rows[-1]


@pytest.mark.parametrize(
    "points", [[], [(1, 0.5)], [(1, 2.0), (2, 2.0)], [(0, -1e308), (1, 1e308)], [(1, 5e-324), (2, 0)]]
)
def test_every_range_is_drawn(points):
    text = plot({"A": points, "B": []}, "epoch", 60)
    assert len(drawn(text)) == 12
    assert ("A" in "".join(drawn(text))) == bool(points)


def test_every_point_of_a_curve_is_near_its_letter():
    points = [(float(x), math.sin(x / 5)) for x in range(100)]
    rows = drawn(plot({"A": points}, "step", width=107, height=21))
    low, high = min(y for _, y in points), max(y for _, y in points)
    for x, y in points:
        column, row = round(x), round(20 * (high - y) / (high - low))
        near = [rows[r][column : column + 2] for r in range(max(0, row - 1), min(20, row + 1) + 1)]
        assert any("A" in each for each in near), (x, y)
