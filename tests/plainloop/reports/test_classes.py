"""What is said of classes that a split lacks, or that are of very different sizes."""

from pathlib import Path

import numpy
import pytest

import plainloop
from tests.formats import write_npz


def lines_of(tmp_path: Path, capsys: pytest.CaptureFixture, labels: list[int], *words: str) -> list[str]:
    """The warnings and notes of a run of one step on samples with these labels."""
    inputs = numpy.random.default_rng(0).normal(size=(len(labels), 3)).astype("float32")
    write_npz(tmp_path / "points.npz", inputs=inputs, targets=numpy.array(labels))
    data = ["data=arrays", f"data.path={tmp_path}/points.npz", "trainer.max_steps=1", "logger=none"]
    plainloop.train([*data, *words])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("warning", "note"))]
    return [line for line in lines if not line.startswith("note    task=")]


def test_a_split_of_one_class_is_told(tmp_path, capsys):
    """Two frauds in 300 rows: 100 % right is no achievement, nor is a validation that can't come out otherwise."""
    lines = lines_of(tmp_path, capsys, [0] * 298 + [1] * 2)
    told = [line for line in lines if "are of one class (0)" in line]
    splits = [line.split(" samples of ")[1].split()[0] for line in told]
    assert "val" in splits
    assert all(
        ("can't choose the best weights" in line) == (split == "val") for line, split in zip(told, splits, strict=True)
    )
    assert all(line.startswith("warning: all ") for line in told)


def test_a_split_without_a_class_is_told(tmp_path, capsys):
    (line,) = [line for line in lines_of(tmp_path, capsys, [0, 1] * 100 + [7] * 2) if "val has no sample" in line]
    assert line == "warning: val has no sample of 7: what is measured there says nothing of it"


def test_uneven_classes_are_told_of_every_kind_of_data(tmp_path, capsys):
    labels = [0] * 100 + [1] * 20
    assert [line for line in lines_of(tmp_path, capsys, labels) if "loader.sampler" in line] == [
        "note    16 to 80 training samples of a class, fewest of 1: loader.sampler=balanced draws all classes as often"
    ]
    assert not [line for line in lines_of(tmp_path, capsys, labels, "loader.sampler=balanced") if "sampler" in line]


def test_even_classes_are_passed_over(tmp_path, capsys):
    assert lines_of(tmp_path, capsys, [0, 1, 2] * 40) == []


def test_a_class_that_training_lacks_is_told(tmp_path, capsys):
    """Its name is typed, and nothing of it is there."""
    lines = lines_of(tmp_path, capsys, [0, 1] * 40, "data.classes=[a,b,c]")
    assert lines == ["warning: train has no sample of c: it can't be learned"]
