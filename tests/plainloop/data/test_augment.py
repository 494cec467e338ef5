"""Augmentation of batches: what it does to each image, how often, and that it stays where it belongs."""

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config.compose import compose
from plainloop.data.augment import Augment
from plainloop.errors import UserError
from plainloop.tasks.classification import Multiclass
from plainloop.tasks.metrics import Accuracy
from plainloop.training.batches import Preparation
from tests.later import Later

stats = Later("scipy.stats")

SHAPES = [(40, 1, 8, 8), (40, 3, 12, 9)]
LIMIT = 1e-4  # of a test that chance alone fails once in ten thousand seeds; the seeds here are fixed


def images_of(shape: tuple[int, ...], kind: torch.dtype = torch.uint8) -> Tensor:
    """Noise, in which no two pixels of an image stand for each other."""
    values = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(7))
    return values.to(torch.uint8) if kind == torch.uint8 else values / 255


def seeded(seed: int, function: Any, *arguments: Any) -> Any:
    torch.manual_seed(seed)
    return function(*arguments)


# --- flip and crop, before preprocess ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32], ids=str)
def test_flipping_equals_a_loop_with_the_same_numbers(shape, kind):
    images = images_of(shape, kind)
    seen = seeded(0, Augment(flip=True).before, images)
    torch.manual_seed(0)
    mirrored = torch.rand(len(images)) < 0.5
    for image, flips, result in zip(images, mirrored, seen, strict=True):
        assert torch.equal(result, torch.from_numpy(image.numpy()[:, :, ::-1].copy()) if flips else image)
    assert seen.dtype == kind
    assert mirrored.any()
    assert not mirrored.all()


def test_half_of_the_images_are_flipped_each_for_itself():
    """Binomial over many batches, also for neighbours in a batch: both, one or none of a pair as chance has it."""
    images = torch.arange(2.0).reshape(1, 1, 1, 2).expand(1000, 1, 1, 2)
    torch.manual_seed(0)
    flipped = torch.stack([Augment(flip=True).before(images)[:, 0, 0, 0] for _ in range(20)])  # 1 where it is
    count = int(flipped.sum())
    assert stats.binomtest(count, flipped.numel(), 0.5).pvalue > LIMIT
    pairs = (flipped[:, ::2] * 2 + flipped[:, 1::2]).long().flatten().bincount(minlength=4)
    assert stats.chisquare(pairs.numpy()).pvalue > LIMIT


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("crop", [1, 4, 20])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32], ids=str)
def test_cropping_equals_a_loop_with_the_same_numbers(shape, crop, kind):
    """Padding with zeros, and a window of the old size."""
    images = images_of(shape, kind)
    seen = seeded(0, Augment(crop=crop).before, images)
    torch.manual_seed(0)
    top, left = torch.randint(2 * crop + 1, (2, len(images))).tolist()
    for image, row, column, result in zip(images.numpy(), top, left, seen.numpy(), strict=True):
        padded = numpy.pad(image, [(0, 0), (crop, crop), (crop, crop)])
        assert numpy.array_equal(result, padded[:, row : row + shape[2], column : column + shape[3]])
    assert seen.dtype == kind
    assert seen.is_contiguous()


def test_crops_begin_anywhere_alike():
    """All 49 places of a padding of 3 pixels as often, rows and columns independent of each other and from image to
    image."""
    size = 7
    image = torch.arange(1.0, size * size + 1).reshape(1, 1, size, size).expand(7000, -1, -1, -1)
    middle = seeded(0, Augment(crop=3).before, image)[:, 0, 3, 3].long() - 1  # where the middle pixel came from
    assert stats.chisquare(middle.bincount(minlength=49).numpy()).pvalue > LIMIT
    pairs = (middle[::2] // 7 * 7 + middle[1::2] // 7).bincount(minlength=49)
    assert stats.chisquare(pairs.numpy()).pvalue > LIMIT


def test_bytes_stay_bytes_until_they_are_preprocessed():
    """A quarter of the memory traffic: what moves pixels doesn't care for their type."""
    assert Augment(flip=True, crop=2).before(images_of(SHAPES[1])).dtype == torch.uint8


# --- cutout, after preprocess ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("side", [1, 4, 5, 100])
def test_cutout_equals_a_loop_with_the_same_numbers(shape, side):
    images, targets = images_of(shape, torch.float32) + 1, torch.arange(40)
    seen, kept = seeded(0, Augment(cutout=side).after, images, targets)
    torch.manual_seed(0)
    rows = torch.randint(shape[2], (40,)).tolist()
    columns = torch.randint(shape[3], (40,)).tolist()
    for image, row, column, result in zip(images.clone(), rows, columns, seen, strict=True):
        top, left = row - side // 2, column - side // 2
        image[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0
        assert torch.equal(result, image)
    assert torch.equal(kept, targets)


def test_the_covered_area_is_what_geometry_says():
    """Centres are uniform over the pixels, and what reaches over the edge is lost: the mean share of an n x n image
    that a square of side s covers is the square of the mean along one axis."""
    n, s = 16, 6
    along = numpy.mean([len(set(range(c - s // 2, c - s // 2 + s)) & set(range(n))) for c in range(n)]) / n
    covered = seeded(0, Augment(cutout=s).after, torch.ones(4000, 1, n, n), torch.zeros(4000))[0] == 0
    shares = covered.double().mean((1, 2, 3))
    assert abs(shares.mean() - along**2) < 5 * shares.std() / 4000**0.5
    where = covered[:, 0].sum(0).double() / 4000  # the middle is covered more often than the corner, by this much
    assert where[8, 8].item() == pytest.approx((s / n) ** 2, abs=5 * 0.006)
    assert where[0, 0].item() == pytest.approx((4 / n) ** 2, abs=5 * 0.004)  # from 4 of the 16 centres on each axis


# --- mixup and cutmix -----------------------------------------------------------------------------------------------

CLASSES = 5


def telling(count: int, height: int = 10, width: int = 14) -> tuple[Tensor, Tensor]:
    """Images that tell their class: channel c is 1 in an image of class c, and 0 elsewhere."""
    targets = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(3))
    images = nn.functional.one_hot(targets, CLASSES).float()[:, :, None, None].expand(-1, -1, height, width)
    return images.clone(), targets


@pytest.mark.parametrize("words", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}], ids=str)
def test_labels_are_mixed_as_the_images_are(words):
    """In the share of every class that can be seen in the image, to the last pixel."""
    images, targets = telling(200)
    augment = Augment(num_classes=CLASSES, **words)
    for seed in range(6):
        mixed, shares = seeded(seed, augment.after, images, targets)
        assert tuple(shares.shape) == (200, CLASSES)
        torch.testing.assert_close(mixed.mean((2, 3)), shares, rtol=0, atol=1e-5)
        torch.testing.assert_close(shares.sum(1), torch.ones(200))
        own = shares[torch.arange(200), targets]
        assert (own >= 0.5 - 0.06).all()  # an image stays mostly itself; a rectangle has whole pixels
        assert (own < 0.999).any()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_of_a_blend_is_beta_distributed(alpha):
    """lambda ~ Beta(alpha, alpha), of which the larger part goes to the image itself: by Kolmogorov and Smirnov; and
    the shares of neighbours don't depend on each other."""
    count = 2000
    images, targets = torch.zeros(count, 1, 1, 1), torch.arange(count)  # a class each: mixed with itself only by chance
    augment = Augment(mixup=alpha, num_classes=count)
    own = seeded(1, augment.after, images, targets)[1].diagonal()
    own = own[own < 1 - 1e-6]

    def folded(x: Any) -> Any:  # P(max(lambda, 1 - lambda) <= x)
        return numpy.where(x < 0.5, 0, stats.beta.cdf(x, alpha, alpha) - stats.beta.cdf(1 - x, alpha, alpha))

    assert stats.kstest(own[own < 1 - 1e-4].numpy(), lambda x: folded(x) / folded(1 - 1e-4)).pvalue > LIMIT
    assert abs(stats.spearmanr(own[:-1], own[1:]).statistic) < 5 / count**0.5


def test_a_pasted_rectangle_is_one_and_lies_within():
    """What is not the image's own is one full rectangle, anywhere, with the proportions of the image."""
    height, width, count = 20, 30, 3000
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, 1, height, width)
    augment = Augment(cutmix=1.0, num_classes=1)
    mixed = seeded(0, augment.after, images, torch.zeros(count, dtype=torch.int64))[0]
    foreign = (mixed != images)[:, 0]
    tops, lefts = [], []
    for mask in foreign:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if len(rows) == 0:
            continue
        tall, wide = len(rows), len(columns)
        assert mask.sum() == tall * wide == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert abs(tall / height - wide / width) <= 1 / height
        if tall < height and wide < width:
            tops.append(rows[0].item() / (height - tall))
            lefts.append(columns[0].item() / (width - wide))
    assert abs(numpy.mean(tops) - 0.5) < 5 * numpy.std(tops) / len(tops) ** 0.5
    assert abs(numpy.mean(lefts) - 0.5) < 5 * numpy.std(lefts) / len(lefts) ** 0.5
    assert min(tops) == min(lefts) == 0
    assert max(tops) == max(lefts) == 1


def test_the_share_of_a_rectangle_is_that_of_its_beta():
    """1 - lambda of the area, but for the rounding to whole pixels."""
    count = 1000
    augment = Augment(cutmix=1.0, num_classes=count)
    own = seeded(2, augment.after, torch.zeros(count, 1, 100, 100), torch.arange(count))[1].diagonal().numpy()
    assert stats.kstest(own[own < 1], stats.uniform(0.5, 0.5).cdf).pvalue > LIMIT  # Beta(1, 1), folded


def test_other_images_come_from_anywhere_in_the_batch():
    """Each place of a batch as often, and each image once."""
    images, targets = torch.zeros(6, 1, 1, 1), torch.arange(6)
    counts = torch.zeros(6, 6)
    torch.manual_seed(0)
    for _ in range(1000):
        shares = Augment(mixup=1.0, num_classes=6).after(images, targets)[1] > 1e-6
        other = shares & ~torch.eye(6, dtype=torch.bool)
        assert (other.sum(0) <= 1).all()
        counts += other
    off = counts[~torch.eye(6, dtype=torch.bool)]
    assert stats.chisquare(off.numpy()).pvalue > LIMIT
    assert off.sum() == pytest.approx(1000 * 5, rel=0.05)  # a permutation has one fixed point, on average


def test_of_mixup_and_cutmix_each_batch_takes_one():
    """Half of the batches each."""
    images, targets = telling(16)
    augment = Augment(mixup=1.0, cutmix=1.0, num_classes=CLASSES)
    torch.manual_seed(0)
    blended = [bool(((augment.after(images, targets)[0] % 1) > 0).any()) for _ in range(400)]  # not only 0 and 1
    assert stats.binomtest(sum(blended), 400, 0.5).pvalue > LIMIT


def test_mixing_needs_classes():
    with pytest.raises(UserError, match="this data has none"):
        Augment(mixup=1.0)


# --- around preprocess, in training alone -----------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
def test_what_a_training_batch_goes_through(channels_last):
    """Moved, preprocessed, covered and mixed, in this order; the same numbers in either memory format."""
    images, targets = images_of((16, 3, 8, 8)), torch.arange(16) % CLASSES
    augment = Augment(flip=True, crop=2, cutout=3, mixup=0.5, num_classes=CLASSES)

    class Halved(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            assert inputs.dtype == torch.uint8
            return inputs.float() / 2

    prepare = Preparation(Halved(), channels_last=channels_last, augment=augment)
    seen = seeded(5, prepare.training, (images, targets))
    torch.manual_seed(5)
    expected = augment.after(augment.before(images).float() / 2, targets)
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))
    if channels_last:
        assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_each_step_has_numbers_of_its_own():
    """They follow from what the generator was seeded with, which the trainer does before each step."""
    images = images_of(SHAPES[1])
    augment = Augment(flip=True, crop=2)
    first, again, other = (seeded(seed, augment.before, images) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


WORDS = ["data=fake", "data.count=120", "data.size=12", "model.channels=[8]", "loader.batch_size=16", "logger=none"]
ALL = [
    "transforms.flip=true",
    "transforms.crop=2",
    "transforms.cutout=3",
    "transforms.mixup=0.4",
    "transforms.cutmix=1.0",
]


def test_nothing_of_it_reaches_an_evaluation():
    """Validation and test go through preprocess alone."""
    session = assemble(compose([*WORDS, *ALL]))
    trainer = make_trainer(session)
    batch = session.data.val.__getitems__(torch.arange(8))
    expected = session.preprocess(batch[0])
    for prepare in (session.prepare, trainer.prepare):
        assert torch.equal(prepare(batch)[0], expected)
        assert torch.equal(prepare(batch)[1], batch[1])
    inputs, targets = trainer.prepare.training(batch)
    assert not torch.equal(inputs, expected)
    assert tuple(targets.shape) == (8, 10)


def test_the_loss_of_mixed_labels_is_the_mix_of_the_losses():
    """Cross-entropy with shares: the sum over classes of share times loss."""
    session = assemble(compose([*WORDS, "transforms.mixup=0.5"]))
    trainer = make_trainer(session)
    batch = session.data.train.__getitems__(torch.arange(16))
    torch.manual_seed(0)
    inputs, shares = trainer.prepare.training(batch)
    loss, outputs = session.task.loss_of(session.model, (inputs, shares))
    logs = outputs.double().log_softmax(1)
    assert loss.item() == pytest.approx(-(shares * logs).sum(1).mean().item(), rel=1e-5)


@pytest.mark.slow
def test_augmented_runs_resume_bit_for_bit():
    whole = plainloop.train([*WORDS, *ALL, "trainer.max_epochs=3"])
    first = plainloop.train([*WORDS, *ALL, "trainer.max_epochs=2"])
    resumed = plainloop.train([f"resume={first.path}", "trainer.max_epochs=3"])
    for ours, theirs in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert resumed.metrics["val/loss"] == whole.metrics["val/loss"]


class Pictures(Dataset):
    """Images alone, without targets, for an autoencoder."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Tensor:
        return images_of((1, 8, 8), torch.float32) * (index + 1) / 40


class Same(nn.Module):
    """As many numbers out as in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1)).reshape(images.shape)


def test_images_alone_are_augmented_too():
    """Batches that are one tensor: the input is the target."""
    run = plainloop.train(
        [
            "data=custom",
            f"data._target_={__name__}.Pictures",
            "task=reconstruction",
            "model=custom",
            f"model._target_={__name__}.Same",
            "transforms.flip=true",
            "transforms.crop=1",
            "trainer.max_epochs=2",
            "logger=none",
        ]
    )
    assert numpy.isfinite(run.metrics["test/loss"])


class Scaled(nn.Module):
    """Gives its inputs back."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale


def test_log_points_measure_against_what_the_model_saw():
    """A model that gives its inputs back makes no error, however these were moved and covered."""
    run = plainloop.train(
        [
            "data=fake",
            "data.count=60",
            "data.size=8",
            "task=reconstruction",
            "model=custom",
            f"model._target_={__name__}.Scaled",
            "transforms.flip=true",
            "transforms.crop=2",
            "transforms.cutout=3",
            "trainer.max_epochs=2",
            "trainer.log_every=1",
            "logger=none",
        ]
    )
    errors = [record["train/mae"] for record in run.history() if "train/mae" in record]
    assert len(errors) == 2
    assert errors == [0.0, 0.0]


def test_log_points_count_a_mixed_image_as_what_it_is_most_of():
    task = Multiclass(nn.CrossEntropyLoss(), {"accuracy": Accuracy()})
    shares = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.2, 0.8]])
    task.update(task.metrics, torch.tensor([[5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), (torch.zeros(2, 1), shares))
    assert float(task.metrics["accuracy"].compute()) == 0.5


def test_labels_in_bytes_are_mixed_too():
    images, targets = telling(20)
    augment = Augment(mixup=1.0, num_classes=CLASSES)
    expected = seeded(0, augment.after, images, targets)
    found = seeded(0, augment.after, images, targets.to(torch.uint8))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Unlabelled(Dataset):
    """Some labels are -100: not known."""

    classes = ("a", "b")
    targets = torch.tensor([0, 1, -100, 1] * 10)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, 8, 8), self.targets[index]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=breast_cancer", "transforms.flip=true"], r"transforms.flip: it is for images, .* of shape \(30,\)"),
        (["data=penguins", "transforms.mixup=1.0"], "transforms.mixup: it is for images"),
        (["data=fake", "data.classes=2", "task=binary", "transforms.mixup=1.0"], "mixup: .*task=binary can't learn"),
        (
            [
                "data=fake",
                "task=reconstruction",
                "model=custom",
                f"model._target_={__name__}.Same",
                "data.size=8",
                "data.channels=1",
                "transforms.cutmix=1.0",
            ],
            "transforms.cutmix: .*task=reconstruction can't learn",
        ),
        (
            [
                "data=custom",
                f"data._target_={__name__}.Unlabelled",
                "task=multiclass",
                "model=cnn",
                "transforms.cutmix=1.0",
            ],
            "transforms.cutmix: it mixes labels, and some of the data's are -100",
        ),
        (
            ["data=fake", "transforms.mixup=1.0", "loss=custom", "loss._target_=torch.nn.MultiMarginLoss"],
            r"transforms.mixup: it makes labels shares of classes, as \(2, 10\), and loss=custom can't take them",
        ),
        (["data=fake", "transforms.mixup=0"], "transforms.mixup=0.*: must be a number above 0 or null"),
        (["data=fake", "transforms.crop=-1"], "transforms.crop=-1: must be a whole number of at least 0"),
    ],
    ids=lambda value: value[0] + " " + value[-1] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_refused_before_the_training(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        plainloop.train([*words, "logger=none"])
    assert not (tmp_path / "outputs").exists()
