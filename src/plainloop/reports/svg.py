"""Curves for a page: inline SVG with axes, ticks and a legend, that needs nothing but the style sheet `STYLE`.

Lines are stretched with the page and text isn't, so a plot is read on a phone and on a wide screen. Colours are CSS
custom properties, light and dark. No script: a point tells its values when the pointer rests on it.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby

from plainloop.errors import counted, harmless
from plainloop.reports.axes import Axis

Point = tuple[float, float]

SIDE = 1000  # of the square in which lines are drawn; the page stretches it
COLUMNS = 500  # a line of more points is drawn by four of each column: the first, the lowest, the highest, the last
TOLD = 400  # points of a plot that tell their values; of longer lines it would be too much for a page
COLOURS = 7
ROW = 15  # pixels of a row of names above the plot

# Told apart by those who don't see red and green, too (after Okabe and Ito 2008, "Color universal design"); lighter on
# dark paper. Whoever prints gets the light ones.
STYLE = """\
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1e23; --faint: #5c6470; --rule: #dfe3e8;
  --series-1: #0072b2; --series-2: #c94f00; --series-3: #00805c; --series-4: #b4568e; --series-5: #a87400;
  --series-6: #3b9bd6; --series-7: #1b1e23; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --faint: #9aa4b0;
  --rule: #333a42; --series-1: #5aa9e6; --series-2: #f2884b; --series-3: #2fc296; --series-4: #e59cc8;
  --series-5: #eab308; --series-6: #a5dbff; --series-7: #e6e9ed; } }
.curves { margin: 0 0 2rem; color: var(--ink); font: 13px/1.4 system-ui, sans-serif; break-inside: avoid; }
.curves figcaption { font-size: 15px; font-weight: 600; margin: 0 0 .25rem; overflow-wrap: anywhere; }
.curves .y, .curves .x, .curves .note { color: var(--faint); margin: 0; }
.curves .x { text-align: right; }
.curves .plot { padding: 0 10px 24px 52px; }
.curves .plot > svg { display: block; width: 100%; height: 250px; overflow: visible; }
.curves svg { overflow: visible; }
.curves text { fill: var(--faint); font-size: 12px; font-variant-numeric: tabular-nums; }
.curves .rule { stroke: var(--rule); }
.curves .mark { stroke: var(--faint); stroke-dasharray: 2 3; }
.curves path { fill: none; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
.curves .dot { stroke-width: 6; stroke-dasharray: none; }
.curves .told { stroke: transparent; stroke-width: 12; pointer-events: stroke; }
.curves .told:hover { stroke: var(--ink); stroke-width: 8; }
.curves ul { list-style: none; display: flex; flex-wrap: wrap; gap: .15rem 1.25rem; margin: .25rem 0 0; padding: 0; }
.curves li { overflow-wrap: anywhere; min-width: 0; }
.curves li svg { width: 26px; height: 10px; margin-right: 6px; }
"""


def curves(
    series: Mapping[str, Sequence[Point]],
    title: str,
    x_label: str,
    y_label: str,
    marks: Mapping[str, Point] | None = None,
    log_y: bool = False,
    scattered: Collection[str] = (),
) -> str:
    """Named lines through points (x, y) on shared axes, as a <figure> for a page that has `STYLE` in its head.

    Args:
        series: in the order of their colours; one without points has none, and keeps its colour in other plots. A line
            is interrupted where a point isn't finite (or, with `log_y`, not above 0); how many these are is
            said below it.
        y_label: may be '', where the title says it.
        marks: points that are pointed out, by name: {"best": (12, 0.93)}. They should lie on a line.
        log_y: powers of ten on the y axis.
        scattered: the names of those whose points stand alone.
    """
    shown = {name: [_drawable(point, log_y) for point in line] for name, line in series.items()}
    there = [point for line in shown.values() for point in line if point is not None]
    missing = sum(map(len, shown.values())) - len(there)
    marks = {name: point for name, point in (marks or {}).items() if _drawable(point, log_y)}
    there += marks.values()
    across = Axis([x for x, _ in there], margin=0.0)
    up = Axis([y for _, y in there], margin=0.04, log=log_y)
    rings, above = _marks(marks, across, up)
    drawn = [*_rules(across, up), *_lines(shown, across, up, scattered), *rings]
    if sum(map(len, shown.values())) <= TOLD:
        drawn += _told(shown, across, up, x_label)
    said = escaped(f"{title}, over {x_label}: {', '.join(name for name, line in series.items() if line)}")
    note = f'\n<p class="note">{_note(len(there), missing, log_y)}</p>' if missing or not there else ""
    return f"""<figure class="curves">
<figcaption>{escaped(title)}</figcaption>
<p class="y">{escaped(y_label)}{" (logarithmic)" if log_y else ""}</p>
<div class="plot" style="padding-top: {8 + above}px"><svg role="img" aria-label="{said}">
{chr(10).join(drawn)}
</svg></div>
<p class="x">{escaped(x_label)}</p>{note}
{_legend(series)}
</figure>"""


def escaped(text: object) -> str:
    """A text that a stranger may have written, for a page: neither markup nor signs that change the order of others."""
    return escape(harmless(str(text)))


def _drawable(point: Point, log_y: bool) -> Point | None:
    x, y = point
    return point if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y) else None


def _note(there: int, missing: int, log_y: bool) -> str:
    """What isn't to be seen."""
    if not there + missing:
        return "no points"
    return f"{counted(missing, 'point')} not drawn: {'not above 0, or ' if log_y else ''}not a finite number"


def _rules(across: Axis, up: Axis) -> Iterator[str]:
    """The grid and its numbers. Text has places in percent, and so keeps its size."""
    for place, text in up.ticks():
        y = _percent(1 - place)
        yield f'<line class="rule" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        yield f'<text x="0" y="{y}" dx="-8" dy=".35em" text-anchor="end">{text}</text>'
    for place, text in across.ticks():
        x = _percent(place)
        yield f'<line class="rule" x1="{x}" x2="{x}" y1="100%" y2="100%" transform="translate(0 4)"/>'
        yield f'<text x="{x}" y="100%" dy="18" text-anchor="middle">{text}</text>'


def _percent(place: float) -> str:
    return f"{100 * place:.2f}%"


def _marks(marks: Mapping[str, Point], across: Axis, up: Axis) -> tuple[list[str], int]:
    """A ring around each point, a dotted line up from the axis to above the plot, and there its name: in a row of its
    own, where it would cover another one. And how much room they take there."""
    drawn: list[str] = []
    ends: list[float] = []  # of the names in each row, where the plot is as wide as on a phone
    for name, point in sorted(marks.items(), key=lambda mark: mark[1]):
        x, y = across.place(point[0]), 1 - up.place(point[1])
        name = name if len(name) <= 30 else f"{name[:29]}\N{HORIZONTAL ELLIPSIS}"
        width, left = (len(name) * 7 + 12) / 310, x > 0.5
        begin = x - width if left else x
        row = next((row for row, end in enumerate(ends) if end <= begin), len(ends))
        ends[row : row + 1] = [begin + width]
        at, top = _percent(x), -ROW * (row + 1)
        drawn += [
            f'<line class="mark" x1="{at}" x2="{at}" y1="{top}" y2="100%"/>',
            f'<circle cx="{at}" cy="{_percent(y)}" r="5" fill="none" stroke="var(--ink)"/>',
            f'<text x="{at}" y="{top + 11}" dx="{-6 if left else 6}" '
            f'text-anchor="{"end" if left else "start"}">{escaped(name)}</text>',
        ]
    return drawn, ROW * len(ends)


def _lines(
    shown: Mapping[str, Sequence[Point | None]], across: Axis, up: Axis, scattered: Collection[str] = ()
) -> Iterator[str]:
    yield f'<svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" width="100%" height="100%">'
    for number, (name, line) in enumerate(shown.items()):
        places = [point and (SIDE * across.place(point[0]), SIDE * (1 - up.place(point[1]))) for point in line]
        if name in scattered:
            places = [each for place in places for each in (place, None)]
        elif len(places) > 4 * COLUMNS:
            places = _thinned(places)
        for part, kind in zip(_parts(places), ("", ' class="dot"'), strict=True):
            if part:
                yield f'<path{kind} d="{part}" {_stroke(number)}/>'
    yield "</svg>"


def _thinned(places: Sequence[Point | None]) -> list[Point | None]:
    """Of each column the first, the highest, the lowest and the last point, in their order: the picture is the same."""
    kept: list[Point | None] = []
    column: list[Point] = []
    for place in [*places, None]:
        if column and (place is None or int(place[0] * COLUMNS / SIDE) != int(column[0][0] * COLUMNS / SIDE)):
            ends = {0, len(column) - 1}
            ends |= {f(range(len(column)), key=lambda n: column[n][1]) for f in (min, max)}
            kept += [column[n] for n in sorted(ends)]
            column = []
        if place is None:
            kept.append(None)
        else:
            column.append(place)
    return kept


def _parts(places: Sequence[Point | None]) -> tuple[str, str]:
    """The strokes between points that are missing; and the dots where a point stands alone."""
    strokes: list[str] = []
    dots: list[str] = []
    for there, group in groupby(places, key=lambda place: place is not None):
        if there:
            stroke = "L".join(_at(place) for place in group if place is not None)
            (strokes if "L" in stroke else dots).append(f"M{stroke}")
    return "".join(strokes), "".join(f"{dot}h0" for dot in dots)


def _at(place: Point) -> str:
    return f"{place[0]:.1f} {place[1]:.1f}"


def _stroke(number: int) -> str:
    """The colour of a line; from the eighth on, dashed."""
    dashes = ("", ' stroke-dasharray="7 4"', ' stroke-dasharray="1 5"')[number // COLOURS % 3]
    return f'stroke="var(--series-{number % COLOURS + 1})"{dashes}'


def _told(shown: Mapping[str, Sequence[Point | None]], across: Axis, up: Axis, x_label: str) -> Iterator[str]:
    """What a point says when the pointer rests on it."""
    yield f'<svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" width="100%" height="100%">'
    for name, line in shown.items():
        for point in line:
            if point is not None:
                at = _at((SIDE * across.place(point[0]), SIDE * (1 - up.place(point[1]))))
                told = escaped(f"{name}: {point[1]:.6g} ({x_label} {point[0]:,.10g})")
                yield f'<path class="told" d="M{at}h0"><title>{told}</title></path>'
    yield "</svg>"


def _legend(series: Mapping[str, Sequence[Point]]) -> str:
    items = (
        f'<li><svg aria-hidden="true"><path d="M1 5h24" {_stroke(number)}/></svg>{escaped(name)}</li>'
        for number, (name, line) in enumerate(series.items())
        if line
    )
    return f"<ul>{''.join(items)}</ul>"
