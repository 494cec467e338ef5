"""Pictures of a run, as PNG files."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

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
    path.parent.mkdir(exist_ok=True)
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(path)


def line_plot(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    x_label: str,
    y_label: str,
    size: tuple[int, int] = (720, 400),
) -> None:
    """Draw named lines through points (x, y), with axes from the lowest to the highest value, and the legend where
    it covers least of them."""
    from PIL import Image, ImageDraw, ImageFont

    scale = 2  # drawn twice as large and made smaller, so that lines are smooth
    width, height = size[0] * scale, size[1] * scale
    left, right, top, bottom = 90 * scale, 24 * scale, 34 * scale, 56 * scale
    points = [point for line in lines.values() for point in line if all(map(math.isfinite, point))]
    ends = [(min(values), max(values)) for values in zip(*points, strict=True)] or [(0.0, 1.0), (0.0, 1.0)]
    (x_low, x_high), (y_low, y_high) = [(low, high if high > low else low + (abs(low) or 1.0)) for low, high in ends]
    picture = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13 * scale)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    for y in _ticks(y_low, y_high):
        pen.line((place(x_low, y), place(x_high, y)), fill=(225, 225, 225), width=scale)
        pen.text((left - 8 * scale, place(x_low, y)[1]), f"{y:.6g}", "black", font, anchor="rm")
    for x in _ticks(x_low, x_high):
        pen.text((place(x, y_low)[0], height - bottom + 6 * scale), f"{x:,.6g}", "black", font, anchor="ma")
    pen.text(((left + width - right) / 2, height - 6 * scale), x_label, "black", font, anchor="mb")
    pen.text((8 * scale, 6 * scale), y_label, "black", font, anchor="la")
    drawn = {name: [place(*point) for point in line if all(map(math.isfinite, point))] for name, line in lines.items()}
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(lines))]
    for line, colour in zip(drawn.values(), colours, strict=True):
        pen.line(line, fill=colour, width=2 * scale, joint="curve")
    if len(lines) > 1:
        row, swatch, gap = 18 * scale, 22 * scale, 6 * scale
        wide, high = swatch + 3 * gap + max(font.getlength(name) for name in lines), row * len(lines) + gap
        most_right, lowest = width - right - wide - gap, height - bottom - high - gap
        across = (most_right, (left + most_right) / 2, left + gap)
        places = [(x, y) for y in (top + gap, lowest) for x in across]
        x, y = min(places, key=lambda place: _inside(drawn.values(), place[0], place[1], wide, high))
        pen.rectangle((x, y, x + wide, y + high), "white", (225, 225, 225), scale)
        for number, (name, colour) in enumerate(zip(lines, colours, strict=True)):
            middle = y + gap / 2 + (number + 0.5) * row
            pen.line([(x + gap, middle), (x + gap + swatch, middle)], fill=colour, width=2 * scale)
            pen.text((x + 2 * gap + swatch, middle), name, "black", font, anchor="lm")
    path.parent.mkdir(exist_ok=True)
    picture.resize(size, Image.Resampling.LANCZOS).save(path)


def _inside(
    lines: Iterable[Sequence[tuple[float, float]]], left: float, top: float, width: float, height: float
) -> int:
    """How much of the lines lies within a box: of a hundred points on each, evenly spread over its corners."""
    found = 0
    for line in lines:
        for number in range(100 if len(line) > 1 else 0):
            place, share = divmod(number / 100 * (len(line) - 1), 1)
            (x0, y0), (x1, y1) = line[int(place)], line[int(place) + 1]
            x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
            found += left <= x <= left + width and top <= y <= top + height
    return found


def _ticks(low: float, high: float) -> list[float]:
    """Three to nine round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.6)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def confusion_matrix(counts: Tensor, names: Sequence[str], path: Path) -> None:
    """Draw counts (C, C): true classes in rows, predicted ones in columns, each row shaded by its shares.

    With Pillow alone: importing matplotlib would take a third of a second of every run.
    """
    from PIL import Image, ImageDraw, ImageFont

    count = len(names)
    cell = max(1, min(48, 960 // count))
    font = ImageFont.load_default(size=max(8, min(16, cell // 2)))
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
            left, top, share = margin + column * cell, 20 + row * cell, float(shares[row, column])
            pen.rectangle((left, top, left + cell - 1, top + cell - 1), outline=(230, 230, 230))
            if counts[row, column] and cell >= 20:
                colour = "white" if share > 0.5 else "black"
                pen.text((left + cell / 2, top + cell / 2), str(int(counts[row, column])), colour, font, anchor="mm")
    for number, label in enumerate(labels if cell >= 10 else ()):
        middle = number * cell + cell / 2
        pen.text((margin - 6, 20 + middle), label, "black", font, anchor="rm")
        upright = Image.new("RGB", (margin - 34, cell), "white")  # names of columns are turned by 90 degrees
        ImageDraw.Draw(upright).text((margin - 36, cell / 2), label, "black", font, anchor="rm")
        turned = upright.rotate(90, expand=True)
        picture.paste(turned, (margin + number * cell, 20 + side + 6))
    title = ImageFont.load_default(size=14)
    pen.text((margin + side / 2, side + margin + 10), "predicted", "black", title, anchor="mm")
    sideways = Image.new("RGB", (80, 18), "white")
    ImageDraw.Draw(sideways).text((40, 9), "true", "black", title, anchor="mm")
    picture.paste(sideways.rotate(90, expand=True), (4, 20 + side // 2 - 40))
    path.parent.mkdir(exist_ok=True)
    picture.save(path)
