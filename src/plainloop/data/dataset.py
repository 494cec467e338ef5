"""Where samples come from. A data set is a torch `Dataset`: it has a length, and an index gives one sample.

Data that fits in memory is held as two tensors and fetched a batch at a time, which is a hundred times faster
than a sample at a time; images stay uint8 until they are on the device.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from plainloop.errors import UserError

SPLITS = ("train", "val", "test")
IGNORED = -100  # the label that torch's losses pass over, unless their ignore_index names another


class Described:
    """What a data set tells of its samples. It holds whatever they are wrapped in: a Subset, transforms."""

    # Names of the classes, in the order of their numbers, where the targets are classes.
    classes: Sequence[str] | None = None
    # All targets (N, ...) as a tensor, an array or a list: splits are stratified, classes counted and labels checked
    # by them, without reading every sample.
    targets: Any = None
    # Names of the T values or labels, where the targets are no classes; and the columns that they are of, which are
    # fewer where there are several steps of each.
    target_names: Sequence[str] | None = None
    target_columns: Sequence[str] | None = None
    # How long each sample is, (N,): for batches of similar length (loader.batch_sampler=length).
    lengths: Any = None
    # All inputs (N, ...), where they are in memory: for a look whether splits share samples.
    inputs: Tensor | None = None
    # The file of each sample, or a tuple that begins with it, under any of these names: for errors, and for the same
    # look.
    samples: Sequence[Any] | None = None
    paths: Sequence[Any] | None = None
    files: Sequence[Any] | None = None
    # A remark for the data line of the terminal, as "2 rows with missing values left out".
    note: str | None = None
    # Facts for section `spec`, by their names there, beside those that a sample and the task tell.
    facts: dict[str, Any] | None = None
    # Of a stream, samples that stand for all: statistics are of them.
    looked_at: Dataset | None = None
    # (samples) -> batch, where torch's default_collate won't do.
    collate_fn: Callable[[list[Any]], Any] | None = None
    # (transforms.normalize, batches of the training split) -> what becomes of inputs on the device before the model;
    # None for `preprocess.make_preprocess`.
    make_preprocess: Callable[[Any, Iterable[Any]], nn.Module] | None = None
    # (index) -> where a sample comes from, for errors: "pets.csv, line 7".
    where: Callable[[int], str] | None = None
    # (index) -> a sample in words, for people: its text, its row. (An image is shown as it is.)
    shown: Callable[[int], str] | None = None
    # (index) -> what tells that a sample has changed, cheaper than reading it: its text, the size of its file.
    content_of: Callable[[int], Any] | None = None
    # () -> a value for each sample, equal where the samples count as the same.
    identities: Callable[[], Sequence[Any]] | None = None


class BaseDataset(Described, Dataset):
    """All that the engine asks of a data set beside torch's own `__len__`, `__getitem__` and, of a stream, `__iter__`:
    what it tells of its samples, and here, how they are read and divided, which is the outermost wrapper's affair.

    Everything is optional, and None says nothing. A data set of your own sets what it knows, and needn't inherit from
    this class: `asked` reads the same attributes of any torch Dataset.
    """

    # `__getitems__(indices)` gives a batch that needs no collating, instead of a list of samples.
    gives_batches: bool = False
    # (device): hold the samples there, and make batches there.
    to: Callable[[torch.device], None] | None = None
    # Of a stream: (raw) -> sample, for what `__iter__` gives; it is done by one process, where every one walks along.
    decode: Callable[[Any], Any] | None = None
    # Of a stream: (epoch), told before each.
    set_epoch: Callable[[int], None] | None = None
    # Of a stream that can go to a place: () -> state behind what was given last, and (state), from which the next
    # iteration goes on; without it, every iteration begins at the beginning.
    state_dict: Callable[[], Any] | None = None
    load_state_dict: Callable[[Any], None] | None = None
    # Whether it has divided itself, by time say: a split that it lacks isn't cut from train.
    divided: bool = False
    # (name) -> a value for each sample, for split.group and split.time; None: the attribute of that name.
    column: Callable[[str], Sequence[Any]] | None = None
    # (indices (N,)) of the training samples, once they are known: a vocabulary is built from these alone.
    fit: Callable[[Tensor], None] | None = None
    # (indices (N,)) -> the samples there as a data set of the same kind; None for a torch Subset.
    select: Callable[[Any], Dataset] | None = None

    # Asked of the class, or of the function that builds it: those of train, val and test that it has, where it takes
    # an argument `split`.
    splits: Sequence[str] | None = None
    # Asked there, too: (**arguments) -> the task that its targets ask for, and why (task=auto).
    task_of: Callable[..., tuple[str, str]] | None = None


def asked(dataset: Any, name: str) -> Any:
    """What a data set says by an attribute of `BaseDataset`, whatever it is wrapped in; else that one's default."""
    holder = beneath(dataset, name)[0] if hasattr(Described, name) else dataset
    said = getattr(holder, name, None)
    return getattr(BaseDataset, name) if said is None else said


def beneath(dataset: Any, name: str | None = None) -> tuple[Any, Tensor | None]:
    """What lies under wrappers (whatever has an attribute `dataset`, as a Subset and transforms do).

    Returns:
        the first on the way down that has the attribute `name`, else the innermost; and which of its samples are
        meant: their indices (N,), or None for all of them as they are.
    """
    chosen: Tensor | None = None
    while (name is None or getattr(dataset, name, None) is None) and hasattr(dataset, "dataset"):
        if hasattr(dataset, "indices"):
            indices = torch.as_tensor(dataset.indices)
            chosen = indices if chosen is None else indices[chosen]
        dataset = dataset.dataset
    return dataset, chosen


def per_sample(dataset: Any, name: str) -> Tensor | None:
    """A number for each sample, (N, ...), that a data set holds as an attribute: its targets, lengths; or None."""
    inner, chosen = beneath(dataset, name)
    values = getattr(inner, name, None)
    if values is None:
        return None
    try:
        values = torch.as_tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None
    return values if chosen is None else values[chosen]


def targets_of(dataset: Dataset | None) -> Tensor | None:
    """All targets of a data set that holds them as `targets` (as ours and torchvision's do), or None."""
    targets = per_sample(dataset, "targets")
    # An unsigned byte can't be -100, the label that is ignored, and torch would take 156 for it.
    return targets.long() if targets is not None and targets.ndim == 1 and targets.dtype == torch.uint8 else targets


def place_of(dataset: Any, split: str, index: int) -> str:
    """Where a sample comes from, as the data set tells it by `where`; else its index."""
    inner, chosen = beneath(dataset, "where")
    where = getattr(inner, "where", None)
    if where is None:
        return f"data: sample {index} of {split}"
    return where(index if chosen is None else int(chosen[index]))


def file_of(inner: Any, index: int) -> str | None:
    """The file of a sample, where a data set lists one for each (as torchvision's folders do, in `samples`).

    Args:
        inner: the data set without its wrappers.
    """
    for name in ("samples", "paths", "files"):
        entries = getattr(inner, name, None)
        if isinstance(entries, Sequence) and 0 < len(entries) == length(inner):
            entry = entries[index]
            entry = entry[0] if isinstance(entry, tuple | list) and entry else entry
            if isinstance(entry, str | os.PathLike):
                return os.fspath(entry)
    return None


def stand_in(dataset: Any) -> Dataset:
    """Of a stream, the samples that it has looked at, which stand for all; another data set itself."""
    few = asked(dataset, "looked_at")
    return dataset if few is None else few


def size(dataset: Dataset | None) -> int | None:
    """Samples in a split: 0 for none, None for a stream that doesn't know."""
    if dataset is None:
        return 0
    unknown = isinstance(dataset, IterableDataset) and not hasattr(dataset, "__len__")
    return None if unknown else length(dataset)


def length(dataset: Dataset) -> int:
    """Samples in a split that can be looked up by index."""
    return len(dataset)  # type: ignore[arg-type]


class InMemory(BaseDataset):
    """Inputs (N, ...) and targets (N, ...) as tensors.

    An index gives (input, target); `__getitems__`, which the DataLoader prefers, gives a whole batch
    (inputs (B, ...), targets (B, ...)) that needs no collating.

    Args:
        inputs: images (N, C, H, W) as uint8, or features (N, F) as float32.
        targets: classes (N,) as int64, or values (N, T) as float32.
        classes: names of the classes, in order, where the targets are classes.
        target_names: names of the T values, where they are not.
        note: a remark for the data line of the terminal, as "2 rows with missing values left out".
    """

    gives_batches = True
    inputs: Tensor
    targets: Tensor

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        classes: Sequence[str] | None = None,
        target_names: Sequence[str] | None = None,
        note: str = "",
    ):
        if len(inputs) != len(targets):
            raise UserError(f"data: {len(inputs)} inputs and {len(targets)} targets: their numbers must be equal.")
        self.inputs, self.targets = inputs, targets
        self.classes, self.target_names, self.note = classes, target_names, note

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(indices, device=self.inputs.device)
        return self.inputs.index_select(0, rows), self.targets.index_select(0, rows)  # twice as fast as [rows]

    def to(self, device: torch.device) -> None:
        """Hold the samples on this device: batches are made there, and needn't be copied to it."""
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)

    def select(self, indices: Sequence[int]) -> "InMemory":
        """The samples at these indices, as a data set of their own."""
        inputs, targets = self.__getitems__(indices)
        return InMemory(inputs, targets, self.classes, self.target_names, self.note or "")
