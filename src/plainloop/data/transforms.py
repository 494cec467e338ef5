"""What happens to one sample after it was read: a pipeline of torchvision's transforms, or of modules of one's own.

It runs where the sample is loaded, under the sample's seed. What can be done to a whole batch at once is cheaper on
the device: `plainloop.data.augment`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from plainloop.data.dataset import asked

Pipeline = Callable[[Any], Any]


def transformed(dataset: Dataset, pipeline: Pipeline) -> Dataset:
    """A data set whose samples' inputs have gone through a pipeline."""
    if isinstance(dataset, IterableDataset):
        return (SizedStream if hasattr(dataset, "__len__") else TransformedStream)(dataset, pipeline)
    return Transformed(dataset, pipeline)


def _applied(sample: Any, pipeline: Pipeline) -> Any:
    """The first part of a sample, or all of one that has no parts."""
    return (pipeline(sample[0]), *sample[1:]) if isinstance(sample, tuple | list) else pipeline(sample)


class Transformed(Dataset):
    """Samples one by one, also of data in memory."""

    def __init__(self, dataset: Any, pipeline: Pipeline):
        self.dataset, self.pipeline = dataset, pipeline

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return _applied(self.dataset[index], self.pipeline)


class TransformedStream(IterableDataset):
    """Of a stream, what its `decode` gives."""

    def __init__(self, dataset: Any, pipeline: Pipeline):
        self.dataset, self.pipeline = dataset, pipeline
        self.decode_inner = asked(dataset, "decode")
        self.set_epoch, self.state_dict = asked(dataset, "set_epoch"), asked(dataset, "state_dict")
        self.load_state_dict = asked(dataset, "load_state_dict")

    def __iter__(self) -> Iterator[Any]:
        return iter(self.dataset)

    def decode(self, raw: Any) -> Any:
        return _applied(self.decode_inner(raw) if self.decode_inner else raw, self.pipeline)


class SizedStream(TransformedStream):
    """One that knows its length."""

    def __len__(self) -> int:
        return len(self.dataset)
