"""Data sets give what their files hold, and say in two lines what is wrong with them."""

from pathlib import Path

import numpy
import pytest
import torch
from sklearn.datasets import load_digits

from plainloop.data import InMemory, arrays, points
from plainloop.errors import UserError
from plainloop.places import find_path
from tests.conftest import ROOT
from tests.formats import write_npz

# --- InMemory and points ------------------------------------------------------------------------------------


@pytest.fixture
def ten() -> InMemory:
    """Ten samples that say which they are."""
    return InMemory(torch.arange(30).reshape(10, 3), torch.arange(10), classes=[f"c{i}" for i in range(10)], note="n")


def test_in_memory_gives_samples_and_batches(ten):
    """An index gives a sample; `__getitems__` gives the same samples as one batch, in the order asked for."""
    assert len(ten) == 10
    assert ten[4][0].tolist() == [12, 13, 14]
    assert ten[4][1].item() == 4
    for indices in ([7, 0, 7], torch.tensor([7, 0, 7])):
        inputs, targets = ten.__getitems__(indices)
        assert targets.tolist() == [7, 0, 7]
        assert torch.equal(inputs, torch.stack([ten[i][0] for i in (7, 0, 7)]))


def test_in_memory_batches_are_copies(ten):
    """What is done to a batch in place doesn't reach the data."""
    inputs, targets = ten.__getitems__([1, 2])
    inputs.zero_()
    targets.zero_()
    assert ten[1][0].tolist() == [3, 4, 5]
    assert ten[2][1].item() == 2


def test_select_keeps_what_belongs_to_the_data(ten):
    """A selection holds the chosen samples, and the names and the note of the whole."""
    part = ten.select(torch.tensor([9, 2]))
    assert part.targets.tolist() == [9, 2]
    assert (part.classes, part.note, part.target_names) == (ten.classes, "n", None)


def test_in_memory_refuses_unequal_numbers():
    with pytest.raises(UserError, match="3 inputs and 2 targets"):
        InMemory(torch.zeros(3, 1), torch.zeros(2))


def test_points_are_what_was_typed():
    data = points(inputs=[[1, 2], [3, 4.5]], targets=[[0.5], [1]])
    assert data.inputs.dtype == data.targets.dtype == torch.float32
    assert data.inputs.tolist() == [[1, 2], [3, 4.5]]
    assert data.targets.tolist() == [[0.5], [1]]


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [([[1], [2, 3]], [[1], [2]]), ([[1], ["a"]], [[1], [2]]), ([[1], [2]], [[1]])],
    ids=["ragged", "a word", "unequal numbers"],
)
def test_points_refuse_what_is_no_table(inputs, targets):
    with pytest.raises(UserError, match="data"):
        points(inputs=inputs, targets=targets)


def test_relative_paths_are_looked_for_here_first_then_in_the_checkout(tmp_path):
    """The user's working directory beats the checkout; an absolute path is taken as it is."""
    assert find_path("data/digits.npz") == ROOT / "data" / "digits.npz"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits.npz").touch()
    assert find_path("data/digits.npz").resolve() == (tmp_path / "data" / "digits.npz").resolve()
    assert find_path(tmp_path / "none") == tmp_path / "none"


# --- arrays -------------------------------------------------------------------------------------------------


def test_arrays_with_classes(tmp_path):
    """uint8 images stay uint8; whole-number targets are classes, with their names where the file has them."""
    images = numpy.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), dtype=numpy.uint8)
    labels = numpy.array([0, 2, 1, 2, 0, 1], dtype=numpy.uint8)
    path = write_npz(tmp_path / "a.npz", pictures=images, kinds=labels, classes=numpy.array(["ape", "bee", "cat"]))
    data = arrays(path, inputs="pictures", targets="kinds")
    assert data.inputs.dtype == torch.uint8
    assert numpy.array_equal(data.inputs.numpy(), images)
    assert data.targets.dtype == torch.int64
    assert data.targets.tolist() == labels.tolist()
    assert list(data.classes) == ["ape", "bee", "cat"]


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int32", "int64"])
def test_arrays_of_numbers_become_float32(tmp_path, kind):
    """Inputs of any other type of number are features; targets that aren't whole are values."""
    inputs = numpy.arange(8).reshape(4, 2).astype(kind)
    data = arrays(write_npz(tmp_path / "a.npz", inputs=inputs, targets=numpy.array([[0.5], [1], [2], [3]])))
    assert data.inputs.dtype == data.targets.dtype == torch.float32
    assert data.inputs.tolist() == inputs.tolist()
    assert data.targets.tolist() == [[0.5], [1], [2], [3]]
    assert data.classes is None


def test_arrays_without_names_number_the_classes(tmp_path):
    data = arrays(write_npz(tmp_path / "a.npz", inputs=numpy.zeros((3, 2)), targets=numpy.array([0, 3, 1])))
    assert list(data.classes) == ["0", "1", "2", "3"]


def test_shipped_digits_are_scikit_learns():
    """data/digits.npz holds the images, labels and order of sklearn.datasets.load_digits."""
    data, truth = arrays("data/digits.npz", inputs="images", targets="labels"), load_digits()
    assert tuple(data.inputs.shape) == (1797, 1, 8, 8)
    assert data.inputs.dtype == torch.uint8
    assert numpy.array_equal(data.inputs[:, 0].numpy(), truth.images)
    assert numpy.array_equal(data.targets.numpy(), truth.target)
    assert list(data.classes) == [str(name) for name in truth.target_names]


class Evil:
    """Unpickling this would create a file."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


def test_pickled_arrays_are_refused(tmp_path):
    """An .npz file can hold pickled objects, which run code when they are loaded: refused, and not run."""
    path = write_npz(tmp_path / "a.npz", inputs=numpy.array([Evil()] * 3, dtype=object), targets=numpy.arange(3))
    with pytest.raises(UserError, match="array inputs: it holds Python objects"):
        arrays(path)
    assert not (tmp_path / "unpickled").exists()


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1  # in the first array's values: their checksum is wrong
    path.write_bytes(data)


def single(path: Path) -> None:
    with path.open("wb") as file:
        numpy.save(file, numpy.zeros(3))


@pytest.mark.parametrize(
    "spoil",
    [half, flipped, single, lambda path: path.write_text("1,2,3\n"), lambda path: path.write_bytes(b"")],
    ids=["half of it", "one bit flipped", "one array (.npy)", "text", "empty"],
)
def test_files_that_are_no_npz_are_refused(tmp_path, spoil):
    """A file that can't be read is the user's mistake, named with its path; not a traceback of zipfile's."""
    path = tmp_path / "a.npz"
    numpy.savez(path, inputs=numpy.random.default_rng(0).random((50, 20)), targets=numpy.zeros(50, dtype=int))
    spoil(path)
    with pytest.raises(UserError, match=r"a\.npz"):
        arrays(str(path))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"inputs": numpy.zeros((2, 1))}, "no such array. It has: inputs"),
        ({"inputs": numpy.zeros((2, 1)), "targets": numpy.zeros((2, 1), dtype=int)}, "one per sample"),
        ({"inputs": numpy.zeros((2, 1)), "targets": numpy.array([0, -1])}, "sample 1 has label -1"),
        (
            {"inputs": numpy.zeros((2, 1)), "targets": numpy.array([0, 2]), "classes": numpy.array(["a", "b"])},
            "sample 1 has label 2, outside the 2 classes",
        ),
        ({"inputs": numpy.zeros((2, 1)), "targets": numpy.array([0, 1, 1])}, "2 inputs and 3 targets"),
        ({"inputs": numpy.array(["a", "b"]), "targets": numpy.array([0, 1])}, "inputs"),
        ({"inputs": numpy.zeros((2, 1)), "targets": numpy.array(["a", "b"])}, "targets"),
    ],
    ids=["missing", "(N, 1) labels", "negative", "beyond the names", "unequal", "words in", "words out"],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, held, message):
    path = write_npz(tmp_path / "a.npz", **held)
    with pytest.raises(UserError, match=message):
        arrays(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        arrays(str(tmp_path / "none.npz"))
