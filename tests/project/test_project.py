"""The examples of src/project/ train, alone and together: where a newcomer's own things go."""

import pytest

import plainloop


@pytest.mark.parametrize(
    "words", [["model=mine"], ["data=mine"], ["task=mine"], ["model=mine", "data=mine", "task=mine"]], ids=" ".join
)
def test_mine_trains(words):
    run = plainloop.train(["trainer.max_epochs=20", "logger=none", *words])
    assert run.metrics["test/accuracy"] >= 0.9
    assert plainloop.evaluate(run.path)["test/accuracy"] == run.metrics["test/accuracy"]
