"""The transformer's block, against torch's own with the same weights."""

import pytest
import torch
from torch import nn

from plainloop.errors import UserError
from plainloop.models.attention import Block, SelfAttention, Transformer


def torchs_layer(width: int, heads: int, dropout: float = 0.0) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )


def names_of_torchs(prefix: str = "") -> dict[str, str]:
    """Our modules' names and torch's."""
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "mlp.0": "linear1",
        "mlp.3": "linear2",
        "attention.out": "self_attn.out_proj",
    }
    both = {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in names.items() for kind in ("weight", "bias")}
    both |= {f"attention.query_key_value.{kind}": f"self_attn.in_proj_{kind}" for kind in ("weight", "bias")}
    return {prefix + ours: theirs for ours, theirs in both.items()}


def as_torchs(block: Block) -> nn.TransformerEncoderLayer:
    layer = torchs_layer(block.norm1.normalized_shape[0], block.attention.heads)
    layer.load_state_dict({theirs: block.state_dict()[ours] for ours, theirs in names_of_torchs().items()})
    return layer


def random_block(width: int = 12, heads: int = 3) -> Block:
    """With norms and biases that aren't the neutral ones that they start as."""
    torch.manual_seed(0)
    block = Block(width, heads)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block


HIDDEN = torch.arange(7) >= torch.tensor([7, 1, 4, 6])[:, None]  # places of padding, (4, 7)
MASKS = {
    "none": ({}, {}),
    "padding": ({"mask": ~HIDDEN[:, None, None]}, {"src_key_padding_mask": HIDDEN}),
    "causal": ({"causal": True}, {"src_mask": nn.Transformer.generate_square_subsequent_mask(7), "is_causal": True}),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("heads", [1, 3, 12])
def test_a_block_is_torchs_encoder_layer(mask, heads):
    """Outputs, and the gradients of inputs and of every parameter."""
    block = random_block(heads=heads)
    layer = as_torchs(block)
    ours, theirs = MASKS[mask]
    inputs = torch.randn(4, 7, 12, requires_grad=True)
    weights = torch.randn(4, 7, 12) * (~HIDDEN[:, :, None] if mask == "padding" else 1)
    seen = []
    for outputs in (block(inputs, **ours), layer(inputs, **theirs)):
        (outputs * weights).sum().backward()
        seen.append((outputs * weights, inputs.grad))
        inputs.grad = None
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-5)
    for name, other in names_of_torchs().items():
        pair = block.get_parameter(name).grad, layer.get_parameter(other).grad
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


def test_a_transformer_is_torchs_encoder():
    """Three blocks with weights of their own, and a norm behind them."""
    torch.manual_seed(0)
    model = Transformer(8, 3, 2).eval()
    encoder = nn.TransformerEncoder(torchs_layer(8, 2), 3, nn.LayerNorm(8), enable_nested_tensor=False).eval()
    for block, layer in zip(model.blocks, encoder.layers, strict=True):
        layer.load_state_dict(as_torchs(block).state_dict())
    inputs = torch.randn(2, 5, 8)
    torch.testing.assert_close(model(inputs), encoder(inputs), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in encoder.parameters())


def test_attention_is_the_formula():
    """softmax(q k^T / sqrt(D)) v of each head, with q, k and v read off the weights by hand."""
    torch.manual_seed(0)
    attention, inputs = SelfAttention(6, 2), torch.randn(1, 4, 6)
    query, key, value = (inputs[0] @ attention.query_key_value.weight.T + attention.query_key_value.bias).split(6, 1)
    heads = []
    for columns in (slice(0, 3), slice(3, 6)):
        weights = (query[:, columns] @ key[:, columns].T / 3**0.5).softmax(1)
        heads.append(weights @ value[:, columns])
    expected = torch.cat(heads, 1) @ attention.out.weight.T + attention.out.bias
    torch.testing.assert_close(attention(inputs)[0], expected)


@pytest.mark.parametrize("dropout", [0.5, 1.0])
def test_dropout_acts_in_training_alone(dropout):
    """On the weights of the attention, too; and all of it leaves what came in."""
    torch.manual_seed(0)
    block, inputs = Block(8, 2, dropout), torch.randn(2, 5, 8)
    if dropout < 1:
        assert not torch.equal(block.attention(inputs), block.attention(inputs))
        assert not torch.equal(block(inputs), block(inputs))
    else:
        assert torch.equal(block(inputs), inputs)
    assert torch.equal(block.eval()(inputs), block(inputs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 2, 3), r"model\.heads=3: must divide model\.width=10"),
        ((0, 2, 3), r"model\.width=0"),
        ((-8, 2, 2), r"model\.width=-8"),
        ((8, 0, 2), r"model\.layers=0"),
        ((8, 2, 0), r"model\.heads=0"),
        ((8, 2.5, 2), r"model\.layers=2\.5"),
        ((8, 2, 2, 1.5), r"model\.dropout=1\.5"),
        ((8, 2, 2, -0.1), r"model\.dropout=-0\.1"),
        ((8, 2, 2, None), r"model\.dropout=None"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Transformer(*arguments)
