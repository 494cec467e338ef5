"""Arrays of one's own: the same numbers from .npz, .safetensors and folders of .npy; and nothing in them is executed.

The rest of what `arrays` does with an .npz file is in test_npz.py.
"""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors.torch
import torch
from safetensors.numpy import save_file

import plainloop
from plainloop.data import arrays
from plainloop.data.kinds.named_arrays import NamedArrays
from plainloop.errors import MachineError, UserError
from tests.conftest import one_in
from tests.formats import balanced_labels, class_images, vectors, write_npz

KINDS = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


def write_safetensors(file: Path, **held: numpy.ndarray) -> str:
    save_file({name: numpy.array(array, order="C") for name, array in held.items()}, file, {"written": "by a test"})
    return str(file)


def write_raw(file: Path, header: bytes, content: bytes) -> str:
    """By hand: the header's length in 8 bytes (little-endian), the header in JSON, the bytes of all arrays."""
    file.write_bytes(len(header).to_bytes(8, "little") + header + content)
    return str(file)


def write_npy(folder: Path, **held: numpy.ndarray) -> str:
    folder.mkdir()
    for name, array in held.items():
        numpy.save(folder / f"{name}.npy", array)
    return str(folder)


WRITERS = {"a.npz": write_npz, "a.safetensors": write_safetensors, "folder": write_npy}


@pytest.fixture(params=WRITERS)
def written(request, tmp_path):
    """A writer of arrays, one for each kind of file."""
    return lambda **held: WRITERS[request.param](tmp_path / request.param, **held)


# --- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3, 3), (0, 3)])
def test_what_was_written_is_read(written, kind, shape):
    """Every type and shape, from every kind of file."""
    array = (numpy.random.default_rng(0).random(shape) * 200).astype(kind)
    found = NamedArrays(Path(written(other=numpy.arange(5), mine=array)), "a")
    assert sorted(found.names) == ["mine", "other"]
    assert numpy.array_equal(numpy.asarray(found["mine"]), array)
    assert numpy.asarray(found["mine"]).dtype == array.dtype


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "uint16", "uint32", "complex64"])
def test_types_that_numpy_lacks_or_few_use(tmp_path, name):
    values = torch.tensor([1, 2.5, 3.25]).to(getattr(torch, name))
    safetensors.torch.save_file({"x": values}, tmp_path / "a.safetensors")
    found = NamedArrays(tmp_path / "a.safetensors", "a")["x"]
    assert found.dtype == values.dtype
    assert torch.equal(found.view(torch.uint8), values.view(torch.uint8))


def test_a_file_that_is_written_anew_does_not_change_what_was_read(tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", x=numpy.arange(2000))
    found = NamedArrays(Path(path), path)["x"]
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(bytes(8000))
    assert torch.equal(found, torch.arange(2000))


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(6, dtype=">f8").reshape(3, 2),
        numpy.asfortranarray(numpy.arange(6.0).reshape(3, 2)),
        numpy.arange(6, dtype=numpy.longdouble).reshape(3, 2),
        numpy.arange(6, dtype="uint16").reshape(3, 2),
        numpy.arange(6, dtype="float16").reshape(3, 2),
    ],
    ids=["big-endian", "Fortran order", "long double", "uint16", "float16"],
)
def test_numpys_own_ways(tmp_path, array):
    """All become float32."""
    data = arrays(write_npz(tmp_path / "a.npz", inputs=array, targets=numpy.arange(3)))
    assert data.inputs.dtype == torch.float32
    assert data.inputs.tolist() == [[0, 1], [2, 3], [4, 5]]


class Evil:
    """Unpickling this would create a file."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


def test_pickled_arrays_in_a_folder_are_refused(tmp_path):
    numpy.save(tmp_path / "inputs.npy", numpy.array([Evil()] * 3, dtype=object), allow_pickle=True)
    numpy.save(tmp_path / "targets.npy", numpy.arange(3))
    with pytest.raises(UserError, match="array inputs: it holds Python objects"):
        arrays(str(tmp_path))
    assert not (tmp_path / "unpickled").exists()


def test_only_what_is_asked_for_is_read(tmp_path):
    """An array beside the ones that are asked for may be whatever it likes."""
    path = write_npz(
        tmp_path / "a.npz",
        inputs=numpy.zeros((3, 2)),
        targets=numpy.arange(3),
        notes=numpy.array([Evil()] * 3, dtype=object),
    )
    assert len(arrays(path)) == 3
    assert not (tmp_path / "unpickled").exists()


GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
SPOILED: dict[str, tuple[Any, int]] = {
    "no header": (b"", 24),
    "not JSON": (b"{inputs", 24),
    "a list": (b"[]", 24),
    "no offsets": ({"inputs": {"dtype": "F32", "shape": [2, 3]}}, 24),
    "an unknown type": ({"inputs": {**GOOD, "dtype": "F7"}}, 24),
    "another type": ({"inputs": {**GOOD, "dtype": "F64"}}, 24),
    "another shape": ({"inputs": {**GOOD, "shape": [2, 4]}}, 24),
    "a huge shape": ({"inputs": {**GOOD, "shape": [2**40, 2**40]}}, 24),
    "cut off": ({"inputs": GOOD}, 20),
    "more behind them": ({"inputs": GOOD}, 28),
    "two in one place": ({"inputs": GOOD, "targets": GOOD}, 24),
}


@pytest.mark.parametrize("case", SPOILED)
def test_safetensors_that_do_not_fit_are_refused(tmp_path, case):
    """What its header says is checked before anything is read or reserved."""
    header, size = SPOILED[case]
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    assert_refused(write_raw(tmp_path / "a.safetensors", header, bytes(size)))


@pytest.mark.parametrize("content", [b"", b"1234", (2**60).to_bytes(8, "little") + b"{}", b"a,b\n1,2\n3,4\n"])
def test_what_is_no_safetensors_is_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert_refused(str(tmp_path / "a.safetensors"))


def assert_refused(path: str) -> None:
    with pytest.raises(UserError) as error:
        arrays(path)
    assert f"data.path={path}: not a whole .safetensors file: " in str(error.value)
    assert len(str(error.value).splitlines()) == 1


# --- what they mean ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        (numpy.array([0.5, 1.0, 2.0]), "regression"),
        (numpy.array([[0.5, 1.0]] * 3), "regression"),
        (numpy.array([0, 1, 2]), "multiclass"),
        (numpy.array([0, 1, 0]), "multiclass"),
        (numpy.array([True, False, True]), "multiclass"),
        (numpy.array([[0, 1], [1, 1], [0, 0]]), "multilabel"),
        (numpy.array([[True, False], [True, True], [False, True]]), "multilabel"),
    ],
)
def test_the_task_follows_from_the_targets(written, targets, task):
    path = written(inputs=numpy.zeros((3, 2), "float32"), targets=targets)
    found, why = arrays.task_of(path=path)
    assert found == task
    assert "targets is" in why


def test_without_targets_it_is_a_reconstruction(written):
    path = written(inputs=numpy.zeros((3, 2), "float32"))
    assert arrays.task_of(path=path, targets=None)[0] == "reconstruction"
    assert len(arrays(path, targets=None)) == 3


def test_whole_numbers_are_values_where_the_task_says_so(written):
    path = written(inputs=numpy.zeros((3, 2), "float32"), targets=numpy.array([10, 20, 30]))
    data = arrays(path, task="regression")
    assert data.targets.dtype == torch.float32
    assert data.targets.tolist() == [10, 20, 30]
    assert data.classes is None


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        ([1, 2, 3, 1], [0, 1, 2, 0], ["1", "2", "3"]),
        ([0, 1, 2, 7], [0, 1, 2, 3], ["0", "1", "2", "7"]),
        ([-1, 1, 1, -1], [0, 1, 1, 0], ["-1", "1"]),
        ([1, -100, 2, 1], [0, -100, 1, 0], ["1", "2"]),
    ],
)
def test_labels_are_numbered_where_they_have_gaps(written, labels, numbers, names):
    """There is no class that nobody has; and it is said what the classes are."""
    data = arrays(written(inputs=numpy.zeros((4, 2), "float32"), targets=numpy.array(labels)))
    assert data.targets.tolist() == numbers
    assert data.classes == names
    assert data.note == f"the classes are the {len(names)} labels that occur, {', '.join(names)}"


def test_bytes_have_no_label_that_is_ignored(written):
    """Compared with -100, torch would take an unsigned byte of 156 for it."""
    labels = numpy.arange(200, dtype="uint8")
    data = arrays(written(inputs=numpy.zeros((200, 2), "float32"), targets=labels))
    assert data.targets.tolist() == list(range(200))
    assert len(data.classes) == 200


def test_labels_from_0_on_are_what_they_were(written):
    data = arrays(written(inputs=numpy.zeros((4, 2), "float32"), targets=numpy.array([0, -100, 1, 2])))
    assert data.targets.tolist() == [0, -100, 1, 2]
    assert (data.classes, data.note) == (["0", "1", "2"], "")


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_one_hot_targets_are_classes(written, dtype):
    """And not a regression with three targets, nor labels that may all be true; unless that is said."""
    path = written(inputs=numpy.zeros((4, 2), "float32"), targets=numpy.eye(3)[[2, 0, 1, 1]].astype(dtype))
    task, why = arrays.task_of(path=path)
    assert task == "multiclass"
    assert why.endswith("one-hot")
    data = arrays(path, task="multiclass")
    assert data.targets.tolist() == [2, 0, 1, 1]
    assert data.classes == ["0", "1", "2"]
    assert data.note == "targets is one-hot, the place of the 1 is the class"
    assert arrays(path, task="multilabel").targets.shape == (4, 3)
    assert arrays(path, task="regression").targets.shape == (4, 3)
    if dtype == "float32":
        assert arrays(path, task="gaussian_regression").targets.shape == (4, 3)


@pytest.mark.slow
def test_what_is_ignored_counts_nowhere(tmp_path):
    """Labels of -100: neither in the loss nor in the metrics."""
    targets = numpy.array([0, 1, 2, -100] * 10)
    path = write_npz(tmp_path / "a.npz", inputs=numpy.eye(40, dtype="float32"), targets=targets)
    words = ["data=arrays", f"data.path={path}", "trainer.max_epochs=1", "logger=none", "model=linear"]
    run = plainloop.train(words)
    assert list(run.config.spec.class_names) == ["0", "1", "2"]
    assert 0 < run.metrics["val/loss"] < 3
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]
    alone = plainloop.evaluate(run.path, overrides=["loader.eval.batch_size=1"])  # batches in which nothing counts
    assert alone["test/loss"] == pytest.approx(run.metrics["test/loss"])
    assert alone["test/accuracy"] == pytest.approx(run.metrics["test/accuracy"])
    with pytest.raises(MachineError, match=r"every target of a batch is -100.*Raise loader\.batch_size"):
        plainloop.train([*words, "loader.batch_size=1", "loader.eval.batch_size=8"])


def test_names_of_classes_can_be_typed(written):
    path = written(inputs=numpy.zeros((3, 2), "float32"), targets=numpy.array([0, 1, 1]))
    assert arrays(path, classes=["cat", "dog"]).classes == ["cat", "dog"]
    with pytest.raises(UserError, match="sample 1 has label 1, outside the 1 classes"):
        arrays(path, classes=["cat"])


def test_bytes_of_three_axes_are_grey_images(written):
    """(N, H, W), as many files of images hold them."""
    images = numpy.arange(2 * 3 * 4, dtype="uint8").reshape(2, 3, 4)
    data = arrays(written(x_train=images, y_train=numpy.array([0, 1])), inputs="x_train", targets="y_train")
    assert tuple(data.inputs.shape) == (2, 1, 3, 4)
    assert numpy.array_equal(data.inputs[:, 0].numpy(), images)


@pytest.mark.parametrize(
    ("held", "arguments", "words"),
    [
        ({"x": numpy.zeros((2, 1))}, {}, ["data.inputs=inputs", "no such array. It has: x."]),
        ({"inputs": numpy.zeros((2, 1))}, {}, ["data.targets=targets", "It has: inputs"]),
        ({"inputs": numpy.array(1.0), "targets": numpy.arange(2)}, {}, ["data.inputs=inputs", "a single number"]),
        ({"inputs": numpy.zeros((2, 1)), "targets": numpy.arange(3)}, {}, ["2 inputs and 3 targets"]),
        ({"inputs": numpy.zeros(2), "targets": numpy.arange(2)}, {}, ["(2,)", "(N, F)"]),
        ({"inputs": numpy.array([[1.0], [numpy.inf]]), "targets": numpy.arange(2)}, {}, ["sample 1", "infinity"]),
    ],
    ids=["inputs", "targets", "a number", "unequal", "one axis", "infinity"],
)
def test_arrays_that_do_not_fit_are_named(written, held, arguments, words):
    """By the same words, whatever kind of file it is."""
    with pytest.raises(UserError) as error:
        arrays(written(**held), **arguments)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("name", ["none.npz", "none.safetensors", "none"])
def test_a_missing_file_is_named(name):
    with pytest.raises(UserError, match=f"data.path={name}: there is no such file"):
        plainloop.train(["data=arrays", f"data.path={name}"])


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no \.npy files"):
        arrays(str(tmp_path))


def test_a_single_npy_is_answered_with_the_folder(tmp_path):
    numpy.save(tmp_path / "x.npy", numpy.zeros((3, 2)))
    with pytest.raises(UserError, match="name the folder"):
        arrays(str(tmp_path / "x.npy"))


def test_no_path_is_answered_with_the_key():
    with pytest.raises(UserError, match=r"data\.path=VALUE"):
        plainloop.train(["data=arrays"])


# --- training ------------------------------------------------------------------------------------------------


def train(path: str, *words: str) -> Any:
    return plainloop.train(["data=arrays", f"data.path={path}", "logger=none", "loader.batch_size=16", *words])


def weights_of(run: Any) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint."""
    files = (run.path / "checkpoints").glob("step-*.pt")
    return torch.load(max(files, key=lambda file: int(file.stem[5:])), weights_only=True)["model"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "metric", "least"),
    one_in(3, [("kinds", "accuracy", 0.8), ("values", "r2", 0.9), ("labels", "label_accuracy", 0.8)]),
)
def test_it_trains_evaluates_and_resumes(tmp_path, capsys, targets, metric, least):
    """Classes, values and labels, from vectors; and the bits are those of a run that wasn't interrupted."""
    held = vectors()
    path = write_npz(tmp_path / "a.npz", **held, labels=numpy.stack([held["kinds"] % 2, held["kinds"] // 2], 1))
    words = ["data.inputs=points", f"data.targets={targets}", "optimizer.lr=0.02"]
    whole = train(path, *words, "trainer.max_epochs=4")
    assert f"{targets} is" in capsys.readouterr().out
    assert whole.metrics[f"test/{metric}"] >= least
    again = plainloop.evaluate(whole.path)
    assert again == {name: whole.metrics[name] for name in again}
    part = train(path, *words, "trainer.max_epochs=2")
    resumed = plainloop.train([f"resume={part.path}", "trainer.max_epochs=4"])
    torch.testing.assert_close(weights_of(resumed), weights_of(whole), rtol=0, atol=0)


@pytest.mark.slow
def test_the_kind_of_file_does_not_matter(tmp_path):
    """Images, with a network for images."""
    labels = balanced_labels(120)
    held = {"pictures": class_images(labels, side=8)[:, 0], "digits": labels}
    words = ["data.inputs=pictures", "data.targets=digits", "model=cnn", "model.channels=[8]", "trainer.max_epochs=2"]
    runs = [train(write(tmp_path / name, **held), *words) for name, write in WRITERS.items()]
    for run in runs[1:]:
        torch.testing.assert_close(weights_of(run), weights_of(runs[0]), rtol=0, atol=0)
        assert run.metrics["test/loss"] == runs[0].metrics["test/loss"]


@pytest.mark.parametrize("name", ["inputs", "targets"])
def test_digits_that_float32_does_not_have_are_told(name, tmp_path):
    values = {"inputs": numpy.arange(24.0).reshape(6, 4), "targets": numpy.arange(6.0)}
    numpy.savez(tmp_path / "plain.npz", **values)
    assert arrays(str(tmp_path / "plain.npz")).note == ""
    numpy.savez(tmp_path / "large.npz", **(values | {name: values[name] + 1.7e9}))
    assert (
        arrays(str(tmp_path / "large.npz")).note
        == f"{name} are rounded to the 7 digits of float32: subtract a constant from them"
    )
