"""Files of rows and columns are read as they are meant, and what is wrong with one is told with its line."""

import datetime
from pathlib import Path

import polars
import pytest

from plainloop.data.kinds.frames import read_frame
from plainloop.data.kinds.source import Source, place
from plainloop.errors import UserError


@pytest.fixture
def write(tmp_path):
    """`write(text)` writes a file; its path."""

    def written(content: str | bytes, name: str = "table.csv") -> Path:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return written


SAME = {"a": [1.5, 2.5, None], "b": ["x", None, "z"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.csv", "a,b\n1.5,x\n2.5,\n,z\n"),
        ("table.csv", "\ufeffa,b\r\n1.5,x\r\n2.5,\r\n,z\r\n"),
        ("table.csv", "a , b\n1.5, x\n 2.5, \n?, z\n"),
        ("table.csv", "a,b\n\n1.5,x\n2.5,\n\n,z\n\n,\n"),
        ("table.csv", "a;b\n1,5;x\n2,5;\n;z\n"),
        ("table.csv", "a;b\n1.5;x\n2.5;\n;z\n"),
        ("table.csv", 'a,b\n1.5,"x"\n"2.5",\n,"z"'),
        ("table.txt", "a\tb\n1.5\tx\n2.5\t\n\tz\n"),
        ("table.tsv", "a\tb\n1.5\tx\n2.5\t\n\tz\n"),
        ("table.jsonl", '{"a": 1.5, "b": "x"}\n{"a": 2.5}\n{"b": "z", "a": null}\n'),
        ("table.json", '[{"a": 1.5, "b": "x"}, {"a": 2.5}, {"b": "z"}]'),
    ],
    ids=[
        "CSV",
        "BOM and CRLF",
        "spaces",
        "blank lines",
        "semicolons and decimal commas",
        "semicolons and points",
        "quotes",
        "tabs in .txt",
        "TSV",
        "JSON lines",
        "a JSON array",
    ],
)
def test_the_same_table_in_many_forms(write, name, content):
    assert read_frame(Source(write(content, name))).to_dict(as_series=False) == SAME


def test_parquet_is_read_as_it_is(tmp_path):
    frame = polars.DataFrame({"a": [1.5, None], "b": ["x", "y"], "c": [datetime.date(2024, 5, 31), None]})
    frame.write_parquet(tmp_path / "table.parquet")
    assert read_frame(Source(tmp_path / "table.parquet")).equals(frame)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "2"], [1, 2]),
        (["1", "2.5"], [1.0, 2.5]),
        ([" 1", "2 "], [1, 2]),
        (["1", "inf"], [1.0, float("inf")]),
        (["1", "-Infinity"], [1.0, -float("inf")]),
        (["1e3", "2"], [1000.0, 2.0]),
        (["1", "x"], ["1", "x"]),
        (["true", "False"], [True, False]),
        (["1", "nan"], [1, None]),
        (["1", "None"], [1, None]),
    ],
)
def test_a_column_is_numbers_only_if_all_of_it_is(write, values, expected):
    frame = read_frame(Source(write("a,b\n" + "".join(f"{value},k\n" for value in values))))
    assert frame["a"].to_list() == expected


def test_words_stay_words_where_the_user_says_so(write):
    """A postcode keeps its leading zero."""
    file = write("code,b\n01067,1\n10115,2\n")
    assert read_frame(Source(file))["code"].to_list() == [1067, 10115]
    assert read_frame(Source(file), ["code"])["code"].to_list() == ["01067", "10115"]


def test_a_column_without_a_name_gets_that_of_its_place(write):
    """As pandas writes its index."""
    assert read_frame(Source(write(",a\n0,5\n1,6\n"))).columns == ["column_1", "a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table.csv", "", r"table\.csv: the file is empty"),
        ("table.csv", "a,b\n1,2\n\n3,4,5\n", r"table\.csv, line 4: 3 fields, where the header has 2"),
        ("table.csv", "a,b,c\n1,2,3\n4,5\n6,7,8\n", r"line 3: 2 fields, where the header has 3"),
        ("table.csv", 'a,b\n"x\ny",2\n3\n', r"line 4: 1 field, where the header has 2"),
        ("table.csv", 'a,b\n1,"2,5"\n"x,2\n3,4\n', "line 3: a quote .* is opened in this line and not closed"),
        ("table.csv", bytes(range(256)) * 4, r"line 1: a NUL byte, so not text in UTF-8.*data\.encoding="),
        ("table.csv", "a,a,b\n1,2,3\n", "two columns are called 'a'"),
        ("table.csv", "a, a,b\n1,2,3\n", "two columns have one name"),
        ("table.jsonl", '{"a": 1}\n{"a": 2\n', r"table\.jsonl, line 2: it is not JSON: .* at character 8"),
        ("table.jsonl", '{"a": 1}\n[1, 2]\n', r"table\.jsonl, line 2: an object is needed on each line"),
        ("table.json", '[{"a": 1}, {"a"', r"table\.json: can't be read as a table"),
        ("table.parquet", b"hello", r"table\.parquet: can't be read as a table"),
        ("table.xlsx", b"PK\x03\x04", r"table\.xlsx: can't be read as a spreadsheet"),
        ("table.csv.gz", b"\x1f\x8b\x08", r"table\.csv\.gz: it can't be unpacked"),
    ],
    ids=[
        "empty",
        "long row",
        "short row",
        "short row after a field of two lines",
        "open quote",
        "no text",
        "a name twice",
        "a name twice but for a space",
        "JSON lines",
        "lists in lines",
        "JSON",
        "Parquet",
        "a spreadsheet",
        "packed",
    ],
)
def test_what_is_wrong_is_told_with_its_line(write, name, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_frame(Source(write(content, name)))
    assert len(str(caught.value).splitlines()) <= 2


def test_the_place_of_a_row_counts_what_is_no_row(write, tmp_path):
    """A header, blank lines, and fields of two lines stand between; of Parquet it is the row."""
    file = write('a,b\n1,2\n\n"x\ny",3\n,\n5,6\n')
    source = Source(file)
    assert read_frame(source).height == 3
    assert [place(source, row).removeprefix(f"{file}, ") for row in range(3)] == ["line 2", "line 4", "line 7"]
    lines = Source(write('{"a": 1}\n{"a": 2}\n', "table.jsonl"))
    assert place(lines, 1) == f"{lines}, line 2"
    polars.DataFrame({"a": [1, 2]}).write_parquet(tmp_path / "table.parquet")
    assert place(Source(tmp_path / "table.parquet"), 1) == f"{tmp_path / 'table.parquet'}, row 2"
