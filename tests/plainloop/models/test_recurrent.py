"""Recurrent networks against the same thing written with torch's cells, step by step; and padding, which changes
nothing."""

import itertools
import json

import pytest
import torch
from torch import Tensor, nn

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.config.compose import compose
from plainloop.errors import UserError
from plainloop.models import CharRNN, RNNClassifier, SeriesRNN
from tests.conftest import one_in

CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
LENGTHS = [1, 7, 4, 7, 2]


def random_tokens(*shape: int, tokens: int = 20) -> Tensor:
    """Tokens from 2 on: 0 is padding and 1 is unknown."""
    return torch.randint(2, tokens, shape, generator=torch.Generator().manual_seed(0))


def batch() -> tuple[Tensor, Tensor]:
    """Five sequences in one batch, filled up with 0."""
    tokens, lengths = random_tokens(len(LENGTHS), max(LENGTHS)), torch.tensor(LENGTHS)
    return tokens.masked_fill(torch.arange(max(LENGTHS)) >= lengths[:, None], 0), lengths


def classifier(**options) -> RNNClassifier:
    torch.manual_seed(1)
    return RNNClassifier(20, 3, embedding_size=5, hidden_size=6, **options)


def by_hand(recurrent: nn.RNNBase, sequence: Tensor, cell: str, layer: int, suffix: str = "") -> list[Tensor]:
    """The state of one layer and direction after each step of one sequence (T, F), by torch's cell."""
    step = CELLS[cell](sequence.shape[1], recurrent.hidden_size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(step, name, nn.Parameter(getattr(recurrent, f"{name}_l{layer}{suffix}").detach()))
    states, state = [], None
    for row in sequence:
        state = step(row[None], state)
        states.append((state[0] if cell == "lstm" else state)[0])
    return states


def last_by_hand(recurrent: nn.RNNBase, sequence: Tensor, cell: str) -> Tensor:
    """What every layer gives the next one, and the last one's last states: (directions x hidden,)."""
    for layer in range(recurrent.num_layers):
        forwards = by_hand(recurrent, sequence, cell, layer)
        last = forwards[-1]
        sequence_above = torch.stack(forwards)
        if recurrent.bidirectional:
            backwards = by_hand(recurrent, sequence.flip(0), cell, layer, "_reverse")
            last = torch.cat([last, backwards[-1]])
            sequence_above = torch.cat([sequence_above, torch.stack(backwards).flip(0)], dim=1)
        sequence = sequence_above
    return last


VARIANTS = list(itertools.product(CELLS, [1, 2], [False, True]))


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), VARIANTS)
def test_classifier_equals_cells_step_by_step(cell, layers, bidirectional):
    """Embedding, then every layer's cell over the true elements, forwards and backwards, then the linear layer."""
    model = classifier(cell=cell, layers=layers, bidirectional=bidirectional)
    tokens, lengths = batch()
    outputs = model(tokens, lengths)
    assert outputs.shape == (5, 3)
    for output, sequence, length in zip(outputs, tokens, LENGTHS, strict=True):
        vectors = model.embedding.weight[sequence[:length]]
        expected = model.head(last_by_hand(model.recurrent, vectors, cell))
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), VARIANTS)
def test_padding_changes_nothing(cell, layers, bidirectional):
    """A sample alone, and the same one in a padded batch: equal outputs, and gradients that add up to the batch's."""
    model = classifier(cell=cell, layers=layers, bidirectional=bidirectional)
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
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-6)
    assert not model.embedding.weight[0].any()  # the padding's, which isn't learned
    assert not gradients[0][0].any()


def test_what_stands_in_the_padding_is_not_read():
    """Other tokens there, more of it, and another order of the batch: the same outputs. One true token more: others."""
    model = classifier()
    tokens, lengths = batch()
    expected = model(tokens, lengths)
    filled = torch.where(tokens == 0, 7, tokens)
    assert torch.equal(model(filled, lengths), expected)
    assert torch.equal(model(nn.functional.pad(tokens, (0, 3), value=9), lengths), expected)
    order = torch.tensor([3, 1, 0, 4, 2])
    torch.testing.assert_close(model(tokens[order], lengths[order]), expected[order], rtol=0, atol=1e-6)
    longer = lengths + (lengths < 7)
    changed = (model(filled, longer) - expected).abs().amax(1) > 1e-4
    assert changed.tolist() == (lengths < 7).tolist()


def test_dropout_acts_in_training_alone():
    model = classifier(dropout=0.5, layers=2)
    tokens, lengths = batch()
    assert not torch.equal(model(tokens, lengths), model(tokens, lengths))
    model.eval()
    assert torch.equal(model(tokens, lengths), model(tokens, lengths))


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), VARIANTS)
def test_series_model_equals_cells_step_by_step(cell, layers, bidirectional):
    torch.manual_seed(1)
    model = SeriesRNN(4, 2, hidden_size=6, cell=cell, layers=layers, bidirectional=bidirectional)
    windows = torch.randn(3, 9, 4)
    for output, window in zip(model(windows), windows, strict=True):
        expected = model.head(last_by_hand(model.recurrent, window, cell))
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "grus"}, "model.cell=grus: not known. Did you mean gru"),
        ({"layers": 0}, "model.layers=0"),
        ({"hidden_size": 2.5}, "model.hidden_size=2.5"),
        ({"dropout": 2}, "model.dropout=2"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        SeriesRNN(4, 2, **options)


# --- characters ---------------------------------------------------------------------------------------------

ABC = ["a", "b", "c", "d"]


def char_model(**options) -> CharRNN:
    torch.manual_seed(3)
    return CharRNN(4, 4, vocabulary=ABC, **{"hidden_size": 8, **options})


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_logits_at_every_place_equal_cells_step_by_step(cell, layers):
    """One-hot characters, the cells, the linear layer at every place."""
    model = char_model(cell=cell, layers=layers)
    tokens = random_tokens(2, 6, tokens=4)
    for logits, sequence in zip(model(tokens), tokens, strict=True):
        states = torch.eye(4)[sequence]
        for layer in range(layers):
            states = torch.stack(by_hand(model.recurrent, states, cell, layer))
        torch.testing.assert_close(logits, model.head(states), rtol=0, atol=1e-6)


def test_one_hot_is_an_embedding_by_the_unit_matrix():
    one_hot, embedded = char_model(), char_model(embedding_size=4)
    embedded.load_state_dict({**one_hot.state_dict(), "embedding.weight": torch.eye(4)})
    tokens = random_tokens(3, 5, tokens=4)
    assert torch.equal(one_hot(tokens), embedded(tokens))


def test_no_place_knows_what_comes_behind_it():
    """Another character at place 4 changes the logits from there on, and none before."""
    model = char_model(layers=2)
    tokens = random_tokens(1, 8, tokens=4)
    other = tokens.clone()
    other[0, 4] = 0 if tokens[0, 4] else 1
    same = (model(tokens) == model(other)).all(2)[0]
    assert same.tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("cell", CELLS)
def test_reading_goes_on_from_a_state(cell):
    model = char_model(cell=cell)
    tokens = random_tokens(2, 9, tokens=4)
    first, state = model.read(tokens[:, :4])
    second, _ = model.read(tokens[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), model(tokens), rtol=0, atol=1e-6)


def test_without_a_head_the_state_is_the_logits():
    """hidden_size=None: one nn.RNN over one-hot characters and nothing else."""
    model = CharRNN(4, 4, hidden_size=None, cell="rnn")
    bare = nn.RNN(4, 4, batch_first=True)
    bare.load_state_dict({name.removeprefix("recurrent."): value for name, value in model.state_dict().items()})
    tokens = random_tokens(2, 6, tokens=4)
    assert torch.equal(model(tokens), bare(nn.functional.one_hot(tokens, 4).float())[0])


@pytest.mark.parametrize("cell", CELLS)
def test_generating_without_temperature_takes_the_most_probable(cell):
    """Reading the whole text again for each character says the same."""
    model = char_model(cell=cell, layers=2)
    text = "ab"
    for _ in range(12):
        logits = model(torch.tensor([[ABC.index(character) for character in text]]))
        text += ABC[int(logits[0, -1].argmax())]
    assert "ab" + model.generate("ab", 12, temperature=0) == text


@pytest.mark.slow
@pytest.mark.parametrize("temperature", one_in(3, [0.5, 1.0, 2.0]))
def test_generating_draws_by_the_probabilities(temperature):
    """With weights of zero the head's bias alone decides: each character as often as softmax(bias / temperature)
    says, within 5 deviations of chance."""
    model = char_model()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    bias = torch.tensor([0.0, 1.0, -1.0, 0.5])
    model.head.bias.data = bias
    count = 4000
    text = model.generate("a", count, temperature, torch.Generator().manual_seed(5))
    for share, character in zip((bias / temperature).softmax(0).tolist(), ABC, strict=True):
        assert abs(text.count(character) - share * count) < 5 * (count * share * (1 - share)) ** 0.5


def test_generating_follows_from_its_generator_and_leaves_all_as_it_was():
    model = char_model(dropout=0.5)
    before = torch.get_rng_state()
    texts = [model.generate("abc", 40, 1.0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(len(text) == 40 and set(text) <= set(ABC) for text in texts)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.generate("a", 0) == ""


@pytest.mark.parametrize(
    ("prompt", "message"), [("", "no character is no prompt"), ("abx", "'x' is no prompt .* knows: a, b, c, d")]
)
def test_prompts_that_mean_nothing_are_refused(prompt, message):
    with pytest.raises(UserError, match=message):
        char_model().generate(prompt, 3)


def test_the_sign_for_unknown_characters_is_read_and_never_said():
    torch.manual_seed(0)
    model = CharRNN(3, 3, hidden_size=4, vocabulary=json.dumps(["\N{REPLACEMENT CHARACTER}", "a", "b"]))
    model.head.bias.data[0] = 100.0
    assert set(model.generate("ax", 30, 1.0, torch.Generator().manual_seed(0))) <= {"a", "b"}


# --- the recipe ---------------------------------------------------------------------------------------------


def test_the_string_is_learned_as_by_the_bare_loop():
    """experiment=char_rnn predicts "if you want you", with the weights of the textbook's loop."""
    words = ["experiment=char_rnn", "logger=none"]
    start = assemble(compose(words)).model.state_dict()
    run = plainloop.train(words)

    text = " if you want you"
    characters = sorted(set(text))
    numbers = torch.tensor([characters.index(character) for character in text])
    inputs, targets = nn.functional.one_hot(numbers[:-1], 10).float()[None], numbers[1:]
    model = nn.RNN(10, 10, batch_first=True)
    model.load_state_dict({name.removeprefix("recurrent."): value for name, value in start.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs)[0][0], targets)
        loss.backward()
        optimizer.step()

    for name, value in model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[f"recurrent.{name}"], value, rtol=1e-4, atol=1e-5)
    predicted = run.model(run.data.train.inputs)[0].argmax(1)
    assert "".join(characters[number] for number in predicted) == "if you want you"
    assert run.model.generate(" ", 15, temperature=0) == "if you want you"
    assert sum(parameter.numel() for parameter in run.model.parameters()) == 2 * 10 * 10 + 2 * 10
