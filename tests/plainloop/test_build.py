"""A `_target_` is code execution: what each slot may build, what is trusted, and how arguments are checked."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import plainloop
from plainloop import build as building
from plainloop import loggers, models
from plainloop.build import factory
from plainloop.data import points, table
from plainloop.errors import UserError
from plainloop.runs.checkpoint import Checkpoints
from plainloop.tasks import Task, classification, metrics
from plainloop.training import callbacks, trainer
from plainloop.training.optimizer import make_optimizer
from tests.conftest import one_in

# Slot, something of its kind, and that kind's name in an error.
KINDS = [
    ("data", "torch.utils.data.TensorDataset", torch.utils.data.TensorDataset, "torch.utils.data.Dataset"),
    ("model", "plainloop.models.MLP", models.MLP, "torch.nn.Module"),
    ("model", "torch.nn.Linear", nn.Linear, "torch.nn.Module"),
    ("loss", "torch.nn.HuberLoss", nn.HuberLoss, "torch.nn.Module"),
    ("task", "plainloop.tasks.Multiclass", classification.Multiclass, "plainloop.tasks.Task"),
    ("optimizer", "torch.optim.SGD", torch.optim.SGD, "torch.optim.Optimizer"),
    ("scheduler", "torch.optim.lr_scheduler.StepLR", torch.optim.lr_scheduler.StepLR, "LRScheduler"),
    ("scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau", torch.optim.lr_scheduler.ReduceLROnPlateau, ""),
    ("trainer", "plainloop.training.Trainer", trainer.Trainer, "plainloop.training.Trainer"),
    ("logger.mine", "plainloop.loggers.TensorBoard", loggers.TensorBoard, "plainloop.loggers.Logger"),
    (
        "callbacks.mine",
        "plainloop.training.Callback",
        callbacks.Callback,
        "plainloop.training.Callback",
    ),
    ("metrics.mine", "plainloop.tasks.MAE", metrics.MAE, "update, compute and reset"),
]
SLOTS = list(dict.fromkeys(slot for slot, *_ in KINDS))

# What whoever builds something for a slot says of its kind.
KIND_OF = {
    "data": torch.utils.data.Dataset,
    "model": nn.Module,
    "loss": nn.Module,
    "task": Task,
    "optimizer": torch.optim.Optimizer,
    "scheduler": torch.optim.lr_scheduler.LRScheduler,
    "trainer": trainer.Trainer,
    "logger": loggers.Logger,
    "callbacks": callbacks.Callback,
    "metrics": metrics.METRIC,
}


def locate(path, slot, trust=()):
    return building.locate(path, slot, KIND_OF[slot.partition(".")[0]], trust)


def build(node, slot, trust=(), **given):
    return building.build(node, slot, KIND_OF[slot.partition(".")[0]], trust, **given)


@factory("model")
def marked(width: int = 3) -> nn.Module:
    """A function that its own source offers as a model."""
    return nn.Linear(width, width)


def unmarked(width: int = 3) -> nn.Module:
    return nn.Linear(width, width)


def mlp(**arguments) -> nn.Module:
    return models.MLP(**arguments)


def not_a_model() -> int:
    return 3


class Net(nn.Module):
    """Numbers, words, truths, and a number that may be a word."""

    def __init__(self, sizes, rate: float = 0.1, name: str = "net", bias: bool = True, rule: int | str = 1):
        super().__init__()
        self.arguments = {"sizes": sizes, "rate": rate, "name": name, "bias": bias, "rule": rule}


class Strict(nn.Module):
    """Refuses what it is given, as torch's own modules do."""

    def __init__(self, error: str):
        super().__init__()
        raise {"ValueError": ValueError, "TypeError": TypeError, "IndexError": IndexError}[error]("it is too wide")


HERE = __name__


# --- kinds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slot", "path", "target", "kind"), KINDS)
def test_a_slot_takes_its_kind(slot, path, target, kind):
    """The class that is named is the one that is found."""
    assert locate(path, slot) is target


@pytest.mark.parametrize(("slot", "kind"), [(slot, kind) for slot, _, _, kind in KINDS if kind])
@pytest.mark.parametrize("path", ["subprocess.Popen", "pathlib.Path", "collections.Counter", "torch.Tensor"])
def test_a_slot_refuses_other_classes(slot, kind, path):
    """A class of another kind is refused, also where it is trusted: trust is for functions."""
    for trust in ([], [path]):
        with pytest.raises(UserError) as caught:
            locate(path, slot, trust)
        assert f"{slot}._target_={path}" in str(caught.value)
        assert kind in str(caught.value)


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("path", ["os.system", "posix.system", "builtins.eval", "shutil.rmtree", "torch.hub.load"])
def test_functions_need_trust_in_every_slot(slot, path):
    """No slot runs a function on a config's word; the answer says how the user may vouch for it."""
    with pytest.raises(UserError) as caught:
        locate(path, slot)
    assert f"{slot}._target_={path} is a function" in str(caught.value)
    assert f"trust=[{path}]" in str(caught.value)


@pytest.mark.parametrize("slot", SLOTS)
def test_os_system_is_refused_before_it_runs(slot, tmp_path):
    """`build` refuses, and nothing has been executed."""
    with pytest.raises(UserError, match=r"os\.system is a function"):
        build({"_target_": "os.system", "command": f"touch {tmp_path}/executed"}, slot)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("Net", "dotted name"),
        ("my-package.Net", "dotted name"),
        ("my package.Net", "dotted name"),
        (".Net", "dotted name"),
        ("torch.nn.", "dotted name"),
        ("", "dotted name"),
        ("torch.nn", "is a module. Name what is meant in it, a torch.nn.Module"),
        ("torch.nn.Lineer", "torch.nn has no Lineer. Did you mean Linear?"),
        ("plainloop.models.Mlp", "plainloop.models has no Mlp. Did you mean MLP?"),
        ("plainloop.training.update", "plainloop.training.update is a module. Name what is meant in it"),
        ("project.models", "project.models is a module. Name what is meant in it"),
        ("plainloop.data.tabel", "plainloop.data has no tabel. Did you mean table?"),
        ("plainloop.data.imges", "plainloop.data has no imges. Did you mean images?"),
        ("torch.nn.Linear.forwards", "torch.nn.Linear has no forwards. Did you mean forward?"),
        ("no_such_package.models.Net", "no module named no_such_package"),
        ("torch.no_such_module.Net", "torch has no no_such_module"),
        ("math.pi", "is not a torch.nn.Module"),
    ],
)
def test_names_that_lead_nowhere(path, said):
    """The answer says which part of the name is wrong."""
    with pytest.raises(UserError) as caught:
        locate(path, "model")
    assert f"model._target_={path}" in str(caught.value)
    assert said in str(caught.value)


# --- factories and trust ------------------------------------------------------------------------------------------


def test_a_factory_is_accepted_in_its_slot_alone():
    """`@factory("data")` in the source offers a function to that slot, and to no other."""
    assert locate("plainloop.data.points", "data") is points
    assert locate("plainloop.data.table", "data") is table
    assert locate("plainloop.models.torchvision_model", "model") is models.torchvision_model
    assert locate(f"{HERE}.marked", "model") is marked
    for path, slot in [("plainloop.data.points", "model"), (f"{HERE}.marked", "loss"), (f"{HERE}.marked", "data")]:
        with pytest.raises(UserError, match="is a function"):
            locate(path, slot)


def test_trust_is_given_by_the_exact_name():
    """Trust in one function is no trust in its neighbours, its module or its aliases."""
    assert locate(f"{HERE}.unmarked", "model", [f"{HERE}.unmarked"]) is unmarked
    for trust in ([], [HERE], ["unmarked"], [f"{HERE}.unmarked2"], [f"{HERE}.*"], [f"{HERE}.not_a_model"]):
        with pytest.raises(UserError, match="is a function"):
            locate(f"{HERE}.unmarked", "model", trust)


def test_what_a_trusted_function_returns_is_checked():
    """A trusted function must return what its slot takes."""
    model = build({"_target_": f"{HERE}.unmarked", "width": 5}, "model", [f"{HERE}.unmarked"])
    assert isinstance(model, nn.Linear)
    assert model.in_features == 5
    with pytest.raises(UserError, match=r"(?s)not_a_model.*int.*torch\.nn\.Module|not_a_model.*torch\.nn\.Module.*int"):
        build({"_target_": f"{HERE}.not_a_model"}, "model", [f"{HERE}.not_a_model"])


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {}),
        ({"rate": 2}, {"rate": 2}),
        ({"rate": None}, {"rate": None}),
        ({"name": "other", "bias": False}, {"name": "other", "bias": False}),
        ({"rule": "auto"}, {"rule": "auto"}),
    ],
)
def test_build_passes_the_arguments_on(arguments, expected):
    """What the config says arrives as it is; the rest are the target's defaults."""
    net = build({"_target_": f"{HERE}.Net", "sizes": [1, 2], **arguments}, "model")
    defaults = {"rate": 0.1, "name": "net", "bias": True, "rule": 1}
    assert net.arguments == {"sizes": [1, 2], **defaults, **expected}


@pytest.mark.parametrize(
    ("arguments", "pieces"),
    [
        (
            {"sizes": [1], "rat": 1},
            ("model.rat", "Net takes no such argument", "Did you mean rate?", "sizes, rate, name"),
        ),
        ({"sizes": [1], "xyzzy": 1}, ("model.xyzzy", "It accepts: sizes, rate, name, bias, rule")),
        ({}, ("model.sizes", "Net needs it", "model.sizes=VALUE")),
        ({"sizes": None}, ("model.sizes", "Net needs it")),
        ({"sizes": [1], "rate": "fast"}, ("model.rate=fast", "number", "0.1")),
        ({"sizes": [1], "bias": "maybe"}, ("model.bias=maybe", "true or false")),
        ({"sizes": [1], "self": 1}, ("model.self",)),
    ],
)
def test_wrong_arguments_are_answered(arguments, pieces):
    """Unknown and missing arguments, and words where numbers belong, are found before anything is built."""
    with pytest.raises(UserError) as caught:
        build({"_target_": f"{HERE}.Net", **arguments}, "model")
    assert len(str(caught.value).splitlines()) <= 2
    for piece in pieces:
        assert piece in str(caught.value)


@pytest.mark.parametrize(("name", "meant"), [("learning_rate", "lr"), ("wd", "weight_decay"), ("epsilon", "eps")])
def test_names_from_other_libraries(name, meant):
    """What other libraries call it is known."""
    node = {"_target_": "torch.optim.Adam", name: 0.1}
    with pytest.raises(UserError, match=rf"optimizer\.{name}: Adam takes no such argument\. Did you mean {meant}\?"):
        make_optimizer(node, nn.Linear(1, 1), torch.device("cpu"))


@pytest.mark.parametrize("error", ["ValueError", "TypeError", "IndexError"])
def test_a_refusal_names_the_arguments_and_the_place(error):
    """What the target itself raises is told with the slot, the arguments and where it was raised."""
    with pytest.raises(UserError) as caught:
        build({"_target_": f"{HERE}.Strict", "error": error}, "model")
    for piece in ("model", "Strict", f"error={error}", "it is too wide", "test_build.py, line "):
        assert piece in str(caught.value)


# --- a stranger's run directory -----------------------------------------------------------------------------------


@pytest.fixture
def strangers_run(short_run, tmp_path: Path):
    """`strangers_run("model", trust=True)`: a copy of a run whose config names os.system in a section."""

    def made(section: str, trust: bool) -> tuple[Path, Path]:
        path, executed = tmp_path / "strangers", tmp_path / "executed"
        shutil.copytree(short_run.path, path)
        for file in (path / "config.yaml", path / "composed.yaml"):
            cfg = OmegaConf.load(file)
            if section == "trainer":  # a section of ours, whose other keys stay
                cfg.trainer._target_ = "os.system"
            else:
                node = {"_target_": "os.system", "command": f"touch {executed}"}
                OmegaConf.update(cfg, section, node, merge=False, force_add=True)
            cfg.trust = ["os.system"] if trust else []
            OmegaConf.save(cfg, file)
        return path, executed

    return made


@pytest.mark.slow
@pytest.mark.parametrize("trust", [False, True], ids=["untrusted", "trusting itself"])
@pytest.mark.parametrize("section", ["data", "model", "loss", "task", "metrics.extra"])
def test_a_strangers_run_cant_authorise_itself(section, trust, strangers_run):
    """What a run directory trusts counts for nothing when it is rebuilt: evaluate and load_run refuse."""
    path, executed = strangers_run(section, trust)
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    for rebuild in (plainloop.load_run, plainloop.evaluate):
        with pytest.raises(UserError, match=r"os\.system is a function"):
            rebuild(path)
    assert not executed.exists()
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


@pytest.mark.parametrize("how", ["resume", "extend"])
@pytest.mark.parametrize(
    "section", one_in(7, ["model", "data", "optimizer", "scheduler", "trainer", "logger.extra", "callbacks.extra"])
)
def test_a_strangers_run_cant_authorise_itself_when_it_is_continued(section, how, strangers_run, tmp_path):
    """Nor when it is resumed or extended: only what is typed is trusted."""
    path, executed = strangers_run(section, trust=True)
    with pytest.raises(UserError, match=r"os\.system is a function"):
        plainloop.train([f"{how}={path}", "paths.outputs=outputs"])
    assert not executed.exists()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_evaluate_refuses_a_strangers_run(strangers_run, type_command):
    """The real command: exit status 2, two lines, and nothing has been executed."""
    path, executed = strangers_run("model", trust=True)
    done = type_command("evaluate.py", f"run={path}")
    assert done.status == 2
    assert done.err.startswith("error: model._target_=os.system is a function")
    assert len(done.err.splitlines()) <= 2
    assert not executed.exists()


@pytest.mark.slow
def test_the_user_can_trust_a_function_of_a_run(short_run, tmp_path):
    """With trust= on the command line (and only then) the same directory is rebuilt."""
    path = tmp_path / "run"
    shutil.copytree(short_run.path, path)
    cfg = OmegaConf.load(path / "composed.yaml")
    cfg.model._target_ = f"{HERE}.mlp"
    OmegaConf.save(cfg, path / "composed.yaml")
    with pytest.raises(UserError, match="is a function"):
        plainloop.load_run(path)
    own = shutil.copy(
        Checkpoints(path / "checkpoints").all()[0], tmp_path / "own.pt"
    )  # those there are another target's
    run = plainloop.load_run(path, str(own), overrides=[f"trust=[{HERE}.mlp]"])
    for name, weights in plainloop.load_run(short_run.path, "last").model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], weights)


def test_popen_is_a_class_and_still_refused():
    """The check is by kind, not by a list of bad names."""
    assert isinstance(subprocess.Popen, type)
    with pytest.raises(UserError, match=r"subprocess\.Popen is not a torch\.nn\.Module"):
        build({"_target_": "subprocess.Popen", "args": ["true"]}, "model", ["subprocess.Popen"])


def test_nothing_in_a_run_directory_is_imported(short_run, tmp_path, monkeypatch):
    """A stranger's run may bring a module along: in the directory itself, or beside it under outputs/."""
    for place in ("outputs/digits/shared", "outputs/digits", "elsewhere/shared"):
        folder = tmp_path / place.replace("/", "_")
        run = folder / "outputs/digits/shared" if place.startswith("outputs") else folder / place
        shutil.copytree(short_run.path, run)
        (folder / place / "net.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        target = (place.replace("/", ".")) + ".net.Linear"
        composed = (run / "composed.yaml").read_text()
        (run / "composed.yaml").write_text(composed.replace("plainloop.models.MLP", target))
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        with pytest.raises(UserError, match=r"(?s)nothing in one is ever executed|a run's own config.*'trust="):
            plainloop.evaluate(run)
    assert not (tmp_path / "ran").exists()
