"""What would fit is found in the options, the user's own among them."""

import pytest

import plainloop
from plainloop.errors import UserError
from tests.conftest import copy_configs


def test_an_option_of_data_that_builds_on_another_is_looked_at(tmp_path, monkeypatch):
    option = copy_configs(tmp_path, monkeypatch) / "data" / "small.yaml"
    option.write_text("# @package _global_\ndefaults:\n  - digits\n  - _self_\nloader:\n  batch_size: 16\n")
    assert plainloop.train(["data=small", "model=linear", "debug=fast", "logger=none"])
    with pytest.raises(UserError, match="model=rnn doesn't fit data=digits"):
        plainloop.train(["model=rnn"])
