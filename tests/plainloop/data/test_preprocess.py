"""Preprocessing against the textbook's (x / 255 - mean) / std, and its statistics against torch on the whole tensor."""

import copy

import pytest
import torch
from torch.utils.data import Dataset

from plainloop.config import schema
from plainloop.data import InMemory, make_loader
from plainloop.data.preprocess import make_preprocess, statistics
from plainloop.errors import UserError


def images(count: int = 1500, channels: int = 3) -> InMemory:
    """uint8 images whose channels differ; more of them than one pass of the statistics takes."""
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor([0, 100, 40])[:channels], torch.tensor([256, 130, 200])[:channels]
    uniform = torch.rand(count, channels, 5, 4, generator=generator)
    pixels = low.view(-1, 1, 1) + uniform * (high - low).view(-1, 1, 1)
    return InMemory(pixels.to(torch.uint8), torch.zeros(count, dtype=torch.int64))


def features(count: int = 1500) -> InMemory:
    """Features of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(count, 4, generator=generator) * torch.tensor([1.0, 1e3, 1e-3, 5.0])
    return InMemory(values + torch.tensor([0.0, 2e4, 1.0, -3.0]), torch.zeros(count, 1))


def batches_of(dataset: Dataset):
    return make_loader(
        dataset, schema.Loader(batch_size=1024, shuffle=False, num_workers=0), seed=0, device=torch.device("cpu")
    )


def textbook(inputs: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """In float64."""
    values = inputs.double() / (255 if inputs.dtype == torch.uint8 else 1)
    return (values - mean.double()) / std.double()


def preprocessed(data: InMemory, normalize) -> torch.Tensor:
    return make_preprocess(normalize, batches_of(data), data[0][0])(data.inputs)


# --- statistics ---------------------------------------------------------------------------------------------


class OneByOne(Dataset):
    """The same samples from a data set that gives no batches."""

    def __init__(self, inner: InMemory):
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int):
        return self.inner[index]


@pytest.mark.parametrize("wrap", [lambda data: data, OneByOne], ids=["in memory", "sample by sample"])
@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_of_images(wrap, channels):
    """Mean and deviation of each channel over all samples and pixels, (C, 1, 1), in units of [0, 1]."""
    data = images(channels=channels)
    mean, std = statistics(batches_of(wrap(data)))
    values = data.inputs.double() / 255
    assert mean.shape == std.shape == (channels, 1, 1)
    torch.testing.assert_close(mean.flatten(), values.mean((0, 2, 3)))
    torch.testing.assert_close(std.flatten(), values.std((0, 2, 3), correction=0))


def test_statistics_of_features():
    data = features()
    mean, std = statistics(batches_of(data))
    assert mean.shape == std.shape == (4,)
    torch.testing.assert_close(mean, data.inputs.double().mean(0))
    torch.testing.assert_close(std, data.inputs.double().std(0, correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("offset", "deviation"),
    [(1e4, 1e-2), (1e6, 1.0), (0.0, 1e-9), (0.0, 1e12)],
    ids=["1e4±1e-2", "1e6±1", "1e-9", "1e12"],
)
def test_statistics_keep_their_digits(offset, deviation):
    """A feature far from zero, in tiny units or in huge ones is standardised like any other."""
    values = offset + deviation * torch.randn(1500, 1, generator=torch.Generator().manual_seed(0))
    mean, std = statistics(batches_of(InMemory(values, torch.zeros(1500))))
    torch.testing.assert_close(mean, values.double().mean(0))
    torch.testing.assert_close(std, values.double().std(0, correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("count", [569, 1500])
@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, -3.7, 1000.1, 2007.3, 1e7])
def test_a_constant_channel_is_centred_and_not_scaled(constant, count):
    """Deviation 1 where nothing varies, and zeros come out: rounding isn't blown up to noise."""
    values = torch.stack([torch.full((count,), constant), torch.arange(float(count))], dim=1)
    data = InMemory(values, torch.zeros(count))
    assert statistics(batches_of(data))[1][0].item() == 1
    found = preprocessed(data, "train")[:, 0]
    assert found.abs().max() <= 1e-6 * max(1.0, abs(constant))


def test_a_constant_image_channel_is_zero():
    data = images()
    data.inputs[:, 1] = 77
    assert preprocessed(data, "train")[:, 1].abs().max() < 1e-6


# --- the transformation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [images, features])
def test_train_standardises(make):
    """normalize=train: the textbook's formula with the training split's statistics; mean 0 and deviation 1 result."""
    data = make()
    axes = [0, *range(2, data.inputs.ndim)]
    values = data.inputs.double() / (255 if data.inputs.dtype == torch.uint8 else 1)
    mean, std = values.mean(axes, keepdim=True)[0], values.std(axes, correction=0, keepdim=True)[0]
    found = preprocessed(data, "train")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), textbook(data.inputs, mean, std), atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(found.double().mean(axes), torch.zeros(data.inputs.shape[1]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.double().std(axes), torch.ones(data.inputs.shape[1]).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("mean", "std"),
    [(0.5, 0.5), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), (0.5, [1.0, 2.0, 4.0])],
    ids=["one number", "one per channel", "both"],
)
def test_given_numbers_are_used(mean, std):
    """normalize={mean, std}: as torchvision's Normalize takes them, in units of [0, 1]."""
    data = images()
    expected = textbook(
        data.inputs, *(torch.tensor(v, dtype=torch.float64).reshape(-1, 1, 1).expand(3, 1, 1) for v in (mean, std))
    )
    found = preprocessed(data, {"mean": mean, "std": std})
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)


def test_one_number_per_feature():
    data = features()
    mean, std = [0.0, 2e4, 1.0, -3.0], [1.0, 1e3, 1e-3, 5.0]
    expected = textbook(data.inputs, torch.tensor(mean), torch.tensor(std))
    torch.testing.assert_close(preprocessed(data, {"mean": mean, "std": std}).double(), expected, atol=2e-4, rtol=1e-5)


def test_none_scales_bytes_only():
    """normalize=none: uint8 to [0, 1], 255 being 1; features pass as they are."""
    data = images()
    data.inputs[0, 0, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
    found = preprocessed(data, "none")
    torch.testing.assert_close(found, data.inputs.float() / 255)
    assert found[0, 0, 0, :2].tolist() == [0.0, 1.0]
    plain = features()
    assert torch.equal(preprocessed(plain, "none"), plain.inputs)


@pytest.mark.parametrize("make", [images, features])
@pytest.mark.parametrize("normalize", ["none", "train", {"mean": 0.5, "std": 2.0}], ids=str)
def test_inputs_are_not_changed(make, normalize):
    """The batch may be the data itself: it is read and not written."""
    data = make()
    before = data.inputs.clone()
    preprocessed(data, normalize)
    assert torch.equal(data.inputs, before)


def test_inputs_by_name_pass_as_they_are():
    """A dict of tensors (tokens and lengths) is the model's business."""
    sample = {"tokens": torch.tensor([1, 2]), "length": torch.tensor(2)}
    preprocess = make_preprocess("none", batches_of(images()), sample)
    assert preprocess(sample) is sample
    assert make_preprocess("train", batches_of(images()), images()[0][0])(sample) is sample


@pytest.mark.parametrize(
    ("normalize", "message"),
    [
        ({"mean": [0.5, 0.5], "std": 0.5}, "normalize.mean has 2 numbers; the inputs have 3 channels"),
        ({"mean": 0.5, "std": [1, 1, 1, 1]}, "normalize.std has 4 numbers; the inputs have 3 channels"),
        ({"mean": 0.5, "std": 0}, "must be above 0"),
        ({"mean": 0.5, "std": [1, -1, 1]}, "must be above 0"),
        ({"mean": 0.5, "std": float("nan")}, "must be above 0"),
        ({"mean": "half", "std": 1}, "mean"),
    ],
    ids=["too few", "too many", "zero", "negative", "not a number", "a word"],
)
def test_numbers_that_do_not_fit_are_refused(normalize, message):
    with pytest.raises(UserError, match=message):
        preprocessed(images(), normalize)


def test_it_is_saved_with_the_run():
    """Another run's weights, loaded, do what they did there: `scale` and `shift` are part of the state."""
    data, other = images(), copy.deepcopy(images())
    other.inputs //= 3
    fitted, fresh = (make_preprocess("train", batches_of(each), each[0][0]) for each in (data, other))
    assert not torch.equal(fresh(data.inputs), fitted(data.inputs))
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh(data.inputs), fitted(data.inputs))


def test_loaded_statistics_are_never_skipped():
    """A module built as the identity still applies the scale and shift that it has loaded."""
    data = features()
    fitted, fresh = (
        make_preprocess(n, batches_of(data), data[0][0]) for n in ({"mean": 1.0, "std": 2.0}, {"mean": 0.0, "std": 1.0})
    )
    assert torch.equal(fresh(data.inputs), data.inputs)
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh(data.inputs), fitted(data.inputs))
