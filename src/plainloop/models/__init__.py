"""Models, short enough to be read as a course: linear, mlp, cnn, and torchvision's by name.

A model is a `torch.nn.Module` that gets its sizes as arguments; the configs fill them in from the data, as in
`in_features: ${spec.num_features}`. It knows nothing of data, losses or training.
"""

from plainloop.models.autoencoder import Autoencoder
from plainloop.models.cnn import CNN
from plainloop.models.hub_models import hub_model
from plainloop.models.linear import Linear
from plainloop.models.mlp import MLP
from plainloop.models.recurrent import CharRNN, RNNClassifier, SeriesRNN
from plainloop.models.tabular import TabularMLP
from plainloop.models.timm_models import timm_model
from plainloop.models.torchvision_models import torchvision_model

__all__ = [
    "CNN",
    "MLP",
    "Autoencoder",
    "CharRNN",
    "Linear",
    "RNNClassifier",
    "SeriesRNN",
    "TabularMLP",
    "hub_model",
    "timm_model",
    "torchvision_model",
]
