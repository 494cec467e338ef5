"""A CSV file becomes numbers: nothing is guessed, nothing is lost without a word."""

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_breast_cancer

from plainloop.data import table
from plainloop.errors import UserError

BIRDS = """\
island,mass,ringed,kind
north,3.5,true,gull
south,4,false,auk
east,1.25,true,gull
south,-2,true,tern
"""


@pytest.fixture
def csv(tmp_path):
    """Write a CSV file; its path."""

    def write(text: str) -> str:
        (tmp_path / "table.csv").write_text(text)
        return str(tmp_path / "table.csv")

    return write


def test_words_become_one_column_each(csv):
    """A column of k words becomes k columns of 0 and 1, in sorted order, in the column's place."""
    data = table(csv(BIRDS), target="kind", classification=True)
    #                east, north, south, mass, ringed
    assert data.inputs.tolist() == [
        [0, 1, 0, 3.5, 1],
        [0, 0, 1, 4.0, 0],
        [1, 0, 0, 1.25, 1],
        [0, 0, 1, -2.0, 1],
    ]
    assert data.inputs.dtype == torch.float32
    assert data.note == ""


def test_classes_are_sorted(csv):
    """Classes by name in sorted order, whatever order they occur in; targets (N,) int64."""
    data = table(csv(BIRDS), target="kind", classification=True)
    assert list(data.classes) == ["auk", "gull", "tern"]
    assert data.targets.dtype == torch.int64
    assert data.targets.tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize(
    ("column", "classes", "targets"),
    [("10\n9\n10", ["9", "10"], [1, 0, 1]), ("true\nfalse\ntrue", ["false", "true"], [1, 0, 1])],
    ids=["numbers", "true and false"],
)
def test_classes_that_are_no_words(csv, column, classes, targets):
    """Numbers are sorted as numbers (9 before 10), false before true: the second of two is the positive one."""
    rows = "\n".join(f"{number},{value}" for number, value in enumerate(column.split("\n")))
    data = table(csv(f"x,y\n{rows}\n"), target="y", classification=True)
    assert [name.lower() for name in data.classes] == classes
    assert data.targets.tolist() == targets


def test_a_number_to_predict(csv):
    """Without classification the target is (N, 1) float32, and its name is kept."""
    data = table(csv(BIRDS), target="mass", features=["ringed"])
    assert data.targets.tolist() == [[3.5], [4.0], [1.25], [-2.0]]
    assert data.targets.dtype == torch.float32
    assert data.inputs.tolist() == [[1], [0], [1], [1]]
    assert data.target_names == ["mass"]
    assert data.classes is None


def test_features_are_taken_in_the_order_given(csv):
    data = table(csv("a,b,c,y\n1,2,3,4\n5,6,7,8\n"), target="y", features=["c", "a"])
    assert data.inputs.tolist() == [[3, 1], [7, 5]]


@pytest.mark.parametrize("hole", ["", "NaN", "NA"])
def test_rows_with_missing_values_are_left_out_and_counted(csv, hole):
    """An empty field, and what NumPy, pandas and R write for one, in a feature or in the target."""
    text = f"a,b,y\n1,5,1\n{hole},6,2\n3,{hole},3\n4,8,{hole}\n5,9,5\n"
    data = table(csv(text), target="y")
    assert data.inputs.tolist() == [[1, 5], [5, 9]]
    assert data.targets.tolist() == [[1], [5]]
    assert data.note.startswith("3 rows")


def test_missing_values_elsewhere_do_not_matter(csv):
    """Only the columns that are used have to be complete."""
    data = table(csv("a,b,y\n1,,1\n2,,2\n"), target="y", features=["a"])
    assert data.inputs.tolist() == [[1], [2]]
    assert data.note == ""


def test_a_missing_class_is_no_class(csv):
    data = table(csv("a,y\n1,m\n2,\n3,f\n"), target="y", classification=True)
    assert list(data.classes) == ["f", "m"]
    assert data.targets.tolist() == [1, 0]
    assert data.note.startswith("1 row")


def test_a_type_is_not_guessed_from_the_first_rows(csv):
    """A column is numbers only if all of it is: a word after a thousand numbers makes it words."""
    rows = "".join(f"{number % 2},{number}\n" for number in range(2000))
    data = table(csv("a,y\n" + rows + "x,0\n"), target="y")
    assert data.inputs.shape == (2001, 3)
    assert data.inputs[-1].tolist() == [0, 0, 1]


def test_shipped_breast_cancer_is_scikit_learns():
    """data/breast_cancer.csv has the numbers of sklearn.datasets.load_breast_cancer; malignant is class 1 here."""
    data, truth = table("data/breast_cancer.csv", target="diagnosis", classification=True), load_breast_cancer()
    assert list(data.classes) == ["benign", "malignant"]
    assert torch.equal(data.inputs, torch.tensor(truth.data, dtype=torch.float32))
    assert data.targets.tolist() == (1 - truth.target).tolist()


def test_shipped_penguins_count_their_missing_rows():
    """As data/README.md says: 344 rows, 11 of them without a sex (2 of these without the measurements too)."""
    data = table("data/penguins.csv", target="body_mass_g")
    assert len(data) == 344 - 11
    assert data.note.startswith("11 rows")
    assert data.inputs.shape[1] == 3 + 3 + 2 + 3 + 1  # species, islands, sexes, three measurements, year


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (BIRDS, {"target": "mas"}, "no such column. Did you mean mass"),
        (BIRDS, {"target": "mass", "features": ["iland"]}, "data.features=iland.*Did you mean island"),
        (BIRDS, {"target": "kind"}, "column of words"),
        ("x,y\n1,a\n2,a\n", {"target": "y", "classification": True}, "one class only"),
        ("x,y\n,1\n,2\n", {"target": "y"}, "no row is complete"),
        (BIRDS, {"target": "mass", "features": ["mass", "ringed"]}, "mass"),
        ("y\n1\n2\n", {"target": "y"}, "features"),
        (BIRDS, {"target": "mass", "features": []}, "features"),
        ("", {"target": "y"}, "not a CSV table"),
        ("x,y\n1,2\n1,2,3,4\n", {"target": "y"}, "not a CSV table"),
    ],
    ids=[
        "target misspelt", "feature misspelt", "words as numbers", "one class", "all incomplete",
        "the target as a feature", "no other column", "no feature", "empty file", "ragged",
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_answered(csv, text, arguments, message):
    """The user's mistakes, each named with the column or key it is in."""
    with pytest.raises(UserError, match=message):
        table(csv(text), **arguments)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"data\.path=none\.csv: there is no such file"):
        table("none.csv", target="y")


def test_a_binary_file_is_no_table(tmp_path):
    path = Path(tmp_path / "image.csv")
    path.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(UserError, match="data"):
        table(str(path), target="y")
