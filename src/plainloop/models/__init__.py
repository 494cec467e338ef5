"""Models, short enough to be read as a course, in this order:

    linear.py              one layer, as torch has it and with two parameters alone
    logistic.py            the same with a gradient written by hand: what autograd does
    layers.py, mlp.py      something non-linear in between
    autoencoder.py         a network that gives its input back through a narrow place
    tabular.py             words beside numbers: embeddings
    cnn.py                 images: the same weights at every place
    resnet.py              deeper: what is learned is added to what was there
    recurrent.py           sequences: a state that is carried along; RNN, LSTM and GRU
    characters.py          how a model of characters writes
    attention.py           sequences again: every place asks all others; the transformer's block
    transformer.py         it reads texts
    char_transformer.py    it writes
    vit.py                 it sees: an image is a sequence of patches
    zoo/                   all that others have built of such pieces, by name

A model is a `torch.nn.Module` that gets its sizes as arguments; the configs fill them in from the data, as in
`in_features: ${spec.num_features}`. It knows nothing of data, losses or training. What is done to models: blocks.py
takes one apart, freezing.py says which parts are trained, weights.py loads initial
ones, preset.py says what pretrained ones expect of images, unpacked.py makes recurrent ones ready for exporters.

Imports: ground.
"""

from plainloop.build import hands_on
from plainloop.models.autoencoder import Autoencoder
from plainloop.models.char_transformer import CharTransformer
from plainloop.models.cnn import CNN
from plainloop.models.linear import BareLinear, Linear
from plainloop.models.logistic import ManualBCE, ManualLinear
from plainloop.models.mlp import MLP
from plainloop.models.recurrent import CharRNN, RNNClassifier, SeriesRNN
from plainloop.models.resnet import ResNet
from plainloop.models.tabular import TabularMLP
from plainloop.models.transformer import TransformerClassifier
from plainloop.models.vit import ViT

__all__ = [
    "CNN",
    "MLP",
    "Autoencoder",
    "BareLinear",
    "CharRNN",
    "CharTransformer",
    "Linear",
    "ManualBCE",
    "ManualLinear",
    "RNNClassifier",
    "ResNet",
    "SeriesRNN",
    "TabularMLP",
    "TransformerClassifier",
    "ViT",
]
__getattr__ = hands_on(__name__, "zoo")
