"""The small ResNet, against torchvision's own blocks and network with the same weights."""

import pytest
import torch
from torch import nn

import plainloop
from plainloop.errors import UserError
from plainloop.models import ResNet
from plainloop.models.resnet import BasicBlock


def with_weights_of(target: nn.Module, source: nn.Module) -> None:
    """Copy the weights in the order in which they are listed, whatever their names are."""
    state = target.state_dict()
    values = source.state_dict().values()
    assert [value.shape for value in state.values()] == [value.shape for value in values]
    target.load_state_dict(dict(zip(state, values, strict=True)))


def assert_equal_with_gradients(one: nn.Module, other: nn.Module, images: torch.Tensor) -> None:
    """Outputs while training and in evaluation, and the gradient of every parameter."""
    weights = torch.randn_like(one.eval()(images))
    torch.testing.assert_close(one.eval()(images), other.eval()(images))
    gradients = []
    for model in (one, other):
        (model.train()(images) * weights).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(list(one.buffers()), list(other.buffers()))  # the norms' running statistics


@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((4, 8), 1), ((4, 8), 2), ((4, 4), 2)])
def test_a_block_is_torchvisions(channels, stride):
    from torchvision.models.resnet import BasicBlock as Reference

    torch.manual_seed(0)
    block = BasicBlock(*channels, stride)
    has_shortcut = channels[0] != channels[1] or stride != 1
    shortcut = nn.Sequential(nn.Conv2d(*channels, 1, stride, bias=False), nn.BatchNorm2d(channels[1]))
    reference = Reference(*channels, stride, shortcut if has_shortcut else None)
    with_weights_of(reference, block)
    assert_equal_with_gradients(block, reference, torch.randn(3, channels[0], 9, 8))


@pytest.mark.slow
def test_of_large_images_it_is_torchvisions_resnet18_with_a_smaller_stem():
    """Images of 96 pixels, four stages of two blocks, 64 channels in the first."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model, reference = ResNet(3, 5, [96, 96], width=64), resnet18(num_classes=5)
    reference.conv1, reference.maxpool = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False), nn.Identity()
    with_weights_of(reference, model)
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(model.eval()(images), reference.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "left"),
    [
        ((1, 1, 1), 1),
        ((1, 2, 3), 2),
        ((3, 5, 7), 5),
        ((1, 8, 8), 4),
        ((1, 28, 28), 7),
        ((3, 32, 32), 8),
        ((4, 33, 65), 9),
        ((3, 64, 64), 16),
        ((3, 65, 80), 5),
        ((3, 224, 224), 14),
    ],
    ids=str,
)
def test_images_of_any_size(shape, left):
    """(N, C, H, W) to (N, classes); between the stages, images that are still of 8 pixels or more are halved."""
    torch.manual_seed(0)
    channels, *size = shape
    model = ResNet(channels, 5, size, width=4)
    images = torch.randn(2, *shape)
    assert model.eval()(images).shape == (2, 5)
    assert min(model.blocks(model.stem(images)).shape[2:]) == left


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = ResNet(1, 5, [8, 8], width=4, depth=[1, 2], dropout=0.1)
    nn.functional.cross_entropy(model(torch.randn(10, 1, 8, 8)), torch.arange(10) % 5).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_depth_width_and_dropout_are_what_was_asked_for():
    model = ResNet(1, 5, [8, 8], width=6, depth=[1, 3], dropout=0.25)
    assert [block.conv2.out_channels for block in model.blocks] == [6, 12, 12, 12]
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.25]
    assert [len(ResNet(1, 5, [side, side], width=2).blocks) for side in (64, 65)] == [6, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, r"model\.width=0"),
        ({"width": 2.5}, r"model\.width=2\.5"),
        ({"depth": []}, r"model\.depth=\[\]"),
        ({"depth": 2}, r"model\.depth=2"),
        ({"depth": [2, 0]}, r"model\.depth=\[2, 0\]"),
        ({"dropout": -0.1}, r"model\.dropout=-0\.1"),
        ({"dropout": 1.5}, r"model\.dropout=1\.5"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        ResNet(1, 5, [8, 8], **arguments)


@pytest.mark.slow
def test_it_reads_digits():
    run = plainloop.train(["model=resnet", "trainer.max_epochs=3", "logger=none"])
    assert run.metrics["test/accuracy"] >= 0.95
