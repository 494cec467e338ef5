"""timm's models by name: the data's sizes, weights without a network, and wrong words answered."""

import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.preprocess import statistics_of_weights
from plainloop.config.compose import compose
from plainloop.data.preprocess import Resize, make_preprocess
from plainloop.errors import UserError
from plainloop.models.zoo.timm_model import preset_of, timm_model
from tests.conftest import one_in
from tests.later import Later

timm = Later("timm")

QUICK = ("model=timm", "data=digits", "loader.batch_size=4", "trainer.max_steps=1", "trainer.limit_batches=2",
         "logger=none")  # fmt: skip
TINY = "test_resnet"  # timm has small ones of several families for tests


def refused(*typed: str) -> str:
    with pytest.raises(UserError) as error:
        plainloop.train([*QUICK, *typed])
    assert not Path("outputs").exists()
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", one_in(5, ["test_resnet", "test_convnext", "test_efficientnet", "test_vit", "test_byobnet"])
)
def test_a_model_is_built_for_the_data(name):
    """Its outputs and channels; a transformer is built for the images' size. Two steps of each family."""
    size = 32
    run = plainloop.train(
        [
            "model=timm",
            f"model.name={name}",
            "data=digits",
            f"transforms.resize={size}",
            "trainer.max_steps=2",
            "trainer.limit_batches=2",
            "logger=none",
        ]
    )
    theirs = timm.create_model(name, num_classes=10, in_chans=1, **({"img_size": size} if name == "test_vit" else {}))
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in run.model.state_dict().items()} == shapes
    assert run.metrics["steps"] == 2
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]


def test_its_own_arguments():
    assert timm_model(TINY, 3, drop_rate=0.25).drop_rate == 0.25


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.name=test_resnt"], "timm has no such model. Did you mean test_resnet?"),
        ([f"model.name={TINY}.nowhere_in1k"], f"timm has no such weights of {TINY}. It has: r160_in1k"),
        ([f"model.name={TINY}", "model.widht=2"], "test_resnet doesn't take these arguments (widht)"),
        (
            ["model.name=test_vit"],
            "test_vit can't take images of 8 x 8; it is usually given 160 x 160. Write transforms",
        ),
        (["model.name=resnetv2_50", "model.pretrained=true", "model.foo=2"], "doesn't take these arguments (foo)"),
    ],
)
def test_wrong_words(words, message, monkeypatch):
    monkeypatch.setattr(
        timm.models._builder, "load_pretrained", lambda *_, **__: pytest.fail("weights were looked for")
    )
    assert message in refused(*words)


def test_without_timm_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert refused() == 'model=timm: the package timm isn\'t installed. Type: pip install "plainloop[timm]"'


class Missing:
    """An importer to whom timm isn't installed."""

    def find_spec(self, name, *_):
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")


# --- pretrained -----------------------------------------------------------------------------------------------------


def weights_file(file: str = "theirs.safetensors") -> tuple[str, torch.nn.Module]:
    """A model of 1,000 classes and its weights as a file."""
    torch.manual_seed(3)
    model = timm.create_model(TINY)
    save_file(model.state_dict(), file)
    return f"model.pretrained_cfg_overlay={{file: {file}}}", model


@pytest.mark.slow
def test_a_run_needs_its_weights_once():
    """A file that was fetched elsewhere; the run is evaluated when it is gone."""
    overlay, theirs = weights_file()
    words = [*QUICK, f"model.name={TINY}", "transforms.resize=32", "optimizer=sgd", "optimizer.lr=0"]
    run = plainloop.train([*words, "model.pretrained=true", overlay])
    state = run.model.state_dict()
    assert torch.equal(state["layer1.0.conv1.weight"], theirs.state_dict()["layer1.0.conv1.weight"])
    assert state["fc.weight"].shape[0] == 10
    first = next(iter(theirs.state_dict()))
    torch.testing.assert_close(state[first], theirs.state_dict()[first].sum(1, keepdim=True))  # grey: the sum
    assert run.config.transforms.normalize == "weights"
    Path("theirs.safetensors").unlink()
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]


def test_a_download_that_fails_is_explained(monkeypatch):
    def fail(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", fail)
    message = refused(f"model.name={TINY}", "model.pretrained=true")
    assert (
        f"the weights of {TINY} couldn't be fetched (huggingface.co/timm/{TINY}.r160_in1k): <urlopen error Name"
        in message
    )
    assert "model.pretrained_cfg_overlay={file: weights.safetensors}" in message
    assert "without model.pretrained" in message


@pytest.mark.parametrize("name", ["resnet18", "vit_base_patch16_224", "test_resnet"])
def test_the_weights_own_preprocessing_is_timms(name):
    """Equal to the transform that timm itself makes for evaluation, on an image of floats."""
    preset = preset_of({"name": name, "pretrained": True})
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    torch.manual_seed(0)
    image = torch.rand(3, 300, 400)
    theirs = timm.data.create_transform(**data, is_training=False)
    steps = [step for step in theirs.transforms if "Tensor" not in type(step).__name__]
    expected = image
    for step in steps:
        expected = step(expected)
    normalise = make_preprocess({"mean": preset.mean, "std": preset.std}, [], image)
    found = Resize(preset.resize, preset.crop, preset.interpolation)(normalise(image[None]))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_its_statistics_by_the_word_weights():
    node = {"_target_": "plainloop.models.timm_model", "name": "vit_base_patch16_224", "pretrained": True}
    assert statistics_of_weights("weights", node) == {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    session = assemble(
        compose(
            [
                *QUICK,
                f"model.name={TINY}",
                "transforms.normalize=ResNet18_Weights.DEFAULT",
                "data=fake",
                "transforms.resize=32",
            ]
        )
    )
    assert session.preprocess[0].shift.shape == (3, 1, 1)


def test_a_file_of_weights_is_not_needed_again(tmp_path):
    """A run has its own."""
    words = {"name": "test_resnet", "num_classes": 3, "image_size": [32, 32], "checkpoint_path": "gone.pth"}
    with pytest.raises(UserError, match=r"model\.checkpoint_path=gone\.pth: there is no such file"):
        timm_model(**words)
    assert timm_model(**words, loaded=True).num_classes == 3
