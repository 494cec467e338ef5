"""`debug=...`: a few batches, one batch by heart, a profile, the operation that made a NaN."""

import json
from pathlib import Path

import pytest

import plainloop
from plainloop.errors import UserError


def test_debug_fast_takes_a_few_batches_and_leaves_the_test_split_alone():
    run = plainloop.train(["debug=fast"])
    assert run.metrics["steps"] == 6
    assert not any(name.startswith("test/") for name in run.metrics)
    assert run.path.parent.name == "debug_fast"
    with pytest.raises(UserError, match="no run with a checkpoint"):
        plainloop.load_run("latest")  # a debug run is nobody's latest


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "breast_cancer", "penguins"])
def test_debug_overfit_learns_one_batch_by_heart(data):
    run = plainloop.train(["debug=overfit", f"data={data}", "logger=none"])
    assert run.history()[-1]["train/epoch_loss"] < 0.01
    assert run.metrics["steps"] < 1000


@pytest.mark.slow
def test_debug_profile_writes_a_trace_for_the_browser():
    run = plainloop.train(["debug=profile"])
    trace = json.loads((run.path / "profile/trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert "aten::addmm" in names
    assert "Self CPU" in (run.path / "profile/operations.txt").read_text()
    assert run.metrics["steps"] == 20


def test_debug_anomaly_names_the_operation_that_made_a_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, n):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(n, 10)\n"
        "    def forward(self, x):\n"
        "        return torch.sqrt(self.layer(x.flatten(1)) * 0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["model=custom", "model._target_=broken.Net", "model.n=64"]
    with pytest.raises(RuntimeError, match="MulBackward0"), pytest.warns(UserWarning, match="MulBackward0"):
        plainloop.train([*words, "debug=anomaly"])
