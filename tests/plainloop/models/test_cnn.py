"""The convolutional network: shapes for every size of image, and wrong words answered."""

import pytest
import torch
from torch import nn

from plainloop.models import CNN
from tests.plainloop.models.layers import assert_every_parameter_learns, count, layers

IMAGES = [
    (1, 1, 1),
    (1, 2, 3),
    (3, 5, 7),
    (1, 8, 8),
    (1, 28, 28),
    (3, 32, 32),
    (4, 33, 65),
    (3, 64, 200),
    (3, 224, 224),
]


@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_cnn_takes_images_of_any_size(shape):
    """(N, C, H, W) to (N, classes), from one pixel to 224 x 224, odd sizes and any number of channels."""
    torch.manual_seed(0)
    channels, *size = shape
    model = CNN(channels, 5, size, channels=(4, 8, 8))
    inputs = torch.randn(6, *shape)
    assert model(inputs).shape == (6, 5)
    assert model.eval()(inputs[:1]).shape == (1, 5)


@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("channels", [(4,), (4, 4, 4), (4,) * 8], ids=len)
def test_cnn_keeps_four_by_four_pixels(shape, channels):
    """Pooling stops while at least 4 pixels remain on the shorter side; smaller images aren't pooled at all."""
    model = CNN(shape[0], 5, shape[1:], channels=channels).eval()
    left = model.features(torch.randn(1, *shape)).shape[2:]
    assert min(left) >= min(4, *shape[1:])
    pools = len(layers(model, nn.MaxPool2d)) + (min(shape[1:]) > 64)  # of large images the first convolution halves too
    assert list(left) == [side // 2**pools for side in shape[1:]]
    possible = max(0, min(shape[1:]) // 4).bit_length() - 1  # halvings of the shorter side that leave 4
    assert pools == max(0, min(possible, len(channels) + (min(shape[1:]) > 64)))


@pytest.mark.parametrize(
    ("shape", "widths"),
    [((1, 8, 8), [32, 64, 128]), ((3, 64, 300), [32, 64, 128]), ((3, 65, 65), [32, 64, 128, 128])],
    ids=str,
)
def test_large_images_get_one_block_more(shape, widths):
    model = CNN(shape[0], 5, shape[1:]).eval()
    assert [layer.out_channels for layer in layers(model, nn.Conv2d)] == widths
    assert model(torch.randn(2, *shape)).shape == (2, 5)


def test_cnn_size_does_not_depend_on_the_image():
    """Convolutions without bias, norms, and one linear layer behind the average: counted by hand."""
    expected = 9 * 3 * 4 + 2 * 4 + 9 * 4 * 8 + 2 * 8 + 8 * 5 + 5
    for size in ([8, 8], [32, 32], [224, 160]):
        assert count(CNN(3, 5, size, channels=(4, 8))) == expected


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)], ids=str)
def test_cnn_learns_everywhere(shape, activation):
    torch.manual_seed(0)
    model = CNN(shape[0], 5, shape[1:], channels=(4, 8), activation=activation)
    assert_every_parameter_learns(model, torch.randn(10, *shape))


def test_cnn_uses_what_it_is_given():
    """The activation between the layers, and the dropout in front of the head."""
    model = CNN(1, 5, [8, 8], channels=(4, 8), activation="silu", dropout=0.25)
    assert len(layers(model, nn.SiLU)) == 2
    assert [layer.p for layer in layers(model, nn.Dropout)] == [0.25]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "rellu"}, "Did you mean relu"),
        ({"channels": []}, r"model\.channels"),
        ({"channels": [4, 0]}, r"model\.channels"),
        ({"channels": 32}, r"model\.channels"),
        ({"dropout": 1.5}, "(?i)dropout"),
        ({"dropout": -0.1}, "(?i)dropout"),
    ],
    ids=str,
)
def test_cnn_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        CNN(1, 5, [8, 8], **arguments)
