"""Averages of the weights."""

import json

import pytest
import torch
from torch import Tensor, nn

import plainloop
from plainloop.runs import checkpoint
from tests.promises.resume.runs import Net, fitted, trainers
from tests.resuming import newest, unequal


def test_the_average_is_the_recursion_by_hand():
    """average = d x average + (1 - d) x weights after each step, d = min(decay, (1 + i) / (10 + i)), in float64."""
    make = trainers("trainer.ema_decay=0.4", "trainer.max_epochs=2")
    trainer = make()
    average = {name: weight.detach().double() for name, weight in trainer.model.named_parameters()}
    update = trainer.average.end_step

    def by_hand() -> None:
        update()
        decay = min(0.4, (1 + trainer.average.count) / (10 + trainer.average.count))
        for name, weight in trainer.model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * weight.detach().double()

    trainer.average.end_step = by_hand
    trainer.fit()
    assert trainer.step == trainer.average.count == 10
    for name, weight in trainer.average.model.named_parameters():
        torch.testing.assert_close(weight.double(), average[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(weight, trainer.model.get_parameter(name))
    for name, buffer in trainer.average.model.named_buffers():
        assert torch.equal(buffer, trainer.model.get_buffer(name))  # statistics are averages already


def test_an_extended_run_goes_on_averaging(uninterrupted, tmp_path):
    """The average of 15 steps isn't thrown away by the first new ones, as one of two or three steps would be."""
    before = newest(uninterrupted("smooth").path)
    words = [f"extend={uninterrupted('smooth').path}", "trainer.max_steps=1", f"hydra.run.dir={tmp_path}/longer"]
    after = newest(plainloop.train(words).path)
    assert (before["average"]["count"], after["average"]["count"]) == (15, 16)
    decay = min(0.9, 17 / 26)
    for name in ("convolution.weight", "head.3.bias"):
        expected = decay * before["average"]["model"][name].double() + (1 - decay) * after["model"][name].double()
        torch.testing.assert_close(after["average"]["model"][name].double(), expected, rtol=1e-5, atol=1e-6)


def test_an_average_leaves_the_training_alone():
    one, other = (fitted(trainers(word)).trainer for word in ("trainer.ema_decay=0.9", "trainer.ema_decay=null"))
    for name in ("model", "optimizer"):
        assert unequal(getattr(one, name).state_dict(), getattr(other, name).state_dict()) == []


@pytest.mark.slow
def test_validation_best_and_evaluate_use_the_average(uninterrupted):
    run = uninterrupted("smooth").path
    best = checkpoint.load(run / "checkpoints/best.pt")
    loaded = plainloop.load_run(run)
    assert unequal(dict(loaded.model.state_dict()), dict(best["average"]["model"])) == []
    assert unequal(dict(best["model"]), dict(best["average"]["model"])) != []

    batches = list(loaded.session.loader("val"))
    preprocess, scale = loaded.preprocess, best["task"]["loss.scale"]

    def by_hand(weights: dict[str, Tensor]) -> float:
        model = Net()
        model.load_state_dict(weights)
        model.eval()
        with torch.no_grad():
            losses = [
                nn.functional.cross_entropy(scale * model(preprocess(images)), targets, reduction="sum")
                for images, targets in batches
            ]
        return float(sum(losses)) / 20

    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["val/loss"] == pytest.approx(by_hand(best["average"]["model"]), rel=1e-5)
    assert metrics["val/loss"] != pytest.approx(by_hand(best["model"]), rel=1e-3)
    for split in ("val", "test"):
        assert plainloop.evaluate(run, split=split)[f"{split}/loss"] == metrics[f"{split}/loss"]
    for file in run.glob("evaluate-*.json"):
        file.unlink()
