"""Curves for a terminal, drawn with letters."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from plainloop.reports.axes import Axis

Point = tuple[float, float]


def plot(series: Mapping[str, Sequence[Point]], x_label: str, width: int, height: int = 12) -> str:
    """Lines of letters through points (x, y), on shared axes with their numbers.

    Args:
        series: by the letter that a line is drawn with; all points finite, in the order of their x. Where lines meet,
            their letters take turns.
        width, height: of the whole in characters, and of the plot in lines.
    """
    there = [point for line in series.values() for point in line]
    across, up = Axis([x for x, _ in there], margin=0.0), Axis([y for _, y in there], margin=0.0)
    labels = {round((height - 1) * (1 - place)): text for place, text in up.ticks()}
    left = max(map(len, labels.values()), default=0)
    columns = max(20, width - left - 2)
    cells: list[list[str]] = [[""] * columns for _ in range(height)]
    for letter, line in series.items():
        places = [((columns - 1) * across.place(x), (height - 1) * (1 - up.place(y))) for x, y in line]
        for column in range(columns):
            level = _crossed(places, column)
            if level is not None:
                cells[round(level)][column] += letter
    lines = []
    for number, row in enumerate(cells):
        drawn = "".join(letters[column % len(letters)] if letters else " " for column, letters in enumerate(row))
        lines.append(f"{labels.get(number, ''):>{left}} |{drawn}".rstrip())
    below = [" "] * (columns + 8)
    for place, text in across.ticks():
        begin = min(max(0, round((columns - 1) * place) - len(text) // 2), columns - len(text))
        below[begin : begin + len(text)] = text
    lines.append(f"{'':>{left}} +{'-' * columns}")
    lines.append(f"{'':>{left}}  {''.join(below).rstrip()}  {x_label}")
    return "\n".join(lines)


def _crossed(places: Sequence[Point], column: int) -> float | None:
    """Where a line through places crosses a column; a place by itself is in the column that is next to it."""
    after = bisect_right(places, float(column), key=lambda place: place[0])
    if 0 < after < len(places):
        (x, y), (next_x, next_y) = places[after - 1], places[after]
        return y + (next_y - y) * (column - x) / (next_x - x)
    near = places[-1] if after else places[0] if places else (-1.0, 0.0)
    return near[1] if round(near[0]) == column else None
