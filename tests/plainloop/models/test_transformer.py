"""The transformer over texts: padding changes nothing, order does, and the positions are the paper's."""

import math

import pytest
import torch
from torch import Tensor, nn

from plainloop.errors import UserError
from plainloop.models import TransformerClassifier
from plainloop.models.transformer import sinusoidal_positions
from tests.plainloop.models.test_attention import as_torchs

LENGTHS = [1, 7, 4, 7, 2]


def batch() -> tuple[Tensor, Tensor]:
    """Five sequences in one batch, filled up with 0."""
    tokens = torch.randint(2, 20, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor(LENGTHS)
    return tokens.masked_fill(torch.arange(max(LENGTHS)) >= lengths[:, None], 0), lengths


def classifier(**options) -> TransformerClassifier:
    torch.manual_seed(1)
    return TransformerClassifier(20, 3, **{"width": 8, "layers": 2, "heads": 2, **options})


def test_it_equals_torchs_parts():
    """Each text on its own: embedding and positions, torch's encoder layers, and the mean of its places."""
    model = classifier()
    tokens, lengths = batch()
    for output, sequence, length in zip(model(tokens, lengths), tokens, LENGTHS, strict=True):
        vectors = model.embedding.weight[sequence[:length]] + sinusoidal_positions(length, 8)
        for block in model.transformer.blocks:
            vectors = as_torchs(block)(vectors[None])[0]
        expected = model.head(model.transformer.norm(vectors).mean(0))
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("heads", [1, 4])
def test_padding_changes_nothing(layers, heads):
    """A text alone, and the same one in a padded batch: equal outputs, and gradients that add up to the batch's."""
    model = classifier(layers=layers, heads=heads)
    tokens, lengths = batch()
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    together = model(tokens, lengths)
    (together * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for number, length in enumerate(LENGTHS):
        alone = model(tokens[number : number + 1, :length], lengths[number : number + 1])
        torch.testing.assert_close(together[number], alone[0], rtol=0, atol=1e-6)
        (alone * weights[number]).sum().backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)
        assert gradient.abs().sum() > 0
    assert not model.embedding.weight[0].any()  # the padding's, which isn't learned
    assert not model.embedding.weight.grad[0].any()


def test_what_stands_in_the_padding_is_not_read():
    """Other tokens there, more of it, and another order of the batch: the same outputs. One true token more: others."""
    model = classifier()
    tokens, lengths = batch()
    expected = model(tokens, lengths)
    filled = torch.where(tokens == 0, 7, tokens)
    more = nn.functional.pad(tokens, (0, 30), value=9)
    order = torch.tensor([3, 1, 0, 4, 2])
    for found, right in (
        (model(filled, lengths), expected),
        (model(more, lengths), expected),
        (model(tokens[order], lengths[order]), expected[order]),
    ):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-6)
    longer = lengths + (lengths < 7)
    changed = (model(filled, longer) - expected).abs().amax(1) > 1e-4
    assert changed.tolist() == (lengths < 7).tolist()


@pytest.mark.parametrize("width", [1, 6, 7])
def test_positions_are_the_papers(width):
    """Vaswani et al. 2017, section 3.5, number by number."""
    found = sinusoidal_positions(40, width)
    assert found.shape == (40, width)
    for place in range(40):
        for column in range(width):
            angle = place / 10_000 ** ((column - column % 2) / width)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert found[place, column].item() == pytest.approx(expected, abs=1e-5)


def test_order_matters_and_no_text_is_too_long():
    model = classifier().eval()
    tokens = batch()[0][1:2]
    length = torch.tensor([7])
    assert (model(tokens, length) - model(tokens.flip(1), length)).abs().max() > 1e-3
    assert model(torch.full((1, 3000), 5), torch.tensor([3000])).isfinite().all()


def test_dropout_acts_in_training_alone():
    model = classifier(dropout=0.5)
    assert not torch.equal(model(*batch()), model(*batch()))
    model.eval()
    assert torch.equal(model(*batch()), model(*batch()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, r"model\.heads=3: must divide model\.width=8"),
        ({"width": 0}, r"model\.width=0"),
        ({"layers": -1}, r"model\.layers=-1"),
        ({"dropout": "much"}, r"model\.dropout=much"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        classifier(**arguments)
