"""Arrays in an .npz file: what they become, and what is said of files that are none."""

from pathlib import Path

import numpy
import pytest
import torch

from plainloop.data import arrays
from plainloop.errors import UserError
from tests.formats import write_npz
from tests.later import Later

sklearn = Later("sklearn")


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


def test_arrays_without_names_call_the_classes_by_their_numbers(tmp_path):
    data = arrays(write_npz(tmp_path / "a.npz", inputs=numpy.zeros((4, 2)), targets=numpy.array([0, 3, 1, 2])))
    assert list(data.classes) == ["0", "1", "2", "3"]


def test_shipped_digits_are_scikit_learns():
    """data/digits.npz holds the images, labels and order of sklearn.datasets.load_digits."""
    data, truth = arrays("data/digits.npz", inputs="images", targets="labels"), sklearn.datasets.load_digits()
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
        (
            {"inputs": numpy.zeros((2, 1)), "targets": numpy.array([0, -1]), "classes": numpy.array(["a", "b"])},
            "sample 1 has label -1",
        ),
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
