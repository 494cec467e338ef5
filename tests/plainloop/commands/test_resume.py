"""`resume=RUN` goes on as if nothing had been; `extend=RUN` is a new run from its weights."""

import json
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import plainloop
from plainloop.errors import MachineError, UserError
from plainloop.runs.directory import RunDir
from plainloop.training.trainer import Trainer
from tests.conftest import one_in
from tests.plainloop.commands.runs import comparable, final_state, trained


@pytest.mark.slow
def test_a_longer_resumed_run_equals_one_that_was_never_interrupted():
    whole = trained("model=cnn", "trainer.max_epochs=4", "model.dropout=0.3", "trainer.log_every=10")
    run = trained("model=cnn", "trainer.max_epochs=2", "model.dropout=0.3", "trainer.log_every=10")
    resumed = plainloop.train([f"resume={run.path}", "trainer.max_epochs=4"])
    assert resumed.path == run.path
    assert comparable(resumed) == comparable(whole)
    one, other = final_state(whole), final_state(resumed)
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    for number, state in one["optimizer"]["state"].items():
        assert all(torch.equal(state[name], other["optimizer"]["state"][number][name]) for name in state)
    for name in ("test/loss", "val/loss", "best/step", "last/val/loss", "samples"):
        assert resumed.metrics[name] == whole.metrics[name]
    assert OmegaConf.load(run.path / "config.yaml").trainer.max_epochs == 4


@pytest.mark.slow
def test_resume_goes_on_within_an_epoch(monkeypatch: pytest.MonkeyPatch):
    """Stopped at step 61 of 80, in the middle of a log window, and resumed: the same bits as without a stop."""
    options = ["model.dropout=0.3", "scheduler=one_cycle", "optimizer.lr=1e-4", "trainer.log_every=7"]
    whole = trained(*options)
    fit = Trainer.train_step

    def stop_at_61(self, window, logging):
        if self.step == 60:
            self.signal = 15
        return fit(self, window, logging)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", stop_at_61)
        with pytest.raises(KeyboardInterrupt, match=r"saved at step 61.\nContinue .*resume=") as stopped:
            trained(*options, "name=stopped")
    assert stopped.value.status == 143
    resumed = plainloop.train(["resume=latest"])
    assert resumed.path.parent.name == "stopped"
    assert comparable(resumed) == comparable(whole)
    one, other = final_state(whole), final_state(resumed)
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert resumed.metrics["test/loss"] == whole.metrics["test/loss"]


@pytest.mark.slow
def test_a_signal_during_validation_is_obeyed_and_the_validation_repeated(monkeypatch: pytest.MonkeyPatch):
    """In the middle of an epoch and at its end: nothing is lost, nothing is counted twice."""
    for every, at in (("15s", 15), ("1", 40)):
        options = [f"trainer.validate_every={every}", "early_stopping.patience=9", "model.dropout=0.3"]
        whole = trained(*options)
        update = Trainer.validate

        def interrupted(self, at=at, update=update):
            if self.step == at:
                self.signal = 2
            return update(self)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "validate", interrupted)
            with pytest.raises(KeyboardInterrupt, match=f"saved at step {at}"):
                trained(*options, "name=stopped")
        resumed = plainloop.train(["resume=latest"])
        assert comparable(resumed) == comparable(whole)
        one, other = final_state(whole), final_state(resumed)
        assert one["best"] == other["best"]
        assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


def test_a_run_stopped_early_stays_stopped(capsys: pytest.CaptureFixture):
    run = trained("early_stopping.patience=1", "early_stopping.min_delta=1", "trainer.max_epochs=9")
    assert run.metrics["epochs"] == 2
    plainloop.train([f"resume={run.path}"])
    assert "this run is finished (val/accuracy has not become better" in capsys.readouterr().out


@pytest.mark.slow
def test_what_happened_when_it_was_resumed_is_recorded():
    run = trained()
    plainloop.evaluate(run.path)
    resumed = plainloop.train([f"resume={run.path}", "trainer.max_epochs=3"])
    assert not list(run.path.glob("evaluate-*.json"))  # they were about older weights
    (entry,) = json.loads((run.path / "environment.json").read_text())["resumed"]
    assert entry["overrides"] == [f"resume={run.path}", "trainer.max_epochs=3"]
    assert resumed.metrics["seconds"] > run.metrics["seconds"]


@pytest.mark.slow
def test_a_run_is_trained_by_one_process_at_a_time():
    run = trained()
    import os

    held = RunDir(run.path).lock()
    with pytest.raises(MachineError, match=r"is being trained by another process\.$"):  # and no advice to resume it
        plainloop.train([f"resume={run.path}", "trainer.max_epochs=3"])
    os.close(held)
    assert plainloop.train([f"resume={run.path}", "trainer.max_epochs=3"]).metrics["epochs"] == 3


@pytest.mark.slow
def test_a_history_that_lost_its_end_is_continued_where_it_ends():
    """After a power cut a file may be shorter than the checkpoint remembers: no bytes are made up."""
    run = trained("trainer.log_every=10")
    text = (run.path / "history.jsonl").read_bytes()
    lines = text.splitlines(keepends=True)
    (run.path / "history.jsonl").write_bytes(b"".join(lines[:-2]))
    resumed = plainloop.train([f"resume={run.path}", "trainer.max_epochs=3"])
    assert [record["step"] for record in resumed.history()][-1] == 120


def test_a_run_from_before_a_key_existed_is_still_read():
    run = trained()
    composed = (run.path / "composed.yaml").read_text()
    assert "  channels_last: false\n" in composed
    (run.path / "composed.yaml").write_text(composed.replace("  channels_last: false\n", ""))
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]


def test_splits_that_would_change_are_refused(tmp_path: Path):
    """Else an extended run would be tested on what the first one was trained on."""
    run = trained()
    with pytest.raises(UserError, match="seed=1: this can't change"):
        plainloop.train([f"extend={run.path}", "seed=1"])
    splits = json.loads((run.path / "splits.json").read_text())
    splits["test"], splits["val"] = splits["val"], splits["test"]
    (run.path / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(UserError, match="the splits have changed"):
        plainloop.evaluate(run.path)


@pytest.mark.slow
def test_resuming_a_finished_run_says_so(capsys: pytest.CaptureFixture):
    run = trained()
    again = plainloop.train([f"resume={run.path}"])
    assert "this run is finished (2 epochs done)" in capsys.readouterr().out
    assert again.metrics == run.metrics


def test_a_schedule_built_for_one_length_never_runs_at_another():
    run = trained("scheduler=cosine")
    with pytest.raises(UserError, match=rf"extend={re.escape(str(run.path))} trainer.max_epochs=4"):
        plainloop.train([f"resume={run.path}", "trainer.max_epochs=4"])


def test_what_the_numbers_follow_from_cannot_change_on_resume():
    run = trained()
    for word in ("model=cnn", "optimizer.lr=1", "seed=3", "optimizer=sgd", "loader.batch_size=7"):
        change = rf"{re.escape(word)}: this can't change .*\(the run has {re.escape(word.split('=')[0])}="
        with pytest.raises(UserError, match=change):
            plainloop.train([f"resume={run.path}", word])


@pytest.mark.slow
def test_extend_is_a_new_run_from_the_weights_with_a_schedule_of_its_own():
    run = trained("scheduler=cosine")
    longer = plainloop.train([f"extend={run.path}", "trainer.max_epochs=3", "optimizer.lr=5e-4"])
    assert longer.path != run.path
    assert longer.metrics["epochs"] == 3
    assert longer.config.spec.schedule_length == 3 * 40
    rates = [record["lr"] for record in longer.history()]
    assert rates[0] < 5e-4
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert (
        next(record["train/loss"] for record in longer.history() if "train/loss" in record)
        < run.history()[-1]["train/epoch_loss"]
    )  # it starts where the run ended
    state = final_state(longer)["optimizer"]["state"][0]
    assert float(state["step"]) == 5 * 40  # Adam's own count goes on


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "interval"),
    one_in(3, [("cosine", "step", "epoch"), ("cosine", "plateau", "validation"), ("plateau", "cosine", "step")]),
)
def test_another_scheduler_ticks_in_its_own_interval(before, after, interval):
    """Else scheduler=step would take a tenth of the rate after every 10 steps, and not epochs."""
    run = trained(f"scheduler={before}", "trainer.max_epochs=1")
    longer = plainloop.train([f"extend={run.path}", f"scheduler={after}"])
    assert longer.config.schedule.interval == interval
    assert {record["lr"] for record in longer.history()} == {0.001} or after == "cosine"


@pytest.mark.parametrize(
    ("before", "typed"),
    one_in(
        2,
        [
            ("optimizer=several", "optimizer.weights.parameters=bias"),  # moments of other shapes crash a fused kernel
            ("optimizer=several", "optimizer.rest._target_=torch.optim.RMSprop"),
            ("optimizer=adam", "optimizer._target_=torch.optim.NAdam"),
            ("optimizer=adam", "optimizer.amsgrad=true"),
        ],
    ),
)
def test_an_extended_run_keeps_its_optimizers_and_what_each_of_them_has(before, typed):
    run = trained(before, "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"can't change when a run is extended.*state wouldn't fit"):
        plainloop.train([f"extend={run.path}", typed])


@pytest.mark.slow
def test_extend_takes_the_last_weights_and_moments():
    """One step with a rate of zero leaves the weights where the old run ended."""
    run = trained()
    longer = plainloop.train([f"extend={run.path}", "trainer.max_steps=1", "optimizer.lr=0.0"])
    one, other = final_state(run)["model"], final_state(longer)["model"]
    assert all(torch.equal(one[name], other[name]) for name in one)
