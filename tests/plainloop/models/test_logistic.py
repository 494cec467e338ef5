"""The gradient written by hand: against differences, and against autograd."""

import pytest
import torch
from torch import nn

import plainloop
from plainloop.errors import UserError
from plainloop.models.logistic import BCEFunction, LinearFunction, ManualBCE, ManualLinear
from tests.conftest import one_in


def doubles(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_the_linear_layers_gradient_is_that_of_differences():
    """And so is the gradient of its gradient, which needs nothing further."""
    given = doubles((5, 3), (2, 3), (2,))
    assert torch.autograd.gradcheck(LinearFunction.apply, given)
    assert torch.autograd.gradgradcheck(LinearFunction.apply, given)


def test_the_losss_gradient_is_that_of_differences():
    logits, targets = doubles((6,))[0], torch.tensor([0.0, 1, 1, 0, 1, 0.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(BCEFunction.apply, (logits, targets))
    assert torch.autograd.gradgradcheck(BCEFunction.apply, (logits, targets))


@pytest.mark.parametrize("outputs", [1, 4])
def test_both_together_equal_autograd(outputs):
    torch.manual_seed(0)
    manual = ManualLinear(30, outputs)
    reference = nn.Linear(30, outputs)
    reference.load_state_dict(manual.state_dict())
    inputs, targets = torch.randn(20, 30, requires_grad=True), torch.randint(0, 2, (20, outputs)).float()
    losses, gradients = [], []
    for model, loss in ((manual, ManualBCE()), (reference, nn.BCEWithLogitsLoss())):
        losses.append(loss(model(inputs), targets))
        losses[-1].backward()
        gradients.append([inputs.grad, model.weight.grad, model.bias.grad])
        inputs.grad = None
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("logit", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_nothing_overflows(logit):
    """Losses and gradients of logits that are far out are numbers, and torch's."""
    for target in (0.0, 1.0):
        seen = []
        for loss in (ManualBCE(), nn.BCEWithLogitsLoss()):
            logits = torch.tensor([logit, 0.5], requires_grad=True)
            value = loss(logits, torch.tensor([target, 1.0]))
            value.backward()
            seen.append((value, logits.grad))
        assert seen[0][0].isfinite()
        torch.testing.assert_close(*seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", one_in(2, [["loader.batch_size=17", "optimizer.lr=0.5", "trainer.max_epochs=10"], []])
)
def test_the_recipe_finds_the_same_weights_by_hand_as_by_autograd(words):
    words = ["experiment=logistic_regression", "logger=none", "console.every_epochs=50", *words]
    reference = plainloop.train(words)
    manual = plainloop.train([*words, "model=manual_linear", "loss=manual_bce"])
    assert reference.model.linear.weight.abs().max() > 0.1
    torch.testing.assert_close(manual.model.weight, reference.model.linear.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(manual.model.bias, reference.model.linear.bias, rtol=1e-5, atol=1e-6)
    assert manual.metrics["test/accuracy"] == reference.metrics["test/accuracy"]
    assert manual.metrics["test/loss"] == pytest.approx(reference.metrics["test/loss"], rel=1e-5)


def test_either_goes_with_the_others_of_its_kind():
    """The layer with another task's loss, and the loss with another model; where it doesn't fit, it is refused."""
    few = ["trainer.max_epochs=1", "logger=none"]
    assert plainloop.train(["model=manual_linear", *few]).metrics["val/loss"] > 0
    assert plainloop.train(["data=breast_cancer", "model=mlp", "loss=manual_bce", *few]).metrics["val/loss"] > 0
    with pytest.raises(UserError, match="loss=manual_bce doesn't fit task=multiclass"):
        plainloop.train(["model=manual_linear", "loss=manual_bce", *few])
