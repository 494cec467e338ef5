"""Your data sets. configs/data/mine.yaml names this one: python train.py data=mine"""

import math

import torch
from torch import Tensor
from torch.utils.data import Dataset

from plainloop.data.kinds.new_arrays import ArrayReader


class TwoMoons(Dataset):
    """Points of two interleaved half circles: inputs (2,), classes 0 and 1.

    Args:
        count: number of points.
        noise: deviation of the normal noise on both coordinates.
        seed: of the points; the split into train, val and test follows from the run's own seed.
    """

    classes = ("upper", "lower")
    reader = ArrayReader  # of new points: python predict.py run=latest 'input=[[0.5,0.2]]'

    def __init__(self, count: int = 1000, noise: float = 0.15, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        angle = torch.rand(count, generator=generator) * math.pi
        self.targets = torch.randint(0, 2, (count,), generator=generator)
        side = 1 - 2 * self.targets
        x = torch.cos(angle) * side + self.targets
        y = torch.sin(angle) * side + 0.5 * self.targets
        self.points = torch.stack([x, y], dim=1) + noise * torch.randn(count, 2, generator=generator)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index], self.targets[index]
