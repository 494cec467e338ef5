"""A small convolutional network for images of any size from 8 x 8 to 224 x 224 and beyond."""

from collections.abc import Sequence

from torch import Tensor, nn

from plainloop.models.layers import activation_named, check_dropout, check_sizes


class CNN(nn.Module):
    """Blocks of convolution - batch norm - activation - (pooling), then an average over what is left of the image.

    Each block doubles the receptive field by halving the image, as long as at least 4 x 4 pixels remain, so that
    the same network suits 8 x 8 digits and 224 x 224 photographs; the average at the end (Lin et al. 2013,
    "Network in network") makes the number of weights independent of the image's size.

    Args:
        in_channels: 1 for grey images, 3 for colour.
        num_classes: outputs per image (logits).
        image_size: height and width; decides how many blocks pool.
        channels: the width of each block; None for 32, 64, 128, and once more 128 for images of over 64 pixels: three
            blocks see too little of these at a time to tell shapes.
        activation: relu, leaky_relu, elu, gelu, silu, tanh, sigmoid or identity.
        dropout: share of the averaged features set to zero while training.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: Sequence[int],
        channels: Sequence[int] | None = None,
        activation: str = "relu",
        dropout: float = 0.0,
    ):
        super().__init__()
        smaller_side = min(image_size)
        if channels is None:
            channels = (32, 64, 128) if smaller_side <= 64 else (32, 64, 128, 128)
        check_sizes(least=1, example="[32,64]", channels=channels)
        check_dropout(dropout)
        blocks: list[nn.Module] = []
        for number, width in enumerate(channels):
            # Large images are halved twice in the first block, first by its convolution, as the stem of a ResNet does:
            # most of the time would go into the layers of full size.
            stride = 2 if number == 0 and smaller_side > 64 else 1
            smaller_side = -(-smaller_side // stride)
            blocks += [
                nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False),  # the norm has one
                nn.BatchNorm2d(width),
                activation_named(activation),
            ]
            if smaller_side >= 8:
                blocks.append(nn.MaxPool2d(2))
                smaller_side //= 2
            in_channels = width
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(in_channels, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        return self.head(self.features(images))
