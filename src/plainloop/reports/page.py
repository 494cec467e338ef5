"""A page in one file: its frame, its style, and the little script that sorts tables and opens cells.

Whatever a stranger may have written (names of classes, files, columns, a config) goes through `escaped`. The page loads
nothing, and a browser lets no other script run in it: its policy names ours by its digest.
"""

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from plainloop.reports.svg import STYLE as CURVES
from plainloop.reports.svg import escaped

STYLE = """\
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(.75rem, 3vw, 2.5rem) 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; padding-bottom: .25rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: .95rem; margin: 1rem 0 .25rem; }
p { margin: .25rem 0; } .faint, small { color: var(--faint); }
.status { display: inline-block; padding: 0 .5rem; border: 1px solid currentColor; border-radius: 1rem;
  font-size: .85rem; }
.bad { color: var(--series-2); } .good { color: var(--series-3); }
.result { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0; }
.result div { min-width: 8rem; } .result b { display: block; font-size: 1.9rem; line-height: 1.2; font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 2rem; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .25rem 0 .75rem; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; color: var(--faint); white-space: nowrap; }
th.text { text-align: left; } td.text { text-align: left; overflow-wrap: anywhere; min-width: 6rem; }
table.sorts th { cursor: pointer; } table.sorts th[aria-sort]::after { content: " \\25B4"; }
table.sorts th[aria-sort=descending]::after { content: " \\25BE"; }
.matrix td { text-align: center; min-width: 2rem; padding: .2rem .3rem; border: 1px solid var(--rule);
  position: relative; }
.matrix td > * { position: relative; } .matrix th { text-align: right; }
.matrix .shade { position: absolute; inset: 0; background: var(--series-1); }
.matrix button { all: unset; cursor: pointer; text-decoration: underline dotted; }
.matrix button:focus-visible { outline: 2px solid var(--series-2); }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: .5rem 0; }
.tile { width: 9.5rem; font-size: .8rem; line-height: 1.35; break-inside: avoid; }
  .tile.words { width: min(100%, 22rem); }
.tile img { display: block; width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated;
  background: var(--rule); margin-bottom: .25rem; }
pre { overflow-x: auto; background: color-mix(in srgb, var(--rule) 45%, transparent); padding: .6rem .8rem;
  margin: .25rem 0;
  font: 12.5px/1.5 ui-monospace, monospace; border-radius: 4px; }
details { margin: .25rem 0; } summary { cursor: pointer; color: var(--faint); }
@media print { body { max-width: none; } h2 { break-after: avoid; } table, pre { break-inside: auto; }
  tr { break-inside: avoid; }
  .wide { overflow: visible; } pre { white-space: pre-wrap; } }
"""

SCRIPT = """\
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        const order = x !== "" && y !== "" && isFinite(x) && isFinite(y) ? x - y : String(x).localeCompare(String(y));
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
for (const button of document.querySelectorAll("button[data-opens]"))
  button.addEventListener("click", () => {
    const shown = document.getElementById(button.dataset.opens);
    for (const other of document.querySelectorAll(".cell")) other.hidden = other !== shown || !other.hidden;
  });
"""


def page(title: str, parts: Iterable[str], style: str = STYLE, script: str = SCRIPT) -> str:
    """A whole page of these parts, which are markup.

    Args:
        style: beside that of curves.
        script: "" for none.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    policy += f"; script-src 'sha256-{digest}'" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escaped(title)}</title>
<style>
{CURVES}{style}</style>
</head>
<body>
{chr(10).join(part for part in parts if part)}
{f"<script>{script}</script>" if script else ""}
</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    """Parts under a heading; nothing, where there are none."""
    there = [part for part in parts if part]
    return f"<section>\n<h2>{escaped(title)}</h2>\n{chr(10).join(there)}\n</section>" if there else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], sorts: bool = False, texts: Sequence[int] = ()) -> str:
    """Rows and columns.

    Args:
        sorts: a click on a column's name sorts by it.
        texts: the columns of words, flush left.
    """
    kinds = [' class="text"' if place in texts else "" for place in range(len(columns))]
    head = "".join(f"<th{kind}>{escaped(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
    body = "\n".join(
        "<tr>" + "".join(_cell(value, place in texts) for place, value in enumerate(row)) + "</tr>" for row in rows
    )
    kind = ' class="sorts"' if sorts else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _cell(value: Any, text: bool) -> str:
    kind = ' class="text"' if text else ""
    if isinstance(value, float):
        return f'<td{kind} data-value="{value!r}">{number(value)}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td{kind} data-value="{value}">{value:,}</td>'
    return f"<td{kind}>{escaped('-' if value is None else value)}</td>"


def number(value: float | None) -> str:
    """With five digits or so."""
    if value is None or not math.isfinite(value):
        return "-"
    if 0 < abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.{max(0, 4 - int(math.log10(abs(value))))}f}"


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{f' class={kind}' if kind else ''}>{escaped(text)}</p>" if text else ""


def code(text: str, summary: str = "", most: int = 100_000) -> str:
    """Lines as they are; behind a summary that opens them."""
    if not text:
        return ""
    cut = text if len(text) <= most else f"{text[:most]}\n... {len(text) - most:,} characters more"
    shown = f"<pre>{'<br>'.join(escaped(line) for line in cut.splitlines())}</pre>"
    return f"<details><summary>{escaped(summary)}</summary>{shown}</details>" if summary else shown
