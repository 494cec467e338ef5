"""A small residual network for images from 8 x 8 to 64 x 64 and beyond."""

from collections.abc import Sequence

from torch import Tensor, nn

from plainloop.models.layers import check_counts, check_dropout, check_sizes


class BasicBlock(nn.Module):
    """Two convolutions whose result is added to what came in: they learn what to change, and the gradient passes by
    them unhindered (He et al. 2015, "Deep residual learning for image recognition").

    Args:
        in_channels, out_channels: of the images that come in and go out.
        stride: 2 halves them.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)  # the norm has one
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:  # to be added, it must have the new shape
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        change = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(images)))))
        return self.relu(self.shortcut(images) + change)


class ResNet(nn.Module):
    """A convolution, stages of blocks, and a linear layer behind the average over what is left of the image.

    From one stage to the next the images are halved, as long as at least 4 x 4 pixels remain, and the channels doubled.
    The first convolution leaves small images as large as they are, as in the paper's networks for CIFAR-10; of images
    over 64 pixels it keeps every second pixel.

    Args:
        in_channels: 1 for grey images, 3 for colour.
        num_classes: outputs per image (logits).
        image_size: height and width; decides where the images are halved.
        width: channels of the first stage.
        depth: blocks in each stage, of two convolutions each; None for [2,2,2], and a fourth stage of 2 for images
            of over 64 pixels.
        dropout: share of the averaged features set to zero while training.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: Sequence[int],
        width: int = 32,
        depth: Sequence[int] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_counts(width=width)
        check_dropout(dropout)
        side = min(image_size)
        if depth is None:
            depth = (2, 2, 2) if side <= 64 else (2, 2, 2, 2)
        check_sizes(least=1, example="[2,2,2]", depth=depth)
        stride = 1 if side <= 64 else 2
        side = -(-side // stride)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks, channels = [], width
        for stage, count in enumerate(depth):
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 and side >= 8 else 1
                side = -(-side // stride)
                blocks.append(BasicBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, num_classes)
        )
        for module in self.modules():  # what goes in and what comes out of a layer vary alike (He et al. 2015, "Delving
            if isinstance(module, nn.Conv2d):  # deep into rectifiers")
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        return self.head(self.blocks(self.stem(images)))
