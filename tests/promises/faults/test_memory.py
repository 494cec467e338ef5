"""Out of memory: what is told, and that the command which is advised works."""

import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import plainloop
from plainloop.errors import MachineError
from tests.promises.faults import fragile
from tests.promises.faults.fragile import FRAGILE, QUICK, Net, Typed, assert_told, contents, fill_the_gpu

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


def command_in(text: str) -> list[str]:
    """The words of the command that a message ends with."""
    return shlex.split(text.splitlines()[-1].partition(": ")[2])


def batches_of(run: Path) -> tuple[int, int]:
    """Samples per batch, and batches per step."""
    loader, trainer = (OmegaConf.load(run / "config.yaml")[name] for name in ("loader", "trainer"))
    return loader.batch_size, trainer.accumulate_steps


@pytest.mark.parametrize(
    "words",
    [
        "",
        "scheduler=one_cycle",
        "scheduler=cosine loader.drop_last=true",
        "scheduler=one_cycle loader.batch_size=5",
        "loader.batch_size=9",
        "model.norm=true",
        "trainer.accumulate_steps=3",
        "checkpoint.every_steps=1",
    ],
)
def test_the_command_that_is_advised_when_memory_is_full_works(words, tmp_path):
    """Smaller batches, and as many more of them a step, for the run itself; where its schedule can't go on so, for a
    new run from its weights. The trap lets batches of three and less through."""
    Path("trap").write_text("model fill_the_gpu")
    with pytest.raises(MachineError) as caught:
        plainloop.train([*FRAGILE, *words.split()])
    python, script, *typed = command_in(str(caught.value))
    assert (python, script) == ("python", "train.py")
    (run,) = (tmp_path / "outputs/fragile").iterdir()
    before = batches_of(run)
    again = plainloop.train(typed)
    assert again.path.samefile(run) != ("drop_last" in words)
    assert again.metrics["epochs"] == 3
    after = batches_of(again.path)
    assert after[0] < before[0]
    assert after[0] * after[1] == before[0] * before[1]


def test_memory_that_is_full_before_the_first_checkpoint(monkeypatch):
    """There is nothing to continue: what to start with is said."""
    monkeypatch.setattr(fragile, "trapped", lambda: "model fill_torchs_memory")
    with pytest.raises(MachineError) as caught:
        plainloop.train(FRAGILE)
    assert_told(str(caught.value), "out of memory", "loader.batch_size=2 trainer.accumulate_steps=2")
    assert "resume=" not in str(caught.value)
    assert plainloop.train([*FRAGILE, "loader.batch_size=2", "trainer.accumulate_steps=2"]).metrics["epochs"] == 3


def test_a_batch_of_one_cannot_be_halved(monkeypatch):
    """Nothing is advised that would fail again."""
    monkeypatch.setattr(Net, "forward", lambda net, x: net.layer(x) if not net.training else fill_the_gpu())
    with pytest.raises(MachineError) as caught:
        plainloop.train([*FRAGILE, "loader.batch_size=1"])
    assert_told(str(caught.value), "out of memory")
    assert "loader.batch_size=1" not in str(caught.value)
    assert "accumulate_steps=" not in str(caught.value)


def test_memory_that_is_full_in_an_evaluation(copied, monkeypatch):
    """What is advised can be typed: evaluate.py takes no trainer.accumulate_steps."""
    run = copied(*FRAGILE)
    before = contents(run)
    net = Net
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda self, x: forward(self, x) if len(x) <= 3 else fill_the_gpu())
    with pytest.raises(MachineError) as caught:
        plainloop.evaluate(run, split="val")
    assert_told(str(caught.value), "out of memory", "loader.batch_size")
    assert "accumulate_steps" not in str(caught.value)
    assert contents(run) == before
    assert plainloop.evaluate(run, split="val", overrides=["loader.batch_size=2"])["val/loss"] > 0


def test_memory_that_is_full_at_the_first_look(monkeypatch, tmp_path):
    """Two samples are too much already: it is told as what it is, before anything is written."""
    monkeypatch.setattr(Net, "forward", lambda *_: fill_the_gpu())
    with pytest.raises(MachineError) as caught:
        plainloop.train(FRAGILE)
    assert_told(str(caught.value), "out of memory")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_no_memory_holds(tmp_path):
    with pytest.raises(MachineError) as caught:
        plainloop.train([*QUICK, "model.hidden_sizes=[1000000000000]"])
    assert_told(str(caught.value), "out of memory")
    assert list(tmp_path.iterdir()) == []


def test_typed_the_command_that_is_advised_works(tmp_path):
    Path("trap").write_text("model fill_the_gpu")
    failed = Typed(tmp_path, *FRAGILE).ended()
    assert failed.status == 1
    words = command_in(failed.err)
    assert words[0] == "python"
    done = Typed(tmp_path, *words[2:], script=words[1]).ended()
    assert done.status == 0, done.err
    assert done.run == failed.run
    assert done.metrics()["epochs"] == 3
