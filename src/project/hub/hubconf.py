"""A torch.hub repository of your own, as a folder: each function here is an entry point, and returns a model.

python train.py model=hub model.repo=src/project/hub model.entrypoint=small_resnet 'trust=[src/project/hub]'
"""

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

dependencies = ["torch", "torchvision"]  # what must be installed


def small_resnet(num_classes: int, in_channels: int = 3, blocks: int = 1) -> nn.Module:
    """torchvision's ResNet for images of 8 x 8 pixels and more: it begins with a 3 x 3 convolution and halves an image
    three times instead of five (as He et al. 2015 did for CIFAR, "Deep residual learning for image recognition").

    Args:
        blocks: in each of the four stages; 2 make a ResNet-18.
    """
    model = ResNet(BasicBlock, [blocks] * 4, num_classes=num_classes)
    model.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model
