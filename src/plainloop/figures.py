"""Pictures of a run, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def image_grid(images: Tensor, path: Path, most: int = 64) -> None:
    """Write up to `most` images (N, C, H, W) as a square of tiles, each batch's darkest to brightest value spread
    over the grey range and small images enlarged without smoothing."""
    from PIL import Image

    images = images[:most].float()
    low, high = float(images.min()), float(images.max())
    images = (images - low) / (high - low) if high > low else images * 0
    if images.shape[1] not in (1, 3):
        images = images[:, :1]
    columns = max(1, round(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    blank = torch.ones(rows * columns - len(images), *images.shape[1:])
    tiles = torch.nn.functional.pad(torch.cat([images, blank]), (1, 1, 1, 1), value=1.0)
    _, channels, height, width = tiles.shape
    sheet = tiles.reshape(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * height, columns * width, channels).expand(-1, -1, 3)
    picture = Image.fromarray((sheet * 255).round().to(torch.uint8).numpy())
    scale = max(1, 512 // max(picture.size))
    path.parent.mkdir(exist_ok=True)
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(path)


def confusion_matrix(counts: Tensor, names: Sequence[str], path: Path) -> None:
    """Draw counts (C, C): true classes in rows, predicted ones in columns, each row shaded by its shares."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(names)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(12.0, 2.5 + 0.45 * count)
    figure = Figure(figsize=(side, side), dpi=100, layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= 40:
        axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(count), names)
    if count <= 25:
        for row in range(count):
            for column in range(count):
                if counts[row, column]:
                    colour = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(
                        column,
                        row,
                        str(int(counts[row, column])),
                        ha="center",
                        va="center",
                        color=colour,
                        fontsize=8,
                    )
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
