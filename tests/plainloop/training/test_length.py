"""How long a run is, and when it validates on the way."""

import pytest

from plainloop.training.length import Length


def test_whichever_comes_first_ends_a_run():
    length = Length(max_epochs=3, max_steps=100)
    assert length.reached(2, 99) == ""
    assert length.reached(3, 50) == "3 epochs done"
    assert length.reached(1, 100) == "100 steps done"


@pytest.mark.parametrize("every", [2, "2"])
def test_epochs_between_validations(every):
    length = Length(max_epochs=5, validate_every=every)
    assert [length.validates_after(epoch, 10 * epoch, last=epoch == 5) for epoch in range(1, 6)] == [
        False,
        True,
        False,
        True,
        True,  # a run that validates does so at its end
    ]
    assert not any(length.validates_within(step) for step in range(50))


def test_steps_between_validations():
    length = Length(max_epochs=2, validate_every="4s")
    assert [step for step in range(13) if length.validates_within(step)] == [4, 8, 12]
    assert length.validates_after(1, 8, last=False)
    assert not length.validates_after(1, 10, last=False)
    assert length.validates_after(2, 10, last=True)


@pytest.mark.parametrize("never", [0, "0"])
def test_never(never):
    length = Length(validate_every=never)
    assert not length.validates_after(1, 40, last=True)
    assert not length.validates_within(40)
