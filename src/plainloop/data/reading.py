"""New inputs, which have no targets, read as the samples of a run's own data were.

What a kind of data must know about that stands in its own file, as the attribute `reader` of its factory; what its data
set found out of the files that it was trained on, as the fact `reading` of `spec`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from plainloop.data.dataset import BaseDataset
from plainloop.data.raw import Raw, of_arrays
from plainloop.errors import UserError


@dataclass
class New:
    """Inputs to predict from.

    Args:
        dataset: gives (input, number) for each; the number is -1 - place for one that can't be read.
        column: what `names` are, in the head of a table: "file", "row".
        names: what each is called, by its place.
        why: (place) -> why it can't be read.
        notes: what should be said of them.
    """

    dataset: Dataset
    column: str
    names: Sequence[Any]
    why: Callable[[int], str] = str
    notes: list[str] = field(default_factory=list)


class Reader:
    """Reads new inputs of one kind of data.

    Args:
        node: the arguments of the data set, as the run's config has them.
        spec: the facts about the data: its `reading` among them.
    """

    takes_text = False  # whether a text itself may be given

    def __init__(self, node: Mapping[str, Any], spec: Any):
        self.node, self.spec = node, spec

    def preprocess(self) -> nn.Module | None:
        """What becomes of inputs on the device, of the right form, for the run's state to be loaded into; None for
        plain normalisation."""
        return None

    def open(self, given: Any) -> New:
        """What `input=` names: a path; or, from Python, arrays, rows or paths. Raises UserError."""
        raise UserError(
            f"{self.node['_target_']}: nobody has said how new inputs of this kind of data are read. Give it an "
            "attribute `reader` (a plainloop.data.reading.Reader), or call plainloop.load_run(RUN).model yourself."
        )

    def raw(self) -> Raw:
        """What an exported file takes. Raises UserError."""
        shape = (self.spec.reading or {}).get("shape")
        if shape is None:
            raise UserError(
                f"{self.node['_target_']}: nobody has said what an exported file of this kind of data takes, and its "
                "inputs are no single tensor. Give it an attribute `reader` (a plainloop.data.reading.Reader) whose "
                "method raw() does."
            )
        return of_arrays(shape)

    def truths(self, given: Any, new: New) -> tuple[Tensor, Tensor]:
        """The targets that stand beside new inputs, for a measurement, (N, ...) as the task takes them; and which of
        them are there, (N,). Raises UserError where there are none, or others than the model knows.

        Args:
            given: what `input=` names.
            new: what `open` made of it.
        """
        raise UserError(
            "input: what is right can't be read beside new inputs of this kind of data. Its own splits are measured "
            "by split=, also where data.path= says that the data lies elsewhere now."
        )

    def reading(self, name: str) -> Any:
        """What the data set found out of its files. Raises UserError where the run doesn't tell."""
        found = (self.spec.reading or {}).get(name)
        if found is None:
            raise UserError(
                "this run doesn't tell how its samples were read: it was made before plainloop could predict. Train "
                "it anew, or extend it: python train.py extend=RUN trainer.max_epochs=1"
            )
        return found


class Rows(BaseDataset):
    """Inputs in memory, fetched a batch at a time: (inputs (B, ...), places (B,))."""

    gives_batches = True
    inputs: Tensor

    def __init__(self, inputs: Tensor):
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index], index

    def __getitems__(self, indices: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(indices)
        return self.inputs.index_select(0, rows), rows
