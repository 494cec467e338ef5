"""Losses: every one of torch's trains or says why not, values by hand, sums, class weights, and what doesn't fit."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

import plainloop
from plainloop.assembly.loss import UNFIT, balanced_weights, make_loss
from plainloop.build import factory
from plainloop.config import options
from plainloop.data import Data, InMemory
from plainloop.errors import UserError
from plainloop.tasks.classification import Binary, Multiclass, Multilabel
from plainloop.tasks.losses import TURNS, BinaryFocalLoss, FocalLoss, WeightedSum, fitted
from plainloop.tasks.metrics import MAE
from plainloop.tasks.regression import GaussianRegression, Regression
from plainloop.tasks.sequences import SequenceLabelling
from plainloop.tasks.task import Task
from tests.conftest import copy_configs, one_in


class Says(nn.Module):
    """A model whose outputs are given."""

    def __init__(self, outputs: Tensor):
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, inputs: Any) -> Tensor:
        return self.outputs


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TASKS: dict[str, type[Task]] = {
    "multiclass": Multiclass, "binary": Binary, "multilabel": Multilabel, "regression": Regression,
    "sequence_labelling": SequenceLabelling, "gaussian_regression": GaussianRegression,
}  # fmt: skip


def loss_of(kind: str, loss: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
    """What the task makes of it, without standardised targets."""
    plain = {"standardize": False} if issubclass(TASKS[kind], Regression) else {}
    return TASKS[kind](loss, **plain).loss_of(Says(outputs), (torch.zeros(len(targets), 1), targets))[0]


# --- data for every kind of task ----------------------------------------------------------------------------

FEATURES = random(60, 5)


@factory("data")
def labelled(split: str, kind: str) -> InMemory | None:
    """60 samples of five numbers, and targets of any kind, some of each."""
    number = torch.arange(60)
    targets = {
        "multilabel": torch.stack([number % 2, number % 3 == 0, number % 5 > 0], 1).float(),
        "counts": (number % 7).float(),
        "rare": (number % 10 == 0).long() + (number % 30 == 0).long(),
        "below": (number % 7).float() - 1,
        "ignored": torch.where(number % 6 == 5, -100, number % 3),
        "absent": torch.tensor([0, 2]).repeat(30),
        "always": torch.stack([number % 2, torch.ones(60)], 1).float(),
    }
    names = ["common", "rare", "rarest"] if kind in ("rare", "absent") else None
    data = InMemory(FEATURES, targets[kind], classes=names)
    return data if split == "train" else None


def mine(kind: str) -> list[str]:
    return ["data=custom", f"data._target_={__name__}.labelled", f"data.kind={kind}", "model=mlp"]


DATA = {
    "multiclass": ["data=digits"],
    "sequence_labelling": ["experiment=char_rnn"],
    "binary": ["data=breast_cancer"],
    "multilabel": [*mine("multilabel"), "task=multilabel"],
    "regression": ["data=penguins"],
    "gaussian_regression": ["data=penguins", "task=gaussian_regression"],
    "reconstruction": ["data=penguins", "task=reconstruction", "model.out_features=${spec.num_features}"],
}
# Every option of the group, its class, and what it is given by kind of task.
FILES = {name: options.read("loss", name)["_target_"] for name in options.groups()["loss"] if name != "custom"}
BY_NAME = {target.__name__: target for target in TURNS}
LOSSES = {
    option: (BY_NAME[name], TURNS[BY_NAME[name]])
    for option, target in FILES.items()
    if (name := target.rpartition(".")[2]) in BY_NAME
}


def fitting(kind: str) -> list[str]:
    return [option for option, (_, turns) in LOSSES.items() if kind in turns]


QUICK = ["trainer.max_epochs=2", "trainer.max_steps=2", "trainer.log_every=1", "logger=none", "checkpoint.keep=1"]
# With the first of its tasks always, with the others where there is time.
PAIRS = [
    pytest.param(option, kind, marks=[] if kind == next(iter(turns)) else pytest.mark.slow, id=f"{option}-{kind}")
    for option, (_, turns) in LOSSES.items()
    for kind in turns
]


def trained(*words: str) -> Any:
    return plainloop.train([*QUICK, *words])


def words_for(option: str, kind: str) -> list[str]:
    """What chooses a loss for a kind of task."""
    words = [*DATA[kind], f"loss={option}"]
    if option == "poisson_nll":
        words = [*mine("counts"), "task=regression", f"loss={option}"]
    if option == "sum":
        parts = [name for name in fitting(kind) if name not in ("sum", "poisson_nll")][:2]
        words += [f"loss.parts.{name}=0.5" for name in parts]
    return words


# --- every loss of torch's ----------------------------------------------------------------------------------

TORCHS = [name for name in dir(nn) if name.endswith("Loss")]
KNOWN = {target.__name__: option for option, (target, _) in LOSSES.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", one_in(4, TORCHS))
def test_every_loss_of_torchs_trains_or_says_why_not(name, tmp_path):
    """By its class, as loss=custom; a class that torch adds must be given a line in losses.py."""
    if name in UNFIT:
        for kind in ("multiclass", "regression"):
            with pytest.raises(UserError) as caught:
                trained(*DATA[kind], "loss=custom", f"loss._target_=torch.nn.{name}")
            why, instead = UNFIT[name]
            assert f"{name} {why}" in str(caught.value)
            assert instead in str(caught.value)
            assert len(str(caught.value).splitlines()) <= 2
        assert not (tmp_path / "outputs").exists()
        return
    assert name in KNOWN, f"torch.nn.{name} is new: give it a line in TURNS or UNFIT"
    option = KNOWN[name]
    words = words_for(option, next(iter(LOSSES[option][1])))
    run = trained(*words, "loss=custom", f"loss._target_=torch.nn.{name}")
    assert math.isfinite(run.metrics["train/loss"])
    assert run.session.task.loss is not None


def test_what_is_said_not_to_fit_is_torchs():
    """Nothing in the list of refusals is a loss that works; torch 2.11, the oldest, has all but the newest."""
    assert not set(UNFIT) & set(KNOWN)
    assert all(target.__name__ in TORCHS for target, _ in LOSSES.values() if target.__module__.startswith("torch"))


@pytest.mark.parametrize(("option", "kind"), one_in(8, PAIRS))
def test_every_option_trains_with_every_task_that_it_fits(option, kind):
    """Two steps with a loss that is a number, and a validation; it is what the same class gives as loss=custom."""
    run = trained(*words_for(option, kind))
    records = [record for record in run.history() if "train/loss" in record]
    assert len(records) == 2
    assert all(math.isfinite(record["train/loss"]) and record["grad_norm"] > 0 for record in records)
    assert type(run.session.task).kind == kind


def test_tasks_and_the_table_agree():
    """A task's config lists the options whose classes the table knows for it; each class there has an option."""
    assert {target for target, _ in LOSSES.values()} == set(TURNS)
    assert set(FILES) == {*LOSSES, "manual_bce"}  # the last is a lesson: models/logistic.py
    for kind in DATA:
        listed = options.read("task", kind)["task"]["losses"]
        assert sorted(set(listed) - {"manual_bce"}) == sorted(fitting(kind))


@pytest.mark.slow
def test_an_option_of_ones_own_needs_its_file_alone(tmp_path, monkeypatch):
    """A loss that no task lists isn't judged by its name, but by its class; and it can be a part of a sum."""
    folder = copy_configs(tmp_path, monkeypatch) / "loss"
    (folder / "wide.yaml").write_text("# Mine.\n_target_: torch.nn.HuberLoss\ndelta: 3.0\n")
    assert trained("data=penguins", "loss=wide").session.task.loss.delta == 3
    summed = trained("data=penguins", "loss=sum", "loss.parts.wide=0.5", "loss.parts.mse=1").session.task.loss
    assert summed.parts["wide"].delta == 3
    with pytest.raises(UserError, match="HuberLoss doesn't fit task=multiclass, which takes: cross_entropy"):
        trained("loss=wide")


# --- values by hand -----------------------------------------------------------------------------------------

LOGITS, LABELS = random(6, 4), torch.tensor([0, 1, 2, 3, 3, 1])
SCORES, MANY = random(5, 3, seed=1), torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]])


def margin_by_hand(scores: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 - x_y + x_i) over every wrong class i, divided by the number of classes."""
    rows = [
        sum(max(0.0, 1 - row[y].item() + row[i].item()) for i in range(len(row)) if i != y) / len(row)
        for row, y in zip(scores, targets, strict=True)
    ]
    return torch.tensor(sum(rows) / len(rows))


def label_margin_by_hand(scores: Tensor, targets: Tensor) -> Tensor:
    """The same over pairs of a true label and one that isn't."""
    rows = [
        sum(
            max(0.0, 1 - row[y].item() + row[i].item())
            for y in range(len(row))
            if yes[y]
            for i in range(len(row))
            if not yes[i]
        )
        / len(row)
        for row, yes in zip(scores, targets, strict=True)
    ]
    return torch.tensor(sum(rows) / len(rows))


def entropy_by_hand(logits: Tensor, targets: Tensor) -> Tensor:
    p = 1 / (1 + torch.exp(-logits))
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


def picked(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits.log_softmax(1)[torch.arange(len(targets)), targets].mean()


BY_HAND: dict[tuple[str, str], Callable[[Tensor, Tensor], Tensor]] = {
    ("nll", "multiclass"): picked,
    ("kl_div", "multiclass"): picked,  # of shares of 1 the entropy is 0
    ("multi_margin", "multiclass"): margin_by_hand,
    ("bce", "multilabel"): entropy_by_hand,
    ("bce_probabilities", "multilabel"): entropy_by_hand,
    ("soft_margin", "multilabel"): lambda x, y: torch.log1p(torch.exp(-(2 * y - 1) * x)).mean(),
    ("multilabel_soft_margin", "multilabel"): entropy_by_hand,
    ("multilabel_margin", "multilabel"): label_margin_by_hand,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("option", "kind"), BY_HAND, ids=str)
def test_losses_of_logits(option, kind, dtype):
    """The textbook's formula of the logits and the labels, whatever torch's class wants to be given; of outputs in
    bfloat16, computed in float32."""
    outputs, targets = (LOGITS, LABELS) if kind == "multiclass" else (SCORES, MANY)
    outputs = outputs.to(dtype).float() if option != "bce" and option != "multilabel_soft_margin" else outputs
    loss = make_loss({"_target_": f"torch.nn.{LOSSES[option][0].__name__}"}, kind, outputs.shape[1])
    given = outputs.to(dtype) if option not in ("bce", "multilabel_soft_margin") else outputs
    torch.testing.assert_close(loss_of(kind, loss, given, targets), BY_HAND[option, kind](outputs, targets))


@pytest.mark.parametrize("option", ["bce_probabilities", "soft_margin"])
def test_two_classes(option):
    loss = LOSSES[option][0]()
    targets = torch.tensor([0, 1, 1, 0, 1, 1])
    found = loss_of("binary", loss, LOGITS[:, :1], targets)
    torch.testing.assert_close(found, entropy_by_hand(LOGITS[:, 0], targets))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("option", ["bce_probabilities", "nll", "kl_div"])
def test_losses_work_under_autocast(option, device):
    """On a GPU torch's BCELoss refuses to: the loss is taken out of it."""
    kind = next(iter(LOSSES[option][1]))
    outputs, targets = (LOGITS, LABELS) if kind == "multiclass" else (LOGITS[:, :1], LABELS.clamp(max=1))
    outputs, targets = outputs.to(device), targets.to(device)
    loss = make_loss({"_target_": f"torch.nn.{LOSSES[option][0].__name__}"}, kind, 4)
    expected = loss_of(kind, loss, outputs, targets)
    with torch.autocast(device, torch.bfloat16):
        assert torch.equal(loss_of(kind, loss, outputs, targets), expected)


def test_nll_is_the_same_for_logits_and_their_logarithms():
    """A model may end in LogSoftmax, as torch's page on NLLLoss has it."""
    found = loss_of("multiclass", nn.NLLLoss(), LOGITS.log_softmax(1), LABELS)
    torch.testing.assert_close(found, F.nll_loss(LOGITS.log_softmax(1), LABELS))
    torch.testing.assert_close(found, loss_of("multiclass", nn.NLLLoss(), LOGITS, LABELS))


def test_kl_div_of_mixed_labels():
    """sum q log(q / p) over the classes, mean over the samples; what MixUp makes has an entropy of its own."""
    shares = random(6, 4, seed=3).softmax(1)
    found = loss_of("multiclass", nn.KLDivLoss(reduction="batchmean"), LOGITS, shares)
    torch.testing.assert_close(found, (shares * (shares.log() - LOGITS.log_softmax(1))).sum(1).mean())
    run = trained("data=digits", "loss=kl_div", "transforms.mixup=1.0")
    assert math.isfinite(run.metrics["train/loss"])


@pytest.mark.parametrize("log_input", [True, False])
def test_poisson(log_input):
    """exp(x) - y x of the logarithm x of the rate; the targets aren't standardised, and predictions are rates."""
    outputs, counts = random(6, 2).abs() + 0.1, torch.tensor([[0.0, 3], [1, 1], [2, 0], [0, 0], [5, 1], [1, 7]])
    task = Regression(nn.PoissonNLLLoss(log_input=log_input))
    task.fit(Data(InMemory(torch.zeros(6, 1), counts)))
    rates = outputs.exp() if log_input else outputs
    loss, _ = task.loss_of(Says(outputs), (torch.zeros(6, 1), counts))
    torch.testing.assert_close(loss, (rates - counts * rates.log()).mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(task.predict(outputs), rates)
    metric = MAE()
    task.update({"mae": metric}, outputs, (None, counts))
    assert metric.compute().item() == pytest.approx((rates - counts).abs().mean().item())


def test_gaussian():
    """(log v + (y - m)^2 / v) / 2 of standardised targets; predictions and deviations in the target's own unit."""
    outputs, targets = random(6, 4), 100 + 20 * random(6, 2, seed=1)
    task = GaussianRegression(nn.GaussianNLLLoss())
    task.fit(Data(InMemory(torch.zeros(6, 1), targets)))
    loss, _ = task.loss_of(Says(outputs), (torch.zeros(6, 1), targets))
    y = (targets - targets.mean(0)) / targets.std(0, correction=0)
    mean, variance = outputs[:, :2], torch.log1p(outputs[:, 2:].exp())
    torch.testing.assert_close(loss, ((variance.log() + (y - mean) ** 2 / variance) / 2).mean())
    torch.testing.assert_close(task.predict(outputs), mean * targets.std(0, correction=0) + targets.mean(0))
    torch.testing.assert_close(task.deviation(outputs), variance.sqrt() * targets.std(0, correction=0))
    assert trained(*DATA["gaussian_regression"]).config.spec.num_outputs == 2


def test_gaussian_learns_the_noise():
    """Targets without a pattern and of deviation 3: the best that can be said is their mean, and 3."""
    targets = 5 + 3 * random(500, 1, seed=2)
    task = GaussianRegression(nn.GaussianNLLLoss())
    task.fit(Data(InMemory(torch.zeros(500, 1), targets)))
    said = nn.Parameter(torch.zeros(1, 2))
    optimizer = torch.optim.Adam([said], lr=0.05)
    for _ in range(300):
        loss, _ = task.loss_of(lambda inputs: said.expand(500, 2), (None, targets))  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert task.predict(said.detach()).item() == pytest.approx(targets.mean().item(), abs=0.01)
    assert task.deviation(said.detach()).item() == pytest.approx(targets.std(correction=0).item(), rel=0.01)


# --- focal losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2, 0.5, 0])], ids=["", "weighted"])
def test_focal_loss(gamma, weight):
    """-w (1 - p)^gamma log p at the true class, mean over the samples."""
    p = LOGITS.softmax(1)[torch.arange(6), LABELS]
    w = torch.ones(6) if weight is None else weight[LABELS]
    found = FocalLoss(gamma, weight)(LOGITS, LABELS)
    torch.testing.assert_close(found, (w * (1 - p) ** gamma * -p.log()).mean())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("shape", [(6,), (6, 3)], ids=str)
def test_binary_focal_loss(gamma, alpha, shape):
    logits, targets = random(*shape), (random(*shape, seed=1) > 0).float()
    p = torch.where(targets > 0, logits.sigmoid(), 1 - logits.sigmoid())
    w = 1.0 if alpha is None else torch.where(targets > 0, alpha, 1 - alpha)
    torch.testing.assert_close(BinaryFocalLoss(gamma, alpha)(logits, targets), (w * (1 - p) ** gamma * -p.log()).mean())


def test_focal_loss_without_focus_is_cross_entropy():
    """Values and gradients."""
    for ours, theirs, logits, targets in (
        (FocalLoss(0), nn.CrossEntropyLoss(), LOGITS, LABELS),
        (BinaryFocalLoss(0), nn.BCEWithLogitsLoss(), SCORES, MANY.float()),
    ):
        found, expected = (logits.clone().requires_grad_() for _ in range(2))
        torch.testing.assert_close(ours(found, targets), theirs(expected, targets))
        ours(found, targets).backward()
        theirs(expected, targets).backward()
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [1.0, 50.0, 1000.0])
def test_focal_losses_of_sure_models_have_gradients(gamma, size):
    """Where p is 1 in floating point, right or wrong: (1 - p)^gamma has no derivative there for gamma below 1."""
    logits = (size * torch.eye(3)).requires_grad_()
    loss = FocalLoss(gamma)(logits, torch.tensor([0, 1, 0])) + BinaryFocalLoss(gamma)(logits[0], torch.ones(3))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_focal_gradient():
    logits = random(4, 3).double().requires_grad_()

    class Double(FocalLoss):  # what gradcheck needs; the loss itself works in float32
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            log = outputs.log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
            return (-((1 - log.exp()) ** self.gamma) * log).mean()

    expected = torch.autograd.grad(Double(1.5)(logits, LABELS[:4] % 3), logits)[0]
    found = torch.autograd.grad(FocalLoss(1.5)(logits, LABELS[:4] % 3), logits)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss=focal", "loss.gamma=-1"], "gamma must be 0 or more"),
        (["loss=focal", "loss.gamma=lots"], "loss.gamma=lots"),
        (["data=breast_cancer", "loss=binary_focal", "loss.alpha=2"], "alpha must be between"),
        (["loss=focal", "transforms.mixup=1.0"], "shares of classes"),
    ],
    ids=str,
)
def test_focal_losses_refuse_what_makes_no_sense(arguments, message):
    with pytest.raises(UserError, match=message):
        trained(*arguments)


# --- sequences ----------------------------------------------------------------------------------------------

PADDED = torch.tensor([[0, 1, 3, 2], [2, 1, -100, -100], [3, -100, -100, -100]])
WHOLE = [[0, 1, 2, 3], [0, 1], [0]]  # the places that count, row by row
LONG = random(3, 4, 4)


@pytest.mark.parametrize("ignored", [-100, 7])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 4, 0.5, 2])], ids=["", "weighted"])
@pytest.mark.parametrize("option", ["cross_entropy", "nll", "focal"])
def test_losses_of_sequences_pass_over_padding(option, smoothing, weight, ignored):
    """The mean over the places that aren't filled up, whatever the outputs there; smoothed over the classes."""
    if smoothing and option != "cross_entropy":
        smoothing = 0.0
    arguments = {"label_smoothing": smoothing} if smoothing else {}
    loss = LOSSES[option][0](weight=weight, ignore_index=ignored, **arguments)
    targets = torch.where(PADDED == -100, ignored, PADDED)
    rows = [(row, place) for row, places in enumerate(WHOLE) for place in places]
    log = torch.stack([LONG[row, place].log_softmax(0) for row, place in rows])
    true = torch.stack([PADDED[row, place] for row, place in rows])
    w = torch.ones(4) if weight is None else weight
    each = -(1 - smoothing) * w[true] * log[torch.arange(7), true] - smoothing / 4 * (w * log).sum(1)
    if option == "focal":
        each = each * (1 - log[torch.arange(7), true].exp()) ** 2
    expected = each.sum() / (7 if option == "focal" else w[true].sum())
    torch.testing.assert_close(loss_of("sequence_labelling", loss, LONG, targets), expected)
    noisy = torch.where((targets == ignored).unsqueeze(-1), 99.0 * random(3, 4, 4, seed=5), LONG)
    torch.testing.assert_close(loss_of("sequence_labelling", loss, noisy, targets), expected)


def test_a_sequences_share_is_the_weight_of_its_places():
    weight = torch.tensor([1.0, 4, 0.5, 2])
    task = SequenceLabelling(nn.NLLLoss(weight=weight))
    assert task.weighted
    assert task.size((None, PADDED)) == 7
    assert task.share((None, PADDED)) == pytest.approx(1 + 4 + 2 + 0.5 + 0.5 + 4 + 2)


def test_labels_that_no_part_passes_over_are_refused():
    """-100 means nothing to a loss without ignore_index; in a sum every part must have it."""
    assert trained(*mine("ignored"), "loss=nll").metrics["val/accuracy"] >= 0
    for words in (["loss=multi_margin"], ["loss=sum", "loss.parts.nll=1", "loss.parts.kl_div=1"]):
        with pytest.raises(UserError, match="is -100, and this loss has no ignore_index"):
            trained(*mine("ignored"), *words)
    assert WeightedSum({"a": nn.NLLLoss(), "b": FocalLoss()}).ignore_index == -100
    with pytest.raises(UserError, match="ignore different labels"):
        WeightedSum({"a": nn.NLLLoss(ignore_index=3), "b": FocalLoss()})


# --- weighted sums ------------------------------------------------------------------------------------------

SUM = ["loss=sum", "loss.parts.cross_entropy.label_smoothing=0.1", "loss.parts.soft.factor=0.5",
       "loss.parts.soft._target_=torch.nn.MultiMarginLoss", "loss.parts.soft.margin=2"]  # fmt: skip


def test_a_sum_and_its_gradient_are_those_written_by_hand():
    parts = {"nll": nn.NLLLoss(), "margin": nn.MultiMarginLoss(margin=2.0), "focal": FocalLoss(3.0)}
    model = Says(LOGITS)
    task = Multiclass(WeightedSum(parts, {"margin": 0.5, "focal": -0.25}))
    loss, _ = task.loss_of(model, (torch.zeros(6, 1), LABELS))
    loss.backward()
    logits = LOGITS.clone().requires_grad_()
    p = logits.softmax(1)[torch.arange(6), LABELS]
    values = {
        "nll": F.cross_entropy(logits, LABELS),
        "margin": F.multi_margin_loss(logits, LABELS, margin=2.0),
        "focal": (-((1 - p) ** 3) * p.log()).mean(),
    }
    expected = values["nll"] + 0.5 * values["margin"] - 0.25 * values["focal"]
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model.outputs.grad, logits.grad)
    assert {name: part.item() for name, part in task.parts().items()} == pytest.approx(
        {name: value.item() for name, value in values.items()}
    )
    assert not any(part.requires_grad for part in task.parts().values())


@pytest.mark.slow
def test_the_parts_of_a_sum_are_recorded():
    """At log points those of the newest batch, after validations and the test the means over the split, without their
    factors: as each loss alone would be, over the whole split."""
    run = plainloop.train([*SUM, "trainer.max_epochs=1", "trainer.log_every=5", "logger=tensorboard"])
    model, val = run.model.eval(), run.data.val
    assert val is not None
    with torch.no_grad():
        logits, targets = model(run.session.preprocess(val.inputs)), val.targets.long()  # type: ignore[attr-defined]
    ours = F.cross_entropy(logits, targets, label_smoothing=0.1).item()
    margin = F.multi_margin_loss(logits, targets, margin=2.0).item()
    assert run.metrics["val/loss/cross_entropy"] == pytest.approx(ours, rel=1e-5)
    assert run.metrics["val/loss/soft"] == pytest.approx(margin, rel=1e-5)
    assert run.metrics["val/loss"] == pytest.approx(ours + 0.5 * margin, rel=1e-5)
    assert {"test/loss/cross_entropy", "test/loss/soft"} <= run.metrics.keys()
    points = [record for record in run.history() if "train/loss" in record]
    assert points
    assert all({"train/loss/cross_entropy", "train/loss/soft"} <= record.keys() for record in points)
    again = plainloop.evaluate(run.path)
    assert {name: run.metrics[name] for name in again} == again
    assert {"loss", "loss/cross_entropy", "loss/soft"} <= tags(run.path / "tensorboard" / "train")
    assert {"loss", "loss/cross_entropy", "loss/soft"} <= tags(run.path / "tensorboard" / "val")


def tags(folder: Any) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return set(events.Tags()["scalars"])


def test_at_a_log_point_of_one_step_the_parts_add_up():
    run = trained(*SUM)
    for record in run.history():
        if "train/loss" in record:
            whole = record["train/loss/cross_entropy"] + 0.5 * record["train/loss/soft"]
            assert record["train/loss"] == pytest.approx(whole, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("words", one_in(2, [SUM, ["loss.weight=balanced", "trainer.accumulate_steps=2"]]))
def test_a_resumed_run_ends_with_the_same_bits(words):
    """Cut after 7 of 20 steps, within an epoch and between two log points, against one that went through."""
    common = [
        *words,
        "trainer.max_steps=20",
        "trainer.log_every=3",
        "logger=none",
        "loader.batch_size=100",
        "trainer.max_epochs=40",
    ]
    whole = plainloop.train(common)
    part = plainloop.train([*common, "trainer.max_steps=7"])
    run = plainloop.train([f"resume={part.path}", "trainer.max_steps=20"])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value), name
    keys = ("train/loss", "train/epoch_loss", "val/loss")
    ends = [{key: record[key] for key in keys if key in record} for record in (whole.history()[-1], run.history()[-1])]
    assert ends[0] == ends[1] != {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "loss=sum: of what"),
        (["loss.parts.crossentropy=1"], "loss.parts.crossentropy: no such loss. Did you mean cross_entropy?"),
        (["loss.parts.mse=1"], "loss.parts.mse: MSELoss doesn't fit task=multiclass, which takes: cross_entropy"),
        (["loss.parts.nll=much"], "loss.parts.nll=much: its factor in the sum must be a number"),
        (["loss.parts.nll=true"], "loss.parts.nll=True: its factor"),
        (["loss.parts.nll=null"], "loss.parts.nll=None: its factor"),
        (["loss.parts.nll.gamma=1"], "loss.parts.nll.gamma: NLLLoss takes no such argument"),
        (["loss.parts.nll.reduction=sum"], "loss.parts.nll.reduction=sum: must be mean"),
        (["loss.parts.nll.weight=[1,2]"], r"loss.parts.nll.weight=\[1, 2\]: 2 numbers for 10 classes"),
        (["loss.parts.focal.weight=balancd"], "loss.parts.focal.weight=balancd: a list of numbers"),
        (["loss.parts.CTC._target_=torch.nn.CTCLoss"], "loss.parts.CTC: CTCLoss needs"),
        (["loss.parts.sum=1"], "WeightedSum can't be part of a sum"),
        (["loss.parts=3"], "loss.parts=3: write"),
        (["loss.gamma=3", "loss.parts.nll=1"], "loss.gamma: WeightedSum takes no such argument"),
        (
            ["data=penguins", "loss.parts.poisson_nll=1"],
            "loss.parts.poisson_nll: PoissonNLLLoss can't be part of a sum",
        ),
    ],
    ids=str,
)
def test_sums_that_make_no_sense_are_refused(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        trained("loss=sum", *words)
    assert not (tmp_path / "outputs").exists()


# --- class weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["cross_entropy", "nll", "focal", "multi_margin"])
def test_balanced_weights(option):
    """N / (C count), as scikit-learn has it: 54 common, 4 rare and 2 rarest samples. They are in the saved config."""
    run = trained(
        *mine("rare"), "split.fractions=[1,0,0]", f"loss={option}", "loss.weight=balanced", "trainer.validate_every=0"
    )
    expected = [60 / (3 * count) for count in (54, 4, 2)]
    loss = run.session.task.loss
    loss = getattr(loss, "loss", loss)
    assert loss.weight.tolist() == pytest.approx(expected)
    assert loss.weight.dtype == torch.float32
    assert list(OmegaConf.load(run.path / "config.yaml").loss.weight) == pytest.approx(expected)


def test_balanced_weights_of_yes():
    """For each label, samples without it over samples with it."""
    run = trained(
        *DATA["multilabel"], "split.fractions=[1,0,0]", "loss.pos_weight=balanced", "trainer.validate_every=0"
    )
    assert run.session.task.loss.pos_weight.tolist() == pytest.approx([30 / 30, 40 / 20, 12 / 48])
    run = trained("data=breast_cancer", "loss.pos_weight=balanced")
    labels = run.data.train.targets
    assert run.session.task.loss.pos_weight.item() == pytest.approx(((labels == 0).sum() / (labels == 1).sum()).item())


@pytest.mark.slow
def test_weights_by_hand():
    """Lists of whole numbers, or one number where there is one output."""
    weight = [1, 2, 1, 1, 1, 1, 1, 1, 1, 5]
    for option in ("cross_entropy", "nll", "focal", "multi_margin"):
        assert trained(f"loss={option}", f"loss.weight={weight}".replace(" ", "")).metrics["val/loss"] > 0
    assert trained("data=breast_cancer", "loss.pos_weight=3").session.task.loss.pos_weight.tolist() == [3.0]
    for option in ("multilabel_soft_margin", "bce", "bce_probabilities"):
        trained(*DATA["multilabel"], f"loss={option}", "loss.weight=[1,0,2]")


class Unlisted(torch.utils.data.Dataset):
    """Labels that are known only when a sample is fetched, two of each of three sequences of different lengths."""

    def __init__(self, split: str = "train"):
        self.classes = ["a", "b", "c"]
        self.inside = [([0, 1], [0, 2]), ([1, 1, 1], [0, 0, 0]), ([2], [1])] * 2

    def __len__(self) -> int:
        return len(self.inside)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.inside[index]
        return torch.tensor(inputs), torch.tensor(targets)


def test_balanced_weights_of_labels_that_no_attribute_lists():
    """The samples are read: of sequences every place counts, of single labels every sample."""
    found = dict(balanced_weights({"weight": "balanced"}, "sequence_labelling", Data(Unlisted()), ["a", "b", "c"]))
    assert found["loss.weight"] == pytest.approx([12 / (3 * 8), 12 / (3 * 2), 12 / (3 * 2)])


@pytest.mark.parametrize("batch_size", one_in(3, [32, 1, 1000]))
@pytest.mark.parametrize("words", [["loss.label_smoothing=0.1"], ["loss=nll"]], ids=str)
def test_a_weighted_validation_is_one_weighted_mean(words, batch_size):
    """torch's own over the whole split, however it is divided into batches: also into some that hold only samples of
    weight 0, whose mean is 0 / 0."""
    smoothing, least = (0.1, 0.5) if words != ["loss=nll"] else (0.0, 0.0)
    run = trained(f"loss.weight=[1,9,1,1,1,{least},1,3,1,1]", *words, f"loader.eval.batch_size={batch_size}")
    val = run.data.val
    weight = torch.tensor([1.0, 9, 1, 1, 1, least, 1, 3, 1, 1])
    with torch.no_grad():
        logits = run.model.eval()(run.session.preprocess(val.inputs))
    expected = F.cross_entropy(logits, val.targets.long(), weight=weight, label_smoothing=smoothing)
    assert run.metrics["val/loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
def test_an_accumulated_window_is_a_batch_with_weights_too():
    """Its gradient is that of the weighted mean over all of its samples; and so is the epoch's mean."""
    words = [
        "loss.weight=[1,9,1,1,1,0.1,1,3,1,1]",
        "optimizer=sgd",
        "trainer.max_epochs=2",
        "trainer.log_every=7",
        "logger=none",
    ]
    whole = plainloop.train([*words, "loader.batch_size=64"])
    window = plainloop.train([*words, "loader.batch_size=16", "trainer.accumulate_steps=4"])
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(window.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    means = [[r["train/epoch_loss"] for r in run.history() if "train/epoch_loss" in r] for run in (whole, window)]
    assert means[0] == pytest.approx(means[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("word", one_in(2, ["loss.weight=balanced", "loss.parts={nll: {weight: balanced}, focal: 1}"]))
def test_the_same_words_start_and_continue_a_run(word, tmp_path):
    """The config holds the numbers by then, and `balanced` typed again is no other weight."""
    words = [word, f"hydra.run.dir={tmp_path}/run", "resume=auto", *(["loss=sum"] if "parts" in word else [])]
    first = trained(*words).metrics
    again = trained(*words).metrics
    assert first["val/loss"] == again["val/loss"]
    assert plainloop.evaluate(tmp_path / "run", split="val")["val/loss"] == first["val/loss"]


@pytest.mark.parametrize(
    ("words", "message"),
    one_in(
        3,
        [
            (["loss.weight=[1,2,3]"], r"loss.weight=\[1, 2, 3\]: 3 numbers for 10 classes"),
            (["loss.weight=balance"], "loss.weight=balance: a list of numbers from 0 on, .*, or balanced"),
            (["loss.weight=[1,2,x]"], "loss.weight=.*: a list of numbers"),
            (["loss.weight=[0,0,0,0,0,0,0,0,0,0]"], "not all of them 0"),
            (["loss.weight=[-1,1,1,1,1,1,1,1,1,1]"], "a list of numbers from 0 on"),
            (
                ["data=breast_cancer", "loss.weight=[1,2]"],
                r"loss.weight=\[1, 2\]: with one logit .* write loss.pos_weight",
            ),
            (
                ["data=breast_cancer", "loss.weight=balanced"],
                "loss.weight=balanced: it is for classes. Write pos_weight",
            ),
            (["data=breast_cancer", "loss.pos_weight=[1,2]"], r"loss.pos_weight=\[1, 2\]: 2 numbers for 1 output"),
            ([*DATA["multilabel"], "loss.pos_weight=[1,2]"], "2 numbers for 3 labels"),
            (
                [*mine("absent"), "loss.weight=balanced"],
                "the training split has no sample of class rare. Give the numbers",
            ),
            ([*mine("always"), "task=multilabel", "loss.pos_weight=balanced"], r"with \(or none without\) label 1"),
            (["data=penguins", "loss.weight=balanced"], "loss.weight=balanced: it is for classes"),
            (["loss=multi_margin", "loss.pos_weight=[1]"], "loss.pos_weight: MultiMarginLoss takes no such argument"),
        ],
    ),
    ids=str,
)
def test_weights_that_do_not_fit_are_refused(words, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        trained(*words)
    assert len(str(caught.value).splitlines()) <= 2
    assert not (tmp_path / "outputs").exists()


# --- what doesn't fit ---------------------------------------------------------------------------------------


class EndsIn(nn.Module):
    """A linear model with something behind it."""

    def __init__(self, end: str, features: int = 64, outputs: int = 10):
        super().__init__()
        self.flatten, self.layer = nn.Flatten(), nn.Linear(features, outputs)
        self.end = {
            "softmax": nn.Softmax(1),
            "functional": lambda x: F.softmax(x, dim=1),
            "log_softmax": nn.LogSoftmax(1),
            "sigmoid": nn.Sigmoid(),
            "squeezed": lambda x: torch.sigmoid(x).squeeze(0).reshape(x.shape),
            "gate": lambda x: x * torch.sigmoid(x),
            "tanh": nn.Tanh(),
            "log_sigmoid": nn.LogSigmoid(),
            "inner": lambda x: self.layer.weight.mean() + x.softmax(1) @ torch.eye(x.shape[1]),
        }[end]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.end(self.layer(self.flatten(inputs)))


class OwnLoss(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -outputs.gather(1, targets.long().unsqueeze(1)).log().mean()


def ending_in(end: str, data: str = "digits", *words: str) -> list[str]:
    sizes = {"digits": (64, 10), "breast_cancer": (30, 1)}.get(data, (5, 1))
    return [
        f"data={data}",
        "model=custom",
        f"model._target_={__name__}.EndsIn",
        f"model.end={end}",
        f"model.features={sizes[0]}",
        f"model.outputs={sizes[1]}",
        *words,
    ]


@pytest.mark.parametrize(
    ("words", "end"),
    one_in(
        3,
        [
            (ending_in("softmax"), "Softmax"),
            (ending_in("functional"), "Softmax"),
            (ending_in("softmax", "digits", "trainer.precision=bf16"), "Softmax"),
            (ending_in("softmax", "digits", "loss=nll"), "Softmax"),
            (ending_in("softmax", "digits", "loss=focal"), "Softmax"),
            (ending_in("softmax", "digits", *SUM), "Softmax"),
            (ending_in("sigmoid"), "Sigmoid"),
            (ending_in("log_sigmoid"), "LogSigmoid"),
            (ending_in("sigmoid", "breast_cancer"), "Sigmoid"),
            (ending_in("squeezed", "breast_cancer"), "Sigmoid"),
            (ending_in("sigmoid", "breast_cancer", "loss=bce_probabilities"), "Sigmoid"),
            (ending_in("sigmoid", "breast_cancer", "loss=soft_margin"), "Sigmoid"),
            (ending_in("log_softmax", "breast_cancer"), "LogSoftmax"),
        ],
    ),
    ids=str,
)
def test_a_model_that_does_the_losss_work_is_refused(words, end, tmp_path):
    """Softmax or Sigmoid at the end, as a module or a function, and also where the outputs are reshaped behind it."""
    with pytest.raises(UserError, match=f"model: it ends in {end}, and the loss needs its logits") as caught:
        trained(*words)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "words",
    one_in(
        3,
        [
            ending_in("log_softmax"),
            ending_in("log_softmax", "digits", "loss=nll"),
            ending_in("gate"),
            ending_in("inner"),
            ending_in("tanh", "breast_cancer"),
            ending_in("softmax", "digits", "loss=custom", f"loss._target_={__name__}.OwnLoss"),
            [*ending_in("sigmoid", "points"), "task=regression", "model.features=1"],
        ],
    ),
    ids=str,
)
def test_a_model_may_end_in_anything_else(words):
    """LogSoftmax before a softmax changes nothing, a loss of the user's own may want probabilities, and values may be
    between 0 and 1."""
    assert math.isfinite(trained(*words).metrics["train/loss"])


@pytest.mark.parametrize(
    ("words", "message"),
    one_in(
        3,
        [
            (
                ["loss=bce_probabilities"],
                r"loss=bce_probabilities doesn't fit task=multiclass, which takes: cross_entropy",
            ),
            (
                ["loss=custom", "loss._target_=torch.nn.L1Loss"],
                "L1Loss doesn't fit task=multiclass, which takes: cross_en",
            ),
            (["loss=custom", "loss._target_=torch.nn.modules.loss.CTCLoss"], "loss: CTCLoss needs the lengths"),
            (["data=penguins", "loss=custom", "loss._target_=torch.nn.NLLLoss"], "NLLLoss doesn't fit task=regression"),
            (["data=penguins", "loss=gaussian_nll"], "loss=gaussian_nll doesn't fit task=regression, which takes: mse"),
            (["data=penguins", "task=gaussian_regression", "loss=mse"], "which takes: gaussian_nll"),
            ([*mine("below"), "task=regression", "loss=poisson_nll"], r"target of sample \d+ of train is negative"),
            (
                [*mine("counts"), "task=regression", "loss=poisson_nll", "task.standardize=true"],
                "task.standardize=true",
            ),
            (["loss=kl_div", "loss.log_target=true"], "loss.log_target=true"),
            (["loss=kl_div", "loss.reduction=mean"], "loss.reduction=mean: must be batchmean"),
            (["loss=nll", "loss.ignore_index=3.5"], r"loss\.ignore_index=3\.5: must be a whole number"),
            (["loss.ignore_index=none"], r"loss\.ignore_index=none: must be a whole number"),
            (["loss=focal", "loss.ignore_index=[1]"], r"loss\.ignore_index=\[1\]: must be a whole number"),
            (
                ["loss=sum", "loss.parts.nll.ignore_index=a"],
                r"loss\.parts\.nll\.ignore_index=a: must be a whole number",
            ),
            (["loss=sum", "loss.parts.nll=1", "loss.factors={nll: 2}"], r"loss\.factors: .*loss\.parts\.NAME=FACTOR"),
            (["loss.label_smoothing=2"], "loss=cross_entropy, .* label_smoothing must be between"),
            (["loss=multi_margin", "loss.p=3"], "only p == 1 and p == 2 supported"),
        ],
    ),
    ids=str,
)
def test_losses_that_do_not_fit_are_refused(words, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        trained(*words)
    assert len(str(caught.value).splitlines()) <= 2
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_an_option_of_the_users_own_is_judged_by_what_it_names(monkeypatch, tmp_path):
    """configs/loss/smoothed.yaml with torch's cross-entropy fits a task whose list doesn't name it."""
    file = copy_configs(tmp_path, monkeypatch) / "loss/smoothed.yaml"
    file.write_text("# Smoothed.\n_target_: torch.nn.CrossEntropyLoss\nlabel_smoothing: 0.2\n")
    assert trained("loss=smoothed").session.task.loss.label_smoothing == 0.2
    with pytest.raises(UserError, match="CrossEntropyLoss doesn't fit task=regression"):
        trained("data=penguins", "loss=smoothed")


# --- a loss of one's own ------------------------------------------------------------------------------------


def test_a_loss_of_the_users_own_gets_outputs_and_targets():
    """As they are, also where it extends one of torch's."""
    seen: list[Tensor] = []

    class Mine(nn.NLLLoss):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            seen.append(outputs)
            return outputs.mean()

    loss_of("multiclass", Mine(), LOGITS, LABELS)
    torch.testing.assert_close(seen[0].detach(), LOGITS, rtol=0, atol=0)
    assert isinstance(fitted(Mine(), "multiclass"), Mine)


class WithParts(Multiclass):
    """A task whose loss has two parts."""

    def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        outputs = model(batch[0])
        self.said = {"fit": self.loss(outputs, batch[1]), "size": outputs.square().mean()}
        return self.said["fit"] + 0.1 * self.said["size"], outputs

    def parts(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.said.items()}


def test_a_task_of_ones_own_records_its_parts():
    run = trained(f"task._target_={__name__}.WithParts")
    metrics = run.metrics
    assert metrics["val/loss"] == pytest.approx(metrics["val/loss/fit"] + 0.1 * metrics["val/loss/size"], rel=1e-5)
    assert all("train/loss/size" in record for record in run.history() if "train/loss" in record)
