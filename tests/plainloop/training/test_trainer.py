"""The loop against the same thing written by hand."""

import copy
import math

import pytest
import torch
from torch import nn

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config.compose import compose
from plainloop.errors import MachineError
from plainloop.training.callbacks import Callback
from plainloop.training.trainer import Trainer


def trainer_for(*overrides: str, **hooks):
    """A session and its trainer, as the command would build them, without a run directory."""
    session = assemble(compose(["trainer.validate_every=0", *overrides]))
    return session, make_trainer(session, **hooks)


def equal_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_two_hundred_steps_equal_the_bare_loop_bit_for_bit():
    session, trainer = trainer_for("model=mlp", "trainer.max_steps=200", "trainer.log_every=7")
    model = copy.deepcopy(session.model)
    trainer.fit()

    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    criterion = nn.CrossEntropyLoss()
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

    assert trainer.step == 200
    assert equal_weights(session.model, model)


@pytest.mark.parametrize("batch_size", [16, 60])
def test_accumulated_gradients_are_those_of_the_whole_window(batch_size):
    """Also where the last window of an epoch is shorter and its last batch is not full: 1,258 samples."""
    window = 4 * batch_size
    small, accumulating = trainer_for(
        "optimizer=sgd",
        "optimizer.lr=0.1",
        f"loader.batch_size={batch_size}",
        "trainer.accumulate_steps=4",
        "trainer.max_epochs=1",
    )
    large, whole = trainer_for(
        "optimizer=sgd", "optimizer.lr=0.1", f"loader.batch_size={window}", "trainer.max_epochs=1"
    )
    accumulating.fit()
    whole.fit()
    assert accumulating.step == whole.step == math.ceil(1258 / window)
    for one, other in zip(small.model.parameters(), large.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_gradient_norm_is_logged_before_clipping_and_clipped_to_the_limit():
    records = []
    session, trainer = trainer_for(
        "optimizer=sgd",
        "optimizer.lr=1.0",
        "trainer.max_steps=1",
        "trainer.log_every=1",
        "trainer.max_grad_norm=0.01",
        log=records.append,
    )
    before = copy.deepcopy(session.model)
    inputs, targets = next(iter(trainer.train_batches.epoch(0)))
    nn.functional.cross_entropy(before(session.preprocess(inputs)), targets).backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in before.parameters()))
    trainer.fit()
    moved = math.sqrt(
        sum(
            float((a - b).detach().square().sum())
            for a, b in zip(session.model.parameters(), before.parameters(), strict=True)
        )
    )
    assert records[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert norm > 0.01
    assert moved == pytest.approx(0.01, rel=1e-3)  # SGD with rate 1 moves by the clipped gradient


def test_the_epoch_loss_is_the_mean_over_samples():
    """With a rate of zero the model doesn't change, so the truth is one pass over everything; 1,258 = 12 x 100 + 58."""
    records = []
    session, trainer = trainer_for(
        "optimizer=sgd",
        "optimizer.lr=0.0",
        "loader.batch_size=100",
        "trainer.max_epochs=1",
        "trainer.log_every=4",
        log=records.append,
    )
    trainer.fit()
    train = session.data.train
    with torch.no_grad():
        truth = nn.functional.cross_entropy(session.model(session.preprocess(train.inputs)), train.targets)
    assert records[-1]["train/epoch_loss"] == pytest.approx(float(truth), rel=1e-6)


def test_validation_is_a_mean_over_samples_and_leaves_the_training_alone():
    records = []
    quiet_session, quiet = trainer_for("model=cnn", "trainer.max_epochs=2")
    session, trainer = trainer_for(
        "model=cnn", "trainer.max_epochs=2", "trainer.validate_every=5s", "loader.batch_size=100", log=records.append
    )
    other_session, other = trainer_for("model=cnn", "trainer.max_epochs=2", "loader.batch_size=100")
    trainer.fit()
    other.fit()
    assert equal_weights(session.model, other_session.model)  # batch norm's statistics included
    assert all(module.training for module in session.model.modules())
    val = session.data.val
    with torch.inference_mode():
        session.model.eval()
        logits = session.model(session.preprocess(val.inputs))
    last = [record for record in records if "val/loss" in record][-1]
    assert last["val/loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, val.targets)), rel=1e-5)
    assert last["val/accuracy"] == pytest.approx(float((logits.argmax(1) == val.targets).float().mean()))
    assert quiet.step == 0  # never started
    assert quiet_session.data.val is not None


@pytest.mark.slow
def test_validation_is_due_after_epochs_or_after_steps():
    for every, steps in (
        ("2", [80, 120]),
        ("25s", [25, 50, 75, 100, 120]),
        ("20s", [20, 40, 60, 80, 100, 120]),
        ("0", []),
    ):
        records = []
        _, trainer = trainer_for(f"trainer.validate_every={every}", "trainer.max_epochs=3", log=records.append)
        trainer.fit()  # 40 steps an epoch; the end of the run is always validated
        assert [record["step"] for record in records if "val/loss" in record] == steps


def test_dropout_follows_from_seed_and_step():
    def weights(*overrides: str) -> torch.Tensor:
        session, trainer = trainer_for("model.dropout=0.5", "trainer.max_steps=20", *overrides)
        trainer.fit()
        return torch.cat([p.detach().flatten() for p in session.model.parameters()])

    first = weights()
    torch.rand(1000)  # what else draws from the default generator doesn't matter
    assert torch.equal(first, weights())
    assert not torch.equal(first, weights("seed=1"))


def test_max_steps_ends_the_run_within_an_epoch():
    saved = []
    _, trainer = trainer_for(
        "trainer.max_steps=50", "trainer.validate_every=1", save=lambda state, best: saved.append((state, best))
    )
    trainer.fit()
    assert (trainer.epoch, trainer.batch, trainer.step) == (1, 10, 50)
    assert trainer.reason == "50 steps done"
    assert saved[-1][0]["position"]["step"] == 50


def scripted(values: list[float], losses: list[float] | None = None, epochs: int = 30) -> Trainer:
    """A trainer whose validations give these values."""
    _, trainer = trainer_for(f"trainer.max_epochs={epochs}", "trainer.validate_every=1", "trainer.limit_batches=1")
    results = iter(zip(values, losses or [1.0] * len(values), strict=True))

    def validate():
        value, loss = next(results)
        return {"accuracy": value, "loss": loss}

    trainer.validate = validate
    return trainer


def test_early_stopping_counts_validations_without_a_better_value():
    trainer = scripted([0.1, 0.5, 0.5, 0.505, 0.4, 0.9])
    trainer.best.patience, trainer.best.min_delta = 3, 0.01
    trainer.fit()
    assert trainer.epoch == 5
    assert (trainer.best.value, trainer.best.epoch) == (0.505, 4)  # patience has a margin, the best has none
    assert "early stopping" in trainer.reason


def test_nan_is_never_best():
    trainer = scripted([math.nan, 0.2, math.nan], epochs=3)
    trainer.fit()
    assert (trainer.best.value, trainer.best.epoch) == (0.2, 2)


def test_among_equal_values_the_lower_loss_is_best():
    trainer = scripted([0.9, 0.9, 0.9, 0.8], [0.5, 0.3, 0.4, 0.1], epochs=4)
    trainer.fit()
    assert (trainer.best.value, trainer.best.epoch) == (0.9, 2)


def test_less_is_better_for_a_loss():
    trainer = scripted([0.0] * 3, [0.5, 0.3, 0.4], epochs=3)
    trainer.best.monitor, trainer.best.mode = "val/loss", "min"
    trainer.fit()
    assert (trainer.best.value, trainer.best.epoch) == (0.3, 2)


def test_a_loss_that_is_nan_ends_the_run_with_advice():
    _, trainer = trainer_for("optimizer=sgd", "optimizer.lr=1e12", "trainer.max_epochs=2", "trainer.log_every=5")
    with pytest.raises(MachineError, match=r"the loss is (nan|inf).*step 5.*optimizer.lr"):
        trainer.fit()


def test_weights_that_are_not_finite_are_never_saved():
    """An update may poison the weights after a loss that was finite; the last good checkpoint must stand."""
    saved = []
    _, trainer = trainer_for(
        "trainer.max_epochs=2",
        save=lambda state, best: saved.append(copy.deepcopy(state)),
        due=lambda trainer, ended: True,
    )
    step = trainer.train_step

    def poisoned(window, logging):
        result = step(window, logging)
        if trainer.step == 12:
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(math.nan)
        return result

    trainer.train_step = poisoned
    with pytest.raises(MachineError, match="the weights hold NaN or infinity at step 13 and aren't saved"):
        trainer.fit()
    assert all(value.isfinite().all() for state in saved for value in state["model"].values())
    assert saved[-1]["position"]["step"] == 12


class Scaled(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs, targets):
        return nn.functional.cross_entropy(self.scale * outputs, targets)


def test_what_a_loss_or_task_can_learn_is_learned():
    session, trainer = trainer_for("loss=custom", f"loss._target_={__name__}.Scaled", "trainer.max_steps=20")
    trainer.fit()
    assert float(session.task.loss.scale.detach()) != 1.0


def test_bf16_trains():
    session, trainer = trainer_for("trainer.precision=bf16", "trainer.max_epochs=3")
    trainer.fit()
    assert trainer.last_train_loss < 1.0
    assert all(parameter.dtype == torch.float32 for parameter in session.model.parameters())


@pytest.mark.slow
def test_compile_and_channels_last_train_to_the_same_weights_up_to_rounding():
    plain, one = trainer_for("model=cnn", "trainer.max_steps=5")
    fast, other = trainer_for("model=cnn", "trainer.max_steps=5", "trainer.compile=true", "trainer.channels_last=true")
    one.fit()
    other.fit()
    for a, b in zip(plain.model.parameters(), fast.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert list(fast.model.state_dict()) == list(plain.model.state_dict())  # no prefix of the wrapper's


class AdversarialTrainer(Trainer):
    """Two optimizers and two losses in one step: the model that is handed in discriminates, a generator of the
    trainer's own learns to fool it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.generator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=0.01)

    def train_step(self, window, logging):
        (batch,) = window
        real, _ = self.prepare(batch)
        fake = self.generator(torch.randn(len(real), 2))
        is_real, is_fake = torch.zeros(len(real)).long(), torch.ones(len(real)).long()

        self.optimizer.zero_grad()
        outputs = self.model(real)
        loss = self.task.loss(outputs, is_real) + self.task.loss(self.model(fake.detach()), is_fake)
        loss.backward()
        self.optimizer.step()

        self.generator_optimizer.zero_grad()
        self.task.loss(self.model(fake), is_real).backward()
        self.generator_optimizer.step()

        self.losses.add(loss, len(real))
        return outputs, None


@pytest.mark.slow
def test_a_trainer_of_ones_own_replaces_the_step():
    """trainer._target_ names a subclass; a GAN with two optimizers is the example."""
    session, trainer = trainer_for(
        "data=mine", f"trainer._target_={__name__}.AdversarialTrainer", "trainer.max_epochs=30", "optimizer.lr=0.01"
    )
    trainer.fit()
    real = session.preprocess(session.data.train.dataset.points)
    fake = trainer.generator(torch.randn(1000, 2)).detach()
    assert (fake.mean(0) - real.mean(0)).abs().max() < 0.6  # untrained, its outputs lie in a blob off the data
    assert fake.std(0).min() > 0.2


class Recorder(Callback):
    seen: list[str] = []

    def on_start(self, trainer):
        self.seen.append("start")

    def on_log(self, trainer, record):
        self.seen.append(f"log {record['step']}")

    def on_epoch_end(self, trainer, record):
        self.seen.append(f"epoch {record['epoch']}")
        if record["epoch"] == 2:
            trainer.stop("enough")

    def on_end(self, trainer):
        self.seen.append("end")


def test_callbacks_come_from_the_config_and_may_stop_the_run():
    Recorder.seen.clear()
    run = plainloop.train(
        [f"callbacks.mine._target_={__name__}.Recorder", "trainer.log_every=30", "logger=none", "trainer.max_epochs=9"]
    )
    assert Recorder.seen == ["start", "log 30", "epoch 1", "log 60", "epoch 2", "end"]
    assert run.metrics["epochs"] == 2


def test_validation_by_steps_counts_each_weights_once():
    """Where the steps divide the epoch, its end isn't a second validation: patience and plateau would count twice."""
    records = []
    _, trainer = trainer_for(
        "trainer.validate_every=20s",
        "trainer.max_epochs=2",
        "early_stopping.patience=9",
        "scheduler=plateau",
        "scheduler.patience=0",
        "optimizer.lr=0.0",
        log=records.append,
    )
    trainer.fit()
    assert [record["step"] for record in records if "val/loss" in record] == [20, 40, 60, 80]
    assert trainer.best.stale == 3  # of four equal validations the first is the best


def test_an_early_stop_within_an_epoch_is_recorded_once():
    records = []
    _, trainer = trainer_for(
        "trainer.validate_every=10s", "early_stopping.patience=1", "optimizer.lr=0.0", log=records.append
    )
    trainer.fit()
    assert trainer.step == 20
    assert [record["step"] for record in records if "val/loss" in record] == [10, 20]
    assert [record["step"] for record in records if "train/loss" not in record] == [10, 20]
