"""Everything random follows from the seed and a position: the same numbers again, and no two alike."""

import itertools
import random
import subprocess
import sys

import numpy
import pytest
import torch

from plainloop import seeding
from plainloop.seeding import StepSeed, derive, generator, preserved, seed_everything, seed_sample

CPU = torch.device("cpu")
# Positions of every shape that is in use: (use), (use, epoch), (use, epoch, sample), (use, step, rank).
GRID = [
    (seed, *position)
    for seed in (0, 1, 2, 3, 1000, 2**31, 2**63)
    for position in itertools.chain(
        ((use,) for use in range(1, 6)),
        itertools.product(range(1, 6), range(40)),
        itertools.product((4, 5), range(20), range(60)),
    )
]


def drawn() -> tuple[float, float, float]:
    """One number from each default generator."""
    return random.random(), float(numpy.random.rand()), torch.rand(()).item()


def states() -> tuple:
    kind, keys, *rest = numpy.random.get_state()
    return random.getstate(), (kind, keys.tolist(), *rest), torch.get_rng_state().tolist()


@pytest.mark.slow
def test_derive_is_the_same_in_every_process():
    """No hash of Python's, which differs from process to process."""
    code = "from plainloop.seeding import derive; print(derive(7, 3, 1, 4), derive(2**63, 0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(derive(7, 3, 1, 4)), str(derive(2**63, 0))]


def test_derive_gives_63_bits():
    """What torch's manual_seed takes, whatever the seed; large and negative positions too."""
    values = [derive(*place) for place in GRID] + [derive(2**200, 1), derive(0, 2**70), derive(5, -1)]
    assert all(type(value) is int and 0 <= value < 2**63 for value in values)
    for value in values[:100]:
        torch.Generator().manual_seed(value)


def test_derived_seeds_do_not_collide():
    """Nor their low 32 bits, which is what NumPy gets, beyond what chance allows."""
    values = [derive(*place) for place in GRID]
    assert len(set(values)) == len(GRID)
    low = len(GRID) - len({value & 0xFFFFFFFF for value in values})
    expected = len(GRID) ** 2 / 2**33  # of random 32-bit numbers
    assert low <= expected + 5 * expected**0.5


@pytest.mark.parametrize("position", [(), (0,), (3, 1)], ids=str)
def test_neighbouring_seeds_differ(position):
    """Also where there is no position at all."""
    assert len({derive(seed, *position) for seed in range(1000)}) == 1000


def test_positions_are_not_mixed_up():
    """(1, 2) isn't (2, 1), nor (1, 2, 0), nor (12)."""
    places = [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (12,), (1,), (2,), (3,), (1, 1, 1), (1, 1)]
    assert len({derive(0, *place) for place in places}) == len(places)


@pytest.mark.parametrize("axis", range(3))
def test_every_bit_changes_with_probability_one_half(axis):
    """From one place to the next in seed, epoch or position: each of 63 bits, within 5 deviations of chance."""
    flips = torch.zeros(63)
    count = 4000
    for number in range(count):
        place = [3, 4, 5]
        place[axis] = number
        after = [*place]
        after[axis] += 1
        difference = derive(*place) ^ derive(*after)
        flips += torch.tensor([(difference >> bit) & 1 for bit in range(63)])
    assert ((flips / count - 0.5).abs() < 5 * 0.5 / count**0.5).all()


def test_a_generator_is_its_own():
    """The same position gives the same numbers, and the default generators aren't touched."""
    before = states()
    first = torch.rand(5, generator=generator(1, seeding.ORDER, 3))
    assert torch.equal(torch.rand(5, generator=generator(1, seeding.ORDER, 3)), first)
    assert not torch.equal(torch.rand(5, generator=generator(1, seeding.SPLIT, 3)), first)
    assert states() == before


@pytest.mark.parametrize("seed_them", [seed_everything, seed_sample])
def test_all_three_libraries_are_seeded(seed_them):
    """Python's, NumPy's and torch's numbers come again with the position, and are others at another."""
    found = []
    for place in ((1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3), (1, 2, 3)):
        seed_them(*place)
        found.append(drawn())
    assert found[0] == found[4]
    for one, other in itertools.combinations(found[:4], 2):
        assert all(a != b for a, b in zip(one, other, strict=True))


def test_uses_have_streams_of_their_own():
    """The order of epoch 3 has nothing in common with step 3."""
    uses = [seeding.INIT, seeding.SPLIT, seeding.ORDER, seeding.SAMPLE, seeding.STEP]
    assert len({derive(0, use, 3) for use in uses}) == len(uses)


def fails_after_drawing() -> None:
    seed_sample(1, 2, 3)
    drawn()
    raise KeyError


def test_preserved_gives_the_generators_back():
    """Whatever happens within, also when it fails; what comes after is what would have come."""
    seed_everything(1)
    expected = [drawn() for _ in range(2)]
    seed_everything(1)
    assert drawn() == expected[0]
    with preserved():
        drawn()
        seed_everything(99)
    before = states()
    with pytest.raises(KeyError), preserved():
        fails_after_drawing()
    assert states() == before
    assert drawn() == expected[1]


def test_dropout_follows_from_seed_step_and_rank():
    """The same mask at the same step whatever was drawn before; another at another step, rank or seed."""
    ones, masks = torch.ones(200), {}
    for seed, rank, step in itertools.product((0, 1), (0, 1), (0, 1, 2)):
        torch.rand(seed + rank + step)
        StepSeed(seed, CPU, rank)(step)
        masks[seed, rank, step] = torch.dropout(ones, 0.5, train=True)
    assert len({tuple(mask.tolist()) for mask in masks.values()}) == len(masks)
    torch.rand(7)
    StepSeed(1, CPU, 0)(2)
    assert torch.equal(torch.dropout(ones, 0.5, train=True), masks[1, 0, 2])
