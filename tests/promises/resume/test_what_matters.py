"""What doesn't matter to a run's bits, and what does: seeds, workers, threads, validations."""

import random

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

import plainloop
from plainloop.config import schema
from plainloop.data import make_loader
from tests.promises.resume.runs import RUNS, SMOOTH, TWO, trainers
from tests.resuming import differences, newest, unequal


def test_the_same_seed_gives_the_same_bits(uninterrupted, tmp_path):
    random.seed(5)  # nor does what was drawn before matter
    torch.rand(7)
    again = plainloop.train([*SMOOTH, "checkpoint.every_steps=1", f"hydra.run.dir={tmp_path}/again"])
    assert differences(uninterrupted("smooth").path, again.path) == []


def test_another_seed_gives_others():
    """Other first weights, another order, other augmentation, other dropout."""
    one, other = (trainers(f"seed={seed}")() for seed in (0, 1))
    assert not torch.equal(next(one.model.parameters()), next(other.model.parameters()))
    assert one.train_batches.source.order(0).tolist() != other.train_batches.source.order(0).tolist()
    plain, fixed = (trainers(f"seed={seed}", "loader.shuffle=false")() for seed in (0, 1))
    for (images, targets), (others, same) in zip(
        plain.train_batches.epoch(0), fixed.train_batches.epoch(0), strict=True
    ):
        assert torch.equal(targets, same)
        assert not any(torch.equal(image, other) for image, other in zip(images, others, strict=True))
    masks = []
    for trainer in (one, other):
        trainer.seed_step(3)
        masks.append(torch.dropout(torch.ones(100), 0.5, train=True))
    assert not torch.equal(*masks)


LOADING = [
    TWO,
    [*TWO, "loader.prefetch_factor=5"],
    [*TWO, "loader.persistent_workers=false"],
    ["loader.num_workers=1", TWO[1]],
    ["loader.num_workers=4", TWO[1], "loader.prefetch_factor=1"],
]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["console.progress=true"], *LOADING[:1]], ids=" ".join)
def test_what_shows_and_what_loads_does_not_matter(words, uninterrupted, tmp_path):
    run = plainloop.train([*SMOOTH, "checkpoint.every_steps=1", f"hydra.run.dir={tmp_path}/run", *words])
    assert differences(uninterrupted("smooth").path, run.path) == []


@pytest.mark.slow
@pytest.mark.parametrize("words", LOADING[1:], ids=" ".join)
@pytest.mark.parametrize("name", ["smooth", "rough", "shuffling", "remembering", "in_memory"])
def test_however_it_is_loaded_the_bits_are_the_same(name, words, uninterrupted, tmp_path):
    run = plainloop.train([*RUNS[name], "checkpoint.every_steps=1", f"hydra.run.dir={tmp_path}/run", *words])
    assert differences(uninterrupted(name).path, run.path) == []


class Averaged(Dataset):
    """Samples that are sums over many numbers, whose last bits depend on how many threads add them up."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(index)).sum()


def test_threads_do_not_matter_to_what_is_loaded():
    """torch's loading processes have one thread; the main process may have more."""
    try:
        torch.set_num_threads(2)
        by_two = torch.stack([Averaged()[index] for index in range(24)])
        options = {"seed": 1, "device": torch.device("cpu")}
        section = schema.Loader(batch_size=8, shuffle=False, num_workers=0)
        alone = torch.cat(list(make_loader(Averaged(), section, **options).epoch(0)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    by_one = torch.stack([Averaged()[index] for index in range(24)])
    section = schema.Loader(batch_size=8, shuffle=False, num_workers=2, multiprocessing_context="fork")
    with make_loader(Averaged(), section, **options) as loader:
        loaded = torch.cat(list(loader.epoch(0)))
    assert unequal(alone, by_one) == unequal(alone, loaded) == []
    assert unequal(by_two, by_one) != []  # it would have mattered


@pytest.mark.slow
def test_validation_and_logging_leave_the_training_alone(uninterrupted, tmp_path):
    """However often: weights, buffers, averages, moments and rates are the same."""
    whole = newest(uninterrupted("smooth").path)
    for number, word in enumerate(("trainer.validate_every=0", "trainer.validate_every=4s", "trainer.log_every=1")):
        patience = ["early_stopping.patience=null"] if word.endswith("=0") else ["early_stopping.patience=99"]
        run = plainloop.train([*SMOOTH, word, *patience, f"hydra.run.dir={tmp_path}/{number}"])
        state = newest(run.path)
        for part in ("model", "average", "task", "optimizer", "schedule"):
            assert unequal(whole[part], state[part], part) == []
