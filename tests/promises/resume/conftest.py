"""Runs that many tests look at."""

import functools
from collections.abc import Callable

import pytest

from tests.promises.resume.runs import RUNS
from tests.resuming import Watched, watched


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Watched]:
    """uninterrupted("smooth"): each of RUNS, trained once."""
    return functools.cache(lambda name: watched(RUNS[name], tmp_path_factory.mktemp(name)))
