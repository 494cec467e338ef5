"""On a GPU: the bare loop's bits, no waiting between log points, fp16, steps that are skipped, and resuming."""

import copy
import math

import pytest
import torch
from torch import nn

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config.compose import compose
from plainloop.training.update import SkippingUpdate
from tests.resuming import differences

pytestmark = pytest.mark.cuda
WORDS = ["trainer.device=cuda", "trainer.deterministic=true", "trainer.validate_every=0", "loader.on_device=true"]


def test_two_hundred_steps_equal_the_bare_loop_bit_for_bit():
    session = assemble(compose([*WORDS, "model=mlp", "trainer.max_steps=200", "trainer.log_every=7"]))
    trainer, model = make_trainer(session), copy.deepcopy(session.model)
    trainer.fit()
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=0.001, fused=True), nn.CrossEntropyLoss()
    step = epoch = 0
    while step < 200:
        for inputs, targets in trainer.train_batches.epoch(epoch):
            if step == 200:
                break
            optimizer.zero_grad()
            loss = criterion(model(session.preprocess(inputs)), targets)
            loss.backward()
            optimizer.step()
            step += 1
        epoch += 1
    for mine, theirs in zip(session.model.parameters(), model.parameters(), strict=True):
        assert mine.equal(theirs)


@pytest.mark.parametrize(
    "words",
    [
        ["model=mlp"],
        ["model=mlp", "trainer.precision=bf16", "trainer.max_grad_norm=1"],
        ["model=mlp", "model.norm=batch", "trainer.nonfinite=skip"],
        ["model=cnn", "trainer.channels_last=true", "transforms.flip=true", "trainer.ema_decay=0.99"],
        ["model=mlp", "trainer.accumulate_steps=2", "scheduler=cosine"],
    ],
    ids=" ".join,
)
def test_nothing_waits_for_the_device_between_log_points(words):
    """A synchronisation in a step that isn't logged is an error here."""
    session = assemble(
        compose(
            ["trainer.device=cuda", "loader.on_device=true", *words, "trainer.max_epochs=1", "trainer.log_every=10"]
        )
    )
    trainer = make_trainer(session)
    step = trainer.train_step

    def watched(window, logging):
        torch.cuda.set_sync_debug_mode("default" if logging else "error")
        try:
            return step(window, logging)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    trainer.train_step = watched
    trainer.fit()
    assert trainer.step > 10


def test_fp16_learns_and_leaves_out_what_overflows():
    session = assemble(compose(["trainer.device=cuda", "trainer.precision=fp16", "trainer.max_epochs=3"]))
    trainer = make_trainer(session)
    trainer.update.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)  # which overflows at first
    trainer.fit()
    assert trainer.update.scaler.get_scale() < 2.0**40
    assert trainer.last_values["accuracy"] > 0.9
    assert all(parameter.isfinite().all() for parameter in session.model.parameters())
    state = trainer.state_dict()["update"]
    fresh = make_trainer(session)
    fresh.update.load_state_dict(state)
    assert fresh.update.scaler.get_scale() == trainer.update.scaler.get_scale()


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])  # the last has no fused kernel
def test_a_skipped_step_changes_nothing(optimizer):
    session = assemble(compose(["trainer.device=cuda", "trainer.nonfinite=skip", f"optimizer={optimizer}"]))
    update = make_trainer(session).update
    assert isinstance(update, SkippingUpdate)
    before = copy.deepcopy(session.model.state_dict())
    update.keep()
    update.backward(session.model(torch.full((4, 1, 8, 8), math.nan, device="cuda")).sum())
    update.step()
    assert all(tensor.equal(before[name]) for name, tensor in session.model.state_dict().items())
    assert update.check(math.nan, step=1) == {"skipped_steps": 1}


def test_a_resumed_run_has_the_bits_of_one_that_was_never_interrupted(tmp_path):
    words = [*WORDS[:2], "model=cnn", "model.dropout=0.2", "transforms.flip=true", "logger=none"]
    whole = plainloop.train([*words, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/whole"])
    plainloop.train([*words, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/parts"])
    parts = plainloop.train([f"resume={tmp_path}/parts", "trainer.max_epochs=2"])
    assert differences(whole.path, parts.path) == []
