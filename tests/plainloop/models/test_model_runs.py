"""Every readable model through the command's own path: trained, found again, resumed, in bf16, compiled; and data that
don't fit it."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import plainloop
from plainloop.errors import UserError
from tests.conftest import one_in

TEXT = ["data=text", "data.path=reviews.csv", "data.text=review", "data.target=stars", "loader.batch_size=8"]
BOOK = ["data=charseq", "data.path=book.txt", "data.length=20", "loader.batch_size=8"]
SMALL = ["model.width=16", "model.layers=2", "model.heads=2"]
RUNS = {
    "manual_linear": ["experiment=logistic_regression", "loss=manual_bce"],
    "resnet": ["model.width=4"],
    "vit": SMALL,
    "transformer": [*TEXT, *SMALL],
    "char_transformer": [*BOOK, *SMALL],
}


@pytest.fixture(autouse=True)
def texts(tmp_path: Path) -> None:
    """Reviews of one to nine words, and a book."""
    words = ["good", "bad", "film", "a", "the", "plot", "was", "and", "end"]
    rows = [
        f"{' '.join((words * 2)[n % 9 : n % 9 + 1 + n * 7 % 9])} {words[n % 2]},{('low', 'high')[n % 2]}"
        for n in range(120)
    ]
    (tmp_path / "reviews.csv").write_text("\n".join(["review,stars", *rows]) + "\n")
    (tmp_path / "book.txt").write_text(
        "".join(f"{n} + {m} = {n + m}.\n" for n, m in itertools.product(range(14), repeat=2))
    )


def train(name: str, *words: str) -> Any:
    return plainloop.train(
        [f"model={name}", *RUNS[name], "trainer.limit_batches=5", "console.every_epochs=50", "logger=none", *words]
    )


def last_loss(run: Any) -> float:
    return [record["train/loss"] for record in run.history() if "train/loss" in record][-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", one_in(5, RUNS))
def test_it_trains_and_is_found_again(name):
    """The run directory alone gives the run's numbers again, and a resumed run ends with the same weights."""
    run = train(name, "trainer.max_epochs=2")
    again = plainloop.evaluate(run.path)
    assert again == {key: run.metrics[key] for key in again}
    part = train(name, "trainer.max_epochs=1")
    resumed = plainloop.train([f"resume={part.path}", "trainer.max_epochs=2"]).model.state_dict()
    assert all(torch.equal(resumed[key], value) for key, value in run.model.state_dict().items())


@pytest.mark.parametrize("name", one_in(5, RUNS))
def test_it_trains_in_bf16(name):
    """With fewer digits, to about the same loss; the weights keep theirs."""
    words = ["trainer.max_steps=4", "trainer.log_every=4"]
    exact, rough = (train(name, *words, f"trainer.precision={kind}") for kind in ("fp32", "bf16"))
    assert all(value.dtype == torch.float32 for value in rough.model.parameters())
    assert last_loss(rough) == pytest.approx(last_loss(exact), rel=0.05)
    assert last_loss(rough) != last_loss(exact)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manual_linear", "transformer"])
def test_it_can_be_compiled(name):
    """trainer.compile=true gives the same losses to rounding."""
    words = ["trainer.max_steps=4", "trainer.log_every=4"]
    plain, compiled = (train(name, *words, f"trainer.compile={on}") for on in ("false", "true"))
    assert last_loss(compiled) == pytest.approx(last_loss(plain), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    one_in(
        3,
        [
            ("model=vit model.heads=3", r"model\.heads=3: must divide model\.width=64"),
            ("model=vit model.patch_size=3", r"model\.patch_size=3: doesn't divide images of 8 x 8"),
            ("model=vit model.dropout=2", r"model\.dropout=2"),
            ("model=resnet model.width=-4", r"model\.width=-4"),
            ("model=resnet model.depth=3", r"model\.depth=3: a list of whole numbers from 1, as in \[2,2,2\]"),
            ("model=cnn model.dropout=-1", r"model\.dropout=-1"),
            (
                "model=rnn model.embedding_size=0 data=text data.path=reviews.csv data.text=review data.target=stars",
                r"model\.embedding_size=0",
            ),
            ("data=one_string model=char_rnn model.embedding_size=0", r"model\.embedding_size=0"),
            ("data=one_string model=char_transformer model.heads=5", r"model\.heads=5: must divide model\.width=128"),
            ("experiment=autoencoder model.decoder_sizes=[0]", r"model\.decoder_sizes=\[0\]"),
            ("model=transformer", r"model=transformer doesn't fit data=digits: model\.vocab_size"),
            ("model=char_transformer", r"model=char_transformer doesn't fit data=digits: model\.vocab_size"),
            ("data=one_string model=transformer", r"model=transformer doesn't fit data=one_string: model\.padding"),
            (
                "data=text data.path=reviews.csv data.text=review data.target=stars model=char_transformer",
                r"model=char_transformer doesn't fit data=text: model\.context_length",
            ),
            ("data=breast_cancer model=vit", r"model=vit doesn't fit data=breast_cancer: model\.in_channels"),
            ("data=breast_cancer model=resnet", r"model=resnet doesn't fit data=breast_cancer: model\.in_channels"),
            ("data=one_string model=manual_linear", r"model=manual_linear"),
            ("data=one_string model=bare_linear", r"model=bare_linear"),
        ],
    ),
)
def test_what_does_not_fit_is_refused_before_training(words, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        plainloop.train([*words.split(), "logger=none"])
    assert len(str(caught.value).splitlines()) <= 2
    assert not (tmp_path / "outputs").exists()
