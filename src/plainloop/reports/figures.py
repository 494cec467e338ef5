"""Pictures of a run: PNG files drawn with Pillow (importing matplotlib would take a third of a second of every run),
and curves as SVG, which every browser shows."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plainloop.reports.axes import round_numbers
from plainloop.runs.atomic import replace_text, replacing

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFont import FreeTypeFont, ImageFont

# Told apart by those who don't see red and green, too (Okabe and Ito 2008, "Color universal design").
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]


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
    _save(picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST), path)


def line_plot(
    lines: Mapping[str, Sequence[tuple[float, float]]], path: Path, x_label: str, y_label: str, most: float = math.inf
) -> None:
    """Write named lines through points (x, y) as an SVG, with axes from the lowest to the highest value.

    Args:
        most: points whose y is above it, or isn't finite, are left out.
    """
    shown = {name: [(x, y) for x, y in line if math.isfinite(y) and y <= most] for name, line in lines.items()}
    points = [point for line in shown.values() for point in line] or [(0.0, 0.0)]
    (x_low, x_high), (y_low, y_high) = (
        (min(values), max(values) if max(values) > min(values) else min(values) + 1)
        for values in zip(*points, strict=True)
    )
    left, top, width, height = 70, 30, 540, 320

    def across(x: float) -> float:
        return left + width * (x - x_low) / (x_high - x_low)

    def down(y: float) -> float:
        return top + height * (y_high - y) / (y_high - y_low)

    parts = [f'<text x="8" y="18">{escape(y_label)}</text>']
    parts += [f'<text x="{left + width / 2}" y="{top + height + 42}" text-anchor="middle">{escape(x_label)}</text>']
    for x in round_numbers(x_low, x_high, 8):
        parts.append(f'<text x="{across(x):.1f}" y="{top + height + 20}" text-anchor="middle">{x:,.6g}</text>')
    for y in round_numbers(y_low, y_high, 8):
        parts.append(f'<path d="M{left} {down(y):.1f}h{width}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{y:.6g}</text>')
    for number, (name, line) in enumerate(shown.items()):
        colour, level = COLOURS[number % len(COLOURS)], top + 4 + 20 * number
        places = " ".join(place for place, _ in groupby(f"{across(x):.1f},{down(y):.1f}" for x, y in line))
        parts += [
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<text x="{left + width + 14}" y="{level}" fill="{colour}">{escape(name)}</text>',
        ]
    whole = left + width + 28 + 8 * max(map(len, shown), default=0)  # beside the lines, so that no name covers one
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} 400" font-family="sans-serif" font-size="13">'
    path.parent.mkdir(exist_ok=True)
    replace_text(path, "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"]))


def confusion_matrix(counts: Tensor, names: Sequence[str], path: Path) -> None:
    """Draw counts (C, C): true classes in rows, predicted ones in columns, each row shaded by its shares."""
    from PIL import Image, ImageDraw, ImageFont

    count = len(names)
    cell = max(1, min(48, 960 // count))
    font, title = ImageFont.load_default(size=max(8, min(16, cell // 2))), ImageFont.load_default(size=14)
    labels = [name if len(name) <= 16 else name[:15] + "." for name in names]
    margin = int(max(font.getlength(label) for label in labels)) + 40
    side = count * cell
    picture = Image.new("RGB", (margin + side + 20, side + margin + 20), "white")
    pen = ImageDraw.Draw(picture)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    dark = torch.tensor([8.0, 48.0, 107.0])
    shades = (255 + shares[:, :, None] * (dark - 255)).round().to(torch.uint8)  # white to dark blue
    grid = Image.fromarray(shades.numpy()).resize((side, side), Image.Resampling.NEAREST)
    picture.paste(grid, (margin, 20))
    for row in range(count if cell >= 10 else 0):
        for column in range(count):
            left, top = margin + column * cell, 20 + row * cell
            pen.rectangle((left, top, left + cell - 1, top + cell - 1), outline=(230, 230, 230))
            if counts[row, column] and cell >= 20:
                colour = "white" if shares[row, column] > 0.5 else "black"
                pen.text((left + cell / 2, top + cell / 2), str(int(counts[row, column])), colour, font, anchor="mm")
    for number, label in enumerate(labels if cell >= 10 else ()):
        pen.text((margin - 6, 20 + number * cell + cell / 2), label, "black", font, anchor="rm")
        picture.paste(_upwards(label, font, margin - 34, cell, "rm"), (margin + number * cell, 20 + side + 6))
    pen.text((margin + side / 2, side + margin + 10), "predicted", "black", title, anchor="mm")
    picture.paste(_upwards("true", title, 80, 18, "mm"), (4, 20 + side // 2 - 40))
    _save(picture, path)


def _upwards(text: str, font: "FreeTypeFont | ImageFont", width: int, height: int, anchor: str) -> "Picture":
    """A text in a box, at its right end ("rm") or in its middle ("mm"), the whole turned by 90 degrees."""
    from PIL import Image, ImageDraw

    box = Image.new("RGB", (width, height), "white")
    place = (width - 2 if anchor == "rm" else width / 2, height / 2)
    ImageDraw.Draw(box).text(place, text, "black", font, anchor=anchor)
    return box.rotate(90, expand=True)


def _save(picture: "Picture", path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        picture.save(file, "PNG")
