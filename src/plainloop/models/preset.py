"""What pretrained weights expect of images."""

from dataclasses import dataclass


@dataclass
class Preset:
    """The shorter side resized to `resize`, the middle `crop` (height, width) cut out, and (x - mean) / std of each
    channel in [0, 1]."""

    mean: list[float]
    std: list[float]
    resize: int
    crop: tuple[int, int]
    interpolation: str
    of: str  # whose they are, for people
