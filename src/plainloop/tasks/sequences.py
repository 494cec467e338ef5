"""A class for every place of a sequence."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.data import Data, class_names_of, first_sample, targets_of
from plainloop.data.dataset import IGNORED
from plainloop.errors import UserError, described
from plainloop.tasks import metrics as metrics_room
from plainloop.tasks.classification import ByClasses, log_shares_of
from plainloop.tasks.task import expect, forward


class SequenceLabelling(ByClasses):
    """A class for every place of a sequence. Outputs are logits (N, T, C), targets classes (N, T), predictions
    probabilities (N, T, C).

    Places that the loss ignores (its `ignore_index`, -100 by default: padding) count neither in the loss nor in
    metrics; what counts as a sample, in means, is a place.
    """

    kind = "sequence_labelling"
    script = """\
for row in said["probabilities"]:
    print(json.dumps({"prediction": " ".join(facts["names"][place] for place in row.argmax(-1))}))
"""

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        target = torch.as_tensor(first_sample(data.train, data.skip)[1])
        if target.ndim != 1 or target.is_floating_point():
            raise UserError(
                "task=sequence_labelling needs a class for every place of a sequence, (T,) per sample; these "
                f"targets are {described(target)}.{' Try task=multiclass' if target.ndim == 0 else ''}"
            )
        names = class_names_of(data.train, skip=data.skip)
        return {"num_outputs": len(names), "num_classes": len(names), "class_names": names}

    def size(self, batch: Any) -> int:
        return int((batch[1] != self.ignored).sum())

    @property
    def ignored(self) -> int:
        """The label of places that don't count."""
        return getattr(self.loss, "ignore_index", IGNORED)

    def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        inputs, targets = batch
        outputs = forward(model, inputs)
        return self.loss(outputs.flatten(0, 1), targets.flatten()), outputs

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(-1)

    def answers(self, outputs: Any, inputs: Any, names: Sequence[str], top: int, every: bool) -> dict[str, list[Any]]:
        """The most probable class of every place, parted by blanks; the padding's places left out."""
        probability, best = self.predict(outputs).cpu().max(-1)
        lengths = inputs["lengths"].tolist() if isinstance(inputs, dict) and "lengths" in inputs else [None] * len(best)
        rows = zip(best.tolist(), probability.tolist(), lengths, strict=True)
        cut = [(row[:length], each[:length]) for row, each, length in rows]
        found = [" ".join(names[place] for place in row) for row, _ in cut]
        least = [min(each) for _, each in cut]
        return {"prediction": found, "least probability": least}

    def truths(self, batch: Any, names: Sequence[str]) -> dict[str, list[Any]]:
        rows = batch[1].tolist()
        return {"target": [" ".join(names[place] for place in row if place != self.ignored) for row in rows]}

    def counted(self, batch: Any) -> Tensor | None:
        return batch[1] != self.ignored

    def trivial(self, data: Data) -> Tensor | None:
        """The logarithms of the classes' shares of all places."""
        return log_shares_of(targets_of(data.train), self.num_outputs, self.ignored)

    def named(self, outputs: Any, inputs: Any) -> dict[str, Tensor]:
        return {"logits": outputs, "probabilities": self.predict(outputs)}

    def update(self, metrics: Mapping[str, Any], outputs: Any, batch: Any) -> None:
        kept = batch[1] != self.ignored
        outputs, targets = outputs[kept], batch[1][kept]
        if type(self).predict is SequenceLabelling.predict:
            metrics = metrics_room.update_ranking(metrics, outputs, targets)
        if metrics:
            metrics_room.update_all(metrics, self.predict(outputs), targets)

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        shape = (*targets.shape, self.num_outputs)
        expect(isinstance(outputs, Tensor) and tuple(outputs.shape) == shape, outputs, f"logits {shape}")
