"""What a step does beside forward and loss, against torch's own functions."""

import copy
import math

import pytest
import torch
from torch import nn

from plainloop.errors import MachineError
from plainloop.training.update import MANY, SkippingUpdate, Update, make_update, total_norm


def model_and_loss() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    return model, model(torch.randn(16, 4)).square().mean()


def test_it_is_torchs_five_lines():
    model, loss = model_and_loss()
    update = make_update(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), [model])
    update.zero_grad()
    update.backward(loss)
    assert update.clip(measure=False) is None
    update.step()

    other, loss = model_and_loss()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert mine.equal(theirs)


@pytest.mark.parametrize("dtypes", [[torch.float32] * 3, [torch.float32, torch.float64, torch.bfloat16]])
def test_the_norm_is_torchs(dtypes):
    tensors = [torch.randn(3, 5).to(dtype) for dtype in dtypes]
    assert total_norm(tensors).equal(nn.utils.get_total_norm(tensors))


def test_the_norm_of_a_sparse_gradient_is_torchs():
    embedding = nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1, 1, 4])).sum().backward()
    gradients = [embedding.weight.grad.coalesce()]
    assert total_norm(gradients).item() == pytest.approx(math.sqrt(3 * 4 + 3))  # a row twice, and one once


def test_clipping_gives_the_norm_from_before():
    model, loss = model_and_loss()
    update = Update(torch.optim.SGD(model.parameters(), lr=0.1), max_grad_norm=1e-3)
    update.backward(loss)
    norm = nn.utils.get_total_norm([p.grad.clone() for p in model.parameters()])
    assert update.clip(measure=False).equal(norm)
    assert total_norm([p.grad for p in model.parameters()]).item() == pytest.approx(1e-3, rel=1e-3)


def test_a_gradient_or_weight_that_is_not_finite_ends_the_run():
    model, _ = model_and_loss()
    update = make_update(torch.optim.SGD(model.parameters(), lr=0.1), [model])
    assert update.check(1.0, step=7) == {}
    with pytest.raises(MachineError, match="the gradient's norm is nan at step 7"):
        update.check(math.nan, step=7)
    model[1].running_var[0] = math.inf  # no parameter, and lost all the same
    with pytest.raises(MachineError, match="the weights hold NaN or infinity at step 7"):
        update.check_epoch(step=7, last=False)


def test_large_weights_are_finite_though_their_norm_is_not():
    model = nn.Linear(4, 4)
    nn.init.constant_(model.weight, 3e38)
    assert not total_norm(list(model.parameters())).isfinite()
    make_update(torch.optim.SGD(model.parameters(), lr=0.1), [model]).check_weights("at step 1")


def test_a_skipped_step_leaves_weights_state_and_buffers():
    model, _ = model_and_loss()
    update = make_update(torch.optim.Adam(model.parameters(), lr=0.1), [model], nonfinite="skip")
    assert isinstance(update, SkippingUpdate)
    before = copy.deepcopy(model.state_dict())
    update.keep()
    loss = model(torch.full((16, 4), math.nan)).sum()
    assert not model[1].running_mean.isfinite().any()
    update.backward(loss)
    update.step()
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert update.check(math.nan, step=1) == {"skipped_steps": 1}
    assert update.state_dict() == {"skipped": 1, "in_a_row": 1}
    with pytest.raises(MachineError, match="the last 1 steps were skipped"):
        update.check_epoch(step=1, last=True)  # all that there were


def test_a_run_is_given_up_where_no_norm_is_measured_either():
    """As under a `train_step` of the user's own that returns None for it."""
    model, _ = model_and_loss()
    update = make_update(torch.optim.SGD(model.parameters(), lr=0.1), [model], nonfinite="skip")
    for step in range(1, MANY + 1):
        update.keep()
        update.backward(model(torch.full((16, 4), math.nan)).sum())
        update.step()
        if step < MANY:
            assert update.check(None, step) == {"skipped_steps": step}
    with pytest.raises(MachineError, match=f"the last {MANY} steps were skipped"):
        update.check(None, MANY)


class Averages(nn.Module):
    """A buffer that is not changed in place, but replaced."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs):
        self.mean = 0.9 * self.mean + 0.1 * inputs.mean(0)
        return self.layer(inputs - self.mean)


def test_a_buffer_that_is_replaced_is_put_back_too():
    model = Averages()
    update = make_update(torch.optim.SGD(model.parameters(), lr=0.1), [model], nonfinite="skip")
    model(torch.ones(16, 4))
    update.keep()
    update.backward(model(torch.full((16, 4), math.nan)).sum())
    update.step()
    torch.testing.assert_close(model.mean, torch.full((4,), 0.1))
