"""The catalogue of users' mistakes: what is typed, and what the answer must contain.

Every mistake is answered by one or two lines that name the cause and the fix, and nothing is written. The table
is driven in process; one case of each class goes through the real command.
"""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy
import pytest
import torch

import plainloop
from plainloop.commands import cli, evaluate, export, predict, sweep
from plainloop.config import compose, schema
from plainloop.errors import UserError
from tests.conftest import copy_configs, one_in

SetUp = Callable[[Path, pytest.MonkeyPatch], object]


class Mistake(NamedTuple):
    """A row of the table.

    `words` are typed as in a shell, after `train.py` unless they begin with another door or `-m`. NPZ stands for
    the arguments that read mine.npz, CSV for those that read mine.csv, RUN for the directory of a finished run.
    `pieces` must be in the answer, `never` mustn't; `given` writes files first.
    """

    words: str
    pieces: tuple[str, ...]
    given: SetUp | None = None
    never: tuple[str, ...] = ()
    id: str = ""


SHORT = {
    "NPZ": "data.path=mine.npz data.inputs=inputs data.targets=targets",
    "CSV": "data=table data.path=mine.csv data.target=y",
}
# What Python, Hydra, NumPy and dataclasses say to programmers, and no user should have to read.
LEAKS = ("Traceback", "Exception", "full_key", "object_type", "object at 0x", "_MISSING_TYPE", "NoneType",
         "allow_pickle", " at 0x")  # fmt: skip


# --- files that the rows need -----------------------------------------------------------------------------------

COUNT = 40
CLASSES = numpy.arange(COUNT) % 4
IMAGES = (numpy.arange(COUNT * 64) % 256).astype("uint8").reshape(COUNT, 1, 8, 8)
FEATURES = numpy.linspace(-1, 1, COUNT * 3, dtype="float32").reshape(COUNT, 3)


def npz(**arrays) -> SetUp:
    """mine.npz: grey images of 8 x 8 and four classes, but for the `arrays` that are given."""
    return lambda folder, _: numpy.savez(folder / "mine.npz", **{"inputs": IMAGES, "targets": CLASSES, **arrays})


def csv(header: str, row: Callable[[int], str], count: int = COUNT) -> SetUp:
    """mine.csv."""
    lines = [header, *(row(number) for number in range(count))]
    return lambda folder, _: (folder / "mine.csv").write_text("\n".join(lines) + "\n")


def text(name: str, content: str) -> SetUp:
    return lambda folder, _: (folder / name).write_text(content)


def yaml(name: str, content: str) -> SetUp:
    """A config file of the user's, in a copy of configs/."""

    def write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (copy_configs(folder, monkeypatch) / name).write_text(content)

    return write


def at(index: int, wrong, values=CLASSES):
    """`values` with a wrong one at `index`."""
    changed = numpy.array(values, dtype=numpy.result_type(values, type(wrong)))
    changed[index] = wrong
    return changed


MODULES = {
    "their_models": """
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self, features=64, outputs=10):
                super().__init__()
                self.layer = nn.Linear(features, outputs)
            def forward(self, inputs):
                return self.layer(inputs.flatten(1))

        class Squeezed(Net):
            def forward(self, inputs):
                return super().forward(inputs)[:, 0]

        class Pair(Net):
            def forward(self, inputs):
                return super().forward(inputs), None

        class Twofaced(Net):
            def forward(self, inputs):
                outputs = super().forward(inputs)
                return (outputs, None) if self.training else outputs

        class OneSize(Net):
            def forward(self, inputs):
                assert inputs.shape[-1] == 224, "Wrong image height!"

        class Unflattened(Net):
            def forward(self, inputs):
                return self.layer(inputs)

        class Typo(Net):
            def forward(self, inputs):
                return self.layr(inputs.flatten(1))

        class Detached(Net):
            def forward(self, inputs):
                return super().forward(inputs).detach()

        class Aside(Net):
            def __init__(self):
                super().__init__()
                self.aside = nn.Linear(2, 2)

        class NoSuper(nn.Module):
            def __init__(self):
                self.layer = nn.Linear(64, 10)

        class Keyed(nn.Module):
            def __init__(self, **sizes):
                super().__init__()
                self.layer = nn.Linear(sizes["features"], 10)

        class Lazy(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.LazyLinear(10)

        class Fixed(nn.Module):
            def forward(self, inputs):
                return inputs.flatten(1)[:, :10]

        class NotAModule:
            pass

        def make():
            return Net()

        def make_number():
            return 3

        made = Net()

        def nothing():
            return 0.5

        def difference(outputs, targets):
            return (outputs - targets).mean()

        class CutLoss(nn.Module):
            def forward(self, outputs, targets):
                return torch.tensor(outputs.mean().item())

        class VectorLoss(nn.Module):
            def forward(self, outputs, targets):
                return (outputs[:, 0] - targets) ** 2
        """,
    "their_data": """
        import numpy
        import torch
        from torch.utils.data import Dataset, IterableDataset

        class Base(Dataset):
            def __len__(self):
                return 40
            def __getitem__(self, index):
                return torch.zeros(1, 8, 8), index % 4

        class Alone(Base):
            def __getitem__(self, index):
                return torch.zeros(1, 8, 8)

        class Arrays(Base):
            def __getitem__(self, index):
                return numpy.zeros((1, 8, 8)), index % 4

        class Ragged(Base):
            def __getitem__(self, index):
                return torch.zeros(1, 8, 8 + index), index % 4

        class Words(Base):
            def __getitem__(self, index):
                return torch.zeros(1, 8, 8), "cat"

        class Fractions(Base):
            def __getitem__(self, index):
                return torch.zeros(1, 8, 8), index / 40

        class NoLength(Dataset):
            def __getitem__(self, index):
                return torch.zeros(1, 8, 8), index % 4

        class Stream(IterableDataset):
            def __iter__(self):
                yield torch.zeros(1, 8, 8), 0

        class EmptyVal(Base):
            def __init__(self, split):
                self.count = 0 if split == "val" else 40
            def __len__(self):
                return self.count
        """,
    "their_broken": "import there_is_no_such_package\n",
    "their_raising": "raise RuntimeError('the licence has expired')\n",
    "their_misspelt": "class Net(:\n",
    "their_exiting": "import sys\nsys.exit(3)\n",
}


@pytest.fixture(scope="module", autouse=True)
def their_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own modules, importable."""
    import textwrap

    folder = tmp_path_factory.mktemp("modules")
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


# --- the table --------------------------------------------------------------------------------------------------

GLOBAL = "# @package _global_\n# Mine.\n"

# Keys and options that don't exist.
NAMES = [
    Mistake("model=mpl", ("model=mpl", "Did you mean mlp?", "cnn", "linear", "torchvision")),
    Mistake("optimizer=Adam", ("Did you mean adam?", "adamw", "sgd")),
    Mistake("model=their_models.Net", ("model=custom model._target_=their_models.Net",)),
    Mistake("_target_=their_models.Net", ("_target_", "model._target_=")),
    Mistake("logger=wand", ("logger=wand", "tensorboard", "none")),
    Mistake("experiment=mnist", ("Did you mean mnist_mlp?", "linear_regression")),
    Mistake("debug=quick", ("debug=quick", "fast", "overfit", "profile", "anomaly")),
    Mistake("debug=true", ("debug=", "fast", "overfit", "profile", "anomaly")),
    Mistake("optimizer=0.1", ("optimizer=0.1", "adam", "sgd")),
    Mistake("model=null", ("model=", "mlp", "cnn")),
    Mistake("scheduler=null", ("scheduler=none",)),
    Mistake("model=", ("model=", "mlp", "cnn")),
    Mistake("models=mlp", ("models", "Did you mean model?")),
    Mistake("MODEL=mlp", ("MODEL", "Did you mean model?")),
    Mistake("epochs=5", ("epochs", "Did you mean trainer.max_epochs?")),
    Mistake("trainer.max_epoch=5", ("trainer.max_epoch:", "Did you mean trainer.max_epochs?", "max_steps")),
    Mistake("trainer.epochs=5", ("Did you mean trainer.max_epochs?",)),
    Mistake("Trainer.max_epochs=5", ("Did you mean trainer.max_epochs?",)),
    Mistake("lr=0.1", ("Did you mean optimizer.lr?",)),
    Mistake("batch_size=64", ("Did you mean loader.batch_size?",)),
    Mistake("loader.batchsize=64", ("Did you mean loader.batch_size?", "num_workers")),
    Mistake("trainer.lr=0.1", ("Did you mean optimizer.lr?",)),
    Mistake("device=cpu", ("Did you mean trainer.device?",)),
    Mistake("path.data=x", ("Did you mean paths.data?",)),
    Mistake("schedule.warmup_epochs=1", ("Did you mean schedule.warmup_steps?", "interval")),
    Mistake("transforms.normalize.mean=0.5", ("transforms.normalize",)),
    Mistake("trainer.max_epochs.x=3", ("trainer.max_epochs", "whole number")),
    Mistake("scheduler.gamma=0.3", ("scheduler.gamma", "scheduler=step"), never=("Did you mean scheduler?",)),
    Mistake("frobnicate=1", ("frobnicate", "--help")),
    Mistake("hydra.foo=3", ("hydra.foo",)),
    Mistake("spec.num_classes=3", ("spec.num_classes", "data")),
    Mistake("choices.model=cnn", ("choices.model", "model=cnn")),
]

# Words that aren't key=value, or can't be read.
SPELLING = [
    Mistake("trainer.max_epochs 5", ("trainer.max_epochs=5",)),
    Mistake("--epochs 5", ("--epochs", "trainer.max_epochs=5")),
    Mistake("--epochs=5", ("trainer.max_epochs=5",)),
    Mistake("--trainer.max_epochs=5", ("Write trainer.max_epochs=5",)),
    Mistake("--learning-rate 0.1", ("optimizer.lr=0.1",)),
    Mistake("--lr=1e-3", ("optimizer.lr=1e-3",)),
    Mistake("model mlp", ("model=mlp",)),
    Mistake("mlp", ("mlp", "key=value")),
    Mistake("trainer.max_epochs:5", ("trainer.max_epochs=5",)),
    Mistake("model:mlp", ("model=mlp",)),
    Mistake("help", ("--help",)),
    Mistake("=mlp", ("=mlp", "key=value")),
    Mistake("+experiment=mnist_mlp", ("Write experiment=mnist_mlp",)),
    Mistake("++trainer.max_epochs=3", ("Write trainer.max_epochs=3",)),
    Mistake("+trainer.max_epcohs=3", ("trainer.max_epochs=3",)),
    Mistake("+frobnicate=3", ("frobnicate", "there is no such key"), never=("Write frobnicate=3",)),
    Mistake("~scheduler", ("scheduler=none",)),
    Mistake("~model", ("~model", "mlp"), never=("model=none",)),
    Mistake("model=mlp,cnn", ("model=mlp,cnn", "-m")),
    Mistake("optimizer.lr=1e-3,1e-2", ("optimizer.lr=1e-3,1e-2", "-m")),
    Mistake("'seed=range(1,3)'", ("seed=range(1,3)", "add -m")),
    Mistake("model.hidden_sizes=[8", ("model.hidden_sizes=[8", "can't be read", "Quote")),
    Mistake("'model.activation=\"relu'", ("model.activation", "can't be read", "Quote")),
    Mistake("data=penguins,", ("data=penguins,", "can't be read")),
    Mistake("split.fractions=[0.8, 0.1, 0.1]", ("split.fractions=[0.8,", "uote"), never=("0.1,=",)),
    Mistake("data.path=/my files/x.csv", ("files/x.csv", "uote")),
    Mistake("-m model=mlp,mpl", ("model=mpl", "Did you mean mlp?")),
    Mistake("-m trainer.max_epochs=1,x", ("trainer.max_epochs=x", "whole number")),
    Mistake("-m model.hidden_sizes=[8,[16]", ("model.hidden_sizes", "can't be read")),
    Mistake("-m --epochs=1,2", ("trainer.max_epochs=1,2",)),
]

# Values of the wrong type or out of range.
VALUES = [
    Mistake("trainer.max_epochs=abc", ("trainer.max_epochs=abc", "whole number", "at least 1")),
    Mistake("trainer.max_epochs=-3", ("trainer.max_epochs=-3", "at least 1")),
    Mistake("trainer.max_epochs=0", ("trainer.max_epochs=0", "at least 1")),
    Mistake("trainer.max_epochs=1.5", ("trainer.max_epochs=1.5", "whole number")),
    Mistake("trainer.max_epochs=null", ("trainer.max_epochs", "whole number")),
    Mistake("trainer.max_epochs=", ("trainer.max_epochs=", "whole number")),
    Mistake("trainer.max_epochs=[5]", ("trainer.max_epochs=[5]", "whole number")),
    Mistake("trainer=fast", ("trainer is a section",)),
    Mistake("split=test", ("split is a section", "split.fractions=[0.8,0.1,0.1]")),
    Mistake("early_stopping=5", ("early_stopping is a section", "early_stopping.patience="), never=("None",)),
    Mistake("optimizer.lr=fast", ("optimizer.lr=fast", "number", "1e-3")),
    Mistake("finetune.weights=", ("finetune.weights=", "empty")),
    Mistake("finetune.trainable=", ("finetune.trainable=", "empty")),
    Mistake("'param_groups.rules=[{match: w, share: 2}]'", ("param_groups.rules[0]", "share")),
    Mistake("'param_groups.rules=[{match: w, name: 5}]'", ("param_groups.rules[0]", "name")),
    Mistake("optimizer.lr=-1", ("optimizer.lr=-1", "negative")),
    Mistake("optimizer.lr=", ("optimizer.lr=", "number")),
    Mistake("optimizer.lr=nan", ("optimizer.lr=nan", "number")),
    Mistake("optimizer.lr=inf", ("optimizer.lr=inf", "number")),
    Mistake("optimizer.lr=null", ("optimizer.lr=", "must be a number")),
    Mistake("optimizer.weight_decay=abc", ("optimizer.weight_decay=abc", "number")),
    Mistake("loader.batch_size=0", ("loader.batch_size=0", "at least 1")),
    Mistake("loader.batch_size=big", ("loader.batch_size=big", "whole number")),
    Mistake("loader.shuffle=maybe", ("loader.shuffle=maybe", "true or false")),
    Mistake("loader.num_workers=-1", ("loader.num_workers=-1", "at least 0")),
    Mistake("loader.multiprocessing_context=thread", ("fork, spawn, forkserver",)),
    Mistake("seed=-1", ("seed=-1", "at least 0")),
    Mistake("seed=abc", ("seed=abc", "whole number")),
    Mistake("name=../elsewhere", ("name=../elsewhere", "paths.outputs")),
    Mistake("name=/tmp/elsewhere", ("name=/tmp/elsewhere", "paths.outputs")),
    Mistake("trainer.device=gpu", ("trainer.device=gpu", "cpu", "cuda", "mps")),
    Mistake("trainer.device=cuda:x", ("trainer.device=cuda:x", "cuda:N")),
    Mistake("trainer.precision=16", ("trainer.precision=16", "Did you mean fp16?")),
    Mistake("trainer.precision=fp8", ("fp32, bf16, fp16",)),
    Mistake("trainer.validate_every=never", ("trainer.validate_every=never", "epochs", "500s")),
    Mistake("trainer.validate_every=-1", ("trainer.validate_every=-1",)),
    Mistake("trainer.validate_every=0s", ("trainer.validate_every=0s",)),
    Mistake("trainer.log_every=0", ("trainer.log_every=0", "at least 1")),
    Mistake("trainer.max_grad_norm=0", ("trainer.max_grad_norm=0", "above 0")),
    Mistake("trainer.num_threads=100000", ("trainer.num_threads=100000",)),
    Mistake("checkpoint.keep=0", ("checkpoint.keep=0", "at least 1")),
    Mistake("early_stopping.patience=0", ("early_stopping.patience=0", "at least 1", "null")),
    Mistake("schedule.interval=batch", ("schedule.interval=batch", "step, epoch, validation")),
    Mistake("schedule.warmup_steps=-1", ("schedule.warmup_steps=-1", "at least 0")),
    Mistake("monitor_mode=maximum", ("monitor_mode=maximum", "Did you mean max?")),
    Mistake("trust=os.system", ("trust=os.system", "list")),
    Mistake("split.fractions=[0.8,0.1,0.2]", ("split.fractions", "add up to 1")),
    Mistake("split.fractions=[80,10,10]", ("split.fractions", "add up to 1")),
    Mistake("split.fractions=[0.8,0.2]", ("split.fractions", "train, val and test")),
    Mistake("split.fractions=[1.1,-0.1,0]", ("split.fractions", "add up to 1")),
    Mistake("split.fractions=[0,0.5,0.5]", ("split.fractions", "train")),
    Mistake("split.fractions=0.8", ("split.fractions=0.8", "list")),
    Mistake("split.fractions=[0.8,0.1,abc]", ("split.fractions=[0.8,0.1,abc]", "list")),
    Mistake("transforms.normalize=imagenet", ("transforms.normalize=imagenet", "none, train", "mean: 0.5")),
    Mistake("transforms.normalize={mean:0.5}", ("transforms.normalize", "std")),
    Mistake("transforms.normalize={mean:0.5,std:half}", ("transforms.normalize", "half", "number")),
    Mistake("optimizer.lr=${lr}", ("optimizer.lr", "'lr'")),
    Mistake("name=${nothing}", ("name", "'nothing'")),
]

# Choices that don't go together, as the configuration alone can tell.
COMBINATIONS = [
    Mistake("data=mnist loss=mse", ("loss=mse", "task=multiclass", "cross_entropy")),
    Mistake("data=penguins loss=cross_entropy", ("loss=cross_entropy", "task=regression", "mse", "l1", "huber")),
    Mistake("data=breast_cancer task=multiclass loss=bce", ("loss=bce", "task=multiclass", "cross_entropy")),
    Mistake("monitor=val/f1", ("monitor=val/f1", "Did you mean val/macro_f1?", "val/loss", "val/accuracy")),
    Mistake("monitor=accuracy", ("monitor=accuracy", "Did you mean val/accuracy?")),
    Mistake("monitor=test/accuracy", ("monitor=test/accuracy", "val/accuracy")),
    Mistake("monitor=train/loss", ("monitor=train/loss", "val/loss")),
    Mistake("data=penguins monitor=val/accuracy", ("monitor=val/accuracy", "task=regression", "val/rmse")),
    Mistake("metrics=none", ("val/accuracy", "val/loss")),
    Mistake("resume=a extend=b", ("resume=", "extend=", "one of the two")),
    Mistake("data=custom", ("data._target_=", "data=custom")),
    Mistake("model=custom", ("model._target_=", "model=custom")),
    Mistake("loss=custom", ("loss._target_=", "loss=custom")),
    Mistake("model=custom model.width=3", ("model._target_=",)),
    Mistake("early_stopping.patience=3 trainer.validate_every=0", ("early_stopping.patience=3", "validate_every")),
    Mistake("scheduler=plateau trainer.validate_every=0", ("scheduler", "validate_every")),
    Mistake("loader.prefetch_factor=4 loader.num_workers=0", ("loader.prefetch_factor=4", "loader.num_workers")),
    Mistake("loader.timeout=5 loader.num_workers=0", ("loader.timeout=5", "loader.num_workers")),
    Mistake("loader.persistent_workers=true loader.num_workers=0", ("loader.persistent_workers", "num_workers")),
    Mistake("loader.multiprocessing_context=fork loader.num_workers=0", ("multiprocessing_context", "num_workers")),
    Mistake("metrics.mine=5", ("metrics.mine", "_target_")),
    Mistake("callbacks.mine=3", ("callbacks.mine", "_target_")),
    Mistake("-m resume=latest seed=0,1", ("resume=", "sweep")),
]

# Config files of the user's.
FILES = [
    Mistake("model=mine", ("configs/model/mine.yaml, line 2", "YAML"),
            yaml("model/mine.yaml", "_target_: a.B\n  c: 3\n"), id="indented"),
    Mistake("model=mine", ("mine.yaml, line 2", "YAML"), yaml("model/mine.yaml", "_target_: a.B\n\tc: 3\n"), id="tab"),
    Mistake("model=mine", ("mine.yaml, line 3", "duplicate", "c"),
            yaml("model/mine.yaml", "_target_: a.B\nc: 3\nc: 4\n"), id="key twice"),
    Mistake("model=mine", ("model/mine.yaml",), yaml("model/mine.yaml", "- a\n- b\n"), id="a list"),
    Mistake("model=mine", ("model", "_target_"), yaml("model/mine.yaml", "width: 3\n"), id="no target"),
    Mistake("model=mine", ("width", "${spec.num_features"),
            yaml("model/mine.yaml", "_target_: a.B\nwidth: ${spec.num_features\n"), id="no closing brace"),
    Mistake("experiment=mine", ("configs/experiment/mine.yaml", "Did you mean trainer.max_epochs?"),
            yaml("experiment/mine.yaml", GLOBAL + "trainer:\n  max_epoch: 3\n"), id="wrong key"),
    Mistake("experiment=mine", ("configs/experiment/mine.yaml", "trainr", "trainer"),
            yaml("experiment/mine.yaml", GLOBAL + "trainr:\n  max_epochs: 3\n"), id="wrong section"),
    Mistake("data=mine", ("configs/data/mine.yaml", "splt", "split"),
            yaml("data/mine.yaml", GLOBAL + "splt:\n  stratify: false\n"), id="wrong section of data"),
    Mistake("experiment=mine", ("configs/experiment/mine.yaml", "trainer.max_epochs", "many"),
            yaml("experiment/mine.yaml", GLOBAL + "trainer:\n  max_epochs: many\n"), id="wrong type"),
    Mistake("experiment=mine", ("trainer.max_epochs=-3", "at least 1"),
            yaml("experiment/mine.yaml", GLOBAL + "trainer:\n  max_epochs: -3\n"), id="out of range"),
    Mistake("experiment=mine", ("model=mpl", "Did you mean mlp?"),
            yaml("experiment/mine.yaml", GLOBAL + "defaults:\n  - override /model: mpl\n"), id="wrong option"),
    Mistake("experiment=mine", ("configs/experiment/mine.yaml", "modell", "Did you mean model?"),
            yaml("experiment/mine.yaml", GLOBAL + "defaults:\n  - override /modell: mlp\n"), id="wrong group"),
    Mistake("experiment=mine", ("configs/experiment/mine.yaml", "override /model"),
            yaml("experiment/mine.yaml", GLOBAL + "defaults:\n  - override model: mlp\n"), id="no slash"),
    Mistake("experiment=mine", ("configs/experiment/mine.yaml", "override /model"),
            yaml("experiment/mine.yaml", GLOBAL + "defaults:\n  - model: cnn\n"), id="no override"),
    Mistake("experiment=mine", ("config file", "override /model: cnn"),
            yaml("experiment/mine.yaml", GLOBAL + "defaults:\n  - /model: cnn\n"), id="no word override"),
    Mistake("experiment=mine", ("configs/experiment/mine.yaml", "list"),
            yaml("experiment/mine.yaml", GLOBAL + "defaults:\n  override /model: cnn\n"), id="defaults no list"),
    Mistake("experiment=mine", ("model", "override /model: cnn"),
            yaml("experiment/mine.yaml", GLOBAL + "model: cnn\n"), id="option as a key"),
    Mistake("experiment=mine", ("metrics", "override /metrics: regression"),
            yaml("experiment/mine.yaml", GLOBAL + "metrics: regression\n"), id="metrics as a key", never=("val/r,",)),
    Mistake("experiment=mine", ("configs/experiment/mine.yaml", "# @package _global_"),
            yaml("experiment/mine.yaml", "trainer:\n  max_epochs: 3\n"), id="experiment without package"),
    Mistake("data=mine", ("configs/data/mine.yaml", "# @package _global_"),
            yaml("data/mine.yaml", "defaults:\n  - override /task: regression\n_target_: plainloop.data.table\n"),
            id="data without package"),
]  # fmt: skip

# Targets and their arguments.
TARGETS = [
    Mistake("optimizer.learning_rate=0.1", ("optimizer.learning_rate", "Did you mean lr?", "It accepts: lr, betas")),
    Mistake("optimizer.momentum=0.9", ("optimizer.momentum", "Adam takes no such argument", "It accepts: lr, betas")),
    Mistake("optimizer=sgd optimizer.betas=[0.9,0.99]", ("optimizer.betas", "SGD", "momentum")),
    Mistake("optimizer.betas=[0.9]", ("optimizer", "Adam", "betas=[0.9]")),
    Mistake("optimizer.betas=[0.9,2]", ("optimizer", "Adam", "betas=[0.9, 2]", "Invalid beta")),
    Mistake("optimizer.fused=maybe", ("optimizer.fused=maybe", "true or false")),
    Mistake("optimizer=sgd optimizer.nesterov=maybe", ("optimizer.nesterov=maybe", "true or false")),
    Mistake("optimizer=sgd optimizer.nesterov=true", ("optimizer", "Nesterov momentum requires a momentum")),
    Mistake("optimizer._target_=torch.optim.Adma", ("torch.optim has no Adma", "Did you mean Ada")),
    Mistake("optimizer._target_=torch.nn.Linear", ("optimizer._target_=torch.nn.Linear", "torch.optim.Optimizer")),
    Mistake("model.hiden_sizes=[8]", ("model.hiden_sizes", "Did you mean hidden_sizes?", "MLP", "activation")),
    Mistake("model=cnn model.hidden_sizes=[8]", ("model.hidden_sizes", "CNN", "channels")),
    Mistake("model.hidden_sizes=8", ("model.hidden_sizes=8", "[128,64]")),
    Mistake("model.hidden_sizes=[8,0]", ("model.hidden_sizes=[8, 0]", "from 1")),
    Mistake("model.hidden_sizes=abc", ("model.hidden_sizes=abc", "[128,64]")),
    Mistake("model.hidden_sizes=", ("model.hidden_sizes=", "[128,64]")),
    Mistake("model.activation=rellu", ("model.activation=rellu", "Did you mean relu?", "gelu")),
    Mistake("model.activation=null", ("model.activation", "identity")),
    Mistake("model.norm=bacth", ("model.norm=bacth", "Did you mean batch?")),
    Mistake("model.norm=null", ("model.norm", "none")),
    Mistake("model.dropout=half", ("model.dropout=half", "number")),
    Mistake("model.dropout=2", ("model.dropout=2", "0", "1")),
    Mistake("model.dropout=-0.5", ("model.dropout=-0.5", "0", "1")),
    Mistake("model.in_features=abc", ("model.in_features=abc", "number")),
    Mistake("model.out_features=null", ("model.out_features", "MLP needs it")),
    Mistake("model.in_features=${spec.num_featurs}", ("model.in_features", "Did you mean spec.num_features?")),
    Mistake("model.in_features=${nothing}", ("model.in_features", "'nothing'")),
    Mistake("model=cnn model.channels=32", ("model.channels=32", "[32,64]")),
    Mistake("model=torchvision model.name=resnet19", ("model.name=resnet19", "torchvision", "Did you mean resnet18?")),
    Mistake("model=torchvision model.pretrained=true", ("resnet18", "Write model.weights=DEFAULT")),
    Mistake("loss.label_smoothin=0.1", ("loss.label_smoothin", "Did you mean label_smoothing?", "CrossEntropyLoss")),
    Mistake("loss.label_smoothing=lots", ("loss.label_smoothing=lots", "number")),
    Mistake("loss.label_smoothing=2", ("label_smoothing must be between 0",)),
    Mistake("loss.reduction=none", ("loss", "mean")),
    Mistake("loss.reduction=sum", ("loss.reduction=sum", "mean")),
    Mistake("loss=custom loss._target_=their_models.VectorLoss", ("loss", "one number", "(2,)")),
    Mistake("loss=custom loss._target_=their_models.CutLoss", ("loss", "doesn't follow from", "item()")),
    Mistake("loss=custom loss._target_=their_models.difference", ("is a function", "in the forward of one")),
    Mistake("loss._target_=torch.nn.CrossEntropy", ("torch.nn has no CrossEntropy", "Did you mean CrossEntropyLoss?")),
    Mistake("metrics.accuracy.topk=2", ("metrics.accuracy.topk", "Did you mean top_k?", "Accuracy")),
    Mistake("metrics.accuracy.top_k=20", ("metrics.accuracy", "top_k")),
    Mistake("metrics.f1._target_=plainloop.tasks.F1", ("metrics.f1", "num_classes")),
    Mistake("metrics.mine._target_=torch.nn.Linear", ("metrics.mine._target_", "update, compute and reset")),
    Mistake("task.foo=3", ("task.foo", "Multiclass", "losses")),
    Mistake("task._target_=torch.nn.Linear", ("task._target_=torch.nn.Linear", "plainloop.tasks.Task")),
    Mistake("trainer._target_=torch.nn.Linear", ("trainer._target_=torch.nn.Linear", "plainloop.training.Trainer")),
    Mistake("logger.mine._target_=torch.nn.Linear", ("logger.mine._target_", "plainloop.loggers.Logger")),
    Mistake("logger.tensorboard.folder=x", ("logger.tensorboard.folder", "TensorBoard")),
    Mistake("callbacks.mine._target_=torch.nn.Linear", ("callbacks.mine._target_", "plainloop.training.Callback")),
    Mistake("data.pth=x.npz", ("data.pth", "Did you mean path?", "inputs", "targets")),
    Mistake("data=custom data._target_=torch.nn.Linear", ("data._target_=torch.nn.Linear", "Dataset")),
    Mistake("model._target_=Net", ("model._target_=Net", "my_package.MyClass")),
    Mistake("model._target_=no_such_package.Net", ("no module named no_such_package", "where the command is typed")),
    Mistake("model._target_=their_models.Nett", ("their_models has no Nett", "Did you mean Net?")),
    Mistake("model=custom model._target_=their_models.py", ("has no py", "It has: ", "Net")),
    Mistake("model=custom model._target_=their_models.made", ("exists already", "Name its class"), never=("trust",)),
    Mistake("model=custom model._target_=their_models.NoSuper", ("NoSuper", "__init__() call", "their_models.py")),
    Mistake("model=custom model._target_=their_models.Keyed model.feature=3",
            ("Keyed", "feature=3", "KeyError: 'features'", "their_models.py, line ")),
    Mistake("model=custom model._target_=their_models.Lazy", ("layer.weight", "Lazy", "${spec.num_features}")),
    Mistake("model=custom model._target_=their_broken.Net", ("their_broken", "there_is_no_such_package", "line 1")),
    Mistake("model=custom model._target_=their_raising.Net", ("RuntimeError", "licence has expired", "raising.py")),
    Mistake("model=custom model._target_=their_misspelt.Net", ("their_misspelt", "SyntaxError", "line 1")),
    Mistake("model=custom model._target_=their_exiting.Net", ("their_exiting", "exit")),
    Mistake("model=custom model._target_=their_models.NotAModule", ("NotAModule is not a torch.nn.Module",)),
    Mistake("model=custom model._target_=their_models.Net model.width=3", ("model.width", "features, outputs")),
    Mistake("model=custom model._target_=torch.nn.Linear", ("model.in_features", "Linear needs it")),
    Mistake("model=custom model._target_=their_models.make", ("is a function", "trust=[their_models.make]")),
    Mistake("model=custom model._target_=their_models.make_number trust=[their_models.make_number]",
            ("their_models.make_number", "torch.nn.Module", "int")),
    Mistake("scheduler=cosine scheduler.tmax=10", ("scheduler.tmax", "Did you mean T_max?", "CosineAnnealingLR")),
    Mistake("scheduler=cosine scheduler.T_max=0", ("scheduler", "CosineAnnealingLR", "T_max=0")),
    Mistake("scheduler=step scheduler.step_size=0", ("scheduler", "StepLR", "step_size=0")),
    Mistake("scheduler=step scheduler.step_size=abc", ("scheduler", "StepLR", "step_size=abc")),
    Mistake("scheduler=one_cycle scheduler.total_steps=10", ("scheduler", "OneCycleLR", "total_steps=10")),
    Mistake("scheduler=lambda scheduler.lr_lambda=0.5", ("scheduler.lr_lambda=0.5", "name of a function of a number")),
    Mistake("scheduler=lambda scheduler.lr_lambda=half", ("scheduler.lr_lambda=half", "dotted"), never=("_target_",)),
    Mistake("scheduler=lambda scheduler.lr_lambda=their_models.nothing trust=[their_models.nothing]",
            ("scheduler", "lr_lambda=nothing", "takes 0 positional arguments")),
    Mistake("scheduler=sequential scheduler.milestones=[5,9]", ("SequentialLR", "schedulers=[ConstantLR, Cosine")),
    Mistake("optimizer=muon scheduler=one_cycle", ("optimizer=muon doesn't have", "Write scheduler.max_lr=VALUE")),
    Mistake("optimizer=muon optimizer.lr=0.1", ("optimizer.lr", "optimizer.muon.lr, optimizer.rest.lr")),
    Mistake("scheduler=plateau schedule.interval=step", ("schedule.interval=step", "schedule.interval=validation")),
    Mistake("scheduler=cosine schedule.interval=validation", ("schedule.interval=validation", "step or epoch")),
]  # fmt: skip

# Data that isn't there, isn't readable, or isn't what the task needs.
DATA = [
    Mistake("data.path=nowhere.npz", ("data.path=nowhere.npz", "no such file")),
    Mistake("paths.data=nowhere", ("nowhere/digits.npz", "no such file")),
    Mistake("data.path=mine.npz", ("mine.npz", ".npz file"), text("mine.npz", "hello"), id="a text file as npz"),
    Mistake("data.path=mine.npz", ("mine.npz", ".npz file"), text("mine.npz", ""), id="an empty file"),
    Mistake("data.path=mine.npy", ("mine.npy", ".npz file"),
            lambda folder, _: numpy.save(folder / "mine.npy", IMAGES), id="one bare array"),
    Mistake("data.path=mine.npz", ("data.inputs=images", "no such array", "inputs, targets"), npz(), id="wrong array"),
    Mistake("NPZ", ("sample 7", "label 9", "4 classes"), npz(targets=at(7, 9), classes=numpy.array(list("abcd"))),
            id="label outside the classes"),
    Mistake("NPZ", ("sample 7", "label -1"), npz(targets=at(7, -1), classes=numpy.array(list("abcd"))),
            id="negative label"),
    Mistake("NPZ", ("one class",), npz(targets=CLASSES * 0), id="one class"),
    Mistake("NPZ", ("40 inputs", "39 targets"), npz(targets=CLASSES[:-1]), id="a target too few"),
    Mistake("NPZ", ("mine.npz", "no samples"), npz(inputs=IMAGES[:0], targets=CLASSES[:0]), id="no samples"),
    Mistake("NPZ", ("split.fractions", "no sample for val"), npz(inputs=IMAGES[:1], targets=CLASSES[:1]),
            id="one sample"),
    Mistake("NPZ split.fractions=[0.98,0.01,0.01]", ("split.fractions", "no sample for", "set it to 0"), npz()),
    Mistake("NPZ loader.batch_size=64 loader.drop_last=true split.fractions=[0.8,0.1,0.1]",
            ("loader.drop_last=true", "32 samples", "loader.batch_size=64"), npz()),
    Mistake("NPZ", ("classes", "task=regression"), npz(targets=FEATURES[:, 0]), id="values for classes"),
    Mistake("NPZ", ("mine.npz", "one per sample", "(40, 2)"), npz(targets=numpy.stack([CLASSES, CLASSES], 1)),
            id="two labels"),
    Mistake("NPZ", ("mine.npz", "targets", "numbers are needed"), npz(targets=numpy.array(list("abcd"))[CLASSES]),
            id="words as labels"),
    Mistake("NPZ", ("mine.npz", "inputs", "numbers"), npz(inputs=numpy.array(["a"] * COUNT)), id="words as inputs"),
    Mistake("NPZ", ("inputs", "(N, F)"), npz(inputs=FEATURES[:, 0]), id="inputs of one axis"),
    Mistake("NPZ", ("(N, C, H, W)", "(40, 8, 8, 3)"), npz(inputs=numpy.zeros((COUNT, 8, 8, 3), "uint8")),
            id="channels last"),
    Mistake("NPZ", ("inputs", "NaN", "sample 5"), npz(inputs=at(5, numpy.nan, FEATURES)), id="NaN in an input"),
    Mistake("NPZ task=regression", ("targets", "NaN", "sample 5"), npz(targets=at(5, numpy.nan, FEATURES[:, 0])),
            id="NaN as a target"),
    Mistake("NPZ task=regression", ("task=regression", "float", "int64"), npz(), id="classes for values"),
    Mistake("data=digits task=binary", ("task=binary", "two classes", "10", "task=multiclass")),
    Mistake("data=penguins task=multiclass", ("classes", "task=regression")),
    Mistake("NPZ split.fractions=[1,0,0] early_stopping.patience=3", ("early_stopping.patience", "validation"), npz()),
    Mistake("NPZ split.fractions=[1,0,0] scheduler=plateau", ("scheduler", "validation"), npz()),
    Mistake("data=penguins data.target=body_mass", ("data.target=body_mass", "Did you mean body_mass_g?", "island")),
    Mistake("data=penguins data.target=species", ("data.target=species", "words", "task=multiclass")),
    Mistake("data=penguins data.target=null", ("data.target=COLUMN", "island, bill_length_mm")),
    Mistake("data=penguins data.missing_target=error", ("penguins.csv, line 5", "body_mass_g", "missing_target=drop")),
    Mistake("data=penguins data.classification=true", ("data.classification", "It accepts: path, target, features")),
    Mistake("data=penguins data.exclude=[isle]", ("data.exclude=isle", "Did you mean island?")),
    Mistake("data=penguins data.categorical=[yaer]", ("data.categorical=yaer", "Did you mean year?")),
    Mistake("data=penguins data.categories=dummies", ("data.categories=dummies", "onehot or embed")),
    Mistake("data=penguins data.categories=embed", ("model=mlp", "model=tabular", "data.categories=onehot")),
    Mistake("data=digits model=tabular", ("model=tabular", "data=digits", "spec.num_numbers")),
    Mistake("data=penguins split.time=year", ("no sample for val", "3 different values of split.time=year",
                                              "split.fractions=[0.31,0.34,0.35] would do")),
    Mistake("data=penguins split.group=sex", ("split.group=sex", "penguins.csv, line 10", "missing")),
    Mistake("CSV split.group=g", ("no sample for val", "2 groups of split.group=g", "split.fractions=[0.8,0.2,0]"),
            csv("a,g,y", lambda n: f"{n * n},{'pq'[n % 2]},{n}"), id="fewer groups than splits"),
    Mistake("CSV split.folds=50", ("split.folds=50", "40 samples", "take fewer"), csv("a,y", "{0},{0}".format),
            id="more folds than samples"),
    Mistake("CSV split.time=t", ("mine.csv, line 40", "the class c isn't in the training split", "2 in test"),
            csv("a,t,y", lambda n: f"{n * n},{n},{'c' if n > 37 else 'ab'[n % 2]}"), id="a class that comes late"),
    Mistake("NPZ split.time=when", ("split.time=when",), npz(), id="an array has no columns"),
    Mistake("data=penguins data.target=[body_mass_g,flipper_length_mm] monitor=val/mae",
            ("monitor=val/mae", "val/mae/body_mass_g, val/mae/flipper_length_mm", "Write monitor=val/mae/body_mass_g")),
    Mistake("data=penguins monitor=val/mae/body_mass_g", ("monitor=val/mae/body_mass_g", "Write monitor=val/mae")),
    Mistake("data=penguins split.group=iland", ("split.group=iland", "Did you mean island?")),
    Mistake("data=penguins split.time=species", ("split.time=species", "penguins.csv, line 2", "2024-05-31")),
    Mistake("data=table", ("data.path", "VALUE")),
    Mistake("data=penguins data.features=[bill_length]", ("data.features=bill_length", "Did you mean bill_length_mm?")),
    Mistake("data=penguins data.features=bill_length_mm", ("data.features", "bill_length_mm", "list"), never=("=b:",)),
    Mistake("data=penguins data.features=[]", ("data.features", "column")),
    Mistake("data=penguins data.features=[year,body_mass_g]", ("data.features", "body_mass_g", "target")),
    Mistake("CSV", ("mine.csv", "no such file"), id="no table"),
    Mistake("data=table data.path=mine.csv", ("data.target=COLUMN", "mine.csv has: a, y"), csv("a,y", "{0},{0}".format),
            id="no target named"),
    Mistake("CSV data.taget=y", ("data.taget", "Did you mean target?"), csv("a,y", "{0},{0}".format)),
    Mistake("CSV", ("mine.csv", "empty"), text("mine.csv", ""), id="an empty table"),
    Mistake("CSV", ("mine.csv", "no rows"), csv("a,b,y", str, 0), id="no rows"),
    Mistake("CSV", ("mine.csv", "no column with a value"), csv("a,b,y", ",,{0}".format), id="empty columns"),
    Mistake("CSV", ("data.target=y", "a#b#y"), csv("a#b#y", "{0}#1#{0}".format), id="another separator"),
    Mistake("CSV", ("mine.csv", "column"), csv("y", str), id="the target alone", never=("TensorList",)),
    Mistake("CSV", ("mine.csv, line 2", "4 fields"), csv("a,b,y", "{0},{0},{0},{0}".format), id="long rows"),
    Mistake("CSV", ("mine.csv, line 9", "2 fields"), csv("a,b,y", lambda n: "1,2" if n == 7 else f"{n},{n},{n}"),
            id="a short row"),
    Mistake("CSV", ("mine.csv, line 9", "UTF-8"),
            lambda folder, _: (folder / "mine.csv").write_bytes(b"a,y\n" + b"1,2\n" * 7 + b"\1\xff\x81"),
            id="not UTF-8"),
    Mistake("CSV", ("mine.csv, line 9, column a", "infinite"), csv("a,y", lambda n: f"{'inf' if n == 7 else n},{n}"),
            id="infinity"),
    Mistake("CSV", ("mine.csv, line 9", "target y is missing", "missing_target=drop"),
            csv("a,y", lambda n: f"{n},{'' if n == 7 else n}"), id="no target in a row"),
    Mistake("CSV data.features=[d,a]", ("column d", "dates", "split.time=d", "data.exclude=[d]"),
            csv("d,a,y", lambda n: f"2024-05-{n % 28 + 1:02},{n},{n}"), id="dates"),
    Mistake("CSV data.features=[id,b]", ("id", "data.exclude=[id]"), csv("id,b,y", "p{0},1,{0}".format),
            id="a name in every row"),
    Mistake("CSV", ("column a", "'?!' in line 9"), csv("a,y", lambda n: f"{'?!' if n == 7 else n},{n}"),
            id="a word among numbers"),
    Mistake("CSV", ("data.target=y", "one class"), csv("a,b,y", "{0},1,k".format), id="one word"),
    Mistake("CSV", ("data.target=y", "one value only (5)"), csv("a,b,y", "{0},1,5".format), id="one number"),
    Mistake("CSV task=multilabel", ("mine.csv, line 4", "y is 2", "0 and 1"), csv("a,y", "{0},{0}".format),
            id="labels that are none"),
    Mistake("CSV task=multiclass data.target=[y,z]", ("task=multiclass", "one target", "task=multilabel"),
            csv("a,y,z", "{0},{0},{0}".format), id="several targets of classes"),
    Mistake("data=breast_cancer data.path=mine.csv data.target=y", ("task=binary", "3", "task=multiclass"),
            csv("a,y", lambda number: f"{number},{'xyz'[number % 3]}"), id="three words for two classes"),
    Mistake("data.path=mine.csv", ("mine.csv", ".npz"), csv("a,y", "{0},{0}".format), id="a table where arrays belong"),
    Mistake("data=points data.inputs=[[1],[2]]", ("2 inputs", "3 targets"), never=("equal length",)),
    Mistake("data=points data.inputs=[[1],[2,3],[4]]", ("data.inputs", "equal length")),
    Mistake("data=points data.inputs=[[a],[b],[c]]", ("data.inputs", "number")),
    Mistake("data=mnist paths.data=nowhere data.download=false", ("MNIST is not in nowhere", "paths.data=FOLDER")),
    Mistake("data=mnist data.name=MNST", ("data.name=MNST", "Did you mean MNIST?", "CIFAR10")),
    Mistake("model=custom model._target_=their_models.Twofaced", ("model=custom in training mode", "not tuple")),
    Mistake("model._target_=torch.nn.Linear", ("model.hidden_sizes: Linear takes no such argument",
            "It stands in configs/model/mlp.yaml. model=custom model._target_=torch.nn.Linear")),
    Mistake("optimizer._target_=torch.optim.RMSprop", ("optimizer.betas", "configs/optimizer/adam.yaml",
            "optimizer=custom")),
    Mistake("data=digits data.name=MNIST", ("data.name", "arrays takes no such argument")),
    Mistake("data=mine data.count=many", ("data.count=many", "number")),
    Mistake("data=mine data.count=0", ("training split is empty",)),
    Mistake("data=custom data._target_=their_data.EmptyVal", ("split val", "empty")),
    Mistake("data=custom data._target_=their_data.Alone", ("(input, target)", "Tensor", "__getitem__")),
    Mistake("data=custom data._target_=their_data.Arrays", ("must be a tensor", "ndarray", "torch.as_tensor")),
    Mistake("data=custom data._target_=their_data.Ragged", ("sample 1 can't be put", "with sample 0", "[1, 8, 9]")),
    Mistake("data=custom data._target_=their_data.Words", ("target", "cat")),
    Mistake("data=custom data._target_=their_data.Fractions", ("targets", "task=regression")),
    Mistake("data=custom data._target_=their_data.NoLength", ("NoLength", "__len__")),
    Mistake("data=custom data._target_=their_data.Stream", ("classes", "stream is too long")),
    Mistake("transforms.normalize={mean:[0.5,0.5],std:0.5}", ("transforms.normalize.mean", "2 numbers", "1 channel")),
    Mistake("data=points task=auto", ("task=auto", "multiclass", "regression")),
    Mistake("transforms.normalize={mean:0.5,std:0}", ("transforms.normalize.std", "above 0")),
]  # fmt: skip

# A model that doesn't fit the data, a machine that doesn't have it, a run too short.
FIT = [
    Mistake("data=penguins model=cnn", ("model=cnn", "data=penguins", "spec.in_channels")),
    Mistake("data=penguins model=torchvision", ("model=torchvision", "data=penguins", "spec.in_channels")),
    Mistake("model.in_features=65", ("model=mlp", "1, 8, 8", "64", "65")),
    Mistake("model.out_features=3", ("model", "(2, 3)", "10")),
    Mistake("model.out_features=20", ("model", "(2, 20)", "10")),
    Mistake("model=custom model._target_=their_models.Net model.outputs=3", ("model", "(2, 3)", "10")),
    Mistake("data=penguins model.out_features=2", ("model", "(2, 2)", "(2, 1)")),
    Mistake("model=custom model._target_=their_models.Squeezed", ("outputs", "(2,)", "logits (N, ")),
    Mistake("model=custom model._target_=their_models.Pair", ("outputs are tuple", "logits")),
    Mistake("model=custom model._target_=their_models.OneSize", ("model=custom", "Wrong image height!")),
    Mistake("model=custom model._target_=their_models.Unflattened", ("model=custom", "their_models.py, line ")),
    Mistake("model=custom model._target_=their_models.Typo", ("AttributeError", "layr", "their_models.py, line ")),
    Mistake("model=custom model._target_=their_models.Detached", ("outputs", "detach")),
    Mistake("model=custom model._target_=their_models.Aside finetune.trainable=aside",
            ("outputs", "no parameter that is trained", "finetune.trainable=aside")),
    Mistake("model=custom model._target_=their_models.Fixed", ("model", "nothing to train")),
    Mistake("schedule.warmup_steps=100000", ("schedule.warmup_steps=100000", "steps")),
    Mistake("schedule.warmup_steps=5 trainer.max_steps=5", ("schedule.warmup_steps=5", "only 5 steps")),
    Mistake("trainer.device=cpu trainer.precision=fp16", ("trainer.precision=fp16", "bf16 or fp32")),
    Mistake("trainer.device=cuda", ("trainer.device=cuda", "CUDA" if torch.version.cuda is None else "GPU",
                                    "trainer.device=cpu")),
    Mistake("trainer.device=cuda:99", ("trainer.device=cuda:99",)),
    Mistake("trainer.device=mps", ("trainer.device=mps", "trainer.device=cpu")),
]  # fmt: skip

# Runs that aren't there, or that can't be continued so.
RUNS = [
    Mistake(
        "finetune.weights=mine paths.outputs=runs",
        ("no such run or file", "Write finetune.weights=runs/mine"),
        lambda folder, _: (folder / "runs" / "mine").mkdir(parents=True),
        id="a folder of runs by its name alone",
    ),
    Mistake("resume=latest", ("resume=latest", "no run with a checkpoint", "outputs/")),
    Mistake("extend=latest", ("extend=latest", "no run with a checkpoint")),
    Mistake("resume=nowhere", ("resume=nowhere", "no such directory", "resume=latest")),
    Mistake(f"resume={'a' * 300}", ("no such directory", "resume=latest")),
    Mistake("resume=file.txt", ("resume=file.txt", "not a run directory"), text("file.txt", "hello")),
    Mistake("resume=RUN/..", ("not a run directory", "Inside it there is")),
    Mistake("resume=RUN/checkpoints/step-999999.pt", ("step-999999.pt",)),
    Mistake("resume=RUN model=cnn", ("model=cnn", "model=mlp", "extend=")),
    Mistake("resume=RUN optimizer.lr=0.5", ("optimizer.lr=0.5", "optimizer.lr=0.001", "extend=")),
    Mistake("resume=RUN seed=5", ("seed=5", "seed=0"), never=("None",)),
    Mistake("resume=RUN trainer.max_epochs=many", ("trainer.max_epochs=many", "whole number")),
    Mistake("extend=RUN model.hidden_sizes=[8]", ("model.hidden_sizes=[8]", "128", "trainer.*")),
    Mistake("extend=RUN data=penguins", ("data=penguins", "data=digits")),
    Mistake("evaluate.py run=nowhere", ("run=nowhere", "no such directory", "run=latest")),
    Mistake("evaluate.py", ("run=latest", "no run with a checkpoint")),
    Mistake("evaluate.py run=.", ("run=.", "not a run directory", "config.yaml")),
    Mistake("evaluate.py run=RUN split=valid", ("split=valid", "train, val, test", "Did you mean val?")),
    Mistake("evaluate.py run=RUN checkpoint=bset", ("checkpoint=bset", "best, best-2, last")),
    Mistake("evaluate.py run=RUN/checkpoints/step-999999.pt", ("step-999999.pt",)),
    Mistake("predict.py", ("input=PATH", "text=", "prompt=", "one of them")),
    Mistake("predict.py run=nowhere input=a.png", ("run=nowhere", "no such directory")),
    Mistake("predict.py run=RUN inptu=a.png", ("inptu", "Did you mean input?", "predict.py --help")),
    Mistake("predict.py run=RUN input=none.npz", ("none.npz", "no such file")),
    Mistake("predict.py run=RUN text=hello", ("text=hello", "of no texts", "input=PATH")),
    Mistake("predict.py run=RUN input=a.npz output=a.xlsx", ("output=a.xlsx", ".csv, .jsonl or .parquet")),
    Mistake("predict.py run=RUN input=a.npz split=test", ("split", "no such key")),
    Mistake("predict.py run=RUN input=a.npz data.path=b", ("data.path", "from the run")),
    Mistake("export.py run=nowhere", ("run=nowhere", "no such directory")),
    Mistake("export.py run=RUN fromat=onnx", ("fromat", "Did you mean format?", "export.py --help")),
    Mistake("export.py run=RUN format=tflite", ("format=tflite", "onnx, torch_export, safetensors")),
    Mistake("export.py run=RUN output=model.pt", ("output=model.pt", ".onnx")),
    Mistake("export.py run=RUN format=safetensors quantize=int8", ("quantize=int8", "format=onnx")),
    Mistake("export.py run=RUN model=cnn", ("model", "the run")),
    Mistake("evaluate.py run=RUN model=none.onnx", ("model=none.onnx", "there is no such file")),
    Mistake("evaluate.py run=RUN model=cnn", ("model", "the run"), never=("Did you mean model?", "train.py")),
    Mistake("evaluate.py run=RUN trainer.max_epochs=3", ("trainer.max_epochs=3", "trainer.device")),
    Mistake("evaluate.py run=RUN loader.batch_size=0", ("loader.batch_size=0", "at least 1")),
    Mistake("evaluate.py run=RUN split=test,val", ("split=test,val",), never=("train.py", "-m")),
    Mistake("evaluate.py run=RUN paths.data=nowhere", ("nowhere/digits.npz", "no such file")),
    Mistake("evaluate.py rnu=RUN", ("rnu", "Did you mean run?"), never=("train.py",)),
    Mistake("evaluate.py RUN", ("run=RUN",)),
    Mistake("evaluate.py --run=RUN", ("Write run=RUN",)),
    Mistake("evaluate.py run RUN", ("run=RUN",)),
]

CONFIG_ALONE = {
    "names": NAMES,
    "spelling": SPELLING,
    "values": VALUES,
    "combinations": COMBINATIONS,
    "files": FILES,
}
NEEDS_TORCH = {"targets": TARGETS, "data": DATA, "fit": FIT, "runs": RUNS}
TABLE = [
    pytest.param(row, table in CONFIG_ALONE, id=f"{table}: {row.id or row.words}")
    for table, rows in {**CONFIG_ALONE, **NEEDS_TORCH}.items()
    for row in rows
]


# --- the tests --------------------------------------------------------------------------------------------------


def type_here(words: list[str], config_alone: bool) -> None:
    """Type words, in process: what the command would do, or as much of it as needs no torch."""
    if words[0] == "-m":
        sweep.run(words[1:], lambda *_: pytest.fail("a trial was started"))
    elif words[0] == "evaluate.py":
        evaluate.evaluate_config(compose.compose(words[1:], schema.EvaluateConfig), words[1:])
    elif words[0] == "predict.py":
        predict.predict_config(compose.compose(words[1:], schema.PredictConfig), words[1:])
    elif words[0] == "export.py":
        export.export_config(compose.compose(words[1:], schema.ExportConfig), words[1:])
    elif config_alone:
        compose.compose(words)
    else:
        plainloop.train(words)


@pytest.mark.parametrize(("row", "config_alone"), one_in(15, TABLE))
def test_mistake_is_answered(row: Mistake, config_alone: bool, tmp_path, monkeypatch, request):
    """The answer names the cause and the fix in one or two lines, in the user's words, and nothing is written."""
    if "device=cuda" in row.words and torch.cuda.device_count() > (99 if "cuda:99" in row.words else 0):
        pytest.skip("this machine has the GPU that is asked for, so it is no mistake")
    if "device=mps" in row.words and torch.backends.mps.is_available():
        pytest.skip("this machine has MPS, so it is no mistake")
    run = str(request.getfixturevalue("short_run").path) if "RUN" in row.words else "RUN"
    if row.given is not None:
        row.given(tmp_path, monkeypatch)
    in_run = set(Path(run).rglob("*"))
    words = row.words
    for short, long in SHORT.items():
        words = words.replace(short, long)

    with pytest.raises(UserError) as caught:
        type_here([word.replace("RUN", run) for word in shlex.split(words)], config_alone)

    message = str(caught.value)
    assert len(message.splitlines()) <= 2, message
    for piece in row.pieces:
        assert piece.replace("RUN", run) in message
    for piece in (*row.never, *LEAKS):
        assert piece not in message
    assert not (tmp_path / "outputs").exists()
    assert set(Path(run).rglob("*")) == in_run


# What the config alone tells, and is typed to train.py without more.
ALONE = [
    pytest.param(row, id=row.id or row.words)
    for table in CONFIG_ALONE.values()
    for row in table
    if not row.words.startswith(("-m", "evaluate.py", "predict.py", "export.py", "--help", "resume=", "extend="))
    and "hydra." not in row.words
]


@pytest.mark.slow
@pytest.mark.parametrize("row", ALONE[::3])
@pytest.mark.parametrize("beside", ["hydra.run.dir=there", "-m"])
def test_a_mistake_is_answered_alike_beside_a_directory_and_in_a_sweep(beside, row, tmp_path, monkeypatch, capsys):
    """By the door itself, in another folder than the checkout."""
    if row.given is not None:
        row.given(tmp_path, monkeypatch)
    words = row.words
    for short, long in SHORT.items():
        words = words.replace(short, long)
    typed = [beside, *shlex.split(words)] if beside == "-m" else [*shlex.split(words), beside]
    if beside == "-m" and any("=" in word and "," in word for word in typed):
        return  # in a sweep it is no mistake
    monkeypatch.setattr(sys, "argv", ["train.py", *typed])
    status = cli._run(schema.Config, lambda *_: pytest.fail("it has begun"), typed)
    said = capsys.readouterr().err
    assert status == 2, said
    assert 1 <= len(said.splitlines()) <= 2, said
    for piece in row.pieces:
        assert piece in said
    for piece in (*row.never, *LEAKS):
        assert piece not in said


@pytest.mark.parametrize("function", [plainloop.train, compose.compose, compose.combinations])
def test_a_word_where_a_list_belongs_is_answered(function):
    """In Python, train("model=mlp") is told to take a list, and isn't read letter by letter."""
    with pytest.raises((UserError, TypeError), match=r'\["model=mlp"\]|list'):
        function("model=mlp")


# Class, script, words, pieces, and whether torch may have been imported for the answer.
TYPED = [
    ("names", "train.py", "model=mpl", ("Did you mean mlp?",), False),
    ("spelling", "train.py", "--epochs 5", ("trainer.max_epochs=5",), False),
    ("values", "train.py", "optimizer.lr=fast", ("optimizer.lr=fast", "number"), False),
    ("combinations", "train.py", "data=mnist loss=mse", ("loss=mse", "cross_entropy"), False),
    ("files", "train.py", "--config-dir=mine model=bad", ("mine/model/bad.yaml, line 3", "YAML"), False),
    ("targets", "train.py", "optimizer.learning_rate=0.1", ("Did you mean lr?", "It accepts: lr"), True),
    ("data", "train.py", "data=penguins data.target=body_mass", ("Did you mean body_mass_g?",), True),
    ("runs", "evaluate.py", "run=nowhere", ("run=nowhere", "no such directory"), False),
]


@pytest.mark.parametrize(
    ("script", "words", "pieces", "torch_may_be_imported"),
    one_in(8, [pytest.param(*case, id=name) for name, *case in TYPED]),  # names
)
def test_typed_mistake(script, words, pieces, torch_may_be_imported, type_command, tmp_path):
    """The command exits with 2, says so in at most two lines on stderr, writes nothing, and imports torch only
    where the configuration alone can't tell."""
    own = tmp_path / "mine" / "model" / "bad.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# Mine.\n_target_: my_package.Net\n  width: 3\n")

    done = type_command(script, *shlex.split(words), env={"PYTHONPROFILEIMPORTTIME": "1"}, cold=True)

    imported, said = [], []
    for line in done.err.splitlines():
        (imported if line.startswith("import time:") else said).append(line)
    assert done.status == 2
    assert 1 <= len(said) <= 2, done.err
    assert said[0].startswith("error: ")
    for piece in pieces:
        assert piece in "\n".join(said)
    assert "Traceback" not in done.err
    assert not (tmp_path / "outputs").exists()
    assert any(re.search(r"\| +torch$", line) for line in imported) == torch_may_be_imported
