"""Section `loader`: samplers, collation and the start of workers by name, values of their own for evaluation."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler, default_collate

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.build import factory
from plainloop.config import schema
from plainloop.config.compose import compose
from plainloop.data import InMemory, make_loader
from plainloop.data.order import Balanced, BatchOrder, ByLength
from plainloop.errors import UserError
from tests import formats
from tests.conftest import one_in, slow
from tests.later import Later

stats = Later("scipy.stats")

HERE = __name__
WORDS = ["model.channels=[8]", "loader.batch_size=8", "split.fractions=[1,0,0]", "logger=none"]


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """45 cats and 5 dogs."""
    formats.write_images(tmp_path / "pets", {"cat": 45, "dog": 5}, (8, 8))
    return f"data.path={tmp_path / 'pets'}"


def loader_of(*words: str) -> Any:
    """The training loader of a run."""
    session = assemble(compose([*words]))
    return session.training_loader()


def drawn(loader: Any, epoch: int) -> list[int]:
    """The indices of an epoch."""
    return torch.cat(list(loader.source.batches(epoch))).tolist()


# --- samplers -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_balanced_draws_every_class_as_often(pets):
    """On images in files, over 40 epochs: by chi-square; and within a class every sample as often; an epoch is as long
    as before."""
    loader = loader_of("data=images", pets, *WORDS, "loader.sampler=balanced")
    assert len(loader) == 7
    counts = torch.zeros(50, dtype=torch.int64)
    for epoch in range(40):
        indices = drawn(loader, epoch)
        assert len(indices) == 50
        counts += torch.tensor(indices).bincount(minlength=50)
    cats, dogs = counts[:45], counts[45:]
    assert stats.binomtest(int(dogs.sum()), 2000, 0.5).pvalue > 1e-4
    assert stats.chisquare(cats.numpy()).pvalue > 1e-4
    assert stats.chisquare(dogs.numpy()).pvalue > 1e-4


@pytest.mark.slow
def test_samples_without_a_label_are_not_drawn():
    """Else a label that the loss passes over would be drawn as often as a class."""
    targets = torch.tensor([0, -100, 7, -100, 0, 0, 1])
    torch.manual_seed(0)
    indices = torch.cat([torch.tensor(list(Balanced(targets, ignored=-100))) for _ in range(600)])
    counts = targets[indices].unique(return_counts=True)
    assert counts[0].tolist() == [0, 1, 7]
    assert stats.chisquare(counts[1].numpy()).pvalue > 1e-4


def test_what_is_drawn_follows_from_seed_and_epoch(pets):
    words = ["data=images", pets, *WORDS, "loader.sampler=balanced"]
    first, again, other = loader_of(*words), loader_of(*words), loader_of(*words, "seed=1")
    torch.rand(5)  # whatever else is drawn
    assert drawn(first, 3) == drawn(again, 3)
    assert drawn(first, 3) != drawn(first, 4)
    assert drawn(first, 3) != drawn(other, 3)


def test_the_batches_are_the_samples_that_were_drawn(pets):
    loader = loader_of("data=images", pets, *WORDS, "loader.sampler=balanced")
    labels = torch.cat([targets for _, targets in loader.epoch(2)])
    assert labels.tolist() == [int(index >= 45) for index in drawn(loader, 2)]


@pytest.mark.slow
def test_balanced_runs_resume_bit_for_bit(tmp_path):
    formats.write_images(tmp_path / "pets", {"cat": 36, "dog": 12}, (8, 8))
    words = ["data=images", f"data.path={tmp_path / 'pets'}", *WORDS[:2], "logger=none", "loader.sampler=balanced"]
    whole = plainloop.train([*words, "trainer.max_epochs=3"])
    first = plainloop.train([*words, "trainer.max_epochs=2"])
    resumed = plainloop.train([f"resume={first.path}", "trainer.max_epochs=3"])
    for ours, theirs in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_evaluation_sees_every_sample_once_whatever_the_sampler(tmp_path):
    formats.write_images(tmp_path / "pets", {"cat": 36, "dog": 12}, (8, 8))
    session = assemble(compose(["data=images", f"data.path={tmp_path / 'pets'}", "loader.sampler=balanced"]))
    for split in ("val", "test"):
        targets = torch.cat([targets for _, targets in session.loader(split)])
        assert targets.tolist() == [session.data[split][index][1] for index in range(len(session.data[split]))]


class Backwards(Sampler):
    """From the last sample to the first; it writes down what it was told."""

    def __init__(self, data_source: Dataset, targets: Tensor, batch_size: int, step: int = 1):
        self.count, self.targets, self.batch_size, self.step = len(data_source), targets, batch_size, step
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return self.count // self.step

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count - 1, -1, -self.step))


class Pairs(Sampler):
    """Batches of two neighbours, in random order."""

    def __init__(self, data_source: Dataset):
        self.count = len(data_source)

    def __len__(self) -> int:
        return self.count // 2

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[2 * int(place), 2 * int(place) + 1] for place in torch.randperm(self.count // 2)])


class Three(Sampler):
    """Three samples an epoch."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        return iter([2, 1, 0])


class Unsized(Sampler):
    def __init__(self) -> None:
        pass

    def __iter__(self) -> Iterator[int]:
        return iter([0, 1])


def test_a_sampler_of_ones_own(pets):
    """By its path: it gets what its signature asks for, is told the epoch, and decides the order and the length."""
    loader = loader_of("data=images", pets, *WORDS, f"loader.sampler={{_target_: {HERE}.Backwards, step: 5}}")
    assert drawn(loader, 4) == list(range(49, -1, -5))
    assert len(loader) == 2
    sampler = loader.source.sampler
    assert sampler.epochs == [4]
    assert sampler.batch_size == 8
    assert sampler.targets.tolist() == [0] * 45 + [1] * 5
    labels = [targets.tolist() for _, targets in loader.epoch(0)]
    assert labels == [[1] + [0] * 7, [0, 0]]


def test_a_sampler_of_torchs(pets):
    node = "{_target_: torch.utils.data.WeightedRandomSampler, weights: [0.0, 1.0, 1.0], num_samples: 30}"
    loader = loader_of("data=images", pets, *WORDS, f"loader.sampler={node}")
    indices = drawn(loader, 0)
    assert set(indices) == {1, 2}
    assert len(indices) == 30
    assert drawn(loader, 0) == indices != drawn(loader, 1)


def test_a_batch_sampler_of_ones_own(pets):
    """The batches are its own affair, also when a run is resumed within an epoch."""
    loader = loader_of("data=images", pets, *WORDS, f"loader.batch_sampler={{_target_: {HERE}.Pairs}}")
    assert len(loader) == 25
    batches = [batch.tolist() for batch in loader.source.batches(1)]
    assert sorted(batches) == [[number, number + 1] for number in range(0, 50, 2)]
    assert batches != sorted(batches)
    images = [inputs for inputs, _ in loader.epoch(1)]
    late = [inputs for inputs, _ in loader.epoch(1, first_batch=20)]
    assert len(late) == 5
    assert all(torch.equal(a, b) for a, b in zip(images[20:], late, strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("count", [17, 800, 803, 1700])
def test_batches_of_similar_length_hold_every_sample_once(count, drop_last, shuffle):
    """But for those that don't fill a batch, if that is asked for; no sample is left out in every epoch."""
    lengths = torch.randint(1, 50, (count,), generator=torch.Generator().manual_seed(0))
    order = BatchOrder(count, 8, shuffle, drop_last, 0, batch_sampler=ByLength(lengths, 8, shuffle, drop_last))
    seen = []
    for epoch in range(6):
        batches = order.batches(epoch)
        indices = torch.cat(list(batches)).tolist()
        assert len(batches) == len(order) == (count // 8 if drop_last else -(-count // 8))
        assert len(set(indices)) == len(indices) == (count // 8 * 8 if drop_last else count)
        assert sum(len(batch) != 8 for batch in batches) <= (count % 8 != 0)
        seen.append(indices)
    assert len(set(map(tuple, seen))) == (6 if shuffle else 1)
    if shuffle or not drop_last:
        assert set().union(*seen) == set(range(count))


def test_a_single_sample_that_is_left_over_is_counted_by_the_sampler(pets):
    """BatchNorm can't take a batch of one: whether there is one, the sampler decides."""
    words = ["data=images", pets, *WORDS, f"loader.sampler={{_target_: {HERE}.Backwards, step: 2}}"]  # 25 draws
    session = assemble(compose([*words, "loader.batch_size=12"]))
    assert "1 of 25 training samples is left over" in session.notes[0]
    assert session.training_loader().batches == 2
    assert assemble(compose([*words, "loader.batch_size=7"])).notes == []  # which 50 samples would leave 1 of


class Listed(Sampler):
    """The indices, or the batches of them, that it is told."""

    def __init__(self, numbers: list[Any], count: int):
        self.numbers, self.count = numbers, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return iter(self.numbers)


@pytest.mark.parametrize(
    ("kind", "numbers", "count", "message"),
    [
        ("sampler", "[0,1,50]", 3, "Listed gives the index 50, and there are 50 samples"),
        ("sampler", "[0,-1]", 2, "Listed gives the index -1"),
        ("sampler", "[0,1]", 3, "Listed gives 2 in epoch 1, and its __len__ says 3"),
        ("batch_sampler", "[[0,1],[2,77]]", 2, "Listed gives the index 77"),
        ("batch_sampler", "[[0,1],[2,3]]", 1, "Listed gives 2 in epoch 1, and its __len__ says 1"),
    ],
)
@pytest.mark.parametrize("data", one_in(2, ["in memory", "in files"]))
def test_a_sampler_that_gives_what_is_not_there_is_named(pets, data, kind, numbers, count, message):
    chosen = ["data=images", pets] if data == "in files" else ["data=fake", "data.count=50", "data.size=8"]
    node = f"loader.{kind}={{_target_: {HERE}.Listed, numbers: {numbers}, count: {count}}}"
    with pytest.raises(UserError, match=message):
        plainloop.train([*chosen, *WORDS, node])


# --- collation and workers ------------------------------------------------------------------------------------------


@factory("loader.collate_fn")
def doubled(samples: list[Any]) -> Any:
    """Marked as what configs may name."""
    inputs, targets = default_collate(samples)
    return torch.cat([inputs, inputs]), torch.cat([targets, targets])


def unmarked(samples: list[Any]) -> Any:
    return doubled(samples)


@factory("loader.collate_fn")
class Repeated:
    """A function with a setting of its own."""

    def __init__(self, times: int):
        self.times = times

    def __call__(self, samples: list[Any]) -> Any:
        inputs, targets = default_collate(samples)
        return inputs.repeat(self.times, 1, 1, 1), targets.repeat(self.times)


@pytest.mark.parametrize("data", one_in(2, ["in files", "in memory"]))
@pytest.mark.parametrize(
    ("words", "size"),
    [
        ([f"loader.collate_fn={HERE}.doubled"], 16),
        ([f"loader.collate_fn={HERE}.unmarked", f"trust=[{HERE}.unmarked]"], 16),
        ([f"loader.collate_fn={{_target_: {HERE}.Repeated, times: 3}}"], 24),
        (["loader.collate_fn=default_collate"], 8),
        ([], 8),
    ],
    ids=["marked", "trusted", "an object", "torch's", "none"],
)
def test_samples_are_collated_by_a_function_that_is_named(pets, data, words, size):
    """Of data in memory too, whose batches need none otherwise."""
    chosen = ["data=images", pets] if data == "in files" else ["data=fake", "data.count=50", "data.size=8"]
    loader = loader_of(*chosen, *WORDS, *words)
    inputs, targets = next(iter(loader))
    assert len(inputs) == len(targets) == size
    assert torch.equal(inputs[:8], inputs[-8:])


def test_a_run_with_a_collate_function_trains(pets):
    words = ["data=images", pets, "model.channels=[8]", "loader.batch_size=10", "logger=none", "trainer.max_epochs=1"]
    run = plainloop.train([*words, f"loader.collate_fn={HERE}.doubled"])
    assert run.metrics["samples"] == 2 * run.config.spec.num_train
    assert plainloop.evaluate(run.path) == {key: run.metrics[key] for key in run.metrics if key.startswith("test/")}


@factory("loader.worker_init_fn")
def started(number: int) -> None:
    """Writes down that a loading process has started, in the folder where it works."""
    Path(f"worker-{number}").touch()


@pytest.mark.slow
def test_workers_are_initialised_by_a_function_that_is_named(pets, tmp_path):
    loader = loader_of(
        "data=images",
        pets,
        *WORDS,
        "loader.num_workers=2",
        f"loader.worker_init_fn={HERE}.started",
        f"loader.collate_fn={HERE}.doubled",
        "loader.multiprocessing_context=spawn",
    )
    assert [len(targets) for _, targets in loader.epoch(0)] == [16] * 6 + [4]
    assert {path.name for path in tmp_path.glob("worker-*")} == {"worker-0", "worker-1"}


# --- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluation_has_a_batch_size_of_its_own():
    """Which changes its batches, and not what is measured."""
    words = ["data=fake", "data.count=200", "data.size=8", "model.channels=[8]", "logger=none", "trainer.max_epochs=1"]
    small, large = (
        plainloop.train([*words, "loader.batch_size=16", f"loader.eval.batch_size={size}"]) for size in (3, 20)
    )
    assert [len(targets) for _, targets in small.session.loader("val")] == [3] * 6 + [2]
    assert [len(targets) for _, targets in large.session.loader("val")] == [20]
    assert small.metrics["val/loss"] == pytest.approx(large.metrics["val/loss"], rel=1e-5)
    assert small.metrics["val/accuracy"] == large.metrics["val/accuracy"]
    assert small.metrics["train/loss"] == large.metrics["train/loss"]
    same = plainloop.train([*words, "loader.batch_size=16"])
    assert same.session.loader("val").batch_size == 16


@pytest.mark.parametrize("data", ["in memory", "in files"])
def test_evaluation_has_a_collate_function_of_its_own(pets, data):
    """What mixes or repeats samples for training isn't for evaluation, and not for statistics either."""
    chosen = ["data=images", pets] if data == "in files" else ["data=fake", "data.count=50", "data.size=8"]
    words = [*chosen, *WORDS[:2], "logger=none", "transforms.normalize=train"]
    own = ["loader.collate_fn=" + HERE + ".brightened", "loader.eval.collate_fn=default_collate"]
    plain, mixed = assemble(compose(words)), assemble(compose([*words, *own]))
    assert torch.equal(plain.preprocess.shift, mixed.preprocess.shift)
    for one, other in zip(plain.loader("val"), mixed.loader("val"), strict=True):
        assert torch.equal(one[0], other[0])
    inputs, _ = next(iter(mixed.training_loader()))
    assert inputs.min() >= 128
    assert plain.preprocess.shift.min() > -8  # statistics of brightened images would be other ones
    everywhere = assemble(compose([*words, own[0]]))
    assert not torch.equal(plain.preprocess.shift, everywhere.preprocess.shift)


# --- data that is on the device already ---


@pytest.mark.parametrize("words", [["data=digits"], ["data=digits", "loader.sampler=balanced"]], ids=str)
@pytest.mark.parametrize("device", [slow("cpu"), pytest.param("cuda", marks=pytest.mark.cuda)])
def test_data_held_on_the_device_gives_the_same_run(words, device):
    words = [*words, "logger=none", "trainer.max_epochs=2", f"trainer.device={device}"]
    usual, held = plainloop.train(words), plainloop.train([*words, "loader.on_device=true"])
    for split in ("train", "val", "test"):
        assert {held.data[split].inputs.device.type, held.data[split].targets.device.type} == {device}
    for ours, theirs in zip(held.model.state_dict().values(), usual.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert plainloop.evaluate(held.path) == {key: usual.metrics[key] for key in usual.metrics if key[:5] == "test/"}


def test_batches_are_made_where_the_data_is():
    """By torch's device without memory: nothing is brought back on the way."""
    data = InMemory(torch.zeros(10, 3), torch.zeros(10))
    data.to(torch.device("meta"))
    loader = make_loader(data, schema.Loader(batch_size=4), seed=0, device=torch.device("meta"))
    assert [(batch[0].device.type, len(batch[1])) for batch in loader] == [("meta", 4), ("meta", 4), ("meta", 2)]


# --- what is wrong --------------------------------------------------------------------------------------------------


class Endless(IterableDataset):
    """A stream."""

    classes = ("a", "b")

    def __iter__(self) -> Iterator[Any]:
        return ((torch.zeros(1, 8, 8), number % 2) for number in itertools.count())


@factory("loader.collate_fn")
def brightened(samples: list[Any]) -> Any:
    inputs, targets = default_collate(samples)
    return inputs // 2 + 128, targets


class Unlabelled(Dataset):
    """Labels that are known only when a sample is fetched."""

    classes = ("a", "b")

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(1, 8, 8), index % 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loader.sampler=balance"], "loader.sampler=balance: must be balanced, {_target_: my.Sampler} or null"),
        (["loader.batch_sampler=size"], "loader.batch_sampler=size: must be length, {_target_: my.Sampler} or null"),
        (["loader.sampler=balanced", "loader.batch_sampler=length"], "give one of them"),
        (["loader.batch_sampler=length"], "loader.batch_sampler=length: this data set has no `lengths`"),
        (["data=custom", f"data._target_={HERE}.Unlabelled", "loader.sampler=balanced"], "no classes that are known"),
        (["data=penguins", "task=regression", "model=mlp", "loader.sampler=balanced"], "no classes that are known"),
        (
            [
                "data=custom",
                f"data._target_={HERE}.Endless",
                "task=multiclass",
                "trainer.max_steps=2",
                f"loader.batch_sampler={{_target_: {HERE}.Three}}",
            ],
            "loader.batch_sampler: Endless is a stream",
        ),
        (
            [
                "data=custom",
                f"data._target_={HERE}.Endless",
                "task=multiclass",
                "trainer.max_steps=2",
                f"loader.sampler={{_target_: {HERE}.Three}}",
            ],
            "loader.sampler: Endless is a stream",
        ),
        ([f"loader.sampler={{_target_: {HERE}.Three}}", "loader.drop_last=true"], "drops every batch: 3 samples"),
        ([f"loader.sampler={{_target_: {HERE}.Unsized}}"], "loader.sampler: Unsized has no __len__"),
        ([f"loader.sampler={{_target_: {HERE}.Unlabelled}}"], "is not a torch.utils.data.Sampler"),
        (
            [f"loader.sampler={{_target_: {HERE}.Backwards, stride: 2}}"],
            "loader.sampler.stride: Backwards takes no such",
        ),
        ([f"loader.collate_fn={HERE}.unmarked"], rf"say so on the command line: 'trust=\[{HERE}.unmarked\]'"),
        ([f"loader.collate_fn={HERE}.dubled"], "has no dubled. Did you mean doubled"),
        ([f"loader.worker_init_fn={HERE}.doubled", "loader.num_workers=1"], "say so on the command line"),
        (["loader.num_workers=0", f"loader.worker_init_fn={HERE}.started"], "acts only with workers"),
        (["loader.num_workers=0", "loader.prefetch_factor=4"], "acts only with workers"),
        (["data=custom", f"data._target_={HERE}.Unlabelled", "loader.on_device=true"], r"train isn't \(Subset\)"),
        (["loader.on_device=true", "loader.num_workers=1"], "neither loaded by processes nor pinned"),
        (["loader.on_device=true", "loader.pin_memory=true"], "neither loaded by processes nor pinned"),
        (["loader.eval.num_workers=0", "loader.eval.prefetch_factor=2"], "acts only with workers"),
        (["loader.eval.batch_size=0"], "loader.eval.batch_size=0: must be a whole number of at least 1"),
        (["loader.eval.batchsize=3"], "Did you mean loader.eval.batch_size"),
    ],
    ids=lambda value: " ".join(value).replace(HERE, "") if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_named(words, message):
    given = words if words[0].startswith("data=") else ["data=fake", "data.count=50", "data.size=8", *words]
    with pytest.raises(UserError, match=message):
        plainloop.train([*given, "logger=none"])
