"""Your tasks. configs/task/mine.yaml names this one: python train.py task=mine"""

from typing import Any

from torch import Tensor, nn

from plainloop.tasks.classification import Multiclass
from plainloop.tasks.task import forward


class ConfidentMulticlass(Multiclass):
    """Classes, with a price on over-confidence: loss - penalty * entropy of the prediction (Pereyra et al. 2017).

    Args:
        confidence_penalty: weight of the entropy.
    """

    def __init__(self, *args: Any, confidence_penalty: float = 0.1, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.confidence_penalty = confidence_penalty

    def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        inputs, targets = batch
        outputs = forward(model, inputs)
        log_probabilities = outputs.log_softmax(1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(1).mean()
        return self.loss(outputs, targets) - self.confidence_penalty * entropy, outputs
