"""What an exported file takes: inputs before anything is done to them, and how somebody without this project makes them
of a file.

What a kind of data must know about that stands in its own file, as `raw` of its `reader`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# A program gets its inputs of a file of NumPy's. `path` is the file, `facts` what the model's metadata tells.
OF_AN_ARRAY = """\
array = numpy.load(path)
inputs = {"inputs": (array if path.endswith(".npy") else array[facts["array"]]).astype("float32")}
"""


class Raw(nn.Module):
    """Inputs by name. As a module, it makes of them a batch as the data set gives it to `preprocess`.

    Args:
        types: of each input.
        axes: of each input, what its axes are called, the first of them "batch"; a number for one of that length.
        sizes: of each axis with a name but the batch: one to trace with, and some to try.
        facts: what a program must know to make the inputs, beside what every file tells: plain values.
        script: the program's lines that make `inputs` of the file `path`.
        imports: the lines that it begins with.
        highest: of whole-numbered inputs, the numbers that there are.
    """

    def __init__(
        self,
        types: Mapping[str, torch.dtype],
        axes: Mapping[str, Sequence[str | int]],
        sizes: Mapping[str, Sequence[int]] | None = None,
        facts: Mapping[str, Any] | None = None,
        script: str = OF_AN_ARRAY,
        imports: str = "",
        highest: int = 256,
    ):
        super().__init__()
        self.types, self.axes, self.sizes = dict(types), {name: tuple(each) for name, each in axes.items()}, sizes or {}
        self.facts, self.script, self.imports, self.highest = dict(facts or {}), script, imports, highest

    def draw(self, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Some inputs.

        Args:
            sizes: how long each axis is that has a name.
        """
        drawn = {}
        for name, axes in self.axes.items():
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in axes]
            if self.types[name].is_floating_point:
                drawn[name] = torch.randn(shape, generator=generator, dtype=self.types[name])
            else:
                drawn[name] = torch.randint(self.highest, shape, generator=generator, dtype=self.types[name])
        return drawn

    def forward(self, **inputs: Tensor) -> Any:
        """The inputs as a batch."""
        (alone,) = inputs.values()
        return alone

    def back(self, batch: Any) -> dict[str, Tensor]:
        """A batch as the inputs that it might have been made of."""
        (name,) = self.axes
        return {name: batch}


def of_arrays(shape: Sequence[int], array: str = "inputs", first: str | None = None) -> Raw:
    """Numbers of one shape.

    Args:
        array: under which name a file of several has them.
        first: what the first axis of a sample is called, where samples may be shorter and longer along it.
    """
    sizes = {} if first is None else {first: lengths(shape[0])}
    axes: tuple[str | int, ...] = ("batch", *shape) if first is None else ("batch", first, *shape[1:])
    return Raw({"inputs": torch.float32}, {"inputs": axes}, sizes, {"array": array})


def lengths(own: int) -> tuple[int, ...]:
    """An axis's own length, and three to try."""
    return own, max(1, own // 2), own + 1, 2 * own + 3


class Places(Raw):
    """Numbers of tokens, (N, T), as many in each row.

    Args:
        count: T, as it was trained with.
        tokens: how many tokens there are.
    """

    def __init__(self, count: int, tokens: int, **about: Any):
        types, axes = {"tokens": torch.int64}, {"tokens": ("batch", "length")}
        super().__init__(types, axes, {"length": lengths(count)}, highest=tokens, **about)
