"""The vision transformer: its patches, and the whole of it against the same thing put together of torch's parts."""

import pytest
import torch
from torch import nn

import plainloop
from plainloop.errors import UserError
from plainloop.models import ViT
from tests.plainloop.models.test_attention import as_torchs


def small(shape: tuple[int, ...], **options) -> ViT:
    torch.manual_seed(0)
    return ViT(shape[0], 5, shape[1:], **{"width": 8, "layers": 2, "heads": 2, **options})


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_it_equals_torchs_parts(patch_size):
    """Each patch cut out by hand and multiplied by the weights, positions, torch's encoder layers, and the head."""
    model, images = small((3, 8, 4), patch_size=patch_size), torch.randn(2, 3, 8, 4)
    nn.init.normal_(model.class_token)
    vectors = [model.class_token[0].expand(2, -1)]
    for top in range(0, 8, patch_size):
        for left in range(0, 4, patch_size):
            patch = images[:, :, top : top + patch_size, left : left + patch_size].flatten(1)
            vectors.append(patch @ model.patches.weight.flatten(1).T + model.patches.bias)
    vectors = torch.stack(vectors, 1) + model.positions
    for block in model.transformer.blocks:
        vectors = as_torchs(block)(vectors)
    expected = model.head(model.transformer.norm(vectors)[:, 0])
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch_size"),
    [
        ((8, 8), 2),
        ((28, 28), 4),
        ((32, 32), 4),
        ((64, 64), 8),
        ((96, 96), 12),
        ((224, 224), 28),
        ((4, 4), 2),
        ((5, 7), 1),
        ((32, 64), 4),
        ((90, 160), 10),
    ],
    ids=str,
)
def test_patches_suit_the_image(size, patch_size):
    """About an eighth of the shorter side, and always a divisor of both."""
    model = small((1, *size))
    assert model.patches.kernel_size == model.patches.stride == (patch_size, patch_size)
    assert model.positions.shape[1] == 1 + size[0] * size[1] // patch_size**2
    assert model(torch.randn(2, 1, *size)).shape == (2, 5)


@pytest.mark.parametrize("size", [(33, 65), (97, 97), (64, 101)], ids=str)
def test_images_that_divide_badly_are_answered(size):
    with pytest.raises(UserError, match=rf"model\.patch_size=null: .* {size[0]} x {size[1]} is 1.*model=resnet"):
        small((1, *size))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 3}, r"model\.patch_size=3: doesn't divide images of 8 x 12\. What does: 1, 2, 4\."),
        ({"patch_size": 12}, r"model\.patch_size=12"),
        ({"patch_size": 0}, r"model\.patch_size=0"),
        ({"patch_size": -2}, r"model\.patch_size=-2"),
        ({"patch_size": 2.0}, r"model\.patch_size=2\.0"),
        ({"heads": 3}, r"model\.heads=3: must divide model\.width=8"),
        ({"layers": 0}, r"model\.layers=0"),
        ({"dropout": 2}, r"model\.dropout=2"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        small((1, 8, 12), **arguments)


def test_every_parameter_learns_and_evaluation_is_still():
    model, images = small((1, 8, 8), dropout=0.3), torch.randn(10, 1, 8, 8)
    nn.functional.cross_entropy(model(images), torch.arange(10) % 5).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_where_a_patch_lies_matters():
    """Without positions, an image of the same patches in another order would be the same."""
    model, images = small((1, 8, 8)).eval(), torch.randn(3, 1, 8, 8)
    turned = images.roll(4, dims=3)
    assert (model(images) - model(turned)).abs().max() > 1e-3
    nn.init.zeros_(model.positions)
    torch.testing.assert_close(model(images), model(turned))


@pytest.mark.slow
def test_it_reads_digits():
    run = plainloop.train(["model=vit", "trainer.max_epochs=5", "logger=none"])
    assert run.metrics["test/accuracy"] >= 0.93
