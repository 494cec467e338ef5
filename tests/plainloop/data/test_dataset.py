"""The protocol of a data set: what is asked of it, whatever it is wrapped in."""

import ast
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from plainloop.data import InMemory
from plainloop.data.dataset import (
    BaseDataset,
    Described,
    asked,
    beneath,
    file_of,
    per_sample,
    place_of,
    stand_in,
    targets_of,
)
from plainloop.data.fetch import named
from plainloop.data.transforms import transformed
from tests.conftest import ROOT


class Plain(Dataset):
    """A user's own, which inherits nothing of ours."""

    classes = ("cat", "dog")
    gives_batches = True

    def __init__(self, count: int = 6):
        self.targets = [index % 2 for index in range(count)]
        self.samples = [(f"{index}.png", target) for index, target in enumerate(self.targets)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float(index)]), self.targets[index]

    def where(self, index: int) -> str:
        return f"line {index}"


class Wrapper(Dataset):
    """Somebody's wrapper, which says something of its own."""

    target_names = ("price",)

    def __init__(self, dataset: Any):
        self.dataset = dataset


def doubled(inputs: Tensor) -> Tensor:
    return 2 * inputs


def wrapped(dataset: Any) -> Any:
    """The samples 5, 3, 1, and of these the last and the first."""
    return transformed(Subset(Subset(dataset, [5, 3, 1]), [2, 0]), doubled)


def test_who_says_nothing_has_the_defaults():
    class Silent(Dataset):
        pass

    for name in [*vars(Described), *vars(BaseDataset)]:
        if not name.startswith("_"):
            assert asked(Silent(), name) == asked(None, name) == getattr(BaseDataset, name)
    with pytest.raises(AttributeError):
        asked(Silent(), "clases")


@pytest.mark.parametrize("wrap", [lambda data: data, wrapped, lambda data: Wrapper(wrapped(data))])
def test_what_samples_are_holds_in_any_wrapper(wrap):
    assert asked(wrap(Plain()), "classes") == ("cat", "dog")


def test_a_wrapper_that_knows_better_is_believed():
    assert asked(Wrapper(InMemory(torch.zeros(2, 1), torch.zeros(2, 1), target_names=["a"])), "target_names") == (
        "price",
    )


def test_how_it_is_read_is_said_by_the_outermost_alone():
    data = Plain()
    assert asked(data, "gives_batches")
    for wrap in (wrapped, Wrapper, lambda data: Subset(data, [0])):
        assert asked(wrap(data), "gives_batches") is False


def test_a_streams_transforms_hand_on_how_it_is_read():
    class Stream(BaseDataset, IterableDataset):
        told = -1

        def __iter__(self):
            return iter([1, 2])

        def decode(self, raw: int) -> int:
            return 10 * raw

        def set_epoch(self, epoch: int) -> None:
            self.told = epoch

    stream = Stream()
    through = transformed(stream, lambda number: number + 1)
    asked(through, "set_epoch")(3)
    assert stream.told == 3
    assert [through.decode(raw) for raw in through] == [11, 21]
    assert asked(through, "state_dict") is None


def test_numbers_of_samples_are_those_of_the_samples_that_are_meant():
    data = Plain()
    data.targets = [10, 11, 12, 13, 14, 15]
    assert targets_of(data).tolist() == [10, 11, 12, 13, 14, 15]
    assert targets_of(wrapped(data)).tolist() == [11, 15]
    assert per_sample(wrapped(data), "lengths") is None
    assert per_sample(wrapped(data), "samples") is None  # no numbers
    assert beneath(wrapped(data))[0] is data


def test_a_sample_is_named_as_its_data_set_names_it():
    data = Plain()
    assert place_of(wrapped(data), "val", 1) == "line 5"
    assert named(wrapped(data), 1) == (5, "sample 5 (5.png)")
    assert place_of(Subset(InMemory(torch.zeros(3, 1), torch.zeros(3)), [2]), "val", 0) == "data: sample 0 of val"
    assert file_of(data, 3) == "3.png"
    data.samples = data.samples[:-1]  # not one for each
    assert file_of(data, 3) is None


def test_what_a_stream_has_looked_at_stands_for_all():
    data, few = Plain(), InMemory(torch.zeros(0, 1), torch.zeros(0))
    assert stand_in(data) is data
    data.looked_at = few
    assert stand_in(data) is few  # though it is empty


def test_nobody_asks_for_what_the_protocol_does_not_name():
    """Every word that the engine gives to `asked` is an attribute of the class."""
    words = set()
    for path in (ROOT / "src" / "plainloop").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "asked":
                assert isinstance(node.args[1], ast.Constant)
                words.add(node.args[1].value)
    assert {"classes", "gives_batches", "make_preprocess"} <= words
    assert all(hasattr(BaseDataset, word) for word in words)
