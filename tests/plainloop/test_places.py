"""Where relative paths are looked for."""

from plainloop.places import find_path
from tests.conftest import ROOT


def test_relative_paths_are_looked_for_here_first_then_in_the_checkout(tmp_path):
    """The user's working directory beats the checkout; an absolute path is taken as it is."""
    assert find_path("data/digits.npz") == ROOT / "data" / "digits.npz"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits.npz").touch()
    assert find_path("data/digits.npz").resolve() == (tmp_path / "data" / "digits.npz").resolve()
    assert find_path(tmp_path / "none") == tmp_path / "none"
