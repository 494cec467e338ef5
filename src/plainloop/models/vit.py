"""A small vision transformer: an image is a sequence of patches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plainloop.errors import UserError
from plainloop.models.attention import Transformer
from plainloop.models.layers import check_counts

MOST = 256  # patches of an image, where their size isn't given: attention compares each with each


class ViT(nn.Module):
    """Patches, each turned into a vector, go through a transformer with one vector more, which belongs to no patch and
    says in the end what the image shows (Dosovitskiy et al. 2020, "An image is worth 16x16 words").

    Args:
        in_channels: 1 for grey images, 3 for colour.
        num_classes: outputs per image (logits).
        image_size: height and width.
        patch_size: side of a patch, which divides both; None for about an eighth of the image: 2 of 8 x 8, 4 of 28 x 28
            and 32 x 32, 8 of 64 x 64.
        width, layers, heads, dropout: of the `Transformer`; dropout acts on the patches' vectors, too.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: Sequence[int],
        patch_size: int | None = None,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        transformer = Transformer(width, layers, heads, dropout)
        size = patch_size if patch_size is not None else suitable_patch_size(image_size)
        check_counts(patch_size=size)
        height, wide = image_size
        if height % size or wide % size:
            fitting = [number for number in range(1, min(image_size) + 1) if not (height % number or wide % number)]
            raise UserError(
                f"model.patch_size={size}: doesn't divide images of {height} x {wide}. What does: "
                f"{', '.join(map(str, fitting))}."
            )
        # One linear layer for every patch alike is a convolution that moves on by its own size.
        self.patches = nn.Conv2d(in_channels, width, kernel_size=size, stride=size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (height // size) * (wide // size), width))
        # About as large as the patches' own vectors: with the usual 0.02, training takes long to tell places apart.
        nn.init.normal_(self.positions, std=0.5)
        self.dropout = nn.Dropout(dropout)
        self.transformer = transformer
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        vectors = self.patches(images).flatten(2).transpose(1, 2)  # (N, patches, width)
        vectors = torch.cat([self.class_token.expand(images.shape[0], -1, -1), vectors], dim=1)
        return self.head(self.transformer(self.dropout(vectors + self.positions))[:, 0])


def suitable_patch_size(image_size: Sequence[int]) -> int:
    """Of the sizes that divide both sides, the one next to an eighth of the shorter side. Raises UserError where it
    leaves too many patches."""
    height, wide = image_size
    side = min(image_size)
    fitting = [number for number in range(1, side + 1) if not (height % number or wide % number)]
    size = min(fitting, key=lambda number: abs(number - max(2, side / 8)))
    count = height * wide // size**2
    if count > MOST:
        raise UserError(
            f"model.patch_size=null: the best that divides images of {height} x {wide} is {size}, which "
            f"makes {count:,} patches of them. Take images of another size, such as {-(-side // 8) * 8}, "
            f"or model=resnet, or set model.patch_size={size} all the same."
        )
    return size
