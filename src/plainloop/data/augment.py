"""Augmentation of whole batches on the device, with randomness of its own for every sample.

Doing it to a batch at once costs a fifth of doing it to one image after the other. The numbers are drawn from the
device's default generator, which the trainer seeds before each step: so they follow from (seed, step).
"""

import torch
from torch import Tensor, nn

from plainloop.errors import UserError


class Augment:
    """What happens to images (N, C, H, W) of the training split alone.

    Args:
        flip: mirror each image left to right with probability 1/2.
        crop: pad by so many pixels of zero and cut out a window of the old size, anywhere.
        cutout: set a square of this side to zero, around a point anywhere in the image (DeVries and Taylor 2017,
            "Improved regularization of convolutional neural networks with cutout"); zero is the mean of normalised
            images.
        mixup, cutmix: the alpha of Beta(alpha, alpha), from which the share of another image of the batch comes:
            blended in (Zhang et al. 2018, "mixup: beyond empirical risk minimization"), or pasted in as a rectangle
            that lies anywhere within the image (Yun et al. 2019, "CutMix"). Targets become (N, num_classes) shares.
            With both, each batch takes one of the two.
        num_classes: of the targets.
    """

    def __init__(
        self,
        flip: bool = False,
        crop: int = 0,
        cutout: int = 0,
        mixup: float | None = None,
        cutmix: float | None = None,
        num_classes: int | None = None,
    ):
        self.flip, self.crop, self.cutout = flip, crop, cutout
        self.mixup, self.cutmix, self.num_classes = mixup, cutmix, num_classes
        self.mixes = bool(mixup or cutmix)
        if self.mixes and num_classes is None:
            raise UserError("transforms.mixup and transforms.cutmix mix the labels of classes, and this data has none.")

    def before(self, images: Tensor) -> Tensor:
        """Before `preprocess`: moves pixels, whatever their type."""
        if self.flip:
            mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(mirrored, images.flip(-1), images)
        return self._cropped(images) if self.crop else images

    def _cropped(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        padded = nn.functional.pad(images, [self.crop] * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, tops, lefts, H, W): views, no copies
        top, left = torch.randint(2 * self.crop + 1, (2, count), device=images.device)
        return windows[torch.arange(count, device=images.device), :, top, left]

    def after(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """After `preprocess`: covers pixels, and mixes images with others of the batch."""
        if self.cutout:
            images = torch.where(self._squares(images, self.cutout), 0.0, images)
        if self.mixes:
            assert self.num_classes is not None
            shares = nn.functional.one_hot(targets.long(), self.num_classes).to(images.dtype)
            return self._mixed(images, shares)
        return images, targets

    def _squares(self, images: Tensor, side: int) -> Tensor:
        """(N, 1, H, W): whether a pixel lies in its image's square, which may reach over the edge."""
        count, _, height, width = images.shape
        y = torch.randint(height, (count, 1), device=images.device) - side // 2
        x = torch.randint(width, (count, 1), device=images.device) - side // 2
        return _box(images, y, y + side, x, x + side)

    def _mixed(self, images: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        count, _, height, width = images.shape
        cuts = bool(self.cutmix) and (not self.mixup or torch.rand(()).item() < 0.5)
        alpha = torch.tensor(float((self.cutmix if cuts else self.mixup) or 0.0))
        weight = torch.distributions.Beta(alpha, alpha).sample((count, 1)).to(images)
        # Of a pair, the image with the larger share stays in its place: as good as any order, and what is measured at
        # a log point against the batch's own labels means something.
        weight = torch.maximum(weight, 1 - weight)
        other = torch.randperm(count, device=images.device)
        if not cuts:
            blended = torch.lerp(images[other], images, weight[:, :, None, None])
            return blended, torch.lerp(shares[other], shares, weight)
        tall, wide = ((1 - weight).sqrt() * height).round(), ((1 - weight).sqrt() * width).round()
        y = (torch.rand(count, 1, device=images.device) * (height - tall + 1)).floor()
        x = (torch.rand(count, 1, device=images.device) * (width - wide + 1)).floor()
        pasted = torch.where(_box(images, y, y + tall, x, x + wide), images[other], images)
        return pasted, torch.lerp(shares[other], shares, 1 - tall * wide / (height * width))


def _box(images: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(N, 1, H, W): whether a pixel lies in its image's box; the edges are (N, 1)."""
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
