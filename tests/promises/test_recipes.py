"""The textbook recipes, each against the same thing written as a bare loop."""

from pathlib import Path

import pytest
import torch
from torch import nn

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.config.compose import compose
from plainloop.data.loader import BatchOrder
from plainloop.errors import UserError
from tests.conftest import one_in
from tests.formats import write_mnist


def test_linear_regression_finds_the_line_step_for_step():
    run = plainloop.train(["experiment=linear_regression"])

    x = y = torch.tensor([[1.0], [2.0], [3.0]])
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(1000):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()

    assert torch.equal(run.model.linear.weight, model.weight)
    assert torch.equal(run.model.linear.bias, model.bias)
    assert run.metrics["steps"] == 1000
    assert run.data.val is None
    assert run.data.test is None
    assert run.model(torch.tensor([[4.0]])).item() == pytest.approx(4.0, abs=0.05)


def standardized(run) -> tuple[torch.Tensor, torch.Tensor]:
    """The training inputs as the textbook prepares them, flat; and the targets."""
    inputs = run.data.train.inputs.float().flatten(1)
    if run.data.train.inputs.ndim == 4:  # one mean and deviation for an image's only channel
        return (inputs - inputs.mean()) / inputs.std(correction=0), run.data.train.targets
    return (inputs - inputs.mean(0)) / inputs.std(0, correction=0), run.data.train.targets


@pytest.mark.parametrize(
    ("experiment", "epochs", "batch_size", "outputs", "least"),
    one_in(2, [("logistic_regression", 50, 64, 1, 0.9), ("softmax_regression", 30, 32, 10, 0.93)]),
)
def test_regression_to_classes_equals_the_bare_loop(experiment, epochs, batch_size, outputs, least):
    run = plainloop.train([f"experiment={experiment}"])

    inputs, targets = standardized(run)
    model = nn.Linear(inputs.shape[1], outputs)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    order = BatchOrder(len(inputs), batch_size, shuffle=True, drop_last=False, seed=0)
    for epoch in range(epochs):
        for rows in order.order(epoch).split(batch_size):
            optimizer.zero_grad()
            logits = model(inputs[rows])
            if outputs == 1:
                loss = nn.functional.binary_cross_entropy_with_logits(logits.squeeze(1), targets[rows].float())
            else:
                loss = nn.functional.cross_entropy(logits, targets[rows])
            loss.backward()
            optimizer.step()

    last = torch.load(run.path / "checkpoints" / f"step-{run.metrics['steps']}.pt", weights_only=True)["model"]
    torch.testing.assert_close(last["linear.weight"], model.weight.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(last["linear.bias"], model.bias.detach(), rtol=1e-3, atol=1e-4)
    assert run.metrics["test/accuracy"] >= least


def test_mnist_mlp_equals_the_bare_loop(tmp_path: Path):
    write_mnist(tmp_path / "data", train=700, test=100)
    words = ["experiment=mnist_mlp", f"paths.data={tmp_path / 'data'}"]
    start = assemble(compose(words))
    run = plainloop.train(words)

    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    model.load_state_dict(dict(zip(model.state_dict(), start.model.state_dict().values(), strict=True)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    pixels, targets = (start.data.train.inputs / 255 - 0.5) / 0.5, start.data.train.targets
    assert pixels.min() == -1
    assert 0.5 < pixels.max() <= 1
    order = BatchOrder(630, 64, shuffle=True, drop_last=False, seed=0)
    for epoch in range(5):
        for rows in order.order(epoch).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(pixels[rows]), targets[rows])
            loss.backward()
            optimizer.step()

    last = torch.load(run.path / "checkpoints" / f"step-{5 * 10}.pt", weights_only=True)["model"]
    for ours, theirs in zip(last.values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert run.metrics["test/accuracy"] > 0.9


@pytest.mark.slow
def test_what_transfer_learning_gains(tmp_path):
    """On the same 40 pictures and for as many epochs: the head on top of the backbone is ahead of training from
    scratch, and all of it, from the backbone on, is ahead of that for longer (as the recipe's file says)."""
    outputs = [f"paths.outputs={tmp_path}/outputs", "logger=none"]
    with pytest.raises(UserError, match=r"digits_backbone: there is no such run"):
        plainloop.train(["experiment=transfer_learning", *outputs])
    assert plainloop.train(["experiment=digits_backbone", *outputs]).metrics["test/accuracy"] > 0.9
    scratch = ["finetune.weights=null", "finetune.trainable=all", "optimizer.lr=0.001"]
    tuned = ["finetune.trainable=all", "optimizer.lr=0.001"]

    def mean(*words: str) -> float:
        runs = [
            plainloop.train(["experiment=transfer_learning", f"seed={seed}", *outputs, *words]) for seed in range(2)
        ]
        assert {run.config.spec.num_train for run in runs} == {40}
        return sum(run.metrics["test/accuracy"] for run in runs) / 2

    assert mean() > mean(*scratch) + 0.05
    longer = ["trainer.max_epochs=50"]
    assert mean(*tuned, *longer) > mean(*scratch, *longer) + 0.03


def test_the_head_alone_is_a_hundredth_of_the_network():
    run = plainloop.train(
        ["experiment=transfer_learning", "finetune.weights=null", "trainer.max_steps=1", "logger=none"]
    )
    counts = [sum(p.numel() for p in run.model.parameters() if p.requires_grad or every) for every in (False, True)]
    assert counts[0] == 256 * 5 + 5
    assert counts[0] / counts[1] < 0.01
