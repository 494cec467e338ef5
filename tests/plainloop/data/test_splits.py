"""Which sample is in which split: every sample in one, decided by the seed, every class shared out."""

import itertools
import re
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import Dataset, Subset

from plainloop.data import Data, InMemory, build_data, check_classes, class_names_of, targets_of
from plainloop.data.dataset import size
from plainloop.data.digest import digest
from plainloop.data.splits import Division, by_group, by_time, divide
from plainloop.errors import UserError

FRACTIONS = ([0.8, 0.1, 0.1], [0.5, 0.25, 0.25], [0.9, 0.1, 0], [1, 0, 0])


def labelled(labels: Any) -> InMemory:
    """A data set whose inputs are the samples' own numbers."""
    labels = torch.as_tensor(labels)
    return InMemory(torch.arange(len(labels)), labels, classes=[str(i) for i in range(int(labels.max()) + 1)])


def whole(data: Dataset) -> Data:
    """A data set that brings no splits along."""

    def make() -> Dataset:
        return data

    return build_data(make, make, Division([0.8, 0.1, 0.1], stratify=True), seed=0)


def divided(labels: Any, fractions=(0.8, 0.1, 0.1), stratify: bool = True, seed: int = 0) -> Data:
    def make() -> InMemory:
        return labelled(labels)

    return build_data(make, make, Division(fractions, stratify=stratify), seed)


def members(data: Data) -> dict[str, list[int]]:
    return {name: data[name].inputs.tolist() for name in ("train", "val", "test") if data[name] is not None}


# --- divide -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fractions", FRACTIONS, ids=str)
@pytest.mark.parametrize("count", [10, 101, 1797])
@pytest.mark.parametrize("stratify", [True, False])
def test_splits_are_disjoint_and_complete(fractions, count, stratify):
    """Every sample is in exactly one split, and the splits have their shares, within one sample."""
    data = divided(torch.arange(count) % 7, fractions, stratify)
    parts = members(data)
    assert sorted(itertools.chain(*parts.values())) == list(range(count))
    for name, share in zip(("train", "val", "test"), fractions, strict=True):
        assert abs(len(parts.get(name, [])) - share * count) < 1
        assert (name in parts) == (share > 0)


def test_the_seed_decides():
    """The same seed gives the same splits, whatever was drawn before; another seed gives others."""
    first = members(divided(torch.arange(200) % 5, seed=3))
    torch.rand(10)
    numpy.random.seed(1)
    assert members(divided(torch.arange(200) % 5, seed=3)) == first
    other = members(divided(torch.arange(200) % 5, seed=4))
    assert all(set(other[name]) != set(first[name]) for name in first)


def test_dividing_draws_nothing_from_the_default_generator():
    state = torch.get_rng_state()
    divided(torch.arange(200) % 5)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_a_split_is_a_random_choice():
    """Unlabelled samples: how often each of 50 is in the test split over 2,000 seeds is what chance allows."""
    counts = torch.zeros(50)
    for seed in range(2000):
        counts[divide(50, [0.8, 0.2], None, seed)[1]] += 1
    # Binomial(2000, 0.2): mean 400, deviation 17.9; 5 deviations for the largest of 50.
    assert (counts - 400).abs().max() < 5 * 17.9


CASES = {
    "equal classes": numpy.arange(1000) % 10,
    "digits": numpy.repeat(numpy.arange(10), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
    "unequal classes": numpy.repeat([0, 1, 2], [700, 37, 263]),
    "two classes": numpy.repeat([0, 1], [357, 212]),
    "a rare class": numpy.repeat([0, 1], [995, 5]),
    "100 classes": numpy.arange(5000) % 100,
    "one large class and 100 of one sample": numpy.r_[numpy.zeros(3000, dtype=int), 1 + numpy.arange(100)],
    "a long tail": numpy.minimum(numpy.random.default_rng(0).zipf(1.5, 2000) - 1, 60),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fractions", FRACTIONS[:3], ids=str)
def test_every_class_is_shared_out(case, fractions):
    """Stratified: each split has each class in its share, within one sample, and has its own share of all."""
    labels = torch.as_tensor(CASES[case])
    shares = [share for share in fractions if share > 0]
    sizes = labels.bincount()
    for seed in range(5):
        for part, share in zip(divide(len(labels), shares, labels, seed), shares, strict=True):
            assert abs(len(part) - share * len(labels)) < 1
            away = labels[part].bincount(minlength=len(sizes)) - sizes.double() * share
            assert away.abs().max() <= 1 + 1e-6


def test_within_a_class_the_choice_is_random():
    """Which samples of a class are held out differs from seed to seed, and isn't their position."""
    chosen = {tuple(divide(100, [0.9, 0.1], torch.arange(100) % 2, seed)[1].tolist()) for seed in range(20)}
    assert len(chosen) == 20


@pytest.mark.parametrize("labels", [torch.rand(100), torch.arange(200).reshape(100, 2)], ids=["values", "(N, 2)"])
def test_what_is_no_class_is_not_stratified(labels):
    """Float targets, and several per sample, are divided as if there were none."""
    plain, given = divide(100, [0.8, 0.2], None, 1), divide(100, [0.8, 0.2], labels, 1)
    assert all(torch.equal(a, b) for a, b in zip(plain, given, strict=True))


def test_parts_are_in_rising_order():
    """So that a table's order, and reading from disk, stay sequential."""
    for part in divide(100, [0.8, 0.2], torch.arange(100) % 3, 0):
        assert torch.equal(part, part.sort().values)


# --- groups, time, folds ------------------------------------------------------------------------------------


class Visits(InMemory):
    """Samples, each of a patient and of a day, whose inputs are their own numbers."""

    def __init__(self, patient: Any, day: Any, labels: Any = None):
        labels = torch.zeros(len(patient), dtype=torch.int64) if labels is None else labels
        super().__init__(torch.arange(len(patient)), labels, classes=["a", "b"])
        self.patient, self.day = patient, day

    def select(self, indices: Any) -> InMemory:
        return InMemory(*self.__getitems__(indices), classes=self.classes)


def visits(count: int = 120, patients: int = 17) -> Visits:
    """Patients of very different numbers of visits, on days of which several visits share one."""
    numbers = numpy.random.default_rng(0)
    patient = [f"p{int(number)}" for number in numpy.minimum(numbers.geometric(0.15, count), patients)]
    return Visits(patient, numbers.integers(0, 40, count).tolist(), torch.as_tensor(numbers.integers(0, 2, count)))


def built(data: Dataset, division: Division, seed: int = 0) -> dict[str, list[int]]:
    def make() -> Dataset:
        return data

    return members(build_data(make, make, division, seed))


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_in_one_split(seed):
    """Every sample in one split, nobody in two, and the shares are nearly what was asked for."""
    data = visits()
    parts = built(data, Division([0.6, 0.2, 0.2], group="patient"), seed)
    assert sorted(itertools.chain(*parts.values())) == list(range(120))
    people = {name: {data.patient[index] for index in part} for name, part in parts.items()}
    for one, other in itertools.combinations(people.values(), 2):
        assert not one & other
    largest = max(data.patient.count(name) for name in set(data.patient))
    for name, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert abs(len(parts[name]) - share * 120) <= largest


def test_which_groups_are_held_out_is_the_seeds_choice():
    """Of ten patients of equal size each is tested on as often, over 1,000 seeds."""
    groups = [index % 10 for index in range(50)]
    held = torch.zeros(10)
    for seed in range(1000):
        held[by_group(groups, [0.8, 0.1, 0.1], seed)[2][0] % 10] += 1
    assert (held - 100).abs().max() < 5 * (1000 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize("groups", [3, 4, 5, 9])
def test_few_groups_leave_no_split_empty(groups):
    """Where there are as many groups as splits, each split gets one."""
    parts = by_group([index % groups for index in range(60)], [0.8, 0.1, 0.1], 0)
    assert min(map(len, parts)) == 60 // groups
    assert torch.cat(parts).sort().values.tolist() == list(range(60))


def test_the_latest_are_tested_on():
    """Everything in training is earlier than all of validation, and that than all of test; a day isn't cut in two."""
    data = visits()
    parts = built(data, Division([0.6, 0.2, 0.2], time="day"))
    assert sorted(itertools.chain(*parts.values())) == list(range(120))
    days = [[data.day[index] for index in parts[name]] for name in ("train", "val", "test")]
    assert max(days[0]) < min(days[1])
    assert max(days[1]) < min(days[2])
    most = max(data.day.count(day) for day in set(data.day))
    assert abs(len(days[0]) - 72) < most
    assert abs(len(days[0]) + len(days[1]) - 96) < most


@pytest.mark.parametrize("counts", [[109, 114, 119], [50, 3, 3], [5, 90, 5], [1, 1, 2, 300, 2]], ids=str)
def test_fractions_that_would_do_are_told(counts):
    """Where a day can't be cut in two and a split stays empty: with those that are told none does."""
    data = labelled(list(range(sum(counts))))
    data.day = [day for day, count in enumerate(counts) for _ in range(count)]
    with pytest.raises(UserError, match=rf"{len(counts)} different values of split.time=day.*would do") as caught:
        built(data, Division([0.98, 0.01, 0.01], time="day"))
    told = re.search(r"split.fractions=\[([\d.,]+)\] would", str(caught.value))[1].split(",")
    assert all(built(data, Division([float(share) for share in told], time="day")).values())


def test_fewer_times_than_splits():
    data = labelled(list(range(20)))
    data.day = [index // 10 for index in range(20)]
    with pytest.raises(UserError, match=r"2 different values .* split.fractions=\[0.8,0.2,0\] goes without test"):
        built(data, Division(time="day"))


@pytest.mark.parametrize(("labels", "split"), [([0, 1, 0, 1, 2, 0, 0, 0, 0, 2], "val"), ([0, 1] * 4 + [0, 2], "test")])
def test_a_class_that_train_lacks_is_refused(labels, split):
    """In any data that lists its targets, also through a Subset, where the data set tells the place."""

    class Placed(Subset):
        def where(self, index: int) -> str:
            return f"place {index}"

    whole, parts = InMemory(torch.zeros(10, 1), torch.tensor(labels)), ([0, 1, 2, 3], [4, 5], [6, 7, 8, 9])
    with pytest.raises(
        UserError, match=rf"data: sample \d of {split}: the class bee isn't in the training split \(1 in"
    ):
        check_classes(Data(*(Subset(whole, rows) for rows in parts)), ["a", "b", "bee"])
    where = 4 if split == "val" else 9
    with pytest.raises(UserError, match=rf"place {where}: the class bee"):
        check_classes(Data(*(Subset(Placed(whole, range(10)), rows) for rows in parts)), ["a", "b", "bee"])
    check_classes(Data(Subset(whole, parts[0]), None, Subset(whole, [5, 6])), ["a", "b", "bee"])


def test_times_without_equals_are_cut_at_the_shares():
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).tolist()
    parts = by_time(order, [0.7, 0.2, 0.1])
    ranked = sorted(range(100), key=lambda index: order[index])
    assert [part.tolist() for part in parts] == [sorted(ranked[:70]), sorted(ranked[70:90]), sorted(ranked[90:])]


@pytest.mark.parametrize("group", [None, "patient"])
@pytest.mark.parametrize("fractions", [[0.8, 0.1, 0.1], [0.8, 0.2, 0], [1, 0, 0]], ids=str)
def test_each_sample_validates_in_one_fold(group, fractions):
    """But for those that are tested on, which are the same in every fold; nobody is on two sides."""
    data = visits()
    folds = [built(data, Division(fractions, group=group, folds=4, fold=fold)) for fold in range(4)]
    tests = [parts.get("test", []) for parts in folds]
    assert all(test == tests[0] for test in tests)
    assert (len(tests[0]) > 0) == (fractions[2] > 0)
    validated = list(itertools.chain(*(parts["val"] for parts in folds)))
    assert sorted(validated + tests[0]) == list(range(120))
    for parts in folds:
        assert sorted(itertools.chain(*parts.values())) == list(range(120))
        sides = [{data.patient[index] for index in part} for part in parts.values()]
        assert not group or sum(map(len, sides)) == len(set(data.patient))
    if not group:
        assert {len(parts["val"]) for parts in folds} <= {(120 - len(tests[0])) // 4, -(-(120 - len(tests[0])) // 4)}


def test_folds_have_their_share_of_every_class():
    labels = torch.tensor([0] * 83 + [1] * 17)
    for fold in range(5):
        data = Visits([0] * 100, [0] * 100, labels)
        val = built(data, Division([0.9, 0.1, 0], folds=5, fold=fold))["val"]
        assert 16 <= sum(labels[val] == 0) <= 17
        assert 3 <= sum(labels[val] == 1) <= 4


@pytest.mark.parametrize(
    ("data", "division", "message"),
    [
        (visits(), Division(group="doctor"), "split.group=doctor: Visits has no attribute doctor"),
        (Visits(["a", None, "b"], [1, 2, 3]), Division(group="patient"), "split.group=patient: sample 1 has none"),
        (Visits(["a", "b", "c"], [1, 2.0, float("nan")]), Division(time="day"), "split.time=day: sample 2 has none"),
        (Visits(["a", "b"], [1]), Division(time="day"), "split.time=day: 1 values for 2 samples"),
        (Visits(["a", "b", "c"], [1, "2", 3]), Division(time="day"), r"can't be put in order \(int, str\)"),
        (visits(patients=2), Division(group="patient"), "no sample for test among 2 groups of split.group=patient"),
        (visits(patients=4), Division(group="patient", folds=5), "split.folds=5 leaves a fold empty among 4 groups"),
        (visits(20), Division([0.9, 0.1, 0], folds=30), "split.folds=30 leaves a fold empty among 20 samples"),
    ],
    ids=["no such", "no group", "no time", "too few", "two kinds", "2 groups", "5 folds of 4 groups", "30 folds of 20"],
)
def test_what_cannot_divide_is_named(data, division, message):
    with pytest.raises(UserError, match=message):
        built(data, division)


# --- build_data ---------------------------------------------------------------------------------------------


def part(name: str, count: int) -> InMemory:
    """The split `name` of some data: its inputs say where they are from."""
    start = {"train": 0, "val": 1000, "test": 2000}[name]
    return InMemory(torch.arange(start, start + count), torch.arange(count) % 2, classes=["a", "b"])


def test_splits_that_come_along_are_left_alone():
    """A data set with all three keeps them sample by sample, whatever the fractions."""

    def make(split: str) -> InMemory:
        return part(split, {"train": 20, "val": 10, "test": 5}[split])

    data = build_data(make, make, Division([0.8, 0.1, 0.1], stratify=True), seed=0)
    for name, count in (("train", 20), ("val", 10), ("test", 5)):
        assert data[name].inputs.tolist() == part(name, count).inputs.tolist()
        assert data.indices[name] == {"from": name, "indices": list(range(count))}


def test_a_missing_validation_split_is_taken_from_the_training_split():
    """None for val, as MNIST has it: the test split stays whole, train and val share what was train."""

    def make(split: str) -> InMemory | None:
        return None if split == "val" else part(split, 100)

    data = build_data(make, make, Division([0.9, 0.1, 0], stratify=True), seed=0)
    assert (size(data.train), size(data.val), size(data.test)) == (90, 10, 100)
    assert sorted(data.train.inputs.tolist() + data.val.inputs.tolist()) == list(range(100))
    assert data.test.inputs.tolist() == list(range(2000, 2100))
    assert data.indices["val"]["from"] == data.indices["train"]["from"] == "train"
    assert data.indices["test"]["from"] == "test"


def test_shares_are_relative_to_what_has_to_be_divided():
    """0.6, 0.2 and 0.2 with a test split that comes along: three quarters train, one quarter val."""

    def make(split: str) -> InMemory | None:
        return None if split == "val" else part(split, 100)

    data = build_data(make, make, Division([0.6, 0.2, 0.2], stratify=True), seed=0)
    assert (size(data.train), size(data.val), size(data.test)) == (75, 25, 100)


class TwoSplits(Dataset):
    """A class that lists the splits it has, and must not be asked for another."""

    splits = ("train", "test")

    def __init__(self, split: str):
        assert split in self.splits
        self.numbers = range(40) if split == "train" else range(100, 110)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int):
        return torch.tensor([float(self.numbers[index])]), index % 2


def test_a_class_lists_its_splits():
    """`splits = ("train", "test")`: val is taken from train, by Subset where the data isn't in memory."""
    data = build_data(TwoSplits, TwoSplits, Division([0.9, 0.1, 0], stratify=False), seed=0)
    read = {name: [int(x) for x, _ in data[name]] for name in ("train", "val", "test")}
    assert sorted(read["train"] + read["val"]) == list(range(40))
    assert (len(read["val"]), read["test"]) == (4, list(range(100, 110)))


def test_a_class_that_does_not_list_its_splits_is_answered():
    """One that refuses a split which it lacks; a function's own failure stays as it is."""

    def make(split: str) -> Dataset:
        if split == "val":
            raise UserError("data: OnlyTwo refused its arguments (none): no such split")
        return TwoSplits(split)

    class OnlyTwo:
        def __init__(self, split: str):
            pass

    with pytest.raises(UserError, match=r'no such split\nIt was asked for split=val.*splits = \("train", "test"\)'):
        build_data(make, OnlyTwo, Division(), seed=0)
    with pytest.raises(UserError, match=r"no such split$"):
        build_data(make, make, Division(), seed=0)


def test_indices_tell_the_splits_again():
    """What goes into splits.json selects the same samples from the whole."""
    labels = torch.arange(300) % 3
    data = divided(labels)
    for name in ("train", "val", "test"):
        assert data.indices[name]["from"] == "train"
        assert data[name].inputs.tolist() == data.indices[name]["indices"]
        assert data[name].targets.tolist() == labels[data.indices[name]["indices"]].tolist()


def test_a_share_of_zero_is_no_split():
    data = divided([0, 1, 0], fractions=[1, 0, 0])
    assert (data.val, data.test, size(data.train)) == (None, None, 3)
    assert set(data.indices) == {"train"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "no training split"),
        (lambda: InMemory(torch.zeros(0, 1), torch.zeros(0)), "the training split is empty"),
        (lambda: labelled([0, 1, 0]), "leaves no sample for"),
        (lambda split: part(split, 20 if split == "train" else 0), "the split val .* is empty"),
    ],
    ids=["none", "empty", "three samples in ten parts", "an empty split that comes along"],
)
def test_splits_without_samples_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        build_data(make, make, Division([0.8, 0.1, 0.1], stratify=True), seed=0)


# --- classes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "index", "label"), [("train", 3, 2), ("val", 1, -1), ("test", 0, 7)])
def test_labels_outside_the_classes_are_named(split, index, label):
    """The split, the sample's index in it, the label, and the classes there are."""
    sets = {name: labelled([0, 1, 0, 1]) for name in ("train", "val", "test")}
    sets[split].targets[index] = label
    with pytest.raises(UserError, match=f"sample {index} of {split} has label {label}, outside the 2 classes"):
        check_classes(Data(**sets), ["a", "b"])


def test_labels_within_the_classes_pass():
    check_classes(Data(labelled([0, 1, 1]), None, labelled([1, 0])), ["a", "b"])
    with pytest.raises(UserError):  # and the check isn't blind
        check_classes(Data(labelled([0, 1, 1]), None, labelled([1, 0])), ["a"])


class WithoutTargets(Dataset):
    """Labels that are known only when a sample is fetched."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        return torch.zeros(1), [0, 2, 1, 2][index]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (InMemory(torch.zeros(2, 1), torch.tensor([0, 1]), classes=["ape", "bee"]), ["ape", "bee"]),
        (InMemory(torch.zeros(3, 1), torch.tensor([0, 3, 1])), ["0", "1", "2", "3"]),
        (Subset(InMemory(torch.zeros(2, 1), torch.tensor([0, 1]), classes=["ape", "bee"]), [0]), ["ape", "bee"]),
        (WithoutTargets(), ["0", "1", "2"]),
    ],
    ids=["named", "by number", "of a subset", "read through"],
)
def test_class_names(data, names):
    assert class_names_of(data) == names


def test_numbers_are_no_classes():
    with pytest.raises(UserError, match="task=regression"):
        class_names_of(InMemory(torch.zeros(2, 1), torch.tensor([0.5, 1.5])))


def test_a_long_data_set_is_not_read_through():
    with pytest.raises(UserError, match="Give the data set an attribute"):
        class_names_of(WithoutTargets(), most=3)


def test_targets_of_a_subset_are_its_own():
    data = labelled([0, 1, 2, 1])
    assert targets_of(Subset(Subset(data, [3, 2, 0]), [1, 2])).tolist() == [2, 0]
    assert targets_of(WithoutTargets()) is None
    assert targets_of(None) is None


class Rows(Dataset):
    """Rows of a NumPy array, to which noise may be added from a generator of its own."""

    def __init__(self, rows: numpy.ndarray, noise: float = 0.0):
        self.rows, self.noise = rows, noise

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index] + self.noise * numpy.random.default_rng().random(), numpy.int64(index % 2)


def test_a_digest_tells_contents_apart():
    rows = numpy.arange(60.0).reshape(20, 3)
    assert digest(Rows(rows)) == digest(Rows(rows.copy()))
    assert digest(Rows(rows)) != digest(Rows(rows + 1e-9))
    assert digest(Rows(rows)) != digest(Rows(rows.astype("float32")))
    assert digest(labelled([0, 1, 1])) != digest(labelled([0, 1, 0]))


def test_data_that_is_another_one_each_time_has_no_digest():
    """Nobody could say that it has changed: it always has."""
    assert digest(Rows(numpy.arange(60.0).reshape(20, 3), noise=1.0)) is None
