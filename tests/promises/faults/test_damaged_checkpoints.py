"""Checkpoints that are damaged are passed over, and none is written that could not be read again."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import plainloop
from plainloop.errors import MachineError, UserError
from plainloop.runs import checkpoint
from plainloop.training.callbacks import Callback
from tests.conftest import path_of
from tests.plainloop.runs.test_checkpoint import assert_same
from tests.promises.faults.fragile import (
    DAMAGE,
    QUICK,
    SPOIL_ONE,
    assert_same_end,
    assert_told,
    contents,
    cut,
    flipped_in_weights,
    newest,
    sealed,
    spoil_all,
    steps,
)

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


@pytest.mark.parametrize("spoil", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_seen(spoil, trained, tmp_path):
    file = tmp_path / "step-30.pt"
    file.write_bytes(spoil(newest(trained(*QUICK)).read_bytes()))
    with pytest.raises(checkpoint.Damaged):
        checkpoint.load(file)


@pytest.mark.parametrize("damage", ["cut to 0", "cut to 0.5", "a bit of a weight at 0.5", "a web page"])
def test_a_damaged_checkpoint_is_passed_over(damage, trained, copied, capsys):
    """The run goes on from the one before, says so, and ends with the bits that it had."""
    run = copied(*QUICK)
    path = newest(run)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    capsys.readouterr()
    plainloop.train([f"resume={run}"])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(said) == 1
    assert str(path) in said[0]
    assert "Falling back to the one before." in said[0]
    assert_same_end(run, trained(*QUICK))


def test_torch_alone_does_not_see_a_flipped_bit_of_a_weight(copied):
    """Why there is a digest: the file is read without an error, and a weight is another one."""
    path = newest(copied(*QUICK))
    whole = torch.load(path, weights_only=True)["model"]["layers.1.weight"]
    path.write_bytes(flipped_in_weights(0.5)(path.read_bytes()))
    assert not torch.equal(torch.load(path, weights_only=True)["model"]["layers.1.weight"], whole)


@pytest.mark.parametrize("words", ["resume=RUN", "hydra.run.dir=RUN resume=auto", "extend=RUN trainer.max_epochs=5"])
def test_where_all_are_damaged_nothing_is_started(words, copied):
    """Not even with resume=auto: what is there isn't written over. The best weights are as good as before."""
    run = copied(*QUICK)
    spoil_all(run)
    before = contents(run)
    with pytest.raises(MachineError) as caught:
        plainloop.train(words.replace("RUN", str(run)).split())
    assert_told(str(caught.value), f"{run}/checkpoints", "all 2 are damaged")
    assert re.search(r"extend=|new run|best|copy|backup", str(caught.value))  # what to do now
    assert contents(run) == before
    assert not Path("outputs").exists()
    evaluated = plainloop.evaluate(run, split="val")
    assert evaluated["val/loss"] == json.loads(before["metrics.json"])["val/loss"]
    with pytest.raises(MachineError, match="all 2 are damaged"):
        plainloop.evaluate(run, checkpoint="last")


@pytest.mark.parametrize(
    "spoil", [SPOIL_ONE, cut(0.5), DAMAGE["a web page"], lambda data: b""], ids=["a bit", "cut", "a web page", "empty"]
)
def test_a_damaged_best_is_never_measured(spoil, copied):
    """Neither by evaluate nor at a run's end; the newest weights are offered instead."""
    run = copied(*QUICK)
    best = run / "checkpoints/best.pt"
    best.write_bytes(spoil(best.read_bytes()))
    before = contents(run)
    for again in (lambda: plainloop.evaluate(run), lambda: plainloop.load_run(run)):
        with pytest.raises(MachineError) as caught:
            again()
        assert_told(str(caught.value), str(best), "checkpoint=last")
    assert contents(run) == before
    assert plainloop.evaluate(run, split="val", checkpoint="last")["val/loss"] > 0


def test_a_run_whose_best_is_damaged_does_not_train_in_vain(copied):
    """With a rate of zero the first epoch stays the best. It is told before the first step, or made good."""
    run = copied(*QUICK, "optimizer.lr=0.0")
    best = run / "checkpoints/best.pt"
    whole = checkpoint.load(best)
    assert whole["position"]["epoch"] == 1
    best.write_bytes(SPOIL_ONE(best.read_bytes()))
    before = contents(run)
    try:
        resumed = plainloop.train([f"resume={run}", "trainer.max_epochs=5"])
    except MachineError as error:
        assert_told(str(error), str(best))
        assert contents(run) == before
    else:
        assert_same(checkpoint.load(best)["model"], whole["model"])
        assert resumed.metrics["best/epoch"] == 1


@pytest.mark.parametrize(
    "state", [{}, {"position": {"step": 99}}, {"model": {}}, [1, 2], torch.ones(3)], ids=lambda state: str(state)[:12]
)
def test_a_file_that_is_whole_and_no_checkpoint_is_refused(state, copied, tmp_path):
    """With the digest that it should have."""
    run = copied(*QUICK)
    file = tmp_path / "given.pt"
    torch.save(state, file)
    file.write_bytes(sealed(file.read_bytes()))
    for place in (run / "checkpoints/step-30.pt", run / "checkpoints/step-20.pt"):
        shutil.copyfile(file, place)
    before = contents(run)
    for way in (
        lambda: plainloop.train([f"resume={run}"]),
        lambda: plainloop.train([f"extend={run}"]),
        lambda: plainloop.evaluate(run, checkpoint="last"),
        lambda: plainloop.evaluate(run, checkpoint="given.pt"),
    ):
        with pytest.raises((MachineError, UserError)) as caught:
            way()
        assert_told(str(caught.value), "checkpoint")
    assert contents(run) == before


class Remembers(Callback):
    """Remembers words: in a list, and after `good` epochs in a set."""

    def __init__(self, good: int = 0):
        self.good, self.epochs = good, 0

    def on_epoch_end(self, trainer, record) -> None:
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        words = ["seen", "words"]
        return {"deep": [{"seen": words if self.epochs <= self.good else set(words)}]}


@pytest.mark.parametrize("good", [0, 1])
def test_state_that_is_not_plain_is_found_when_it_is_saved(good, tmp_path):
    """And not when it is needed: with its place, and with what was saved before as it was."""
    words = [f"callbacks.mine._target_={path_of(Remembers)}", f"callbacks.mine.good={good}", "hydra.run.dir=run"]
    with pytest.raises(TypeError, match=r"state\.callbacks\.mine\.deep\[0\]\.seen is a set"):
        plainloop.train([*QUICK, *words])
    assert steps(tmp_path / "run") == ["step-10.pt"] * good
    if good:
        assert checkpoint.load(newest(tmp_path / "run"))["position"]["step"] == 10
