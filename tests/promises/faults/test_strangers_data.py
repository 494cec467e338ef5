"""A stranger's file of data ends in a line or two, whatever is in it: damaged, endless, or small and unpacked to more
than there is memory."""

import contextlib
import gzip
import io
import os
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import polars
import pytest
import torch

import plainloop
from plainloop.data import arrays, json_lines, table
from plainloop.data.kinds import dialect, frames
from plainloop.errors import UserError
from plainloop.runs import files


def npz(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    file = io.BytesIO()
    numpy.savez(file, inputs=numpy.zeros((4, 3)), targets=numpy.arange(4) % 2)
    (folder / "a.npz").write_bytes(change(file.getvalue()))
    return folder / "a.npz"


def with_method(data: bytes) -> bytes:
    """Packed in a way that no zip knows, as its table of contents says."""
    place = data.index(b"PK\x01\x02") + 10
    return data[:place] + b"\x63" + data[place + 1 :]


def npy(folder: Path, inputs: Any) -> Path:
    """A folder of arrays; of `inputs` a header alone, where a shape is given."""
    (folder / "own").mkdir()
    if isinstance(inputs, tuple):
        with open(folder / "own/inputs.npy", "wb") as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": inputs}
            numpy.lib.format.write_array_header_1_0(file, header)
    else:
        inputs(folder / "own/inputs.npy")
    numpy.save(folder / "own/targets.npy", numpy.arange(4) % 2)
    return folder / "own"


def npz_of_much(folder: Path) -> Path:
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
    numpy.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(folder / "a.npz", "w") as parts:
        parts.writestr("inputs.npy", file.getvalue())
        parts.writestr("targets.npy", file.getvalue())
    return folder / "a.npz"


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


ENDLESS = gzip.compress(b"x" * (1 << 20))
FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a header that promises too much": (
        lambda folder: npy(folder, (10**13,)), "its header promises 10,000,000,000,000"),
    "the same in an archive": (npz_of_much, "its header promises 10,000,000,000,000"),
    "an array that is a pipe": (lambda folder: npy(folder, os.mkfifo), "data.inputs=inputs: .* has no such array"),
    "packed in an unknown way": (lambda folder: npz(folder, with_method), "not an .npz"),
    "a header that is no Python": (
        lambda folder: npz(folder, lambda data: data.replace(b"'fortran_order'", b"'fortran(order'")), "not an .npz"),
    "the rest of it is no gzip": (
        lambda folder: written(folder, "a.csv.gz", gzip.compress(b"x")[:10] + b"\xff" * 50), "can't be unpacked"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_file_is_answered(case, tmp_path):
    make, said = FILES[case]
    path = make(tmp_path)
    with pytest.raises(UserError, match=said) as error:
        table(str(path), "y") if path.suffix == ".gz" else arrays(str(path))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("encoding", ["undefined", "punycode", "hex", "idna"])
def test_an_encoding_that_is_none_is_answered(encoding, tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x,y\n\xff-,1\n\xc3\xa4,2\n")
    with pytest.raises(UserError, match=rf"data\.encoding={encoding}"):
        table(str(tmp_path / "a.csv"), "y", encoding=encoding)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_what_unpacks_to_more_than_memory_takes_is_not_unpacked(suffix, tmp_path, monkeypatch):
    import bz2
    import lzma

    zstandard = pytest.importorskip("zstandard") if suffix == "zst" else None
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(suffix) or zstandard.compress
    (tmp_path / f"a.csv.{suffix}").write_bytes(pack(b"x,y\n" + b"1,2\n" * 10_000))
    monkeypatch.setattr(dialect, "PHYSICAL", 4 * 40_000)
    with pytest.raises(UserError, match="unpacks to more than a quarter of this machine's memory"):
        table(str(tmp_path / f"a.csv.{suffix}"), "y")


def test_a_table_of_more_rows_than_memory_takes_is_not_read(tmp_path, monkeypatch):
    """A number that is repeated takes no place in the file."""
    polars.DataFrame({"x": [1] * 100_000, "y": [2] * 100_000}).write_parquet(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 4000
    monkeypatch.setattr(frames, "PHYSICAL", 4 * 1_000_000)
    with pytest.raises(UserError, match="100,000 rows of 2 columns are more than a quarter of this machine's memory"):
        table(str(tmp_path / "a.parquet"), "y")


def test_a_line_without_an_end_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["plainloop.data.kinds.json_lines"], "LONGEST", 1000)
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(b'{"inputs": [1.0], "target": 1}\n{"inputs": [' + b"1," * 1000)
    with pytest.raises(UserError, match=r"a\.jsonl\.gz, line 2: it has more than 1,000 bytes"):
        json_lines(str(tmp_path / "a.jsonl.gz"), "train")


def test_parquet_with_flipped_bits_is_answered_or_read(tmp_path):
    """polars has bugs there that no `except Exception` sees."""
    polars.DataFrame({"x": range(300), "w": [f"word {k % 7}" for k in range(300)], "y": [0.5, 1.5, 2.0] * 100}
                     ).write_parquet(tmp_path / "a.parquet")  # fmt: skip
    whole, draw = (tmp_path / "a.parquet").read_bytes(), random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(3):
            data[draw.randrange(len(data) // 2, len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / "a.parquet").write_bytes(data)
        with contextlib.suppress(UserError):
            table(str(tmp_path / "a.parquet"), "y")


@pytest.mark.parametrize("kind", ["sparse", "csr", "meta", "quantised", "numbered", "blown up"])
def test_weights_that_are_no_plain_tensors_are_answered(kind, tmp_path):
    weights: dict[Any, Any] = {"layers.1.weight": torch.zeros(10, 128)}
    name = next(iter(weights))
    if kind == "sparse":
        weights[name] = weights[name].to_sparse()
    elif kind == "csr":
        weights[name] = weights[name].to_sparse_csr()
    elif kind == "meta":
        weights[name] = weights[name].to("meta")
    elif kind == "quantised":
        weights[name] = torch.quantize_per_tensor(weights[name], 0.1, 0, torch.qint8)
    elif kind == "numbered":
        weights = {3: weights[name]}
    else:
        weights[name] = torch.zeros(1).expand(10**9)
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"finetune\.weights=.*w\.pt: (holds|can't be read as weights)") as error:
        plainloop.train(["model=mlp", "trainer.max_steps=1", f"finetune.weights={tmp_path / 'w.pt'}"])
    assert len(str(error.value).splitlines()) == 1


def test_the_newest_run_is_found_beside_what_is_none(short_run, tmp_path):
    """A config of two terabytes of nothing, and one that is a pipe."""
    for name, make in (("large", lambda path: (path.touch(), os.truncate(path, 1 << 41))), ("pipe", os.mkfifo)):
        run = tmp_path / "outputs" / name
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints/step-1.pt").touch()
        make(run / "config.yaml")
    with pytest.raises(UserError):
        plainloop.evaluate("latest")


@pytest.mark.slow
def test_a_vocabulary_that_no_config_can_hold_is_told_before_the_training(tmp_path, monkeypatch):
    """It couldn't be read again: 4 MB is what a run's config may have."""
    monkeypatch.setattr(files, "MOST_YAML", 50_000)
    draw = random.Random(0)
    rows = [f"{' '.join(f'{draw.getrandbits(64):x}' for _ in range(100))},{'ab'[k % 2]}" for k in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["text,y", *rows]) + "\n")
    words = ["data=text", f"data.path={tmp_path / 'a.csv'}", "data.text=text", "data.target=y", "logger=none"]
    with pytest.raises(UserError, match=r"the config has .* characters, .*data\.max_words, data\.min_count"):
        plainloop.train([*words, "data.min_count=1", "data.max_words=1000000", "trainer.max_steps=1"])
    assert plainloop.train([*words, "data.min_count=1", "data.max_words=1000", "trainer.max_steps=1"]).metrics
