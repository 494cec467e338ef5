"""Optimizers are fused unless somebody says otherwise; parameters come into groups by name; several optimizers are one;
L-BFGS asks for the loss; every optimizer of torch works from the command line."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config import compose, options
from plainloop.errors import UserError
from plainloop.models import CNN, MLP, TransformerClassifier
from plainloop.models.freezing import freeze
from plainloop.runs import checkpoint
from plainloop.tasks.classification import Multiclass
from plainloop.training.lbfgs import ClosureTrainer, check_closure_settings
from plainloop.training.optimizer import make_optimizer
from plainloop.training.schedule import make_schedule
from plainloop.training.trainer import Trainer
from tests.conftest import one_in

CPU = torch.device("cpu")


def weights(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes or ((3, 2), (2,))]


def optimizer_of(name: str = "SGD", parameters: Any = None, device: torch.device = CPU, **arguments: Any):
    node = {"_target_": f"torch.optim.{name}", "lr": 0.1, **arguments}
    return make_optimizer(node, nn.ParameterList(parameters or weights()), device)


# --- one optimizer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_where_torch_has_it(name):
    assert optimizer_of(name).param_groups[0]["fused"] is True


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"fused": False}, False),
        ({"fused": None}, None),
        ({"foreach": True}, None),
        ({"foreach": False}, None),
        ({"differentiable": True}, None),
        ({"capturable": True}, None),
        ({"capturable": False, "differentiable": False}, True),
    ],
    ids=str,
)
def test_the_users_choice_of_implementation_is_left_alone(arguments, expected):
    """Whoever names an implementation gets it, fused or not."""
    group = optimizer_of("Adam", **arguments).param_groups[0]
    assert group["fused"] is expected
    assert all(group[name] == value for name, value in arguments.items())


@pytest.mark.parametrize("name", ["RMSprop", "Adadelta", "Rprop"])
def test_optimizers_without_a_fused_kernel_are_built_too(name):
    assert "fused" not in optimizer_of(name).param_groups[0]


def test_nothing_is_fused_where_the_kernel_does_not_reach():
    """Not on other devices than CPU and CUDA, nor for complex numbers."""
    assert not optimizer_of("Adam", device=torch.device("mps")).param_groups[0]["fused"]
    complex_weights = [nn.Parameter(torch.ones(2, dtype=torch.complex64))]
    assert not optimizer_of("Adam", complex_weights).param_groups[0]["fused"]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_learns_what_the_plain_one_learns(name):
    """The same weights after ten steps, up to rounding."""
    found = []
    for build in (optimizer_of, lambda n, p: getattr(torch.optim, n)(p, lr=0.1, foreach=False)):
        parameters = weights()
        optimizer = build(name, parameters)
        for step in range(10):
            optimizer.zero_grad()
            sum(((parameter - step) ** 2).sum() for parameter in parameters).backward()
            optimizer.step()
        found.append(parameters)
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain)


def test_only_what_requires_a_gradient_is_trained():
    frozen, free = weights()
    frozen.requires_grad_(False)
    assert [id(p) for p in optimizer_of("SGD", [frozen, free]).param_groups[0]["params"]] == [id(free)]
    free.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        optimizer_of("SGD", [frozen, free])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "torch.optim.Adam", "learning_rate": 0.1}, "Did you mean lr"),
        ({"_target_": "torch.optim.Adam", "lr": -1}, "Invalid learning rate"),
        ({"_target_": "torch.nn.Linear"}, "is not a torch.optim.Optimizer"),
        ({"_target_": "torch.optim.Adamm"}, "Did you mean Adam"),
    ],
    ids=["misnamed", "negative", "no optimizer", "misspelt"],
)
def test_wrong_optimizers_are_answered(node, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(node, nn.ParameterList(weights()), CPU)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "torch.optim.Muon"}, r"two dimensions alone, and 1 has 1\. optimizer=muon"),
        ({"_target_": "torch.optim.SparseAdam"}, r"nn\.Embedding\(sparse=True\) alone, and 0 isn't one's"),
    ],
)
def test_optimizers_that_take_only_some_parameters_say_so(node, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(node, nn.ParameterList(weights()), CPU)


@pytest.mark.parametrize(
    ("name", "takes"), [("SparseAdam", True), ("SGD", True), ("Adagrad", True), ("Adam", False), ("RMSprop", False)]
)
def test_sparse_gradients_go_where_they_are_taken(name, takes):
    model = nn.Embedding(5, 3, sparse=True)
    node = {"_target_": f"torch.optim.{name}", "lr": 0.1}
    if not takes:
        with pytest.raises(UserError, match="is a sparse embedding's"):
            make_optimizer(node, model, CPU)
        return
    optimizer = make_optimizer(node, model, CPU)
    assert not optimizer.param_groups[0].get("fused")  # no fused kernel takes them
    before = model.weight.detach().clone()
    model(torch.tensor([1, 3])).sum().backward()
    optimizer.step()
    assert (model.weight != before).any(1).tolist() == [False, True, False, True, False]


# --- groups of parameters -----------------------------------------------------------------------------------


def rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Parameter -> (learning rate, weight decay)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def grouped(model: nn.Module, **section: Any) -> dict[str, tuple[float, float]]:
    node = {"_target_": "torch.optim.AdamW", "lr": 0.1, "weight_decay": 0.5}
    return rates(make_optimizer(node, model, CPU, section), model)


def test_without_groups_there_is_one():
    optimizer = make_optimizer({"_target_": "torch.optim.AdamW"}, MLP(4, 3, [5]), CPU, {"rules": []})
    assert len(optimizer.param_groups) == 1
    assert "name" not in optimizer.param_groups[0]


def test_no_decay_on_norms_and_biases():
    model = CNN(1, 3, (8, 8), [4])
    for name, (_, decay) in grouped(model, no_decay_norm_bias=True).items():
        assert decay == (0.5 if name in ("features.0.weight", "head.3.weight") else 0.0), name


def test_layer_decay_and_the_heads_rate():
    """0.1 x 0.5^k, k blocks below the head, which has its own."""
    model = MLP(4, 3, [5, 6], norm="layer")
    found = grouped(model, layer_decay=0.5, head_lr=1.0)
    expected = {
        "layers.1": 0.1 * 0.25,
        "layers.2": 0.1 * 0.25,
        "layers.4": 0.1 * 0.5,
        "layers.5": 0.1 * 0.5,
        "layers.7": 1.0,
    }
    for name, (rate, _) in found.items():
        assert rate == pytest.approx(expected[name.rpartition(".")[0]]), name


def test_rules_by_regular_expressions_later_ones_win():
    model = MLP(4, 3, [5])
    rules = [{"match": "weight$", "lr": 1.0}, {"match": r"^layers\.3", "lr": 2.0, "weight_decay": 0.0}]
    assert grouped(model, rules=rules, layer_decay=0.1) == {
        "layers.1.weight": (1.0, 0.5),
        "layers.1.bias": (pytest.approx(0.01), 0.5),
        "layers.3.weight": (2.0, 0.0),
        "layers.3.bias": (2.0, 0.0),
    }


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"match": "convolution", "lr": 1}, "convolution matches no trained parameter.*layers.1.weight"),
        ({"match": "(", "lr": 1}, "no regular expression"),
        ({"match": "weight", "learning_rate": 1}, "AdamW, which trains layers.1.weight, has no option learning_rate"),
        ({"match": "weight", "lr": -1}, "param_groups: .*lr=-1.*Invalid learning rate"),
        ({"match": "weight", "lr": None}, "param_groups: .*lr=None"),
        ({"match": "weight", "weight_decay": "much"}, "param_groups: .*weight_decay=much.*takes a number"),
        ({"match": "weight", "betas": 5}, "param_groups: .*betas=5"),
    ],
)
def test_wrong_rules_are_answered(rule, message):
    with pytest.raises(UserError, match=message):
        grouped(MLP(4, 3, [5]), rules=[rule])


@pytest.mark.parametrize("rate", [None, [1.0], -1.0])
def test_a_wrong_rate_of_which_groups_would_take_a_share_is_answered(rate):
    node = {"_target_": "torch.optim.SGD", "lr": rate}
    with pytest.raises(UserError, match="SGD refused its arguments"):
        make_optimizer(node, MLP(4, 3, [5]), CPU, {"layer_decay": 0.5})


def test_a_rate_for_a_head_that_is_not_trained_is_refused():
    """Else it would be passed over without a word."""
    model = MLP(4, 3, [5])
    freeze(model, "layers.1")
    with pytest.raises(UserError, match=r"param_groups\.head_lr=0\.1: .*layers\.3"):
        grouped(model, head_lr=0.1)


def test_groups_are_those_of_a_loop_by_hand():
    """Five steps of the command against torch's own groups, bit for bit."""
    words = [
        "model=mlp",
        "optimizer=adamw",
        "param_groups.no_decay_norm_bias=true",
        "param_groups.head_lr=0.01",
        "trainer.max_steps=5",
        "loader.shuffle=false",
        "logger=none",
        "trainer.validate_every=0",
    ]
    run = plainloop.train(words)
    torch.manual_seed(0)
    model = assemble(compose.compose(words)).model
    head, body = model.layers[5], [model.layers[1], model.layers[3]]
    optimizer = torch.optim.AdamW(
        [
            {"params": [layer.weight for layer in body]},
            {"params": [layer.bias for layer in body], "weight_decay": 0.0},
            {"params": [head.weight], "lr": 0.01},
            {"params": [head.bias], "lr": 0.01, "weight_decay": 0.0},
        ],
        lr=0.001,
        weight_decay=0.01,
        fused=True,
    )
    inputs, targets = run.data.train.__getitems__(torch.arange(160))
    for batch in torch.arange(160).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(run.preprocess(inputs[batch])), targets[batch]).backward()
        optimizer.step()
    for one, other in zip(run.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_rates_of_groups_are_logged_by_name():
    run = plainloop.train(
        [
            "model=mlp",
            "param_groups.head_lr=0.01",
            "scheduler=cosine",
            "trainer.max_steps=4",
            "trainer.log_every=1",
            "logger=none",
        ]
    )
    for record in run.history()[:3]:
        assert record["lr/head"] == pytest.approx(10 * record["lr"])


# --- several optimizers -------------------------------------------------------------------------------------

SGD_AND_ADAM = {
    "_target_": "plainloop.training.Several",
    "body": {"_target_": "torch.optim.SGD", "parameters": r"layers\.1", "lr": 0.1, "momentum": 0.9},
    "rest": {"_target_": "torch.optim.Adam", "lr": 0.01},
}


def steps(model: nn.Module, optimizers: list[Any], count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(torch.randn(6, 4, generator=generator)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def test_several_optimizers_are_as_each_alone(tmp_path):
    """Also after they were saved and loaded in the middle."""
    torch.manual_seed(0)
    one, other = MLP(4, 3, [5]), MLP(4, 3, [5])
    other.load_state_dict(one.state_dict())
    several = make_optimizer(SGD_AND_ADAM, one, CPU)
    alone = [
        torch.optim.SGD(other.layers[1].parameters(), lr=0.1, momentum=0.9, fused=True),
        torch.optim.Adam(other.layers[3].parameters(), lr=0.01, fused=True),
    ]
    steps(one, [several], 3)
    steps(other, alone, 3)
    checkpoint.save(tmp_path / "state.pt", {"model": one.state_dict(), "optimizer": several.state_dict()})
    state = checkpoint.load(tmp_path / "state.pt")
    fresh = MLP(4, 3, [5])
    fresh.load_state_dict(state["model"])
    several = make_optimizer(SGD_AND_ADAM, fresh, CPU)
    several.load_state_dict(state["optimizer"])
    steps(fresh, [several], 3)
    steps(other, alone, 3)
    for mine, theirs in zip(fresh.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_schedule_ticks_all_of_several():
    several = make_optimizer(SGD_AND_ADAM, MLP(4, 3, [5]), CPU)
    schedule = make_schedule(
        {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.5}, several, "step", 0, "min"
    )
    several.step()
    schedule.step()
    assert [group["lr"] for part in several.parts.values() for group in part.param_groups] == [0.05, 0.005]
    assert schedule.rates() == {"lr": 0.05, "lr/body": 0.05, "lr/rest": 0.005}


def test_muon_has_the_hidden_matrices_and_adamw_the_rest():
    model = TransformerClassifier(9, 2, width=8, layers=2, heads=2)
    run_of = make_optimizer(OmegaConf.to_container(OmegaConf.load(options.CONFIGS / "optimizer/muon.yaml")), model, CPU)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = {
        part: {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
        for part, optimizer in run_of.parts.items()
    }
    assert held["muon"] == {name for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2}
    assert held["muon"] | held["rest"] == set(names.values())
    assert {"embedding.weight", "head.weight"} <= held["rest"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": {"parameters": "weight"}, "b": {"parameters": "layers.1"}}, "layers.1.weight belongs to optimizer.a"),
        ({"a": {"parameters": "weight"}}, "no optimizer has layers.1.bias, layers.3.bias"),
        ({"a": {}, "b": {}}, "a, b all take the rest"),
        ({"a": {"parameters": "convolution"}, "b": {}}, "optimizer.a.parameters: convolution matches no"),
        ({"a": {"_target_": "torch.optim.LBFGS", "parameters": "weight"}, "b": {}}, "optimizer.a: LBFGS"),
        ({"a": {"_target_": "torch.optim.SGDD", "parameters": "weight"}, "b": {}}, "Did you mean SGD"),
        ({"a": {"parameters": ["weight"]}, "b": {}}, r"optimizer\.a\.parameters=\['weight'\]: .*regular expression"),
        ({"a": {"parameters": 3}, "b": {}}, r"optimizer\.a\.parameters=3: .*regular expression"),
    ],
)
def test_parts_that_do_not_divide_the_parameters_are_answered(parts, message):
    node = {name: {"_target_": "torch.optim.SGD", **part} for name, part in parts.items()}
    with pytest.raises(UserError, match=message):
        make_optimizer({"_target_": "plainloop.training.Several", **node}, MLP(4, 3, [5]), CPU)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"lr": 0.1}, r"optimizer\.lr: .*Write optimizer\.a\.lr"),
        ({"b": None}, r"optimizer\.b: .*_target_"),
        ({"b": {"lr": 1.0}}, r"optimizer\.b.*_target_"),
    ],
)
def test_what_is_no_part_of_several_is_answered(extra, message):
    node = {"_target_": "plainloop.training.Several", "a": {"_target_": "torch.optim.SGD"}, **extra}
    with pytest.raises(UserError, match=message):
        make_optimizer(node, MLP(4, 3, [5]), CPU)


def test_muon_for_a_model_without_parameters_is_answered():
    """A loss that learns something can be trained over it; there is no head then."""
    task = Multiclass(nn.Bilinear(2, 2, 2))
    node = {
        "_target_": "plainloop.training.Several",
        "a": {"_target_": "torch.optim.Muon", "parameters": "hidden_matrices"},
        "b": {"_target_": "torch.optim.SGD"},
    }
    with pytest.raises(UserError, match="hidden_matrices: the model has none"):
        make_optimizer(node, nn.Flatten(), CPU, task=task)


# --- L-BFGS -------------------------------------------------------------------------------------------------


def test_lbfgs_is_the_same_by_hand():
    """Full batches; its loss is that of the weights which a step begins with."""
    words = [
        "model=linear",
        "optimizer=lbfgs",
        "optimizer.max_iter=4",
        "loader.batch_size=2000",
        "trainer.max_steps=5",
        "loader.shuffle=false",
        "logger=none",
        "trainer.log_every=1",
        "trainer.validate_every=0",
    ]
    run = plainloop.train(words)
    model = assemble(compose.compose(words)).model
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, history_size=10, line_search_fn="strong_wolfe")
    inputs, targets = run.data.train.__getitems__(torch.arange(len(run.data.train)))
    inputs = run.preprocess(inputs)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    for _ in range(5):
        losses.append(float(closure()))
        optimizer.step(closure)
    for one, other in zip(run.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [record["train/loss"] for record in run.history() if "grad_norm" in record] == pytest.approx(losses)
    assert losses[-1] < losses[0] / 5


def test_lbfgs_sees_one_function_within_a_step():
    """Dropout has the same masks at each evaluation: else a line search compares different functions."""
    seen: list[list[float]] = [[]]
    words = [
        "model=mlp",
        "model.dropout=0.5",
        "optimizer=lbfgs",
        "optimizer.lr=1e-9",
        "optimizer.line_search_fn=null",
        "trainer.max_steps=2",
        "loader.batch_size=64",
        "logger=none",
        "trainer.validate_every=0",
    ]
    trainer = make_trainer(assemble(compose.compose(words)))
    loss_of = trainer.forward

    def recorded(model: nn.Module, batch: Any) -> Any:
        loss, outputs = loss_of(model, batch)
        seen[-1].append(float(loss))
        return loss, outputs

    trainer.forward = recorded
    for step in range(2):
        trainer.step = step
        trainer.train_step([next(iter(trainer.train_batches.epoch(0)))], False)
        seen.append([])
    assert len(seen[0]) > 1
    for losses in seen[:2]:
        assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6)
    assert seen[0][0] != pytest.approx(seen[1][0], rel=1e-3)


@pytest.mark.parametrize("setting", ["trainer.accumulate_steps=2", "trainer.max_grad_norm=1", "trainer.nonfinite=skip"])
def test_what_lbfgs_can_not_do_is_refused(setting):
    with pytest.raises(UserError, match=rf"{setting}.*LBFGS"):
        plainloop.train(["model=linear", "optimizer=lbfgs", setting])


def test_a_trainer_of_ones_own_is_held_to_the_same():
    """One derived from ClosureTrainer can't accumulate either, and another can't give L-BFGS its closure."""
    closures, plain = (f"trainer._target_={kind.__module__}.{kind.__name__}" for kind in (OwnClosures, OwnTrainer))
    with pytest.raises(UserError, match="accumulate_steps=2: LBFGS evaluates the loss several times"):
        plainloop.train(["model=linear", "optimizer=lbfgs", closures, "trainer.accumulate_steps=2"])
    with pytest.raises(UserError, match=r"can't give LBFGS the closure that it needs.*ClosureTrainer"):
        plainloop.train(["model=linear", "optimizer=lbfgs", plain])
    assert not Path("outputs").exists()


class OwnClosures(ClosureTrainer):
    """Nothing else."""


class OwnTrainer(Trainer):
    """Nothing else."""


def test_lbfgs_has_no_fp16():
    """On a GPU; on the CPU fp16 is refused for all."""
    with pytest.raises(UserError, match=r"trainer\.precision=fp16.*LBFGS"):
        check_closure_settings("LBFGS", "fp16", 1, None, "stop")


@pytest.mark.parametrize(
    "typed", ["history_size=null", "history_size=-3", "line_search_fn=wolfe", "max_iter=-1", "max_iter=1.5"]
)
def test_what_lbfgs_finds_out_in_its_steps_is_known_before(typed):
    with pytest.raises(UserError, match=f"optimizer: LBFGS .*{typed.replace('null', 'None')}"):
        plainloop.train(["model=linear", "optimizer=lbfgs", f"optimizer.{typed}"])


def test_lbfgs_has_one_group():
    with pytest.raises(UserError, match="leave param_groups out"):
        plainloop.train(["model=linear", "optimizer=lbfgs", "param_groups.no_decay_norm_bias=true"])


# --- every optimizer of torch, from the command line --------------------------------------------------------


class Bag(nn.Module):
    """Sparse embeddings alone: logits are a sum of rows."""

    def __init__(self, num_outputs: int):
        super().__init__()
        self.rows = nn.Embedding(17, num_outputs, sparse=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.rows((inputs.flatten(1) * 3).long().remainder(17)).sum(1)


BAG = ["model=custom", f"model._target_={__name__}.Bag", "model.num_outputs=${spec.num_outputs}"]
# The option of each class, and what must be typed beside it.
OPTIONS: dict[str, tuple[str, list[str]]] = {
    "SGD": ("sgd", []), "Adam": ("adam", []), "AdamW": ("adamw", []), "Adamax": ("adamax", []),
    "NAdam": ("nadam", []), "RAdam": ("radam", []), "RMSprop": ("rmsprop", []), "Rprop": ("rprop", []),
    "Adagrad": ("adagrad", []), "Adadelta": ("adadelta", []), "Adafactor": ("adafactor", []), "ASGD": ("asgd", []),
    "LBFGS": ("lbfgs", []), "Muon": ("muon", []), "SparseAdam": ("sparse_adam", BAG),
}  # fmt: skip
OPTIMIZERS = [
    name
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
]


@pytest.mark.parametrize("name", one_in(4, OPTIMIZERS))
def test_every_optimizer_takes_two_steps(name):
    assert name in OPTIONS, f"{name}: torch has a new optimizer, which needs an option in configs/optimizer/"
    option, words = OPTIONS[name]
    run = plainloop.train([f"optimizer={option}", "trainer.max_steps=2", "trainer.log_every=1", "logger=none", *words])
    node = run.config.optimizer
    assert f"torch.optim.{name}" in [part._target_ for part in (node, *node.values()) if hasattr(part, "_target_")]
    assert [record["step"] for record in run.history() if "grad_norm" in record] == [1, 2]
    state = checkpoint.load(run.path / "checkpoints/step-2.pt")["optimizer"]["state"]
    assert state or name == "SGD"  # without momentum it keeps nothing
    before = assemble(run.session.composed).model
    for one, other in zip(run.model.parameters(), before.parameters(), strict=True):
        assert not torch.equal(one, other)


def test_every_option_is_one_of_torchs():
    assert set(options.groups()["optimizer"]) == {option for option, _ in OPTIONS.values()} | {"several", "custom"}
