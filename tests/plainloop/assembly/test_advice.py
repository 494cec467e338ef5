"""What would fit is found in the options, the user's own among them."""

import pytest

import plainloop
from plainloop.errors import UserError
from tests.conftest import copy_configs


@pytest.mark.slow
def test_an_option_of_data_that_builds_on_another_is_looked_at(tmp_path, monkeypatch):
    option = copy_configs(tmp_path, monkeypatch) / "data" / "small.yaml"
    option.write_text("# @package _global_\ndefaults:\n  - digits\n  - _self_\nloader:\n  batch_size: 16\n")
    assert plainloop.train(["data=small", "model=linear", "debug=fast", "logger=none"])
    with pytest.raises(UserError, match="model=rnn doesn't fit data=digits"):
        plainloop.train(["model=rnn"])


@pytest.mark.slow
def test_a_task_that_an_option_takes_over_counts(tmp_path, monkeypatch):
    """One that builds on `one_string` is for a model of sequences, as that is."""
    configs = copy_configs(tmp_path, monkeypatch)
    (configs / "data" / "my_string.yaml").write_text("# @package _global_\ndefaults:\n  - one_string\n  - _self_\n")
    (configs / "data" / "bare.yaml").write_text("_target_: project.data.TwoMoons\n")
    (configs / "model" / "here.yaml").write_text("defaults:\n  - mlp@_here_\n  - _self_\nhidden_sizes: [8]\n")
    with pytest.raises(UserError, match=r"Data for this model: .*my_string.*one_string"):
        plainloop.train(["model=char_rnn"])
    with pytest.raises(UserError, match=r"Models that fit: .*here"):
        plainloop.train(["data=penguins", "model=cnn"])
