"""Arrays by their names, from the files that hold them: .npz, .safetensors, a folder of .npy.

Only what is asked for is read, and only plain numbers (and words, as NumPy's) are: nothing in such a file is executed.
"""

import json
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

from plainloop.errors import UserError, first_line

# What safetensors calls the types of numbers (https://huggingface.co/docs/safetensors), all little-endian.
TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
Array = torch.Tensor | numpy.ndarray


class NamedArrays:
    """The arrays in a file or folder: `names`, and `arrays[name]`. Raises UserError for what can't be read.

    Args:
        place: an .npz file, a .safetensors file, or a folder of .npy files.
        path: what the user calls it.
    """

    def __init__(self, place: Path, path: str):
        if not place.exists():
            raise UserError(f"data.path={path}: there is no such file.")
        self.place, self.path = place, path
        self.names: list[str]
        self._read: Callable[[str], Array]
        if place.is_dir():
            self.names, self._read = sorted(file.stem for file in place.glob("*.npy")), self._npy
            if not self.names:
                raise UserError(f"data.path={path}: there are no .npy files in this folder.")
        elif place.suffix == ".safetensors":
            self.header, self.start = _safetensors_header(place, path)
            self.names, self._read = list(self.header), self._safetensors
        else:
            self.names, self._read = self._guarded(lambda: self._open_npz().files), self._npz

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Array:
        """An array in this machine's own byte order."""
        array = self._read(name)
        if isinstance(array, numpy.ndarray) and not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        return array

    def _npy(self, name: str) -> Array:
        return self._guarded(lambda: numpy.load(self.place / f"{name}.npy", allow_pickle=False), name)

    def _open_npz(self) -> Any:
        archive = numpy.load(self.place, allow_pickle=False)
        if not hasattr(archive, "files"):
            raise ValueError("this is a single array: name the folder of your .npy files")
        return archive

    def _npz(self, name: str) -> Array:
        def read() -> Any:
            with self._open_npz() as archive:
                return archive[name]

        return self._guarded(read, name)

    def _guarded(self, read: Callable[[], Any], name: str = "") -> Any:
        try:
            return read()
        except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            pickled = "pickle" in str(error)  # NumPy advises to load it unsafely
            if pickled and name:
                raise UserError(f"data.path={self.path}, array {name}: it holds Python objects (as rows of unequal "
                                "length are), and to read these could run code. Save numbers, of equal shape for every "
                                "sample.") from error  # fmt: skip
            empty = self.place.is_file() and self.place.stat().st_size == 0
            why = "" if pickled else f": {'the file is empty' if empty else first_line(error)}"
            raise UserError(
                f"data.path={self.path}: not an .npz file of plain arrays{why}. (Tables: data=table)"
            ) from error

    def _safetensors(self, name: str) -> Array:
        entry = self.header[name]
        begin, end = entry["data_offsets"]
        with open(self.place, "rb") as file:
            file.seek(self.start + begin)
            content = bytearray(file.read(end - begin))
        if not content:
            return torch.empty(entry["shape"], dtype=TYPES[entry["dtype"]])
        return torch.frombuffer(content, dtype=TYPES[entry["dtype"]]).reshape(entry["shape"])


def _safetensors_header(place: Path, path: str) -> tuple[dict[str, Any], int]:
    """What a .safetensors file says of its arrays, {name: {dtype, shape, data_offsets}}, and where their bytes begin.

    The file is: the header's length in 8 bytes, the header in JSON, the arrays' bytes without gaps.
    Raises UserError where the header and the bytes don't fit together.
    """

    def refused(why: str) -> UserError:
        return UserError(f"data.path={path}: not a whole .safetensors file: {why}.")

    size = place.stat().st_size
    with open(place, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, 100_000_000):
            raise refused(f"its header is said to be {length:,} bytes long, and the file is {size:,}")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise refused("its header is not an object in JSON") from error
    ends = 0
    try:
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            if entry["dtype"] not in TYPES:
                raise refused(f"{name} is of type {entry['dtype']}, which isn't known here")
            if not all(isinstance(number, int) and number >= 0 for number in (*entry["shape"], begin, end)):
                raise refused(f"{name} has the shape {entry['shape']} at {begin} to {end}")
            if begin != ends:
                raise refused(f"{name} begins at byte {begin}, and the one before ends at {ends}")
            wanted = math.prod(entry["shape"]) * TYPES[entry["dtype"]].itemsize
            if end - begin != wanted:
                raise refused(
                    f"{name} is {end - begin} bytes long, and {entry['dtype']} of {entry['shape']} are {wanted}"
                )
            ends = end
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise refused("its header doesn't say dtype, shape and data_offsets of every array") from error
    if 8 + length + ends != size:
        raise refused(f"its arrays end at byte {8 + length + ends:,}, and the file at {size:,}")
    return header, 8 + length
