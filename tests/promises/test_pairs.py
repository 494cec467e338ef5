"""Every kind of data with every model config, and every data config with a model that takes it: each pair trains two
steps, or is refused before training by an answer that says why and what fits. The same of every task, on the default
data.

What should train stands here by hand, in `TAKES`; what an answer recommends is tried.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torchvision.datasets import CIFAR10

import plainloop
from plainloop.config.options import groups
from plainloop.errors import UserError
from tests import formats
from tests.conftest import one_in, slow
from tests.promises.test_kinds import KINDS, nothing
from tests.promises.test_mistakes import LEAKS

Write = Callable[[Path], Any]
QUICK = ["trainer.max_steps=2", "trainer.log_every=2", "trainer.limit_batches=2", "loader.batch_size=4",
         "loader.num_workers=0", "logger=none", "checkpoint.every_epochs=null", "console.progress=false"]  # fmt: skip
# What torch and Python say to programmers of a shape or an argument that doesn't fit.
RAW = (*LEAKS, "mat1", "addmm", "dtype", "forward()", "keyword argument", "Expected", ".py, line", "_ops")

# --- what is combined ---------------------------------------------------------------------------------------


def cifar10(folder: Path) -> dict:
    """The lists of its files and their sums."""
    return formats.write_cifar10(folder, per_file=10, test=10)[1]


class Given(NamedTuple):
    """What kind of input a data option gives, what is typed, and what writes its files into a folder {data}."""

    kind: str
    typed: str
    write: Write = nothing


def like(kind: str, name: str, more: str = "") -> Given:
    return Given(kind, f"{KINDS[name].typed} {more}", KINDS[name].write)


ROOT = "paths.data={data}"
DATA = {
    "arrays": like("vector", "arrays' classes"),
    "audio": like("spectrogram", "audio", "data.mels=8"),
    "breast_cancer": Given("table", "data=breast_cancer"),
    "charseq": like("tokens", "a book"),
    "cifar10": Given("image", f"data=cifar10 {ROOT}", cifar10),
    "custom": Given("vector", "data=custom data._target_=project.data.TwoMoons task=multiclass"),
    "digits": Given("image", "data=digits"),
    "fake": like("image", "fake"),
    "fashion_mnist": Given("image", f"data=fashion_mnist {ROOT}",
                           lambda folder: formats.write_mnist(folder, 30, 10, "FashionMNIST")),
    "images": like("image", "images"),
    "mine": Given("vector", "data=mine"),
    "mnist": Given("image", f"data=mnist {ROOT}", lambda folder: formats.write_mnist(folder, 30, 10)),
    "one_string": like("tokens", "one string"),
    "penguins": Given("table", "data=penguins"),
    "points": Given("vector", "data=points"),
    "series": like("series", "a series' future"),
    "stream": like("vector", "a stream's classes", "data.buffer=20"),
    "table": like("table", "a table's number"),
    "text": like("text", "texts' classes"),
    "torchvision": like("image", "torchvision"),
}  # fmt: skip
# Other targets and other inputs of the same options.
ALSO = {
    "a table's codes": like("codes", "a table's number", "data.categories=embed"),
    "a table's labels": like("table", "a table's labels"),
    "a series' classes": like("series", "a series' classes"),
    "texts' numbers": like("text", "texts' numbers"),
    "pictures, rebuilt": Given("picture to rebuild", "data=digits task=reconstruction"),
    "vectors, rebuilt": like("vector to rebuild", "arrays' classes", "task=reconstruction"),
}  # fmt: skip

FLAT = {"vector", "table", "image", "spectrogram", "series", "vector to rebuild"}
PICTURES = {"image", "spectrogram"}
TAKES = {
    "autoencoder": {"picture to rebuild", "vector to rebuild"},
    "bare_linear": FLAT, "custom": FLAT, "linear": FLAT, "linear_zero": FLAT, "manual_linear": FLAT, "mine": FLAT,
    "mlp": FLAT, "mnist_mlp": FLAT, "large_mlp": FLAT,
    "bare_rnn": {"tokens"}, "char_rnn": {"tokens"}, "char_transformer": {"tokens"},
    "cnn": PICTURES, "hub": PICTURES, "hub_resnet": PICTURES, "resnet": PICTURES, "timm": PICTURES,
    "torchvision": PICTURES, "vit": PICTURES,
    "torchvision_vit": {"image"},  # square ones
    "rnn": {"text"}, "transformer": {"text"}, "series_rnn": {"series"}, "tabular": {"table", "codes"},
}  # fmt: skip
# Options of the group task, and whether it is the question that the default data, pictures of ten classes, answer.
TASKS = {"auto": True, "binary": False, "gaussian_regression": False, "mine": True, "multiclass": True,
         "multilabel": False, "reconstruction": False, "regression": False, "sequence_labelling": False}  # fmt: skip
# What must be typed besides, and what makes it quick.
TRUST = "trust=[src/project/hub]"
TYPED = {
    "custom": "model._target_=plainloop.models.MLP model.in_features=${spec.num_features} "
              "model.out_features=${spec.num_outputs}",
    "hub": f"model.repo=src/project/hub model.entrypoint=small_resnet {TRUST}",
    "hub_resnet": TRUST,
    "timm": "model.name=test_resnet",
    "torchvision": "model.name=mobilenet_v3_small",
}  # fmt: skip

# In any case: each data option with a model that its data fit, each model with data that fit it, and strangers.
COMPANION = {"image": "linear", "spectrogram": "cnn", "vector": "mlp", "table": "mlp", "tokens": "char_rnn",
             "text": "rnn", "series": "series_rnn"}  # fmt: skip
HOME = {"image": "digits", "tokens": "one_string", "text": "text", "series": "series", "table": "penguins",
        "picture to rebuild": "pictures, rebuilt"}  # fmt: skip
FAST = {
    *((data, COMPANION[given.kind]) for data, given in DATA.items()),
    *((next(HOME[kind] for kind in HOME if kind in kinds), model) for model, kinds in TAKES.items()),
    ("penguins", "cnn"), ("digits", "autoencoder"), ("mine", "autoencoder"), ("audio", "torchvision_vit"),
    ("series", "cnn"), ("text", "mlp"), ("text", "char_rnn"), ("one_string", "mlp"), ("one_string", "rnn"),
    ("a table's codes", "mlp"), ("pictures, rebuilt", "cnn"),
}  # fmt: skip


class Answer(NamedTuple):
    """Of a pair: the loss of the second step, or why there was none."""

    loss: float | None
    refused: str = ""


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Answer]]:
    """answer("digits", "cnn"), each asked once."""
    patch = pytest.MonkeyPatch()

    @functools.cache
    def folder_of(data: str) -> Path:
        folder = tmp_path_factory.mktemp("data")
        lists = GIVEN[data].write(folder)
        if data == "cifar10":  # whose own files alone torchvision accepts
            for name, value in lists.items():
                patch.setattr(CIFAR10, name, value)
        return folder

    @functools.cache
    def ask(data: str, model: str, *more: str) -> Answer:
        words = GIVEN[data].typed.replace("{data}", str(folder_of(data))).split()
        words += [f"model={model}", *TYPED.get(model, "").split(), *more]
        outputs = tmp_path_factory.mktemp("run") / "outputs"
        try:
            run = plainloop.train([*words, *QUICK, f"paths.outputs={outputs}"])
        except UserError as error:
            assert not outputs.exists()
            return Answer(None, str(error))
        assert run.metrics["steps"] == 2
        return Answer(next(record["train/loss"] for record in run.history() if "train/loss" in record))

    yield ask
    patch.undo()


def check_refusal(message: str, *names: str) -> None:
    """One or two lines in the user's words, which name these."""
    assert 1 <= len(message.splitlines()) <= 2, message
    for name in names:
        assert name in message
    for piece in RAW:
        assert piece not in message


# --- the tests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "table"), [("data", DATA), ("model", TAKES), ("task", TASKS)], ids=["data", "model", "task"]
)
def test_every_option_is_in_the_table(group, table):
    """A new option belongs into the table above, with what its data are or take."""
    assert set(table) == set(groups()[group])


GIVEN = {**DATA, **ALSO}
# One option of each kind of data; the others give the same kind of input, and are in FAST with a model that takes it.
OF_A_KIND = {given.kind: data for data, given in reversed(GIVEN.items())}
# One model for each set of kinds that models take.
OF_A_SET = {frozenset(kinds): model for model, kinds in reversed(TAKES.items())}


def is_quick(data: str, model: str) -> bool:
    """Plain `pytest` tries a kind of data of each, and a model of each set."""
    return (data, model) in FAST and data in OF_A_KIND.values() and model in OF_A_SET.values()


PAIRS = [
    pytest.param(data, model, marks=[] if is_quick(data, model) else [pytest.mark.slow], id=f"{data} x {model}")
    for place, data in enumerate(GIVEN)
    for other, model in enumerate(TAKES)
    if (data, model) in FAST or (data in OF_A_KIND.values() and (place + other) % 2 == 0)
]


def test_the_fast_ones_are_among_the_pairs():
    assert {(data, model) for data, model in FAST} <= {tuple(pair.values) for pair in PAIRS}
    assert {model for _, model in FAST} == set(TAKES)
    assert {data for data, _ in FAST} >= set(DATA)


@pytest.mark.parametrize(("data", "model"), PAIRS)
def test_a_pair_trains_or_says_what_fits(data, model, answer):
    loss, refused = answer(data, model)
    if GIVEN[data].kind in TAKES[model]:
        assert not refused
        assert math.isfinite(loss)
        return
    assert loss is None
    check_refusal(refused, "model")
    assert re.search(rf"model={model} doesn't fit (data|task)=|model={model} is for task=|model\.\w+=", refused)
    assert re.search(r"Models that fit: \w|transforms\.resize=\d|model=\w+ embeds", refused)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["breast_cancer", "charseq"])
def test_what_is_recommended_trains(data, answer):
    """(Of a kind of data with few models, and of one with several: of each kind it takes minutes.) Each model that an
    answer names for this data, each data that it names for a model, and task=reconstruction where
    it says to write that."""
    count = 0
    for model in TAKES:
        refused = answer(data, model).refused
        for words in re.findall(r"Models that fit: ([\w, ]+)", refused):
            for name in filter(None, words.split(", ")):
                other = answer(data, name).refused
                resize = re.findall(r"transforms\.resize=\d+$", other)  # where another size is wanted
                assert not (answer(data, name, *resize).refused if resize else other)
                count += 1
        for words in re.findall(r"Data for this model: ([\w, ]+)", refused):
            for name in words.split(", "):
                other = answer(name, model).refused
                resize = re.findall(r"transforms\.resize=\d+", other)
                refusal = answer(name, model, *resize[:1]).refused if resize else other
                assert not refusal or name == "arrays"  # which may hold images, and here hold vectors
        if "Write task=reconstruction" in refused:
            assert not answer(data, model, "task=reconstruction").refused
    assert count > 0


@pytest.mark.parametrize("model", [model if model == "bare_linear" else slow(model) for model in OF_A_SET.values()])
@pytest.mark.parametrize("task", one_in(3, TASKS))
def test_a_task_trains_or_says_what_fits(task, model, answer):
    """On the default data."""
    loss, refused = answer("digits", model, f"task={task}")
    if (TASKS[task] and DATA["digits"].kind in TAKES[model]) or (task, model) == ("reconstruction", "autoencoder"):
        assert not refused
        assert math.isfinite(loss)
        return
    assert loss is None
    check_refusal(refused)
    assert re.search(r"Models that fit: \w|task=\w+ needs", refused)


def test_images_of_another_size_are_rebuilt():
    """The autoencoder is built for what it sees."""
    run = plainloop.train(["experiment=autoencoder", "transforms.resize=[6,5]", "model.hidden_sizes=[4]", *QUICK])
    assert list(run.config.spec.input_shape) == [1, 6, 5]
    assert run.config.spec.num_outputs is None
    assert run.metrics["steps"] == 2


def test_codes_are_not_rebuilt_as_if_they_were_numbers(answer):
    """How far one word's number is from another's means nothing."""
    for data in ("a table's codes", "one_string"):
        check_refusal(
            answer(data, "autoencoder", "task=reconstruction").refused, "task=reconstruction: ", "codes of words"
        )
