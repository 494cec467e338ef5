"""Tables in each format hold what they were given, read back by another program."""

import csv
import io
import re
from html.parser import HTMLParser

import markdown
import pytest

from plainloop.reports import tables

EVIL = [
    "a|b", "a & b", "snake_case_name", "_start", "<img src=x onerror=alert(1)>", "a,b", 'say "so"', "it's",
    "back\\slash", "*bold*", "`code`", "[link](x)", "# head", "~~gone~~",
    "$x$", "50 %", "a^b~c", "{curly}", "[1,2]", "*", "--", "a;b",
    "&amp;", "größe", "=1+1", "1e-05", "", "\\", "| x", "trailing |",
]  # fmt: skip
ROWS = [["run", "value"], *([text, str(number)] for number, text in enumerate(EVIL))]
SIGNS = "\x1b\x07\u202e\r"  # what a terminal obeys


def test_columns_are_as_wide_as_they_need_to_be():
    lines = tables.table([["name", "n"], ["a", "10"], ["longer", "9"]]).splitlines()
    assert lines == ["name     n", "a       10", "longer   9"]


def test_signs_of_two_places_and_of_none_are_counted():
    lines = tables.table([["猫猫", "1"], ["e\u0301e", "2"], ["abcde", "3"]]).splitlines()
    assert lines == ["猫猫   1", "e\u0301e     2", "abcde  3"]


@pytest.mark.parametrize("write", tables.WRITERS.values(), ids=tables.WRITERS)
def test_nothing_reaches_a_terminal_raw_and_a_line_stays_one(write):
    text = write([["a"], [f"x{SIGNS}y\nz"]], 1)
    assert not set(SIGNS) & set(text)
    assert "x1b" in text
    assert "y z" in text or write in (tables.comma_separated, tables.html)  # which take lines in a cell


def test_markdown_is_read_back():
    """By another's parser, as a table with these texts."""
    page = markdown.markdown(tables.markdown(ROWS), extensions=["tables"])
    assert cells_of(page) == [[" ".join(cell.split()) for cell in row] for row in ROWS]
    assert not re.search(r"<(img|em|strong|code|a|h1|del)\b", page)


def test_html_is_read_back():
    assert cells_of(tables.html(ROWS)) == [[" ".join(cell.split()) for cell in row] for row in ROWS]


def cells_of(page: str) -> list[list[str]]:
    rows: list[list[str]] = []

    class Cells(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th"):
                rows[-1].append("")

        def handle_data(self, data):
            if rows and rows[-1]:
                rows[-1][-1] += data

    Cells().feed(page)
    return [[" ".join(cell.split()) for cell in row] for row in rows]


def test_csv_is_read_back():
    rows = [*ROWS, ["two\nlines", "1.0000000000000002"]]
    assert list(csv.reader(io.StringIO(tables.comma_separated(rows)))) == rows


def test_latex_is_read_back():
    """By rules written anew: a row ends with \\\\, a cell with an & that nothing stands before, a sign is a command."""
    lines = tables.latex(ROWS).splitlines()
    assert lines[0] == r"\begin{tabular}{lr}"
    assert lines[-1] == r"\end{tabular}"
    body = [line for line in lines[1:-1] if line not in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert len(body) == len(ROWS)
    commands = {
        "textbackslash": "\\", "textasciicircum": "^", "textasciitilde": "~", "textless": "<", "textgreater": ">",
        "textbar": "|",
    }  # fmt: skip
    for line, row in zip(body, ROWS, strict=True):
        assert line.endswith(r" \\")
        cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
        assert len(cells) == 2
        read = []
        for cell in cells:
            assert not re.search(r"(?<!\\)[$#%_^~<>|]", cell), cell
            text = re.sub(r"\\(text\w+)\{\}", lambda found: f"\0{ord(commands[found[1]])}\0", cell.strip())
            text = text.replace("-{}-", "--")
            text = re.sub(r"(?<!\\)[{}]", "", text)
            text = re.sub(r"\\([{}$&#_%])", r"\1", text)
            assert "\\" not in text
            read.append(re.sub("\0(\\d+)\0", lambda found: chr(int(found[1])), text))
        assert read == [" ".join(cell.split()) for cell in row]
        assert not line.startswith(("[", "*"))
