"""torchvision's models by name: every one takes two steps; sizes of images, pretrained weights, auxiliary heads."""

import copy
import math
import shutil
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms import v2

import plainloop
from plainloop.assembly.assemble import assemble, settled
from plainloop.assembly.trainer import make_trainer
from plainloop.config.compose import compose
from plainloop.data.preprocess import Resize
from plainloop.errors import UserError
from plainloop.models import torchvision_model
from plainloop.tasks.classification import Multiclass
from plainloop.tasks.losses import WeightedSum
from plainloop.tasks.task import with_auxiliary
from tests.conftest import one_in, slow

# The side of the smallest image that each family of models takes.
SMALLEST = {
    "alexnet": 63, "convnext": 32, "densenet": 29, "efficientnet": 1, "googlenet": 15, "inception": 75, "maxvit": 224,
    "mnasnet": 1, "mobilenet": 1, "regnet": 1, "resnet": 1, "resnext": 1, "shufflenet": 1, "squeezenet1_0": 21,
    "squeezenet1_1": 17, "swin": 4, "vgg": 32, "vit_b_16": 16, "vit_b_32": 32, "vit_h_14": 14, "vit_l_16": 16,
    "vit_l_32": 32, "wide": 1,
}  # fmt: skip
FAST = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5")
# The smallest of each family, and of each way in which a family is built; the others are wider or deeper.
TRIED = (
    *FAST, "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "regnet_x_400mf", "regnet_y_400mf", "resnet50",
    "resnext50_32x4d", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_16", "vit_b_32",
    "wide_resnet50_2",
)  # fmt: skip
NAMES = torchvision.models.list_models(module=torchvision.models)
SMALL_FAKE = ("data=fake", "data.classes=2", "loader.batch_size=2", "optimizer=sgd", "optimizer.momentum=0",
              "optimizer.lr=0.001", "trainer.validate_every=0", "logger=none")  # fmt: skip


def smallest(name: str) -> int:
    return next((size for word, size in SMALLEST.items() if name.startswith(word)), 0)


def layers(model: nn.Module, kind: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


def refused(*words: str) -> str:
    with pytest.raises(UserError) as error:
        plainloop.train([*words, "trainer.max_steps=1"])
    assert not Path("outputs").exists()
    assert len(str(error.value).splitlines()) <= 4
    return str(error.value)


# --- every model ----------------------------------------------------------------------------------------------------


def test_each_model_belongs_to_a_family():
    strangers = [name for name in NAMES if not smallest(name)]
    assert not strangers, "new in torchvision: add the smallest image that they take to SMALLEST"
    assert {word for word in SMALLEST if any(name.startswith(word) for name in TRIED)} >= set(SMALLEST) - {
        "vit_h_14",
        "vit_l_16",
        "vit_l_32",
    }


@pytest.mark.parametrize("name", [name if name in FAST else slow(name) for name in TRIED])
def test_a_model_of_each_family_takes_two_steps(name):
    """Through the command's own path but for the run directory. The images are the smallest that it takes; but models
    that take a single pixel get 64 x 64. With two images of 32 x 32 their last BatchNorms see two numbers a channel,
    and the gradient of torchvision's own RegNet and EfficientNet is infinite for some seeds; with eight images, or 64
    pixels, it is finite. The first model of each family sees grey images."""
    size = smallest(name)
    family = next(word for word in SMALLEST if name.startswith(word))
    grey = next(each for each in sorted(TRIED) if each.startswith(family)) == name or name in FAST
    side = 64 if size == 1 else max(size, 32) if name.startswith("swin") else size
    words = [f"model.name={name}", f"data.size={side}", f"data.channels={1 if grey else 3}", "data.count=10"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet's and Inception's remark about slow initialisation
        session = assemble(compose(["model=torchvision", *SMALL_FAKE, *words, "trainer.max_steps=2"]))
    trainer = make_trainer(session)
    first = next(session.model.parameters())
    before = first.detach().clone()
    trainer.fit()
    assert trainer.step == 2
    assert math.isfinite(trainer.losses.read()[0])
    assert first.shape[1] == (1 if grey else 3) or name.startswith("vit")  # whose first is the class token
    assert not torch.equal(first, before)


# --- one by one ---------------------------------------------------------------------------------------------------

SMALL = ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("vit_b_16", "densenet121")]


@pytest.mark.parametrize("name", [*SMALL, *SLOW])
@pytest.mark.parametrize("in_channels", one_in(3, [1, 3, 4]))
def test_torchvision_models(name, in_channels):
    """The head has the data's classes, the first convolution its channels; the rest is torchvision's."""
    import torchvision

    model = torchvision_model(name, num_classes=7, in_channels=in_channels)
    assert model.eval()(torch.randn(1, in_channels, 224, 224)).shape == (1, 7)
    original = torchvision.models.get_model(name, weights=None, num_classes=7)
    assert type(model) is type(original)
    first, theirs = layers(model, nn.Conv2d)[0], layers(original, nn.Conv2d)[0]
    assert first.in_channels == in_channels
    for own in ("out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
        assert getattr(first, own) == getattr(theirs, own)
    assert (first.bias is None) == (theirs.bias is None)
    shapes, their_shapes = ({n: p.shape for n, p in each.state_dict().items()} for each in (model, original))
    assert shapes.keys() == their_shapes.keys()
    changed = {n for n in shapes if shapes[n] != their_shapes[n]}
    assert changed == ({n for n, p in model.named_parameters() if p is first.weight} if in_channels != 3 else set())


def test_torchvision_gradients_reach_every_parameter():
    torch.manual_seed(0)
    model = torchvision_model("resnet18", 3, in_channels=1)
    nn.functional.cross_entropy(model(torch.randn(4, 1, 64, 64)), torch.tensor([0, 1, 2, 0])).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_torchvision_models_give_logits_in_training_too(name):
    """GoogLeNet and Inception bring auxiliary heads, and would return a tuple while training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their remark about slow initialisation
        model = torchvision_model(name, num_classes=7)
    outputs = model.train()(torch.randn(2, 3, 299, 299))
    assert isinstance(outputs, Tensor)
    assert outputs.shape == (2, 7)


def test_torchvision_arguments_are_passed_on():
    """zero_init_residual of a ResNet: the last norm of each block starts at zero."""
    model = torchvision_model("resnet18", 3, zero_init_residual=True)
    assert not model.layer1[0].bn2.weight.any()
    assert torchvision_model("resnet18", 3).layer1[0].bn2.weight.all()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet_18", {}, "no such classification model. Did you mean resnet"),
        ("fasterrcnn_resnet50_fpn", {}, "no such classification model"),
        ("qqq", {}, "no such classification model. It has"),
        ("resnet18", {"dropout": 0.1}, "resnet18 doesn't take these arguments"),
    ],
)
def test_torchvision_names_that_do_not_exist(name, arguments, message):
    with pytest.raises(UserError, match=message):
        torchvision_model(name, 3, **arguments)


# --- the size of images ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_0",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("googlenet", "alexnet", "swin_t")),
    ],
)
def test_images_too_small_are_answered_with_the_smallest_size(name):
    """One pixel less than the table's is refused, by what torchvision's own model can't do."""
    size = smallest(name)
    message = rf"model\.name={name} needs images of at least {size} x {size}, and these are {size - 1} x {size - 1}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match=message):
            torchvision_model(name, 2, 3, [size - 1, size - 1])
        with pytest.raises(RuntimeError):
            torchvision.models.get_model(name, num_classes=2)(torch.randn(2, 3, size - 1, size - 1))


@pytest.mark.parametrize(
    ("name", "size", "resize"),
    [("vit_b_16", (28, 28), 32), ("vit_b_32", (8, 8), 32), ("vit_b_16", (32, 48), 48), ("maxvit_t", (32, 32), 224)],
)
def test_models_of_certain_sizes_name_the_one_that_fits(name, size, resize):
    with pytest.raises(UserError, match=rf"{size[0]} x {size[1]}\. Write transforms\.resize={resize}$"):
        torchvision_model(name, 2, 3, size)


@pytest.mark.slow
def test_a_vision_transformer_is_built_for_the_images():
    """32 x 32 pixels are 4 patches and the class token, without resizing."""
    model = torchvision_model("vit_b_16", 7, 1, [32, 32])
    assert model.encoder.pos_embedding.shape[1] == 5
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.slow
def test_too_small_is_an_error_before_the_run_and_one_key_resizes():
    words = [
        "model=torchvision",
        "model.name=squeezenet1_1",
        "data=digits",
        "trainer.max_steps=2",
        "loader.batch_size=4",
    ]
    assert "transforms.resize=17" in refused(*words)
    run = plainloop.train([*words, "transforms.resize=17", "trainer.limit_batches=3"])
    assert run.config.spec.image_size == [17, 17]
    assert run.config.spec.input_shape == [1, 17, 17]
    images = run.data.val.inputs[:3]
    expected = v2.functional.resize(images.float(), [17, 17], antialias=True)
    found = run.preprocess(images)
    assert found.shape == (3, 1, 17, 17)
    mean = run.data.train.inputs.double().mean() / 255
    std = (run.data.train.inputs.double() / 255).std(unbiased=False)
    torch.testing.assert_close(found, ((expected / 255 - mean) / std).float(), rtol=0, atol=1e-4)
    before = run.metrics["test/loss"]
    assert plainloop.evaluate(run.path, overrides=["trainer.device=cpu"])["test/loss"] == before


@pytest.mark.parametrize("size", [(5, 9), (16, 16), (3, 3), (24, 7)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_torchvisions(size, interpolation):
    """Of float images; larger, smaller, and both, antialiased."""
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8)
    expected = v2.functional.resize(images, list(size), v2.InterpolationMode(interpolation), antialias=True)
    torch.testing.assert_close(Resize(size, interpolation=interpolation)(images), expected)
    assert Resize(size).output_size(8, 8) == size


def test_the_model_is_given_what_resizing_makes():
    """spec.image_size and num_features are those of the resized images, for every model."""
    for model, wanted in (("cnn", [16, 12]), ("mlp", [16, 12])):
        session = assemble(compose(["data=digits", f"model={model}", "transforms.resize=[16,12]"]))
        assert session.config.spec.image_size == wanted
        assert session.config.spec.num_features == 16 * 12
    assert next(session.model.parameters()).shape[1] == 16 * 12


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("transforms.resize=0", "must be the side of square images"),
        ("transforms.resize=[8]", "must be the side"),
        ("transforms.resize=[8,8,8]", "must be the side"),
        ("transforms.resize=big", "must be the side"),
        ("transforms.resize=true", "must be the side"),
    ],
)
def test_sizes_that_make_no_sense(word, message):
    assert message in refused("model=cnn", word)


def test_only_images_are_resized():
    assert "it is for images" in refused("data=penguins", "transforms.resize=8")


# --- auxiliary outputs ----------------------------------------------------------------------------------------------


def test_a_name_that_is_no_word_is_answered():
    with pytest.raises(UserError, match=r"model\.name=\['resnet18'\]: torchvision has no such"):
        torchvision_model(["resnet18"], 3, image_size=[32, 32])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weight", "size"), [("googlenet", 0.3, 32), pytest.param("inception_v3", 0.4, 299, marks=pytest.mark.slow)]
)
def test_auxiliary_outputs_count_in_the_training_loss(name, weight, size):
    """The sum is the papers', with torchvision's outputs; what is returned is the main one; evaluation has no other."""
    warnings.simplefilter("ignore")
    words = [f"model.name={name}", "model.aux_logits=true", f"data.size={size}", "data.count=20", "trainer.max_steps=1"]
    session = assemble(compose(["model=torchvision", *SMALL_FAKE, *words]))
    twin = copy.deepcopy(session.model)
    images, labels = torch.randn(2, 3, size, size), torch.tensor([0, 1])
    torch.manual_seed(1)
    loss, outputs = session.task.loss_of(session.model.train(), (images, labels))
    torch.manual_seed(1)
    main, *others = twin.train()(images)
    entropy = nn.functional.cross_entropy
    assert len(others) == {"googlenet": 2, "inception_v3": 1}[name]
    torch.testing.assert_close(loss, entropy(main, labels) + weight * sum(entropy(other, labels) for other in others))
    assert torch.equal(outputs, main)
    loss.backward()
    assert all(parameter.grad is not None for parameter in session.model.parameters())
    loss, outputs = session.task.loss_of(session.model.eval(), (images, labels))
    torch.testing.assert_close(loss, entropy(outputs, labels))
    make_trainer(session).fit()


def test_a_single_output_is_left_alone():
    task = Multiclass(nn.CrossEntropyLoss())
    model, batch = nn.Linear(3, 2), (torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    assert torch.equal(with_auxiliary(task, 0.3)(model, batch)[0], task.loss_of(model, batch)[0])


def test_the_recorded_parts_of_a_sum_are_those_of_the_main_output():
    class Two(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs), -super().forward(inputs)

    task = Multiclass(WeightedSum({"one": nn.CrossEntropyLoss(), "two": nn.MultiMarginLoss()}))
    model, (inputs, labels) = Two(3, 2), (torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    with_auxiliary(task, 0.3)(model, (inputs, labels))
    expected = nn.functional.cross_entropy(model(inputs)[0], labels)
    torch.testing.assert_close(task.parts()["one"], expected.detach())


# --- pretrained weights ---------------------------------------------------------------------------------------------

TINY = "squeezenet1_1"
WORDS = ("model=torchvision", f"model.name={TINY}", "data=digits", "transforms.resize=17", "loader.batch_size=4",
         "trainer.max_steps=1", "trainer.limit_batches=2", "logger=none")  # fmt: skip


def theirs(name: str = TINY, classes: int = 1000, seed: int = 3) -> nn.Module:
    """torchvision's own model, with weights that stand for trained ones."""
    torch.manual_seed(seed)
    return torchvision.models.get_model(name, weights=None, num_classes=classes)


def save(model: nn.Module, file: str = "theirs.pth") -> str:
    torch.save(model.state_dict(), file)
    return file


def test_a_file_of_weights_is_loaded_but_for_the_head():
    original = theirs()
    model = torchvision_model(TINY, 10, 3, weights=save(original))
    for name, value in original.state_dict().items():
        same = model.state_dict()[name].shape == value.shape
        assert same == (not name.startswith("classifier.1."))
        assert not same or torch.equal(model.state_dict()[name], value)
    assert "theirs.pth loaded, but for a new head: classifier.1.bias, classifier.1.weight" in model.note


def test_a_head_of_the_right_size_is_loaded_too():
    original = theirs(classes=10)
    model = torchvision_model(TINY, 10, 3, weights=save(original))
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_an_image_whose_channels_are_alike_gives_what_it_gave_in_colour(channels):
    original = theirs(classes=10).eval()
    model = torchvision_model(TINY, 10, channels, weights=save(original)).eval()
    grey = torch.randn(2, 1, 33, 33)
    expected = original(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(model(grey.expand(-1, channels, -1, -1)), expected)


@pytest.mark.slow
def test_positions_of_a_vision_transformer_are_interpolated(monkeypatch):
    """For images of the size of before they are the same; for others torchvision's own function makes them."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)
    original = torchvision.models.vit_b_16(image_size=32, num_classes=2)
    file = save(original)
    same = torchvision_model("vit_b_16", 2, 3, [32, 32], weights=file)
    assert torch.equal(same.encoder.pos_embedding, original.encoder.pos_embedding)
    other = torchvision_model("vit_b_16", 2, 3, [48, 48], weights=file)
    expected = interpolate_embeddings(48, 16, original.state_dict())["encoder.pos_embedding"]
    assert torch.equal(other.encoder.pos_embedding, expected)
    assert expected.shape[1] == 10


def test_googlenets_own_normalisation_goes_with_its_weights():
    """They were trained on another one, which the model makes of the usual: as torchvision's builder has it."""
    warnings.simplefilter("ignore")
    original = torchvision.models.googlenet(weights=None, init_weights=False, transform_input=True)
    file = save(original)
    model = torchvision_model("googlenet", 10, 3, weights=file)
    assert model.transform_input
    assert not model.aux_logits
    assert torch.equal(model.conv1.conv.weight, original.conv1.conv.weight)
    grey = torchvision_model("googlenet", 10, 1, weights=file)
    assert not grey.transform_input
    from plainloop.assembly.preprocess import statistics_of_weights

    node = {"_target_": "plainloop.models.torchvision_model", "name": "googlenet", "weights": file}
    assert statistics_of_weights("weights", {**node, "in_channels": 1}) == {"mean": [0.5], "std": [0.5]}
    assert statistics_of_weights("weights", {**node, "in_channels": 3})["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b1", "swin_v2_t", "vit_h_14", "inception_v3"])
@pytest.mark.parametrize("shape", [(300, 400), (260, 260), (30, 20)], ids=str)
def test_the_weights_own_preprocessing(name, shape, monkeypatch):
    """Equal to torchvision's own `weights.transforms()`, on floats; without a download."""
    from plainloop.data.preprocess import make_preprocess
    from plainloop.models.zoo.torchvision_model import preset_of

    weights = torchvision.models.get_model_weights(name).DEFAULT
    preset = preset_of({"name": name, "weights": "DEFAULT"})
    torch.manual_seed(0)
    images = torch.rand(2, 3, *shape)
    normalise = make_preprocess({"mean": preset.mean, "std": preset.std}, [], images[0])
    resize = Resize(preset.resize, preset.crop, preset.interpolation)
    expected = weights.transforms()(images)
    torch.testing.assert_close(resize(normalise(images)), expected, rtol=0, atol=2e-5)
    assert resize.output_size(*shape) == tuple(expected.shape[2:])


def test_it_applies_by_itself_and_what_is_typed_wins(monkeypatch):
    """Over what the data's config says (digits: train)."""
    words = [word for word in WORDS if "resize" not in word]
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    file = f"model.weights={save(theirs())}"
    session = assemble(settled(compose([*words, file]), [*words, file])[0])
    images = session.data.train.inputs[:2]
    preset = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    resized = v2.functional.center_crop(v2.functional.resize(images.float() / 255, [256], antialias=True), [224])
    expected = (resized - sum(preset.mean) / 3) / (sum(preset.std) / 3)
    torch.testing.assert_close(session.preprocess(images), expected, rtol=0, atol=1e-4)
    assert session.config.spec.image_size == [224, 224]
    assert "as SqueezeNet1_1_Weights.IMAGENET1K_V1 wants them: shorter side 256" in session.preprocess.note
    told = [*words, file, "transforms.resize=17", "transforms.normalize=none"]
    typed = assemble(settled(compose(told), told)[0])
    assert typed.preprocess(images).shape[2:] == (17, 17)
    assert typed.preprocess(images).max() <= 1
    assert settled(compose(words), words)[0].transforms.normalize == "train"


@pytest.mark.slow
def test_a_run_needs_its_weights_once(capsys):
    """What they were is said; the run is evaluated, resumed and extended when the file is gone."""
    file = save(theirs())
    run = plainloop.train([*WORDS, f"model.weights={file}"])
    assert "model.weights=theirs.pth loaded, but for a new head" in capsys.readouterr().out
    Path(file).unlink()
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]
    assert plainloop.train([f"resume={run.path}", "trainer.max_steps=2"]).metrics["steps"] == 2
    assert plainloop.train([f"extend={run.path}", "trainer.max_steps=1"]).metrics["steps"] == 1
    shutil.rmtree("outputs")
    assert "there is no such file" in refused(*WORDS, f"model.weights={file}")


def test_weights_by_name_are_fetched_once(monkeypatch):
    asked = []
    state = theirs().state_dict()
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda url, **_: asked.append(url) or state
    )
    run = plainloop.train([*WORDS, "model.weights=DEFAULT", "optimizer=sgd", "optimizer.lr=0"])
    assert asked == [torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url]
    assert torch.equal(run.model.features[3].squeeze.weight, state["features.3.squeeze.weight"])
    plainloop.evaluate(run.path)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (URLError("Name or service not known"), "Name or service not known"),
        (TimeoutError("timed out"), "timed out"),
        (RuntimeError('invalid hash value (expected "1", got "2")'), "the file is damaged"),
    ],
    ids=["no network", "time", "damaged"],
)
def test_a_download_that_fails_is_explained(error, why, monkeypatch):
    def fail(url, **_):
        raise error

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fail)
    message = refused(*WORDS, "model.weights=DEFAULT")
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    assert (
        f"couldn't be fetched from download.pytorch.org: {'<urlopen error ' * isinstance(error, URLError)}{why}"
        in message
    )
    assert f"Get {url} elsewhere and put it into {torch.hub.get_dir()}/checkpoints" in message
    assert "without model.weights" in message


def test_a_file_that_does_not_fit_says_which_keys():
    message = refused(*WORDS, f"model.weights={save(theirs('shufflenet_v2_x0_5'))}")
    assert "nothing in it fits this model" in message
    assert "that aren't there: features.0" in message
    assert "that the model lacks: conv1.0.weight" in message
    state = theirs().state_dict()
    state["features.3.squeeze.weight"] = torch.zeros(16, 32, 1, 1)
    torch.save({"state_dict": state}, "changed.pth")
    message = refused(*WORDS, "model.weights=changed.pth")
    assert "1 of other shapes: features.3.squeeze.weight (16, 32, 1, 1), here (16, 64, 1, 1)" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [([1, 2], "holds no tensors by name"), ({}, "holds no tensors by name"), (b"text", "can't be read as weights")],
    ids=str,
)
def test_files_that_hold_no_weights(content, words):
    if isinstance(content, bytes):
        Path("theirs.pth").write_bytes(content)
    else:
        torch.save(content, "theirs.pth")
    assert words in refused(*WORDS, "model.weights=theirs.pth")


def test_a_file_that_would_execute_something_is_not_read():
    torch.save(theirs(), "whole.pth")  # a pickled module
    assert "can't be read as weights" in refused(*WORDS, "model.weights=whole.pth")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.weights=IMAGENET1K_V9"], "Did you mean IMAGENET1K_V1? There are: DEFAULT, IMAGENET1K_V1."),
        (["model.weights=DEFAULT", "model.name=resnet_18"], "no such classification model. Did you mean resnet"),
        (["model.weights=DEFAULT", "model.name=VisionTransformer"], "torchvision has no weights of VisionTransformer"),
        (["model.weights=x.pth", "model.name=VisionTransformer"], "nobody knows how images were normalised"),
        (["model=torchvision_vit", "model.patch_size=3"], "transforms.resize=18"),
    ],
)
def test_names_of_weights_that_do_not_exist(words, message):
    assert message in refused(*[word for word in WORDS if "name" not in word or len(words) == 1], *words)


@pytest.mark.slow
def test_the_recipe_learns_digits():
    """experiment=torchvision_vit, for 8 of its 20 epochs: far above the tenth that guessing gives."""
    run = plainloop.train(["experiment=torchvision_vit", "trainer.max_epochs=8", "logger=none"])
    assert run.metrics["test/accuracy"] > 0.6


def test_the_recipe_is_torchvisions_vision_transformer():
    session = assemble(compose(["experiment=torchvision_vit"]))
    assert type(session.model) is torchvision.models.VisionTransformer
    assert session.model.encoder.pos_embedding.shape == (1, 17, 64)  # 16 patches of 2 x 2 and the class token
