"""A page of runs: one file that loads nothing and runs nothing, for a phone and a wide screen, light and dark."""

from collections.abc import Sequence

from plainloop.reports import page as report_page
from plainloop.reports.svg import escaped

LOOKS = """\
body { margin: 0 auto; padding: 1rem; max-width: 1400px; background: var(--paper); color: var(--ink);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 20px; margin: 0 0 .75rem; }
h2 { font-size: 15px; margin: 1.5rem 0 .25rem; }
p { margin: .25rem 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 0 0 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid var(--rule); white-space: pre; }
th { color: var(--faint); font-weight: 600; }
td:first-child { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 9rem; }
.number { text-align: right; }
.columns { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A page of parts that are HTML."""
    return report_page.page(title, [f"<h1>{escaped(title)}</h1>", *parts], LOOKS, script="")


def paragraphs(texts: Sequence[str]) -> str:
    return "\n".join(f"<p>{escaped(text)}</p>" for text in texts)


def in_chapter(heading: str, content: str) -> str:
    """A table below its heading; on a narrow screen it is moved sideways."""
    return f'<section><h2>{escaped(heading)}</h2><div class="wide">{content}</div></section>'


def beside_each_other(parts: Sequence[str]) -> str:
    """In as many columns as have room."""
    return f'<div class="columns">{"".join(parts)}</div>'
