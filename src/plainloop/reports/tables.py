"""Tables of words and numbers, for the terminal and for files of text.

A table is its lines, the first of them the head; `left` is the number of columns that are flush left, the others are
flush right. What a cell holds may be a stranger's words: each format says it as text.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from unicodedata import combining, east_asian_width

from plainloop.errors import harmless
from plainloop.reports.svg import escaped

Rows = Sequence[Sequence[str]]


def metrics_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """One row per split, one column per quantity: {"val": {"val/loss": 0.1}, "test": {"test/loss": 0.2}}."""
    shortened = {
        label: {name.removeprefix(f"{label}/"): value for name, value in values.items()}
        for label, values in rows.items()
    }
    names = list(dict.fromkeys(name for values in shortened.values() for name in values))
    lines = [["", *names]]
    for label, short in shortened.items():
        lines.append([label, *(f"{short[name]:.4f}" if name in short else "-" for name in names)])
    return table(lines)


def table(rows: Rows, left: int = 1) -> str:
    """Columns as wide as they need to be."""
    rows = [[in_one_line(word) for word in row] for row in rows]
    widths = [max(map(places, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        rooms = [" " * (width - places(word)) for word, width in zip(row, widths, strict=True)]
        cells = [word + room for word, room in zip(row[:left], rooms, strict=False)]
        cells += [room + word for word, room in zip(row[left:], rooms[left:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def places(text: str) -> int:
    """How many places a text takes on a terminal: two for a sign of Chinese, none for an accent by itself."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(sign) else 1 + (east_asian_width(sign) in "WF") for sign in text)


def markdown(rows: Rows, left: int = 1) -> str:
    """A table of GitHub's Markdown."""
    head, *body = [[_in_markdown(cell) for cell in row] for row in rows]
    rule = [":--" if number < left else "--:" for number in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _in_markdown(text: str) -> str:
    """Signs that mean something; as numbers, where not every Markdown takes a backslash before them."""
    text = re.sub(r"[&<>~$]", lambda sign: f"&#{ord(sign[0])};", in_one_line(text))
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text)


def latex(rows: Rows, left: int = 1) -> str:
    """A tabular, with the rules of the package booktabs."""
    head, *body = [" & ".join(map(_in_latex, row)) + r" \\" for row in rows]
    columns = "".join("l" if number < left else "r" for number in range(len(rows[0])))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"])


# What TeX doesn't take as it stands, or sets as another sign in its oldest fonts.
IN_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def _in_latex(text: str) -> str:
    """What begins with a bracket or a star is put in braces: `\\\\` would take it for its own. Two dashes stay two."""
    text = "".join(IN_LATEX.get(sign, sign) for sign in in_one_line(text)).replace("--", "-{}-")
    return f"{{{text}}}" if text.startswith(("[", "*")) else text


def html(rows: Rows, left: int = 1) -> str:
    """A <table>; cells that are flush right have the class `number`."""

    def line(row: Sequence[str], tag: str) -> str:
        kinds = ["" if number < left else ' class="number"' for number in range(len(row))]
        return "<tr>" + "".join(f"<{tag}{kind}>{escaped(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    head, *body = rows
    lines = ["<table>", f"<thead>{line(head, 'th')}</thead>", "<tbody>", *(line(row, "td") for row in body)]
    return "\n".join([*lines, "</tbody>", "</table>"])


def comma_separated(rows: Rows, left: int = 1) -> str:
    """CSV, in which nothing is flush. A cell may have several lines, in quotes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([harmless(cell) for cell in row] for row in rows)
    return text.getvalue().rstrip("\n")


def in_one_line(text: str) -> str:
    """As a cell shows it."""
    return harmless(text).replace("\n", " ")


# By what they are asked for.
WRITERS = {"terminal": table, "md": markdown, "csv": comma_separated, "latex": latex, "html": html}
