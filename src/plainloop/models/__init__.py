"""Models, short enough to be read as a course: linear, mlp, cnn, and torchvision's by name.

A model is a `torch.nn.Module` that gets its sizes as arguments; the configs fill them in from the data, as in
`in_features: ${spec.num_features}`. It knows nothing of data, losses or training.
"""

from plainloop.models.cnn import CNN
from plainloop.models.linear import Linear
from plainloop.models.mlp import MLP
from plainloop.models.torchvision_models import torchvision_model

__all__ = ["CNN", "MLP", "Linear", "torchvision_model"]
