"""What happens to the rows of a table on the device: missing numbers are filled, numbers standardised, words become a
column each, or stay codes to be embedded."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plainloop.data.preprocess import scale_and_shift


class TableEncoder(nn.Module):
    """Rows as a `Table` holds them to what the model gets.

    A missing number becomes the training split's mean; then each is (x - mean) / std. Of a category every word
    becomes a column of 0 and 1 ("one-hot"), all of them 0 where it is missing; or, to be embedded, its code stays. A
    word that the training split doesn't have counts as missing: nothing has been learned about it.

    Args:
        fill: what takes the place of a missing number, (F,).
        mean, std: of the numbers, (F,).
        known: for each category, which of its codes the training split has, (words + 1,).
        embed: whether codes stay codes.
    """

    fill: Tensor
    scale: Tensor
    shift: Tensor
    known: Tensor
    first: Tensor
    column: Tensor
    word: Tensor

    def __init__(self, fill: Tensor, mean: Tensor, std: Tensor, known: Sequence[Tensor], embed: bool):
        super().__init__()
        self.numbers, self.categories, self.embed = len(fill), len(known), embed
        self.register_buffer("fill", fill.float())
        scale, shift = scale_and_shift(mean, std)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        if known and embed:
            sizes = torch.tensor([len(flags) for flags in known])
            self.register_buffer("known", torch.cat(list(known)).float())
            self.register_buffer("first", sizes.cumsum(0) - sizes, persistent=False)  # of a category's flags in `known`
        elif known:
            # Of each one-hot column: the input that it looks at, and its word's code; one that no input has (-1) where
            # the training split doesn't have the word.
            words = [torch.arange(1, len(flags)).where(flags[1:].bool(), -1) for flags in known]
            columns = [torch.full_like(codes, len(fill) + place) for place, codes in enumerate(words)]
            self.register_buffer("word", torch.cat(words).float())
            self.register_buffer("column", torch.cat(columns), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, F + K) to (N, F + all words), or to (N, F + K) where codes stay."""
        numbers = inputs[:, : self.numbers]
        numbers = torch.where(numbers.isnan(), self.fill, numbers) * self.scale + self.shift
        if self.categories == 0:
            return numbers
        if self.embed:
            codes = inputs[:, self.numbers :]
            words = codes * self.known[codes.long() + self.first]
        else:
            words = (inputs.index_select(1, self.column) == self.word).to(inputs.dtype)
        return torch.cat([numbers, words], 1)
