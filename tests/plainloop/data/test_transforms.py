"""Pipelines of transforms: they act where they should, under the sample's seed, and what can't be one is named."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, Subset

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.preprocess import statistics_of_weights
from plainloop.config import schema
from plainloop.config.compose import compose
from plainloop.data import InMemory, make_loader
from plainloop.data.classes import class_names_of
from plainloop.data.dataset import asked, targets_of
from plainloop.data.preprocess import statistics
from plainloop.data.transforms import transformed
from plainloop.errors import UserError

V2 = "torchvision.transforms.v2"
ROTATION = f"{{_target_: {V2}.RandomRotation, degrees: 30}}"
INVERT = f"{{_target_: {V2}.RandomInvert, p: 1}}"
CROP = f"{{_target_: {V2}.CenterCrop, size: 6}}"
WORDS = ["data=fake", "data.count=60", "data.size=12", "model.channels=[8]", "loader.batch_size=10", "logger=none"]


def plus(amount: int) -> nn.Module:
    class Plus(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs + amount

    return Plus()


# --- around a data set ----------------------------------------------------------------------------------------------


def numbered(count: int = 5) -> InMemory:
    return InMemory(torch.arange(count)[:, None], torch.arange(count) % 2, classes=["even", "odd"], note="n")


def test_the_input_goes_through_and_the_rest_stays():
    data = transformed(numbered(), plus(10))
    assert [(int(inputs), int(target)) for inputs, target in (data[index] for index in range(5))] == [
        (10, 0),
        (11, 1),
        (12, 0),
        (13, 1),
        (14, 0),
    ]
    assert len(data) == 5


class Own(Dataset):
    """Samples of the forms that there are."""

    def __init__(self, form: str):
        self.form = form

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        inputs = torch.full((2, 3), index)
        return {"pair": (inputs, 7), "list": [inputs, 7], "three": (inputs, 7, "c"), "alone": inputs}[self.form]


@pytest.mark.parametrize("form", ["pair", "list", "three", "alone"])
def test_samples_of_any_form(form):
    """An input alone is transformed whole: it isn't a pair of its rows."""
    sample = transformed(Own(form), plus(1))[1]
    if form == "alone":
        assert torch.equal(sample, torch.full((2, 3), 2))
    else:
        assert torch.equal(sample[0], torch.full((2, 3), 2))
        assert tuple(sample[1:]) == (7, "c")[: len(sample) - 1]


def test_what_belongs_to_the_data_is_found_behind_transforms():
    """Targets of a split, classes, notes: through whatever is around it."""
    data = transformed(Subset(numbered(), [4, 1]), plus(1))
    assert targets_of(data).tolist() == [0, 1]
    assert class_names_of(data) == ["even", "odd"]
    assert asked(data, "note") == "n"


class Counting(IterableDataset):
    """Cheap raw items, decoded where their seed is set."""

    def __init__(self, decodes: bool):
        self.told: list[int] = []
        if decodes:
            self.decode = lambda raw: (torch.tensor([raw * 10]), 0)
        self.decodes = decodes

    def set_epoch(self, epoch: int) -> None:
        self.told.append(epoch)

    def __iter__(self) -> Any:
        return iter(range(6) if self.decodes else [(torch.tensor([number]), 0) for number in range(6)])


@pytest.mark.parametrize("decodes", [False, True])
def test_streams_are_transformed_when_they_are_decoded(decodes):
    stream = Counting(decodes)
    loader = make_loader(
        transformed(stream, plus(1)), schema.Loader(batch_size=6, shuffle=False), seed=0, device=torch.device("cpu")
    )
    (batch,) = list(loader.epoch(3))
    assert batch[0][:, 0].tolist() == [number * (10 if decodes else 1) + 1 for number in range(6)]
    assert stream.told == [3]
    with pytest.raises(TypeError):
        len(transformed(stream, plus(1)))


# --- in a run -------------------------------------------------------------------------------------------------------


def test_training_transforms_reach_the_training_split_alone():
    session = assemble(compose([*WORDS, f"transforms.train=[{INVERT}]"]))
    plain = assemble(compose(WORDS))
    for split, inverted in (("train", True), ("val", False), ("test", False)):
        before, after = plain.data[split][0][0], session.data[split][0][0]
        assert torch.equal(after, 255 - before if inverted else before)


def test_evaluation_transforms_reach_the_others():
    session = assemble(compose([*WORDS, f"transforms.eval=[{INVERT}]"]))
    plain = assemble(compose(WORDS))
    for split, inverted in (("train", False), ("val", True), ("test", True)):
        before, after = plain.data[split][0][0], session.data[split][0][0]
        assert torch.equal(after, 255 - before if inverted else before)


def test_several_act_one_after_the_other():
    """In their order; also those that hold others."""
    nodes = f"[{INVERT}, {{_target_: {V2}.RandomApply, p: 1, transforms: [{INVERT}, {CROP}]}}]"
    session = assemble(compose([*WORDS, f"transforms.train={nodes}", f"transforms.eval=[{CROP}]"]))
    plain = assemble(compose(WORDS))
    assert torch.equal(session.data.train[0][0], plain.data.train[0][0][:, 3:9, 3:9])


def rotated(workers: int, epoch: int, first_batch: int = 0) -> list[Tensor]:
    cfg = compose([*WORDS, f"transforms.train=[{ROTATION}]", f"loader.num_workers={workers}"])
    session = assemble(cfg)
    loader = session.training_loader()
    return [inputs for inputs, _ in loader.epoch(epoch, first_batch)]


def test_what_is_random_follows_from_the_place_in_the_epoch():
    """The same again, also when the epoch is entered in the middle; other numbers in another epoch."""
    whole = rotated(0, epoch=1)
    assert all(torch.equal(a, b) for a, b in zip(whole, rotated(0, epoch=1), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rotated(0, epoch=1, first_batch=2), strict=True))
    assert not torch.equal(whole[0], rotated(0, epoch=2)[0])


@pytest.mark.slow
def test_loading_processes_change_nothing():
    assert all(torch.equal(a, b) for a, b in zip(rotated(0, epoch=1), rotated(2, epoch=1), strict=True))


@pytest.mark.slow
def test_a_run_with_transforms_resumes_bit_for_bit():
    """And is evaluated with its own numbers."""
    words = [*WORDS, f"transforms.train=[{ROTATION}]"]
    whole = plainloop.train([*words, "trainer.max_epochs=3"])
    first = plainloop.train([*words, "trainer.max_epochs=2"])
    resumed = plainloop.train([f"resume={first.path}", "trainer.max_epochs=3"])
    for ours, theirs in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert plainloop.evaluate(resumed.path) == {k: v for k, v in whole.metrics.items() if k.startswith("test/")}


# --- normalisation --------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_images_as_they_are():
    """Of the training split alone, and not of augmented images; with what evaluation does to an image."""
    words = [*WORDS, "transforms.normalize=train"]
    plain = assemble(compose(words))
    images = plain.data.train.inputs.double() / 255
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3), correction=0)
    normalised = plain.preprocess(plain.data.train.inputs).double()
    expected = (images - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(normalised, expected, rtol=0, atol=1e-4)
    augmented = assemble(compose([*words, f"transforms.train=[{INVERT}]", "transforms.cutout=6"]))
    assert torch.equal(augmented.preprocess.scale, plain.preprocess.scale)
    assert torch.equal(augmented.preprocess.shift, plain.preprocess.shift)
    inverted = assemble(compose([*words, f"transforms.eval=[{INVERT}]"]))
    mean_of = statistics([(255 - plain.data.train.inputs, 0)])[0]
    torch.testing.assert_close(inverted.preprocess.shift / inverted.preprocess.scale / 255, -mean_of.float())


def test_the_numbers_of_pretrained_weights(monkeypatch):
    """By the weights' name, without a download: those of ImageNet, which every text names."""
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    session = assemble(compose([*WORDS, "transforms.normalize=ResNet18_Weights.DEFAULT"]))
    images = session.data.train.inputs
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(session.preprocess(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1"])
def test_the_numbers_of_the_models_own_weights(weights):
    """By the word `weights`, before the model is built: model.name and model.weights say which."""
    name = "vit_b_16" if "ViT" in weights else "resnet18"
    found = statistics_of_weights(
        "weights", {"_target_": "plainloop.models.torchvision_model", "name": name, "weights": weights}
    )
    assert found == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transforms.normalize=ResNet17_Weights.DEFAULT"], "torchvision has no such weights"),
        (
            ["transforms.normalize=weights"],
            r"^transforms.normalize=weights: the model names no weights \(model.weights=DEFAULT\)",
        ),
        (["transforms.normalize=imagenet"], "must be none, train, weights, the name of weights"),
        (["transforms.normalize=ResNet18_Weights.DEFAULT", "data.channels=1"], "has 3 numbers; the inputs have 1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_normalisations_that_do_not_exist_are_named(words, message):
    with pytest.raises(UserError, match=message):
        assemble(compose([*WORDS, *words]))


# --- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"transforms.train=[{V2}.RandomRotation]"], r"transforms.train\[0\]=.*: a transform is written {_target_:"),
        (["transforms.train=[{degrees: 3}]"], r"transforms.train\[0\]=.*: a transform is written"),
        ([f"transforms.train=[{{_target_: {V2}.RandomRotaton}}]"], "has no RandomRotaton. Did you mean RandomRotation"),
        ([f"transforms.train=[{{_target_: {V2}.RandomRotation, degree: 3}}]"], "no such argument. .*mean degrees"),
        ([f"transforms.eval=[{INVERT}, {{_target_: {V2}.CenterCrop}}]"], r"eval\[1\].size: CenterCrop needs it"),
        (["transforms.train=[{_target_: torch.optim.SGD}]"], "is not a torch.nn.Module"),
        (
            [f"transforms.train=[{{_target_: {V2}.RandomApply, transforms: [{{_target_: {V2}.RandomCrp}}]}}]"],
            r"transforms.train\[0\].transforms\[0\]._target_=.* Did you mean RandomCrop",
        ),
        (["transforms.flop=true"], "Did you mean transforms.flip"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_nodes_are_named(words, message):
    with pytest.raises(UserError, match=message):
        assemble(compose([*WORDS, *words]))


def test_what_changes_the_type_belongs_into_both():
    """Bytes to floats in training alone: an evaluation would see images 255 times as bright."""
    node = "{_target_: torch.nn.Identity}"
    floats = f"{{_target_: {__name__}.Floats}}"
    message = (
        "transforms.train makes float32 of a sample, and transforms.eval uint8: what changes the type belongs into"
    )
    with pytest.raises(UserError, match=message):
        assemble(compose([*WORDS, f"transforms.train=[{floats}]"]))
    both = assemble(compose([*WORDS, f"transforms.train=[{node},{floats}]", f"transforms.eval=[{floats}]"]))
    plain = assemble(compose(WORDS))
    torch.testing.assert_close(both.preprocess(both.data.val[0][0]), plain.preprocess(plain.data.val[0][0]))


def test_types_are_named_as_in_torch():
    """torchvision's ToDtype wants one, and YAML knows none."""
    node = f"{{_target_: {V2}.ToDtype, dtype: torch.float32, scale: true}}"
    session = assemble(compose([*WORDS, f"transforms.train=[{node}]", f"transforms.eval=[{node}]"]))
    plain = assemble(compose(WORDS))
    for split in ("train", "val"):
        image = session.data[split][0][0]
        assert image.dtype == torch.float32
        torch.testing.assert_close(image, plain.data[split][0][0] / 255)


class Floats(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image / 255


def test_a_model_that_cannot_take_what_evaluation_gives_is_found_before_the_training(tmp_path):
    """A crop in training alone gives another shape there: an MLP is made for one of them, a CNN takes both."""
    crop = f"transforms.train=[{{_target_: {V2}.RandomCrop, size: 8}}]"
    with pytest.raises(
        UserError, match=r"model=mlp can't take a batch whose inputs are float32 of shape \(2, 3, 12, 12\)"
    ):
        plainloop.train(["data=fake", "data.count=60", "data.size=12", "model=mlp", "logger=none", crop])
    assert not (tmp_path / "outputs").exists()
    assert assemble(compose([*WORDS, crop])).config.spec.input_shape == [3, 8, 8]


def test_a_transform_that_fails_names_the_sample():
    node = "{_target_: torch.nn.Unflatten, dim: 0, unflattened_size: [3, 5]}"
    with pytest.raises(UserError, match="data: sample 0 can't be read: RuntimeError: unflatten: "):
        assemble(compose([*WORDS, f"transforms.train=[{node}]"]))
