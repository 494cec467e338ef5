"""Everything random follows from the seed and a position.

No generator's state is carried from one step to the next, so none has to be saved, and nothing depends on how
many numbers something else has drawn: the order of an epoch follows from (seed, epoch), the augmentation of a
sample from (seed, epoch, position in that order), dropout in a step from (seed, step, rank).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# One stream of numbers for each use, so that the order of epoch 3 has nothing in common with step 3.
INIT, SPLIT, ORDER, SAMPLE, STEP, MEASURE = range(1, 7)

_MASK = (1 << 64) - 1


def derive(seed: int, *position: int) -> int:
    """A 63-bit seed from a seed and a position, well mixed: splitmix64's finaliser over each number
    (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators")."""
    state = 0
    for number in (seed, *position):
        state = _mixed(state, number)
    return state >> 1


def _mixed(state: int, number: int) -> int:
    state = (state + 0x9E3779B97F4A7C15 * (number + 1)) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def generator(seed: int, *position: int) -> torch.Generator:
    """A CPU generator of its own for a position."""
    return torch.Generator().manual_seed(derive(seed, *position))


def seed_everything(seed: int, *position: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on every device."""
    value = derive(seed, *position)
    seed_default(value)
    torch.manual_seed(value)


def seed_sample(seed: int, epoch: int, position: int) -> None:
    """Before one sample is fetched: its augmentation follows from where it stands in the epoch's order."""
    seed_default(derive(seed, SAMPLE, epoch, position))


def seed_default(value: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generators with a derived value."""
    import numpy

    random.seed(value)
    numpy.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value)  # 1 µs; torch.manual_seed visits every device and takes 80


def states() -> tuple[Any, Any, torch.Tensor]:
    """The states of Python's, NumPy's and torch's CPU generators."""
    import numpy

    return random.getstate(), numpy.random.get_state(), torch.get_rng_state()


def restore(found: tuple[Any, Any, torch.Tensor]) -> None:
    """Give the generators the states that `states` has found."""
    import numpy

    random.setstate(found[0])
    numpy.random.set_state(found[1])
    torch.set_rng_state(found[2])


@contextmanager
def preserved() -> Iterator[None]:
    """Give Python's, NumPy's and torch's CPU generators back as they were."""
    found = states()
    try:
        yield
    finally:
        restore(found)


@contextmanager
def as_in_a_worker() -> Iterator[None]:
    """One thread, as torch's loading processes have (sums over two differ in the last bits), and the caller's random
    state preserved."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # both calls take less than 1 µs
    try:
        with preserved():
            yield
    finally:
        torch.set_num_threads(threads)


class StepSeed:
    """Seeds the generator that dropout draws from, before each step: about 1 µs. From a start that follows from
    (seed, rank), each step goes on by an odd number, so that no seed comes twice in a run.

    Args:
        everything: Python's and NumPy's generators too, which takes ten times as long.
    """

    def __init__(self, seed: int, device: torch.device, rank: int = 0, everything: bool = False):
        self.everything = everything
        self.start = derive(seed, STEP, rank)
        self.generators = [torch.default_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self.generators.append(torch.cuda.default_generators[index])
        self.mps = device.type == "mps"

    def __call__(self, step: int) -> None:
        value = (self.start + 0x9E3779B97F4A7C15 * step) & (_MASK >> 1)
        for each in self.generators:
            each.manual_seed(value)
        if self.mps:
            torch.mps.manual_seed(value)
        if self.everything:
            seed_default(value)
