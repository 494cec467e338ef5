"""Tables as people have them: each is read to the values that its author meant, and what was found is said."""

import bz2
import gzip
import lzma
from pathlib import Path

import polars
import pytest

from plainloop.data.kinds import frames
from plainloop.data.kinds.dialect import Reading
from plainloop.data.kinds.frames import read_frame
from plainloop.data.kinds.source import Source, place
from plainloop.errors import UserError

# What is written, and as which file; the columns; and what is said.
DIALECTS: dict[str, tuple[str, dict[str, list], str]] = {
    "thousands beside decimal commas": (
        "stadt;anteil;leute\nA;0,25;23.162\nB;0,5;983\nC;1,75;1.204\n",
        {"stadt": ["A", "B", "C"], "anteil": [0.25, 0.5, 1.75], "leute": [23162, 983, 1204]},
        "read as separator ;  decimals ,  thousands . (leute)",
    ),
    "a comma in a quoted header": (
        '"Price, EUR";amp;y\n1,5;2;a\n2,5;3;b\n',
        {"Price, EUR": [1.5, 2.5], "amp": [2, 3], "y": ["a", "b"]},
        "read as separator ;  decimals ,",
    ),
    "Excel's first line": ("sep=;\na;b\n1;2\n3;4\n", {"a": [1, 3], "b": [2, 4]}, "read as separator ;"),
    "bars": ("a|b|c\n1|2|x y\n3|4|z w\n", {"a": [1, 3], "b": [2, 4], "c": ["x y", "z w"]}, "read as separator |"),
    "blanks": ("a  b   c\n1 2.5  3\n4   5 6\n", {"a": [1, 4], "b": [2.5, 5.0], "c": [3, 6]}, "read as separator blank"),
    "quoted thousands": (
        'city,people\nA,"1,002,000"\nB,"3,400"\n',
        {"city": ["A", "B"], "people": [1002000, 3400]},
        "read as thousands , (people)",
    ),
    "thousands with points behind": (
        'a,b\n"1,234.5",1\n3.25,2\n',
        {"a": [1234.5, 3.25], "b": [1, 2]},
        "read as thousands , (a)",
    ),
    "decimal commas between tabs": (
        "a\tb\n1,5\t2\n2,25\t3\n",
        {"a": [1.5, 2.25], "b": [2, 3]},
        "read as separator tab  decimals ,",
    ),
    "a comma in a name between tabs": (
        'name\tx\n"Doe, J"\t1\nRoe, K\t2\n',
        {"name": ["Doe, J", "Roe, K"], "x": [1, 2]},
        "read as separator tab",
    ),
    "a header that ends in a comma": ("id,a,b,\n1,2,3\n2,3,4\n", {"id": [1, 2], "a": [2, 3], "b": [3, 4]}, ""),
    "rows that end in a comma": ("a,b\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}, ""),
    "all that end in a comma": ("a,b,\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}, ""),
    "carriage returns alone": ("a,b\r1,2\r3,4\r", {"a": [1, 3], "b": [2, 4]}, ""),
    "escaped quotes": ('a,b\n"he said \\"no, never\\"",1\nx,2\n', {"a": ['he said "no, never"', "x"], "b": [1, 2]},
                       'quotes within quotes are written \\"'),
    "inches": ('name,inch\n5" pipe,5\npipe 6,6\n', {"name": ['5" pipe', "pipe 6"], "inch": [5, 6]},
               "quotes stand in it as they are"),
    "a quote that is never closed": ('id,a,text\n5,a,"oh no\n6,a,x\n7,b,y\n',
                                     {"id": [5, 6, 7], "a": ["a", "a", "b"], "text": ['"oh no', "x", "y"]},
                                     "quotes stand in it as they are"),
    "paths": ('path,y\n"C:\\temp\\",1\n"C:\\dir\\",2\n', {"path": ["C:\\temp\\", "C:\\dir\\"], "y": [1, 2]}, ""),
    "thousands that nothing else tells": (
        "stadt;einwohner\nA;1.234\nB;999\nC;12.500\n",
        {"stadt": ["A", "B", "C"], "einwohner": [1.234, 999.0, 12.5]},
        "read as separator ;\n1.234 in einwohner is read as 1.234 (else data.thousands=.)",
    ),
    "dates beside numbers": (
        "datum;preis;menge\n01.05.2024;0,25;1.234\n15.05.2024;1,50;23.162\n",
        {"datum": ["01.05.2024", "15.05.2024"], "preis": [0.25, 1.5], "menge": [1234, 23162]},
        "read as separator ;  decimals ,  thousands . (menge)",
    ),
    "either mark": (
        "a;b\n1.500;x\n1,234;y\n",
        {"a": ["1.500", "1,234"], "b": ["x", "y"]},
        "read as separator ;",
    ),
    "rows of missing words": ("y,x\nNA,NA\nb,1\nNA,2\n", {"y": ["NA", "b", "NA"], "x": [None, 1, 2]},
                              "taken as a word: NA in y (2 rows); data.missing=[NA] makes it a missing value"),
    "the header twice": ("c,y\nu,a\nc,y\nv,b\n", {"c": ["u", "v"], "y": ["a", "b"]},
                         "1 more line with the columns' names left out"),
    "commas in names and numbers": ("Preis, EUR;Menge, kg\n1,5;2,5\n2,5;3,5\n",
                                    {"Preis, EUR": [1.5, 2.5], "Menge, kg": [2.5, 3.5]},
                                    "read as separator ;  decimals ,"),
    "a blank before a quote": ('a, b\n1, "x, z"\n2, "y"\n', {"a": [1, 2], "b": ["x, z", "y"]}, ""),
    "bookkeepers' minus": ("a,b\n(5),1\n6-,2\n7,3\n", {"a": [-5, -6, 7], "b": [1, 2, 3]}, "(5) in a is read as -5"),
    "standard errors": ("name,coef,se\nage,0.52,(0.12)\nsex,1.31,(0.40)\n",
                        {"name": ["age", "sex"], "coef": [0.52, 1.31], "se": [0.12, 0.4]}, "numbers in brackets (se)"),
    "losses in dollars": ("a,b\n($5),1\n$7.50,2\n", {"a": [-5.0, 7.5], "b": [1, 2]},
                          "($5) in a is read as -5\nnumbers in $ (a)"),
    "and less": ("a,b\n5-,1\n10-,2\n", {"a": ["5-", "10-"], "b": [1, 2]}, ""),
    "thousands that another column proves": (
        "a;b\n1.234.567;2.345\n12.000;9.876\n", {"a": [1234567, 12000], "b": [2345, 9876]},
        "read as separator ;  thousands . (a, b)"),
    "thousands that a decimal point proves": (
        "qty;price\n1,234;5.5\n2,345;7.25\n", {"qty": [1234, 2345], "price": [5.5, 7.25]},
        "read as separator ;  thousands , (qty)"),
    "unclear points beside a unit": (
        "rate;income\n5 %;12.345\n7 %;9.876\n", {"rate": [5, 7], "income": [12.345, 9.876]},
        "read as separator ;\n12.345 in income is read as 12.345 (else data.thousands=.)\nnumbers in % (rate)"),
    "powers of ten with commas": ("a;b\n1,234E+05;1\n2,345E+05;2\n9,876E-02;3\n",
                      {"a": [123400.0, 234500.0, 0.09876], "b": [1, 2, 3]}, "read as separator ;  decimals ,"),
    "addresses": ("ip,b\n192.168.100.200,1\n192.168.100.201,2\n",
                  {"ip": ["192.168.100.200", "192.168.100.201"], "b": [1, 2]}, ""),
    "telephones": ("a,b\n030 123 456,1\n040 123 456,2\n", {"a": ["030 123 456", "040 123 456"], "b": [1, 2]}, ""),
    "a postcode": ("zip,b\n01234,1\n12345,2\n", {"zip": [1234, 12345], "b": [1, 2]},
                   "01234 in zip is the number 1234 (in a table, data.categorical=[zip] keeps such words)"),
    "no header": ("5.1,3.5,a\n4.9,3.0,b\n", {"5.1": [4.9], "3.5": [3.0], "a": ["b"]},
                  "the first line is taken for the columns' names, and looks like data (5.1, 3.5): "
                  "data.header=false"),
    "lines within quotes": (
        'text,label\n"Hi Bob, see\nyou",ham\n"Dear Sir, you\nwin",spam\nfree cash,spam\n',
        {"text": ["Hi Bob, see\nyou", "Dear Sir, you\nwin", "free cash"], "label": ["ham", "spam", "spam"]}, ""),
    "an escaped quote at a field's end": ('a,b\n"He said \\"hi\\"",x\nplain,y\n',
                                          {"a": ['He said "hi"', "plain"], "b": ["x", "y"]},
                                          'quotes within quotes are written \\"'),
    "columns without a name or a value": ("a;b;;\n1,5;2;;\n2,5;3;;\n;;;\n", {"a": [1.5, 2.5], "b": [2, 3]},
                                          "read as separator ;  decimals ,"),
    "columns without a name": (",,b\n1,x,2\n2,y,3\n", {"column_1": [1, 2], "column_2": ["x", "y"], "b": [2, 3]},
                               "without a name in the file, and called by their place: column_1, column_2"),
    "R's row names": ('"x" "y"\n"1" 5 a\n"2" 6 b\n', {"x": [5, 6], "y": ["a", "b"]},
                      "read as separator blank\nthe first field of each row, for which the header has no name, is "
                      "left out"),
    "rows without a value": ("a,b\n1,2\n,\n3,4\n,\n", {"a": [1, 3], "b": [2, 4]}, "1 row without any value left out"),
    "dashes and spreadsheets' errors": ("a,b\n1.5,-\n#DIV/0!,2\n--,3\n",
                                        {"a": [1.5, None, None], "b": [None, 2, 3]}, ""),
    "lakh and crore": ('a,b\n"1,00,000",1\n"12,34,567",2\n', {"a": [100000, 1234567], "b": [1, 2]},
                       "read as thousands , (a)"),
    "ids of twenty digits": ("id,b\n12345678901234567890,1\n12345678901234567891,2\n",
                             {"id": ["12345678901234567890", "12345678901234567891"], "b": [1, 2]}, ""),
    "German powers": ("a;b\n1,23E-05;1\n2,5;2\n", {"a": [1.23e-05, 2.5], "b": [1, 2]},
                      "read as separator ;  decimals ,"),
    "semicolons in sentences": (
        "text,label\nhello there; you,a\nbye now; all,b\nso what; here,a\n",
        {"text": ["hello there; you", "bye now; all", "so what; here"], "label": ["a", "b", "a"]},
        "",
    ),
    "per cent and money": (
        "a,b,y\n12 %,$5,1\n3.5 %,$7.25,2\n",
        {"a": [12.0, 3.5], "b": [5.0, 7.25], "y": [1, 2]},
        "numbers in % (a), $ (b)",
    ),
    "blanks between thousands": ("a,b\n1 234,1\n12\u00a0000\u202f000,2\n", {"a": [1234, 12000000], "b": [1, 2]},
                                 "read as thousands blank (a)"),
    "Swiss": ("a;b\n1'234.50;1\n3.25;2\n", {"a": [1234.5, 3.25], "b": [1, 2]}, "read as separator ;  thousands ' (a)"),
    "a minus that is no hyphen": ("a,b\n\u22125,1\n3,2\n", {"a": [-5, 3], "b": [1, 2]}, ""),
    "three decimals": ("a,b\n1.234,1\n2.345,2\n", {"a": [1.234, 2.345], "b": [1, 2]}, ""),
    "powers of ten": ("a,b\n1e-5,1\n2.5E3,2\n", {"a": [1e-5, 2500.0], "b": [1, 2]}, ""),
    "NA that means something": (
        "alley,n\nNA,1\nGrvl,NA\nNA,3\nPave,4\n",
        {"alley": ["NA", "Grvl", "NA", "Pave"], "n": [1, None, 3, 4]},
        "taken as a word: NA in alley (2 rows); data.missing=[NA] makes it a missing value",
    ),
    "a class called None": (
        "severity,n\nNone,1\nmild,2\nsevere,3\n",
        {"severity": ["None", "mild", "severe"], "n": [1, 2, 3]},
        "taken as a word: None in severity (1 row); data.missing=[None] makes it a missing value",
    ),
    "truths": ("t,n\ntrue,1\nFalse,2\nNA,2\n", {"t": [True, False, None], "n": [1, 2, 2]}, ""),
}  # fmt: skip


def read(path: Path, text: str | bytes, **said) -> tuple[dict[str, list], Source]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    source = Source(path, Reading.of(**said))
    return read_frame(source).to_dict(as_series=False), source


@pytest.mark.parametrize("name", DIALECTS)
def test_a_table_is_read_as_it_is_meant(name, tmp_path):
    text, columns, said = DIALECTS[name]
    found, source = read(tmp_path / "table.csv", text)
    assert found == columns
    assert [type(value) for column in found.values() for value in column] == [
        type(value) for column in columns.values() for value in column
    ]
    assert source.said == said


ENCODINGS = {
    "utf-16": ("stra\u00dfe,n\nK\u00f6ln,1\n", "read as utf-16"),
    "utf-8-sig": ("stra\u00dfe,n\nK\u00f6ln,1\n", ""),
    "cp1252 ": ("a,n\n5 \u20ac,1\n20 \u00b0C,2\n", "read as cp1252"),
    "cp1252": ("stra\u00dfe,n\nK\u00f6ln,1\nD\u00fcsseldorf,2\nM\u00fcnchen,3\n", "read as cp1252"),
    "cp1251": (
        "\u0446\u0435\u043d\u0430,n\n\u041c\u043e\u0441\u043a\u0432\u0430,1\n\u041a\u0430\u0437\u0430\u043d\u044c,2\n",
        "read as cp1251",
    ),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_encoding_is_told(encoding, tmp_path):
    text, said = ENCODINGS[encoding]
    found, source = read(tmp_path / "table.csv", text.encode(encoding.strip()))
    lines = [line.split(",") for line in text.splitlines()]
    assert found == {lines[0][0]: [line[0] for line in lines[1:]], "n": [int(line[1]) for line in lines[1:]]}
    assert source.said == said


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_a_packed_table_is_unpacked(suffix, pack, tmp_path):
    found, source = read(tmp_path / f"table.csv{suffix}", pack(b"a,b\n1,x\n\n2,y\n"))
    assert found == {"a": [1, 2], "b": ["x", "y"]}
    assert place(source, 1) == f"{source}, line 4"


def test_a_spreadsheet_is_read(tmp_path, monkeypatch):
    """The first sheet of a file that another library has written: a zip of XML, as Excel's are."""
    import zipfile

    cells = "".join(
        f'<row r="{row}"><c r="A{row}"{kind}>{first}</c><c r="B{row}"><v>{second}</v></c></row>'
        for row, kind, first, second in (
            (2, ' t="inlineStr"', "<is><t>x</t></is>", 1.5),
            (3, ' t="inlineStr"', "<is><t>y</t></is>", 2),
        )
    )
    head = '<row r="1"><c r="A1" t="inlineStr"><is><t>a</t></is></c><c r="B1" t="inlineStr"><is><t>b</t></is></c></row>'
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    types = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" '
        f'ContentType="{types}.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" '
        f'ContentType="{types}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="one" sheetId="1" '
        'r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{head}{cells}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(tmp_path / "table.xlsx", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    source = Source(tmp_path / "table.xlsx")
    assert read_frame(source).to_dict(as_series=False) == {"a": ["x", "y"], "b": [1.5, 2.0]}
    assert place(source, 0) == f"{source}, row 2"
    parts["xl/worksheets/sheet1.xml"] = parts["xl/worksheets/sheet1.xml"].replace("<t>b</t>", "<t>a</t>")
    with zipfile.ZipFile(tmp_path / "twice.xlsx", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    with pytest.raises(UserError, match=r"twice\.xlsx: two columns are called 'a': give one of them another name"):
        read_frame(Source(tmp_path / "twice.xlsx"))
    monkeypatch.setattr(frames, "PHYSICAL", 4000)
    with pytest.raises(UserError, match="unpacks to more than a quarter of this machine's memory"):
        read_frame(source)


@pytest.mark.parametrize(
    ("text", "said", "columns"),
    [
        ("a;b\n1,234;x\n", {"decimal": ",", "separator": ";"}, {"a": [1.234], "b": ["x"]}),
        ("a;b\n1,234;x\n", {"decimal": "."}, {"a": [1234], "b": ["x"]}),
        ("a,b\n1.234,x\n", {"thousands": "."}, {"a": [1234], "b": ["x"]}),
        ("a,b\nNA,x\n5,-\n", {"missing": ["-"]}, {"a": ["NA", "5"], "b": ["x", None]}),
        ("a,b\nNA,x\n5,NA\n", {"missing": "NA"}, {"a": [None, 5], "b": ["x", None]}),
        ("1,x\n2,y\n", {"header": False}, {"column_1": [1, 2], "column_2": ["x", "y"]}),
        ("a_b\n1_2\n", {"separator": "_"}, {"a": [1], "b": [2]}),
        ("a\tb\n1\t2\n", {"separator": "tab"}, {"a": [1], "b": [2]}),
        ("a,b\nK\u00f6ln,1\n".encode("cp850"), {"encoding": "cp850"}, {"a": ["K\u00f6ln"], "b": [1]}),
    ],
)
def test_what_the_user_says_goes_before_what_is_told(text, said, columns, tmp_path):
    assert read(tmp_path / "table.csv", text, **said)[0] == columns


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"decimal": "comma"}, r"data\.decimal=comma: one character"),
        ({"decimal": ",", "thousands": ","}, "are the same"),
        ({"separator": ";;"}, r"data\.separator=;;: one character, or tab or blank"),
        ({"encoding": "utf-9"}, r"data\.encoding=utf-9: Python knows no such encoding"),
        ({"encoding": "ascii"}, r"line 2: not text in ascii"),
        ({"missing": [["NA"]]}, r"data\.missing="),
    ],
)
def test_what_cannot_be_meant_is_answered(said, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(tmp_path / "table.csv", "a,b\n\u00f6,1\n", **said)


def test_a_bad_byte_in_utf8_is_no_other_encoding(tmp_path):
    text = "name,n\n" + "".join(f"K\u00f6ln \u00e4\u00f6\u00fc {number},{number}\n" for number in range(30))
    data = text.encode().replace(b" 7,", b"\xff 7,")
    with pytest.raises(UserError, match=r"line 9: not text in UTF-8"):
        read(tmp_path / "table.csv", data)


def test_another_file_is_read_as_the_first(tmp_path):
    """Its words stay words, its marks mean what they mean there."""
    (tmp_path / "train.csv").write_text("id;x;n\n01;0,5;1.100\n02;1.234;2.000\nA;2,5;3.000\n")
    (tmp_path / "val.csv").write_text("id;x;n\n01;1.234;1.100\n02;2.345;2.100\n")
    first = Source(tmp_path / "train.csv")
    assert read_frame(first).to_dict(as_series=False) == {
        "id": ["01", "02", "A"], "x": [0.5, 1234.0, 2.5], "n": [1100, 2000, 3000]
    }  # fmt: skip
    second = Source(tmp_path / "val.csv")
    second.like = first
    assert read_frame(second).to_dict(as_series=False) == {"id": ["01", "02"], "x": [1234, 2345], "n": [1100, 2100]}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_missing_words_count_in_every_kind_of_file(suffix, tmp_path):
    frame = polars.DataFrame({"a": [1.5, -999.0], "b": ["x", "-"]})
    path = tmp_path / f"table.{suffix}"
    (frame.write_parquet if suffix == "parquet" else frame.write_ndjson)(path)
    found = read_frame(Source(path, Reading.of(["-999", "-"])))
    assert found.to_dict(as_series=False) == {"a": [1.5, None], "b": ["x", None]}
    with pytest.raises(UserError, match=r"data\.decimal=,: .* is no text of separated fields"):
        read_frame(Source(path, Reading.of(decimal=",")))


def test_a_row_is_found_again_where_quotes_are_escaped(tmp_path):
    text = 'a,b\n"he said \\"no,\nnever\\"",1\nx,2\n'
    found, source = read(tmp_path / "table.csv", text)
    assert found == {"a": ['he said "no,\nnever"', "x"], "b": [1, 2]}
    assert [place(source, row).rpartition(" ")[2] for row in (0, 1)] == ["2", "4"]


def test_a_single_quote_mark_among_quoted_fields_is_a_sign(tmp_path):
    """Inches: an odd number of quotes, and none of them open at the end."""
    found, _ = read(tmp_path / "table.csv", 'name,note\n"a, b",x\npipe 5",y\n"c, d",z\n')
    assert found == {"name": ["a, b", 'pipe 5"', "c, d"], "note": ["x", "y", "z"]}
    with pytest.raises(UserError, match=r"line 4: a quote .* is opened in this line and not closed"):
        read(tmp_path / "table.csv", 'name,note\n"a, b",x\nc,y\nd,"z, and\nno end\n')


def test_half_of_a_sign_of_utf16_is_told(tmp_path):
    with pytest.raises(UserError, match="not whole text in utf-16"):
        read(tmp_path / "table.csv", "a,b\n1,2\n".encode("utf-16") + b"x")


def test_a_line_separator_within_a_text_ends_no_line_of_json(tmp_path):
    text = '{"a": NaN, "b": "one\u2028two"}\n{"a": 1.5, "b": "x"}\n'
    found, source = read(tmp_path / "table.jsonl", text)
    assert found == {"a": [None, 1.5], "b": ["one\u2028two", "x"]}
    assert place(source, 1).endswith("line 2")


def test_json_lines_with_nan_and_a_byte_order_mark(tmp_path):
    """As pandas and Windows write them; polars' own reader takes neither."""
    text = '\ufeff{"a": 1.5, "b": "x"}\n{"a": NaN, "b": "y"}\n{"a": Infinity, "b": null}\n'
    found, _ = read(tmp_path / "table.jsonl", text)
    assert found == {"a": [1.5, None, float("inf")], "b": ["x", "y", None]}
    with pytest.raises(UserError, match=r"line 2: it is not JSON: Expecting value at character 7"):
        read(tmp_path / "table.jsonl", '{"a": NaN}\n{"a": nan}\n')


def test_it_is_as_polars_reads_it_where_nothing_is_special(tmp_path):
    """An independent reading of a large plain file."""
    import random

    draw = random.Random(0)
    rows = [f"{draw.gauss(0, 1)},{draw.randint(-9, 9)},w{draw.randint(0, 5)}" for _ in range(5000)]
    found, source = read(tmp_path / "table.csv", "x,n,word\n" + "\n".join(rows) + "\n")
    assert found == polars.read_csv(tmp_path / "table.csv").to_dict(as_series=False)
    assert source.said == ""


def test_a_long_text_is_cut_within_quotes_and_read(tmp_path):
    """What tells the separator is the beginning of the file, of which the last record may be open."""
    texts = ["a; b, c\nd; e; f " * 90 for _ in range(60)]
    text = "text,label\n" + "".join(f'"{each}",x{number % 2}\n' for number, each in enumerate(texts))
    assert len(text) > 65536
    found, _ = read(tmp_path / "table.csv", text)
    assert found["text"] == [each.strip() for each in texts]


def test_numbers_written_as_text(tmp_path):
    """In a spreadsheet they are numbers; where the file says itself that they are words, they stay words, and it is
    said. Blanks around them don't count."""
    frame = polars.DataFrame({"a ": ["1.5", " 2", "-"], "b": ["x ", "x", " y"]})
    frame.write_ndjson(tmp_path / "table.jsonl")
    source = Source(tmp_path / "table.jsonl")
    assert read_frame(source).to_dict(as_series=False) == {"a": ["1.5", "2", "-"], "b": ["x", "x", "y"]}
    assert source.said == "numbers that are written as text are taken as words: a"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_whole_number_may_mean_a_missing_one(suffix, tmp_path):
    path = tmp_path / f"table.{suffix}"
    frame = polars.DataFrame({"x": [1, -999, 3], "y": [1, 0, 1]})
    {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}[suffix](path)
    assert read_frame(Source(path, Reading.of(missing=[-999])))["x"].to_list() == [1, None, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1,2]\n[3,4]\n", r"line 1: an object is needed on each line"),
        ('{"x":[1]}\n\n{"x":2}\n', r"line 3: x is a single value, and a list before"),
        ('{"x":1}\n{"x":{"a":2}}\n', r"line 2: x is an object, and a single value before"),
    ],
)
def test_json_lines_of_another_shape_are_told(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(tmp_path / "table.jsonl", text)


def test_a_name_that_two_columns_have_may_be_data(tmp_path):
    with pytest.raises(
        UserError, match=r"two columns are called '1\.4'.* Or is the first line data\? Then data\.header=fa"
    ):
        read(tmp_path / "table.csv", "1.4,1.4,a\n2.5,3.5,b\n")
