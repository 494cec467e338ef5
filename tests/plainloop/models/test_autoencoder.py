"""The autoencoder: the right shapes, and, where it is linear, the principal components."""

from typing import Any

import numpy
import pytest
import torch

import plainloop
from plainloop.errors import UserError
from plainloop.models import Autoencoder


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4), (7,), (4, 6)])
@pytest.mark.parametrize("hidden_sizes", [[5], [20, 3], [16, 8, 4, 2]])
def test_inputs_come_back_in_their_shape(shape, hidden_sizes):
    """Through a code of the size that was asked for, at any depth; and forward is encode and decode."""
    model = Autoencoder(shape, hidden_sizes)
    inputs = torch.randn(6, *shape)
    codes = model.encode(inputs)
    assert tuple(codes.shape) == (6, hidden_sizes[-1])
    assert torch.equal(model(inputs), model.decode(codes))
    assert model(inputs).shape == inputs.shape


def test_the_decoder_is_the_encoders_mirror_image():
    """By the sizes of its layers; and there is nothing between the last layer and the code, or the outputs."""
    model = Autoencoder((10,), [8, 3], activation="tanh")
    sizes = {
        name: [(layer.in_features, layer.out_features) for layer in part if isinstance(layer, torch.nn.Linear)]
        for name, part in (("encoder", model.encoder), ("decoder", model.decoder))
    }
    assert sizes == {"encoder": [(10, 8), (8, 3)], "decoder": [(3, 8), (8, 10)]}
    assert sum(isinstance(layer, torch.nn.Tanh) for layer in model.modules()) == 2
    assert isinstance(model.encoder[-1], torch.nn.Linear)


@pytest.mark.parametrize("decoder_sizes", [[], [6], [2, 9, 4]], ids=str)
def test_the_decoder_may_have_a_depth_of_its_own(decoder_sizes):
    model = Autoencoder((2, 5), [8, 3], decoder_sizes)
    sizes = [layer.out_features for layer in model.decoder if isinstance(layer, torch.nn.Linear)]
    assert sizes == [*decoder_sizes, 10]
    assert model(torch.randn(6, 2, 5)).shape == (6, 2, 5)
    with pytest.raises(UserError, match=r"model\.decoder_sizes=\[0\]"):
        Autoencoder((2, 5), [8, 3], [0])


@pytest.mark.parametrize("sizes", [[], [0], [2.5], 32, ["a"]], ids=str)
def test_sizes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(UserError, match=r"model\.hidden_sizes"):
        Autoencoder((4,), sizes)


def error_of_components(inputs: torch.Tensor, kept: int) -> float:
    """The mean squared error of the best linear reconstruction from `kept` numbers: that of the first principal
    components (Eckart and Young 1936), from the singular values that are left out."""
    centred = inputs.double() - inputs.double().mean(0)
    left_out = torch.linalg.svd(centred, full_matrices=False).S[kept:]
    return (left_out.square().sum() / inputs.numel()).item()


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "vectors"])
def test_a_linear_autoencoder_finds_the_principal_components(tmp_path, data):
    """Images and vectors: its error on the training split is that of the closed form, and never less."""
    words = []
    if data == "vectors":
        random = numpy.random.default_rng(0)
        points = random.normal(size=(1600, 6)) * [5, 4, 3, 2, 1, 0.5] @ numpy.linalg.qr(random.normal(size=(6, 6)))[0]
        numpy.savez(tmp_path / "a.npz", inputs=points + 7)
        words = ["data=arrays", "data.path=a.npz", "data.targets=null", "loader.batch_size=32"]
    run = plainloop.train(
        [
            "experiment=autoencoder",
            *words,
            "model.activation=identity",
            "model.hidden_sizes=[4]",
            "optimizer.lr=0.01",
            "scheduler=cosine",
            "trainer.max_epochs=60",
            "logger=none",
            "console.every_epochs=60",
        ]
    )
    inputs = run.preprocess(run.data.train.inputs).flatten(1)
    best = error_of_components(inputs, 4)
    found = plainloop.evaluate(run.path, split="train")["train/loss"]
    assert best * 0.9999 <= found <= 1.03 * best


def train(*words: str) -> Any:
    return plainloop.train(["experiment=autoencoder", "logger=none", *words])


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["data=breast_cancer"]], ids=["images", "a table"])
def test_it_trains_evaluates_and_resumes(words):
    """Whatever the data's own task is; the evaluation finds the run's numbers again."""
    whole = train(*words, "trainer.max_epochs=3")
    assert whole.config.choices.task == "reconstruction"
    losses = [record["val/loss"] for record in whole.history() if "val/loss" in record]
    assert losses[-1] < losses[0]
    assert 0 < whole.metrics["test/mae"] < 1  # 1 is about what a model that always says the mean has
    again = plainloop.evaluate(whole.path)
    assert again == {name: whole.metrics[name] for name in again}
    part = train(*words, "trainer.max_epochs=2")
    resumed = plainloop.train([f"resume={part.path}", "trainer.max_epochs=3"])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)


def test_its_error_is_that_of_torch():
    """Loss and mean absolute error of the test split, beside torch's own functions over all of it at once."""
    run = train("trainer.max_epochs=1")
    inputs = run.preprocess(run.data.test.inputs)
    with torch.inference_mode():
        outputs = run.model.eval()(inputs)
    assert run.metrics["test/loss"] == pytest.approx(torch.nn.functional.mse_loss(outputs, inputs).item(), rel=1e-5)
    assert run.metrics["test/mae"] == pytest.approx(torch.nn.functional.l1_loss(outputs, inputs).item(), rel=1e-5)
