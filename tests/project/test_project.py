"""The examples of src/project/ train, alone and together: where a newcomer's own things go."""

import pytest

import plainloop
from tests.conftest import one_in


@pytest.mark.parametrize("words", one_in(4, ["model=mine data=mine task=mine", "model=mine", "data=mine", "task=mine"]))
def test_mine_trains(words):
    run = plainloop.train(["trainer.max_epochs=20", "logger=none", *words.split()])
    assert run.metrics["test/accuracy"] >= 0.9
    assert plainloop.evaluate(run.path)["test/accuracy"] == run.metrics["test/accuracy"]
