"""The transformer that writes: no place knows what comes behind it, and writing is reading again."""

import pytest
import torch
from torch import nn

import plainloop
from plainloop.errors import UserError
from plainloop.models import CharTransformer
from tests.plainloop.models.test_attention import as_torchs

ABC = ["a", "b", "c", "d"]


def char_model(**options) -> CharTransformer:
    """With weights so large that what it reads matters."""
    torch.manual_seed(3)
    sizes = {"context_length": 8, "width": 8, "layers": 2, "heads": 2, **options}
    model = CharTransformer(4, 4, vocabulary=ABC, **sizes)
    for embedding in (model.embedding, model.positions):
        nn.init.normal_(embedding.weight)
    return model


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tie_weights", [False, True])
def test_it_equals_torchs_parts(tie_weights):
    """Embeddings, torch's encoder layers with its own causal mask, the norm and the head."""
    model, tokens = char_model(tie_weights=tie_weights), random_tokens(3, 6)
    vectors = model.embedding.weight[tokens] + model.positions.weight[:6]
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    for block in model.transformer.blocks:
        vectors = as_torchs(block)(vectors, src_mask=mask, is_causal=True)
    vectors = model.transformer.norm(vectors)
    expected = vectors @ model.embedding.weight.T if tie_weights else model.head(vectors)
    torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-5)
    assert len(list(model.parameters())) == len(list(char_model().parameters())) - 2 * tie_weights


@pytest.mark.parametrize("place", range(8))
def test_no_place_knows_what_comes_behind_it(place):
    """Another character changes the logits from its place on, and none before."""
    model, tokens = char_model(), random_tokens(1, 8)
    other = tokens.clone()
    other[0, place] = (tokens[0, place] + 1) % 4
    change = (model(tokens) - model(other)).abs().amax(2)[0]
    assert not change[:place].any()
    assert change[place:].min() > 1e-5


def test_a_short_text_is_the_beginning_of_a_long_one():
    model, tokens = char_model(), random_tokens(2, 8)
    torch.testing.assert_close(model(tokens[:, :3]), model(tokens)[:, :3], rtol=0, atol=1e-6)


def test_every_parameter_learns():
    for tie_weights in (False, True):
        model, tokens = char_model(tie_weights=tie_weights, dropout=0.1), random_tokens(4, 8)
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1).flatten()).backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("prompt", ["a", "ab", "abcdabcdabcd"])
def test_generating_reads_as_much_as_the_context_holds(prompt):
    """Each character is drawn by the probabilities behind the last 8, which are read anew each time."""
    model = char_model(dropout=0.5).eval()
    nn.init.normal_(model.head.weight)  # so that these differ much
    text, generator = prompt, torch.Generator().manual_seed(0)
    for _ in range(40):
        logits = model(torch.tensor([[ABC.index(character) for character in text[-8:]]]))
        text += ABC[int(torch.multinomial((logits[0, -1] / 1.5).softmax(0), 1, generator=generator))]
    assert len(set(text[20:])) > 2
    assert prompt + model.train().generate(prompt, 40, 1.5, torch.Generator().manual_seed(0)) == text
    assert model.training


def test_generating_follows_from_its_generator():
    model = char_model()
    texts = [model.generate("abc", 40, 1.0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(len(text) == 40 and set(text) <= set(ABC) for text in texts)
    with pytest.raises(UserError, match="'x' is no prompt"):
        model.generate("x", 3)


def test_sequences_longer_than_the_context_are_answered():
    with pytest.raises(UserError, match=r"model\.context_length=8: these sequences have 9 characters"):
        char_model()(random_tokens(1, 9))
    words = ["data=one_string", "model=char_transformer", "model.context_length=8", "logger=none"]
    with pytest.raises(UserError, match=r"set model\.context_length=15, or data\.length=8"):
        plainloop.train(words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, r"model\.heads=3: must divide model\.width=8"),
        ({"context_length": 0}, r"model\.context_length=0"),
        ({"layers": 0}, r"model\.layers=0"),
        ({"dropout": 1.1}, r"model\.dropout=1\.1"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        char_model(**arguments)
    with pytest.raises(UserError, match=r"model\.tie_weights=true: what is read has 4 tokens"):
        CharTransformer(4, 5, tie_weights=True)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["model.tie_weights=true"]], ids=["head", "tied"])
def test_the_string_is_learned(words):
    """experiment=char_rnn with a transformer in place of the RNN, whose learning rate is too large for it."""
    run = plainloop.train(
        [
            "experiment=char_rnn",
            "model=char_transformer",
            "optimizer.lr=0.001",
            "model.layers=2",
            "console.every_epochs=50",
            "logger=none",
            *words,
        ]
    )
    assert run.model.generate(" ", 15, temperature=0) == "if you want you"
    again = plainloop.load_run(run.path).model
    assert again.generate(" if", 13, temperature=0) == " you want you"
