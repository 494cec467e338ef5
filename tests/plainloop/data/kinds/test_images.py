"""Images in files: decoded to the pixels that they hold, found in folders and tables; what is wrong is named."""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy
import polars
import pytest
import torch
from PIL import Image

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.config.compose import compose
from plainloop.data import Division, build_data
from plainloop.data.kinds import files
from plainloop.data.kinds.images import Images, decode, images, suitable_size
from plainloop.errors import MachineError, UserError
from tests import formats
from tests.conftest import one_in

RANDOM = numpy.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (20, 30, 3), dtype=numpy.uint8)
GREY = COLOUR[:, :, 0]
OWN = (20, 30)  # height and width of these


def decoded(
    image: Any, path: Path, channels: int, size: tuple[int, int] = OWN, deep: bool = False, **options: Any
) -> numpy.ndarray:
    """Save a Pillow image, and decode the file: (height, width, channels), or (height, width) where it is grey."""
    image.save(path, **options)
    tensor = decode(path, size, channels, deep)
    assert tensor.is_contiguous()
    assert tuple(tensor.shape) == (channels, *size)
    assert tensor.dtype == (torch.float32 if deep else torch.uint8)
    return tensor[0].numpy() if channels == 1 else tensor.permute(1, 2, 0).numpy()


# --- what a file holds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp", ".gif"])
def test_grey_and_colour_files_give_their_pixels(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    if suffix != ".gif":  # which has 256 colours at most
        assert numpy.array_equal(decoded(Image.fromarray(COLOUR), tmp_path / f"c{suffix}", 3, **options), COLOUR)
    if suffix != ".webp":  # which has no grey
        assert numpy.array_equal(decoded(Image.fromarray(GREY), tmp_path / f"g{suffix}", 1), GREY)
        assert numpy.array_equal(
            decoded(Image.fromarray(GREY), tmp_path / f"g3{suffix}", 3), GREY[..., None].repeat(3, 2)
        )


def test_colour_becomes_grey_by_the_luma(tmp_path):
    """ITU-R BT.601, within one level of rounding."""
    luma = COLOUR @ numpy.array([0.299, 0.587, 0.114])
    assert abs(decoded(Image.fromarray(COLOUR), tmp_path / "a.png", 1) - luma).max() < 1


def test_jpegs_come_close(tmp_path):
    """A smooth picture at quality 95: within a few levels of what was saved, in colour and in grey."""
    y, x = numpy.mgrid[:64, :64]
    smooth = numpy.stack([2 * y + x, 3 * x, 255 - 2 * y - x], axis=2).astype(numpy.uint8)
    file = tmp_path / "a.jpg"
    assert abs(decoded(Image.fromarray(smooth), file, 3, (64, 64), quality=95).astype(int) - smooth).max() < 12
    luma = smooth @ numpy.array([0.299, 0.587, 0.114])
    assert abs(decoded(Image.fromarray(smooth), file, 1, (64, 64), quality=95) - luma).max() < 6


@pytest.mark.parametrize("side", [8, 16, 30, 64, 100])
def test_a_large_jpeg_is_shrunk_on_its_way(tmp_path, side):
    """Decoding at a half, a quarter, an eighth changes little: as if it had been decoded whole and shrunk."""
    y, x = numpy.mgrid[:512, :512]
    smooth = (127 + 60 * numpy.sin(x / 40) + 60 * numpy.cos(y / 60)).astype(numpy.uint8)
    ours = decoded(Image.fromarray(smooth), tmp_path / "a.jpg", 1, (side, side), quality=98)
    whole = numpy.asarray(Image.fromarray(smooth).resize((side, side), Image.Resampling.BILINEAR))
    assert abs(ours.astype(int) - whole).max() <= 4


DEEP = RANDOM.integers(0, 65536, OWN, dtype=numpy.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_greys_of_16_bits(tmp_path, suffix):
    """As fractions of 65535, nothing lost; or where eight bits are wanted, rounded to the nearest."""
    image = Image.fromarray(DEEP)
    assert image.mode == "I;16"
    for channels in (1, 3):
        deep = decoded(image, tmp_path / f"a{suffix}", channels, deep=True)
        expected = (DEEP / 65535).astype(numpy.float32)
        assert numpy.allclose(deep, expected if channels == 1 else expected[..., None], rtol=0, atol=1e-7)
        assert len(numpy.unique(deep)) > 256
        eight = decoded(image, tmp_path / f"a{suffix}", channels)
        rounded = numpy.rint(DEEP / 257)
        assert numpy.array_equal(eight, rounded if channels == 1 else rounded[..., None].repeat(3, 2))


def test_big_endian_16_bits_and_32_bits(tmp_path):
    header = b"P5 30 20 65535\n"  # a PGM is big-endian
    (tmp_path / "a.pgm").write_bytes(header + DEEP.astype(">u2").tobytes())
    assert numpy.allclose(decode(tmp_path / "a.pgm", OWN, 1, deep=True)[0], DEEP / 65535, atol=1e-7)
    whole = Image.fromarray(DEEP.astype(numpy.int32))
    assert whole.mode == "I"
    assert numpy.allclose(decoded(whole, tmp_path / "b.tif", 1, deep=True), DEEP / 65535, atol=1e-7)


def test_floats_stay_as_they_are(tmp_path):
    """In whatever unit; as eight bits, from 0 to 1."""
    values = RANDOM.normal(5, 100, OWN).astype(numpy.float32)
    assert numpy.array_equal(decoded(Image.fromarray(values), tmp_path / "a.tif", 1, deep=True), values)
    share = RANDOM.random(OWN, dtype=numpy.float32)
    eight = decoded(Image.fromarray(share), tmp_path / "a.tif", 1)
    assert abs(eight - 255 * share.astype(float)).max() <= 0.5 + 1e-4


def test_eight_bits_among_deeper_ones_are_fractions(tmp_path):
    assert numpy.allclose(decoded(Image.fromarray(COLOUR), tmp_path / "a.png", 3, deep=True), COLOUR / 255, atol=1e-7)


def test_palettes_give_their_colours(tmp_path):
    """Each pixel is a number in a list of colours."""
    palette = RANDOM.integers(0, 256, (256, 3), dtype=numpy.uint8)
    image = Image.fromarray(GREY).convert("P")
    image.putdata(GREY.ravel().tolist())
    image.putpalette(palette.ravel().tolist())
    for suffix in (".png", ".gif"):
        assert numpy.array_equal(decoded(image, tmp_path / f"a{suffix}", 3), palette[GREY])
        luma = palette[GREY] @ numpy.array([0.299, 0.587, 0.114])
        assert abs(decoded(image, tmp_path / f"a{suffix}", 1) - luma).max() < 1


def test_black_and_white(tmp_path):
    bits = GREY > 127
    assert numpy.array_equal(decoded(Image.fromarray(bits), tmp_path / "a.png", 1), bits * 255)


ALPHA = RANDOM.integers(0, 256, OWN, dtype=numpy.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_lies_on_white(tmp_path, channels):
    """alpha x colour + (1 - alpha) x 255, within one level; a hidden colour doesn't come out."""
    share = (ALPHA / 255)[..., None]
    colour = Image.fromarray(numpy.dstack([COLOUR, ALPHA]))
    grey = Image.fromarray(numpy.dstack([GREY, ALPHA]))
    assert (colour.mode, grey.mode) == ("RGBA", "LA")
    for name, image, pixels in (("c", colour, COLOUR), ("g", grey, GREY[..., None].repeat(3, 2))):
        expected = share * pixels + (1 - share) * 255
        if channels == 1:
            expected = expected @ numpy.array([0.299, 0.587, 0.114])
        assert abs(decoded(image, tmp_path / f"{name}.png", channels) - expected).max() <= 1.5


def test_transparent_colours_of_a_palette_lie_on_white(tmp_path):
    """Pillow would warn, and show the colour that is hidden."""
    image = Image.fromarray(GREY // 128).convert("P")
    image.putdata((GREY // 128).ravel().tolist())
    image.putpalette([10, 20, 30, 40, 50, 60])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = decoded(image, tmp_path / "a.png", 3, transparency=bytes([255, 0]))
    expected = numpy.where((GREY // 128 == 0)[..., None], [10, 20, 30], [255, 255, 255])
    assert numpy.array_equal(seen, expected)


def test_printers_colours(tmp_path):
    """CMYK: what isn't covered by the colour's ink nor by the black, within one level."""
    inks = RANDOM.integers(0, 256, (*OWN, 4), dtype=numpy.uint8)
    image = Image.fromarray(inks, mode="CMYK")
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert abs(decoded(image, tmp_path / "a.tif", 3) - expected).max() <= 1


def test_of_an_animation_the_first_picture(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert numpy.array_equal(decode(tmp_path / "a.gif", OWN, 1)[0], GREY)


TURNED = {  # EXIF 2.32, tag 0x0112: where the stored row 0 and column 0 lie in the upright picture
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored.transpose(1, 0, 2)[:, ::-1],
    7: lambda stored: stored.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_photographs_are_turned_upright(tmp_path, orientation, suffix):
    """As the camera's EXIF orientation says."""
    image = Image.fromarray(COLOUR)
    image.save(tmp_path / f"plain{suffix}")
    stored = numpy.asarray(Image.open(tmp_path / f"plain{suffix}").convert("RGB"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = TURNED[orientation](stored)
    seen = decoded(image, tmp_path / f"a{suffix}", 3, expected.shape[:2], exif=exif)
    assert numpy.array_equal(seen, expected)


# --- sizes ------------------------------------------------------------------------------------------------------


def test_the_middle_is_cut_out(tmp_path):
    """With one side as it should be, no pixel is changed."""
    assert numpy.array_equal(decoded(Image.fromarray(COLOUR), tmp_path / "a.png", 3, (20, 20)), COLOUR[:, 5:25])
    assert numpy.array_equal(decoded(Image.fromarray(COLOUR), tmp_path / "a.png", 3, (10, 30)), COLOUR[5:15])


@pytest.mark.parametrize("size", [(10, 10), (40, 40), (16, 32), (90, 15), (7, 300)])
def test_a_ramp_stays_a_ramp(tmp_path, size):
    """A grey that rises evenly does so in any size: pixel j of n shows what lies at (j + 1/2) / n of the part that has
    the wanted proportions and lies in the middle."""
    y, x = numpy.mgrid[:60, :80]
    height, width = size
    scale = min(60 / height, 80 / width)
    for values, count, whole, axis in ((3 * x, width, 80, 1), (4 * y, height, 60, 0)):
        step = 3 if axis else 4
        seen = decoded(Image.fromarray(values.astype(numpy.uint8)), tmp_path / "a.png", 1, size)
        place = (whole - count * scale) / 2 + (numpy.arange(count) + 0.5) * scale - 0.5
        expected = step * numpy.broadcast_to(place if axis else place[:, None], size)
        inside = (place > 2 * scale) & (place < whole - 1 - 2 * scale)  # away from the edges, where a ramp ends
        away = abs(seen - expected).max(1 - axis)[inside]
        assert away.max(initial=0) < 1.5


def test_thin_images_take_no_more_memory_than_they_must(tmp_path):
    """10 x 10,000 pixels: only the middle square is enlarged, not all of it (to 224 x 224,000)."""
    Image.new("L", (10_000, 10), 77).save(tmp_path / "a.png")
    assert torch.equal(decode(tmp_path / "a.png", (224, 224), 1), torch.full((1, 224, 224), 77, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ([(28, 28)] * 5, (28, 28)),
        ([(32, 128)] * 5, (32, 128)),  # all alike: as they are, also where they aren't square
        ([(224, 224)] * 5, (224, 224)),
        ([(225, 225)] * 5, (224, 224)),
        ([(480, 640)] * 5, (224, 224)),
        ([(100, 120), (120, 100)], (96, 96)),  # the shorter side has 100: 3 x 32
        ([(100, 120)] * 9 + [(40, 40)], (96, 96)),  # 9 in 10 have it
        ([(100, 120)] * 8 + [(40, 40)] * 2, (32, 32)),
        ([(8, 9), (9, 8)], (32, 32)),
    ],
    ids=str,
)
def test_suitable_sizes(sides, size):
    assert suitable_size(sides) == size


# --- finding them -----------------------------------------------------------------------------------------------


def labelled(data: Images) -> dict[str, str]:
    """File name (with its folder) -> class name."""
    return {"/".join(Path(file).parts[-2:]): data.classes[label] for file, label in data.samples}


def test_a_folder_for_each_class(tmp_path):
    """Every image, with the class that its folder names and the pixels that were written, in the order of names."""
    written = formats.write_images(tmp_path / "pets", {"dog": 4, "cat": 3})
    data = images(str(tmp_path / "pets"), "train")
    assert data.classes == ["cat", "dog"]
    assert data.targets.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert [file for file, _ in data.samples] == sorted(written)
    for index, (file, label) in enumerate(data.samples):
        pixels, target = data[index]
        assert target == label
        assert numpy.array_equal(pixels.permute(1, 2, 0).numpy(), written[file])
    assert images(str(tmp_path / "pets"), "val") is images(str(tmp_path / "pets"), "test") is None


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("training", "valid", "testing"), ("Train", "VALIDATION", "Test")]
)
def test_folders_that_are_divided_already(tmp_path, names):
    for number, name in enumerate(names):
        formats.write_images(tmp_path / name, {"cat": 4 - number, "dog": 3}, seed=number)
    for number, split in enumerate(("train", "val", "test")):
        data = images(str(tmp_path), split)
        assert data.targets.tolist() == [0] * (4 - number) + [1] * 3
        assert all(Path(file).parts[-3] == names[number] for file, _ in data.samples)


def test_a_split_that_is_missing_is_taken_from_training(tmp_path):
    """train/ and test/: validation comes of train, the test images stay a split of their own."""
    formats.write_images(tmp_path / "train", {"cat": 20, "dog": 20})
    formats.write_images(tmp_path / "test", {"cat": 5, "dog": 5}, seed=1)
    data = build_data(lambda split: images(str(tmp_path), split), images, Division([0.75, 0.25, 0]), seed=0)
    assert (len(data.train), len(data.val), len(data.test)) == (30, 10, 10)
    assert torch.tensor([target for _, target in data.val]).bincount().tolist() == [5, 5]


def test_a_class_may_be_called_train(tmp_path):
    """Images lie in it, and no folders: it is one of the vehicles."""
    formats.write_images(tmp_path, {"bus": 2, "train": 3})
    assert images(str(tmp_path), "train").classes == ["bus", "train"]


def test_numbered_classes_are_in_the_order_of_numbers(tmp_path):
    formats.write_images(tmp_path, {"10": 1, "9": 1, "2": 1})
    assert images(str(tmp_path), "train").classes == ["2", "9", "10"]


def test_folders_within_a_class_belong_to_it(tmp_path):
    formats.write_images(tmp_path / "cat", {"2023": 2, "2024": 2})
    formats.write_images(tmp_path, {"cat": 1, "dog": 2})
    data = images(str(tmp_path), "train")
    assert data.classes == ["cat", "dog"]
    assert data.targets.bincount().tolist() == [5, 2]


def test_a_link_that_leads_back_is_not_followed(tmp_path):
    """Following it would find the same images forty times, and fail."""
    formats.write_images(tmp_path / "pets", {"cat": 2, "dog": 2})
    (tmp_path / "pets/cat/again").symlink_to(tmp_path / "pets")
    assert len(images(str(tmp_path / "pets"), "train")) == 4


def test_what_is_no_image_is_passed_over_and_counted(tmp_path):
    """Wrong suffixes, hidden files and folders, what a Mac packs along, and files beside the folders; a suffix in
    capitals is none of these."""
    formats.write_images(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "cat/000.png").rename(tmp_path / "cat/000.PNG")
    for name in ("cat/a.txt", "dog/b.txt", "dog/c.JSON", "dog/README", "dog/.hidden.png", ".DS_Store", "notes.md"):
        (tmp_path / name).write_text("x")
    formats.write_images(tmp_path / ".git", {"objects": 1})
    formats.write_images(tmp_path / "__MACOSX", {"cat": 1})
    data = images(str(tmp_path), "train")
    assert len(data) == 4
    assert "passed over: 4 hidden, 1 beside the classes' folders, 2 .txt, 1 without a suffix, 1 .JSON" in data.note


def test_what_was_found_is_said(tmp_path):
    formats.write_images(tmp_path, {"cat": 2, "dog": 9}, (40, 60))
    formats.write_images(tmp_path, {"owl": 3}, (50, 90))
    lines = images(str(tmp_path), "train").note.split("\n")
    assert lines[0] == "files from 40 x 60 to 50 x 90 pixels, as 32 x 32 (data.size=...)"
    assert lines[1] == "2 to 9 images per class"
    formats.write_images(tmp_path / "b", {"cat": 2, "dog": 2}, (40, 60))
    assert images(str(tmp_path / "b"), "train").note == "files of 40 x 60 pixels\n2 images per class"


def test_files_that_are_no_images_are_left_out_and_named(tmp_path):
    formats.write_images(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "cat/000.png").write_bytes(b"")
    (tmp_path / "dog/001.png").write_text("<html>404</html>")
    (tmp_path / "dog/broken link.png").symlink_to(tmp_path / "nowhere.png")
    data = images(str(tmp_path), "train")
    assert data.targets.tolist() == [0, 0, 1, 1]
    said = data.note.split("\n")[-1]
    assert said.startswith("3 can't be read and are left out: ")
    assert f"{tmp_path}/cat/000.png: the file is empty" in said
    assert f"{tmp_path}/dog/001.png: cannot identify image file" in said
    assert f"{tmp_path}/dog/broken link.png: " in said


def test_grey_colour_and_deep_files_are_told_apart(tmp_path):
    """One colour file, and all are given in colour; one of 16 bits, and all are fractions; both can be set."""
    formats.write_images(tmp_path, {"cat": 2, "dog": 2}, channels=1)
    assert images(str(tmp_path), "train")[0][0].shape[0] == 1
    assert images(str(tmp_path), "train", channels=3)[0][0].shape[0] == 3
    formats.write_images(tmp_path, {"owl": 1}, channels=3)
    assert images(str(tmp_path), "train")[0][0].shape[0] == 3
    assert images(str(tmp_path), "train", channels=1)[0][0].shape[0] == 1
    assert images(str(tmp_path), "train")[0][0].dtype == torch.uint8
    Image.fromarray(DEEP[:, :20]).save(tmp_path / "owl/deep.png")
    data = images(str(tmp_path), "train")
    assert {image.dtype for image, _ in data} == {torch.float32}
    assert "normalize=train" in data.note


def test_sizes_are_a_key(tmp_path):
    formats.write_images(tmp_path, {"cat": 2, "dog": 2}, (40, 60))
    assert tuple(images(str(tmp_path), "train", size=16)[0][0].shape) == (3, 16, 16)
    assert tuple(images(str(tmp_path), "train", size=[16, 24])[0][0].shape) == (3, 16, 24)


def test_every_header_is_read_once(tmp_path, monkeypatch):
    """Though the data set is built for train, val and test, and again when it is evaluated; a file that has changed
    is looked at again."""
    for split in ("train", "val", "test"):
        formats.write_images(tmp_path / split, {"cat": 2, "dog": 2})
    opened = []
    real = Image.open
    monkeypatch.setattr(
        Image, "open", lambda file, *words, **more: opened.append(str(file)) or real(file, *words, **more)
    )
    for _ in range(2):
        for split in ("train", "val", "test"):
            images(str(tmp_path), split)
    assert len(opened) == len(set(opened)) == 12
    changed = tmp_path / "val/cat/000.png"
    Image.new("RGB", (77, 88)).save(changed)
    assert "to 88 x 77 pixels" in images(str(tmp_path), "train").note
    assert opened[12:] == [str(changed)]


def test_of_many_files_some_are_looked_at(tmp_path, monkeypatch):
    """Spread evenly; none is left out for that, and it is said."""
    formats.write_images(tmp_path, {"cat": 10, "dog": 10})
    monkeypatch.setattr(files, "MOST", 5)
    monkeypatch.setattr(files, "_headers", {})
    data = images(str(tmp_path), "train")
    assert len(data) == 20
    assert "one in 4 files was looked at" in data.note
    assert len(files._headers) == 5


# --- tables -----------------------------------------------------------------------------------------------------


def table(path: Path, rows: dict[str, list[Any]]) -> str:
    """A table of paths and labels, in the format that the suffix names."""
    frame = polars.DataFrame(rows)
    {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".jsonl": frame.write_ndjson}[path.suffix](path)
    return str(path)


@pytest.fixture
def pets(tmp_path) -> Path:
    formats.write_images(tmp_path / "files", {"x": 12})
    return tmp_path


PATHS = [f"files/x/{number:03d}.png" for number in range(12)]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize(("column", "target"), [("path", "label"), ("Filename", "Class"), ("image", "category")])
def test_a_table_of_paths_and_labels(pets, suffix, column, target):
    labels = ["007", "42"] * 6  # words, though they look like numbers
    file = table(pets / f"pets{suffix}", {"age": list(range(12)), target: labels, column: PATHS})
    data = images(file, "train")
    assert data.classes == ["007", "42"]
    assert data.targets.tolist() == [0, 1] * 6
    assert [Path(path) for path, _ in data.samples] == [pets / path for path in PATHS]
    assert images(file, "test") is None


def test_columns_of_other_names(pets):
    file = table(pets / "pets.csv", {"scan": PATHS, "kind": ["a", "b"] * 6, "path": ["x"] * 12})
    assert images(file, "train", image="scan", target="kind").classes == ["a", "b"]


def test_a_table_may_divide_itself(pets):
    splits = ["train"] * 6 + ["val", "Valid"] + ["TEST"] * 4
    file = table(pets / "pets.csv", {"path": PATHS, "label": ["a", "b"] * 6, "Split": splits})
    assert {split: len(images(file, split)) for split in ("train", "val", "test")} == {"train": 6, "val": 2, "test": 4}


def test_a_tables_columns_divide_by_group(pets):
    """All images of a patient on one side; rows of broken files are left out of the column as well."""
    (pets / "files/x/000.png").write_bytes(b"")
    patients = [f"p{number // 3}" for number in range(12)]
    file = table(pets / "pets.csv", {"path": PATHS, "label": ["a", "b"] * 6, "patient": patients})
    data = build_data(lambda split: images(file, split), images, Division([0.5, 0.25, 0.25], group="patient"), seed=0)
    of = {str(pets / path): patient for path, patient in zip(PATHS, patients, strict=True)}
    sides = [{of[part.dataset.samples[i][0]] for i in part.indices} for part in (data.train, data.val, data.test)]
    assert sum(map(len, sides)) == 4
    assert set.union(*sides) == set(patients)
    with pytest.raises(UserError, match=r"no column doctor.*It has: path, label, patient"):
        images(file, "train").column("doctor")
    formats.write_images(pets / "folder", {"cat": 1, "dog": 1})
    with pytest.raises(UserError, match="a folder of files has no column doctor"):
        images(str(pets / "folder"), "train").column("doctor")


# --- what is wrong ----------------------------------------------------------------------------------------------


def spoiled(root: Path, case: str) -> tuple[str, str]:
    """A folder or table that can't be trained on, and what has to be said about it."""
    if case == "no such folder":
        return str(root / "none"), "there is no such file or folder"
    if case == "an empty folder":
        return str(root), f"{root} has nothing in it. A folder for each class is needed"
    formats.write_images(root, {"cat": 3, "dog": 3})
    if case == "a file":
        return str(root / "cat/000.png"), "a file, where a folder with a folder for each class is needed"
    if case == "an archive":
        (root / "pets.zip").write_bytes(b"PK")
        return str(root / "pets.zip"), "Unpack it first"
    if case == "images in one heap":
        return str(root / "cat"), "has 3 files and no folder in it. A folder for each class is needed"
    if case == "one class":
        for file in (root / "dog").iterdir():
            file.unlink()
        (root / "dog").rmdir()
        return str(root), r"one class only \(cat\)"
    if case == "an empty class":
        (root / "owl").mkdir()
        return str(root), f"the folder {root}/owl has no images in it"
    if case == "a class of other files":
        (root / "owl").mkdir()
        (root / "owl/a.docx").write_text("x")
        return str(root), f"the folder {root}/owl has no images in it"
    if case == "no training folder":
        (root / "cat").rename(root / "val")
        return str(root), "has a folder val, and none for training"
    if case == "all broken":
        for file in root.rglob("*.png"):
            file.write_bytes(b"")
        return str(root), f"none of the images for train can be read, as {root}/dog/002.png: the file is empty"
    divided = root / "divided"
    formats.write_images(divided / "train", {"cat": 2, "dog": 2})
    if case == "a class that only test has":
        formats.write_images(divided / "test", {"cat": 2, "owl": 2})
        return str(
            divided
        ), f"test has the class owl .*{divided}/test/owl/000.png.*, which train doesn't have.*cat, dog"
    if case == "two folders for val":
        for name in ("val", "valid"):
            formats.write_images(divided / name, {"cat": 1, "dog": 1})
        return str(divided), "two folders for val: val and valid"
    if case == "a split without classes":
        formats.write_images(divided, {"test": 2})
        return str(divided), f"{divided}/test has 2 files and no folder in it"
    raise AssertionError(case)


FOLDERS = ["no such folder", "an empty folder", "a file", "an archive", "images in one heap", "one class",
           "an empty class", "a class of other files", "no training folder", "all broken", "a class that only test has",
           "two folders for val", "a split without classes"]  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_do_not_fit_are_named(tmp_path, case):
    """In two lines at most, whichever split is asked for first."""
    (tmp_path / "pets").mkdir()
    path, message = spoiled(tmp_path / "pets", case)
    for split in ("train", "test"):
        with pytest.raises(UserError, match=message) as caught:
            images(path, split)
        assert str(caught.value).startswith(("data.path=", str(tmp_path)))
        assert len(str(caught.value).split("\n")) <= 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"path": [*PATHS[:2], "files/none.png"], "label": ["a", "b", "a"]},
            "line 4: there is no file .*files/none.png",
        ),
        ({"path": PATHS[:2], "label": ["a", None]}, "line 3: label is missing"),
        ({"path": [PATHS[0], None], "label": ["a", "b"]}, "line 3: path is missing"),
        ({"path": PATHS[:2], "label": ["a", "b"], "split": ["train", "tset"]}, "line 3: split is tset"),
        ({"path": PATHS[:2], "label": ["a", "b"], "split": ["val", "test"]}, "no images for training"),
        ({"path": PATHS[:2], "sort": ["a", "b"]}, "which column is the target.*data.target=COLUMN.*path, sort"),
        ({"pic": PATHS[:2], "label": ["a", "b"]}, "which column is the image.*data.image=COLUMN.*pic, label"),
        ({"path": PATHS[:2], "label": ["a", "a"]}, r"one class only \(a\)"),
        ({"path": [], "label": []}, "no images for training"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tables_that_do_not_fit_are_named(pets, rows, message):
    """With the line, or the columns that there are."""
    with pytest.raises(UserError, match=message):
        images(table(pets / "pets.csv", rows), "train")


def test_a_column_that_is_not_there(pets):
    file = table(pets / "pets.csv", {"path": PATHS, "label": ["a", "b"] * 6})
    with pytest.raises(
        UserError, match=r"data.target=labl: .* has no such column. Did you mean label\? It has: path, label"
    ):
        images(file, "train", target="labl")


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    """A folder and a file without permission. (Root may read everything: the system's answer is played.)"""
    formats.write_images(tmp_path, {"cat": 2, "dog": 2})
    real_scandir, real_open = os.scandir, Image.open

    def refused(path: Any, *_: Any, **options: Any) -> Any:
        if str(path).endswith(forbidden):
            raise PermissionError(13, "Permission denied", str(path))
        return (real_scandir if "." not in Path(path).name else real_open)(path, **options)

    monkeypatch.setattr(os, "scandir", refused)
    monkeypatch.setattr(Image, "open", refused)
    for forbidden in ("dog", "dog/001.png"):
        with pytest.raises(UserError, match=rf"{tmp_path}/{forbidden}: it may not be read \(permission denied\)"):
            images(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.size=0"], "data.size=0: a number of pixels"),
        (["data.size=[8,8,3]"], r"data.size=\[8, 8, 3\]"),
        (["data.size=8.5"], "data.size=8.5"),
        (["data.channels=4"], "data.channels=4: must be 1"),
        (["data.sizes=8"], "data.sizes: images takes no such argument. Did you mean size"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(tmp_path, words, message):
    formats.write_images(tmp_path / "pets", {"cat": 10, "dog": 10})
    with pytest.raises(UserError, match=message):
        plainloop.train(["data=images", f"data.path={tmp_path / 'pets'}", *words])


def test_the_path_must_be_given():
    with pytest.raises(UserError, match=r"data.path: images needs it. Write data.path="):
        plainloop.train(["data=images"])


# --- training ---------------------------------------------------------------------------------------------------

SMALL = ["model.channels=[8,16]", "loader.batch_size=8", "logger=none"]


def words(path: Any, *more: str) -> list[str]:
    return ["data=images", f"data.path={path}", *SMALL, *more]


def numbers(run: Any) -> dict[str, float]:
    return {name: value for name, value in run.metrics.items() if name != "seconds"}


def equal_weights(one: Any, other: Any) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_a_folder_of_images_trains_from_one_command(tmp_path, capsys):
    """It learns them, prints what it found, and is measured again with the same numbers."""
    formats.write_images(tmp_path / "pets", {"cat": 30, "dog": 30, "owl": 10})
    (tmp_path / "pets/cat/notes.txt").write_text("x")
    run = plainloop.train(words(tmp_path / "pets", "trainer.max_epochs=6", "optimizer.lr=0.01"))
    said = capsys.readouterr().out
    assert "data    images: 56 train, 7 val, 7 test; inputs 3 x 24 x 24 uint8; 3 classes (cat, dog, owl)\n" in said
    assert "        10 to 30 images per class\n" in said
    assert "note    8 to 24 training samples of a class, fewest of owl: loader.sampler=balanced draws all" in said
    assert "        passed over: 1 .txt\n" in said
    assert "model   cnn (CNN)" in said
    assert run.metrics["test/accuracy"] > 0.7  # the largest class has 3 in 7
    assert plainloop.evaluate(run.path) == {key: run.metrics[key] for key in run.metrics if key.startswith("test/")}


def test_size_and_model_are_one_key_each(tmp_path):
    formats.write_images(tmp_path / "pets", {"cat": 20, "dog": 20}, (40, 60))
    given = ["data=images", f"data.path={tmp_path / 'pets'}", "data.size=16", "data.channels=1", "model=mlp"]
    run = plainloop.train([*given, "transforms.normalize=train", "trainer.max_epochs=1", "logger=none"])
    assert list(run.config.spec.input_shape) == [1, 16, 16]
    assert run.config.choices.model == "mlp"


@pytest.mark.slow
def test_images_resume_bit_for_bit(tmp_path):
    """With augmentation, one image at a time and by batches."""
    formats.write_images(tmp_path / "pets", {"cat": 20, "dog": 20})
    given = words(
        tmp_path / "pets",
        "transforms.train=[{_target_: torchvision.transforms.v2.RandomRotation, degrees: 20}]",
        "transforms.flip=true",
        "transforms.crop=2",
        "transforms.cutmix=1.0",
    )
    whole = plainloop.train([*given, "trainer.max_epochs=3"])
    first = plainloop.train([*given, "trainer.max_epochs=2"])
    resumed = plainloop.train([f"resume={first.path}", "trainer.max_epochs=3"])
    assert numbers(resumed) == numbers(whole)
    assert equal_weights(resumed, whole)


@pytest.mark.slow
def test_loading_processes_change_nothing(tmp_path):
    formats.write_images(tmp_path / "pets", {"cat": 16, "dog": 16})
    node = "transforms.train=[{_target_: torchvision.transforms.v2.RandomRotation, degrees: 20}]"
    given = words(tmp_path / "pets", node, "trainer.max_epochs=2")
    alone = plainloop.train([*given, "loader.num_workers=0"])
    helped = plainloop.train([*given, "loader.num_workers=2", "loader.eval.num_workers=0"])
    assert numbers(helped) == numbers(alone)
    assert equal_weights(helped, alone)


def test_images_of_16_bits_keep_what_8_bits_would_lose(tmp_path):
    """Classes that differ by less than one level of 256 are learned."""
    random = numpy.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for number in range(30):
            values = 1000 + 120 * label + random.integers(0, 60, (16, 16))
            Image.fromarray(values.astype(numpy.uint16)).save(tmp_path / "scans" / name / f"{number}.png")
    run = plainloop.train(
        words(tmp_path / "scans", "transforms.normalize=train", "trainer.max_epochs=4", "optimizer.lr=0.01")
    )
    assert run.metrics["test/accuracy"] == 1.0


def cut(file: Path) -> None:
    """The header stays, and half of the pixels go."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def spoilt(file: Path) -> None:
    """Beginning and end stay, and what is between is lost."""
    content = file.read_bytes()
    third = len(content) // 3
    file.write_bytes(content[:third] + bytes(third) + content[2 * third :])


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_image_that_is_cut_off_is_found_before_the_training(tmp_path, suffix):
    formats.write_images(tmp_path / "pets", {"cat": 5, "dog": 5}, (64, 64), suffix=suffix)
    cut(tmp_path / f"pets/dog/003{suffix}")
    with (tmp_path / f"pets/dog/002{suffix}").open("ab") as file:
        file.write(b"written by the camera")
    data = images(str(tmp_path / "pets"), "train")
    assert len(data) == 9
    assert f"1 can't be read and is left out: {tmp_path}/pets/dog/003{suffix}: " in data.note


@pytest.mark.parametrize(
    ("suffix", "transform"), one_in(2, [(".png", False), (".png", True), (".bmp", True), (".bmp", False)])
)
def test_a_broken_image_is_named_and_can_be_left_out(tmp_path, suffix, transform, capsys):
    """Its header can be read, its pixels can't: the file's name is told, also through transforms; with
    loader.skip_unreadable the run goes on without it."""
    formats.write_images(tmp_path / "pets", {"cat": 20, "dog": 20}, (64, 64), suffix=suffix)
    broken = tmp_path / f"pets/dog/007{suffix}"
    (spoilt if suffix == ".png" else cut)(broken)
    node = "transforms.train=[{_target_: torchvision.transforms.v2.RandomHorizontalFlip}]"
    given = words(tmp_path / "pets", "split.fractions=[1,0,0]", "trainer.max_epochs=2", *([node] if transform else []))
    with pytest.raises(
        MachineError, match=rf"sample 27 \({re.escape(str(broken))}\) can't be read.*loader.skip_unreadable=10"
    ):
        plainloop.train(given)
    run = plainloop.train([*given, "loader.skip_unreadable=1"])
    assert f"warning: data: sample 27 ({broken}) can't be read" in capsys.readouterr().err
    assert run.metrics["samples"] == 2 * 39


def test_pictures_of_the_inputs_are_drawn_without_the_broken_ones(tmp_path):
    formats.write_images(tmp_path / "pets", {"cat": 10, "dog": 10})
    spoilt(tmp_path / "pets/cat/000.png")
    spoilt(tmp_path / "pets/cat/001.png")
    given = ["data=images", f"data.path={tmp_path / 'pets'}", "split.fractions=[1,0,0]", "model.channels=[8]"]
    run = plainloop.train([*given, "loader.skip_unreadable=2", "loader.batch_size=20", "trainer.max_epochs=1"])
    assert (run.path / "figures/inputs.png").is_file()


def test_the_same_image_on_both_sides_is_counted(tmp_path, capsys):
    formats.write_images(tmp_path / "pets/train", {"cat": 10, "dog": 10})
    formats.write_images(tmp_path / "pets/test", {"cat": 4, "dog": 4}, seed=1)
    for number in range(3):
        content = (tmp_path / f"pets/train/cat/{number:03d}.png").read_bytes()
        (tmp_path / f"pets/test/dog/00{number}.png").write_bytes(content)
    plainloop.train(words(tmp_path / "pets", "trainer.max_epochs=1", "split.fractions=[1,0,0]"))
    warning = (
        "warning: 3 of 8 samples of test are also in train, and don't measure what is new (its sample 4 is sample 0"
    )
    assert warning in capsys.readouterr().out


def test_classes_keep_their_names_behind_transforms(tmp_path):
    formats.write_images(tmp_path / "pets", {"cat": 10, "dog": 10})
    node = "transforms.train=[{_target_: torchvision.transforms.v2.RandomHorizontalFlip}]"
    session = assemble(compose(words(tmp_path / "pets", node)))
    assert list(session.config.spec.class_names) == ["cat", "dog"]


@pytest.mark.slow
def test_the_commands_that_are_typed(tmp_path, type_command):
    formats.write_images(tmp_path / "pets", {"cat": 20, "dog": 20})
    done = type_command("train.py", "data=images", "data.path=pets", "trainer.max_epochs=3")
    assert done.status == 0, done.err
    assert type_command("evaluate.py", f"run={done.run}").status == 0
    assert "equal to the run's own numbers" in type_command("evaluate.py", "run=latest").out


# --- a number for each image ----------------------------------------------------------------------------------------


def write_shades(folder: Path, count: int = 60) -> Path:
    """Grey images, and a CSV with how bright each is, from 0 to 1."""
    rows = ["image,brightness,split"]
    for number in range(count):
        shade = number * 255 // (count - 1)
        Image.fromarray(numpy.full((8, 8), shade, dtype=numpy.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{shade / 255:.4f},{('train', 'val', 'test')[number % 3]}")
    (folder / "shades.csv").write_text("\n".join(rows) + "\n")
    return folder / "shades.csv"


def test_a_csv_may_have_a_number_for_each_image(tmp_path):
    path = str(write_shades(tmp_path))
    data = images(path, "val", target="brightness", task="regression")
    assert data is not None
    assert data.classes is None
    assert data.target_names == ["brightness"]
    assert data.targets.shape == (20, 1)
    assert data[3][1].tolist() == pytest.approx([(3 * 3 + 1) * 255 // 59 / 255], abs=1e-4)
    assert "brightness from 0 to " in data.note
    with pytest.raises(UserError, match=r"brightness holds 60 different numbers.*task=regression"):
        images(path, "train", target="brightness")
    with pytest.raises(UserError, match=r"data.target=split: a column of words.*task=regression needs numbers"):
        images(path, "train", target="split", task="regression")
    with pytest.raises(UserError, match="folders of classes have no numbers"):
        images(str(tmp_path), "train", task="regression")


def test_one_word_among_the_numbers_of_images_is_named(tmp_path):
    path = write_shades(tmp_path)
    path.write_text(path.read_text().replace("5.png,0.0824", "5.png,dark"))
    with pytest.raises(UserError, match=r"line 7.*'dark'"):
        images(str(path), "train", target="brightness", task="regression")


def test_how_the_table_of_images_is_written_is_said(pets):
    (pets / "pets.csv").write_text("path;weight\n" + "".join(f"{path};{k},5\n" for k, path in enumerate(PATHS)))
    data = images(str(pets / "pets.csv"), "train", target="weight", task="regression")
    assert data is not None
    assert data.targets.flatten().tolist() == [k + 0.5 for k in range(12)]
    assert "read as separator ;  decimals ," in data.note
    (pets / "pets.csv").write_text(
        "path,weight\n" + "".join(f"{path},{1 / k if k else 'inf'}\n" for k, path in enumerate(PATHS))
    )
    with pytest.raises(UserError, match=r"line 2.*weight: inf is infinite"):
        images(str(pets / "pets.csv"), "train", target="weight", task="regression")


def test_a_csv_may_have_several_numbers_for_each_image(pets):
    """Those of its columns, in the order in which they are named."""
    rows = {"path": PATHS, "x": [k / 8 for k in range(12)], "y": [float(-k) for k in range(12)]}
    data = images(table(pets / "pets.csv", rows), "train", target=["y", "x"], task="regression")
    assert data is not None
    assert data.target_names == ["y", "x"]
    assert data.targets.tolist() == [[-k, k / 8] for k in range(12)]
    assert torch.equal(data[3][1], torch.tensor([-3.0, 0.375]))
    assert "y from -11 to 0\nx from 0 to 1.375" in data.note


TAGS = ["red|big", "big", "|", "red"] * 3  # in a field
COLUMNS = {"red": [1, 0, 0, 1] * 3, "big": [1, 1, 0, 0] * 3}  # the same, in columns


@pytest.mark.parametrize("way", ["field", "columns"])
def test_a_csv_may_have_several_labels_for_each_image(pets, way):
    parts = ["train", "val", "train"] * 4
    rows: dict[str, list[Any]] = {"path": PATHS, "split": parts}
    rows |= {"tags": TAGS} if way == "field" else COLUMNS
    file = table(pets / "pets.csv", rows)
    options: Any = {"target": "tags", "labels_separator": "|"} if way == "field" else {"target": ["big", "red"]}
    data = images(file, "train", task="multilabel", **options)
    assert data is not None
    assert data.classes is None
    assert data.target_names == ["big", "red"]
    mine = [k for k in range(12) if parts[k] == "train"]
    assert data.targets.tolist() == [[COLUMNS["big"][k], COLUMNS["red"][k]] for k in mine]
    assert data.targets.dtype == data[0][1].dtype == torch.float32
    assert "4 images of big\n4 images of red" in data.note


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"tags": [*TAGS[:11], None]}, {}, r"line 13: tags is missing. A field of \| alone has no label"),
        ({"tags": ["red", "big"] * 6}, {}, r"data.labels_separator=\|: no field of tags in .*pets.csv holds one"),
        (
            {"tags": TAGS},
            {"task": "multiclass"},
            r"data.labels_separator=\| goes with one target, and with task=multila",
        ),
        (
            {"tags": [0, 1, 2] * 4},
            {"labels_separator": None},
            "line 4: tags is 2, and task=multilabel needs columns of",
        ),
        (
            {"tags": TAGS},
            {"labels_separator": None, "target": ["tags", "path"], "task": "multiclass"},
            "several go with",
        ),
    ],
)
def test_labels_that_do_not_fit_are_named(pets, rows, options, message):
    given: Any = {"target": "tags", "labels_separator": "|", "task": "multilabel", **options}
    with pytest.raises(UserError, match=message):
        images(table(pets / "pets.csv", {"path": PATHS, **rows}), "train", **given)


@pytest.mark.slow
def test_several_labels_of_images_are_learned(tmp_path):
    """Whether the left half is bright, and whether the right one is: each pixel tells."""
    rows = ["image,tags"]
    for number in range(60):
        left, right = number % 2, number // 2 % 2
        pixels = numpy.zeros((8, 8), dtype=numpy.uint8)
        pixels[:, :4], pixels[:, 4:] = 190 * left + number, 190 * right
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png," + ("left" * left + ";" + "right" * right))
    (tmp_path / "tags.csv").write_text("\n".join(rows) + "\n")
    words = ["data=images", f"data.path={tmp_path / 'tags.csv'}", "data.target=tags", "data.labels_separator=';'"]
    run = plainloop.train([*words, "task=multilabel", "model=linear", "trainer.max_epochs=20", "logger=none"])
    assert run.metrics["test/label_f1"] == 1.0
    assert plainloop.evaluate(run.path)["test/label_f1"] == 1.0


@pytest.mark.slow
def test_how_bright_images_are_is_learned(tmp_path):
    """By a linear model, exactly: the number is the mean of the pixels."""
    words = ["data=images", f"data.path={write_shades(tmp_path)}", "data.target=brightness", "task=regression"]
    run = plainloop.train([*words, "model=linear", "trainer.max_epochs=200", "optimizer.lr=0.01", "logger=none"])
    assert run.metrics["test/mae"] < 0.02
    assert plainloop.evaluate(run.path)["test/mae"] == run.metrics["test/mae"]
