"""Arrays by their names, from the files that hold them: .npz, .safetensors, a folder of .npy.

Only what is asked for is read, and only plain numbers (and words, as NumPy's) are: nothing in such a file is executed.
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy
import torch

from plainloop.errors import UserError, first_line

Array = torch.Tensor | numpy.ndarray
# What numpy.load and zipfile raise for files that are damaged.
UNREADABLE = (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error, NotImplementedError,
              RuntimeError, tokenize.TokenError, SyntaxError, KeyError)  # fmt: skip


def check_whole(file: IO[bytes], size: int | None = None) -> None:
    """Raises ValueError for an .npy file whose header promises more numbers than there are: room would be made for
    them. Leaves it at its beginning, where it can be left there.

    Args:
        size: of the file, where it lies in an archive.
    """
    size = file.seek(0, 2) if size is None else size
    if file.seekable():
        file.seek(0)
    version = numpy.lib.format.read_magic(file)
    read = numpy.lib.format.read_array_header_1_0 if version == (1, 0) else numpy.lib.format.read_array_header_2_0
    shape, _, kind = read(file)
    if not kind.hasobject and math.prod(shape) * kind.itemsize > size:
        raise ValueError(f"its header promises {math.prod(shape):,} numbers, and it has {size:,} bytes")
    if file.seekable():
        file.seek(0)


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
            self.names, self._read = sorted(file.stem for file in place.glob("*.npy") if file.is_file()), self._npy
            if not self.names:
                raise UserError(f"data.path={path}: there are no .npy files in this folder.")
        elif place.suffix == ".safetensors":
            self.names, self._read = self._of_safetensors(lambda file: list(file.keys())), self._safetensors
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
        def read() -> Any:
            with open(self.place / f"{name}.npy", "rb") as file:
                check_whole(file)
                return numpy.load(file, allow_pickle=False)

        return self._guarded(read, name)

    def _open_npz(self) -> Any:
        archive = numpy.load(self.place, allow_pickle=False)
        if not hasattr(archive, "files"):
            raise ValueError("this is a single array: name the folder of your .npy files")
        return archive

    def _npz(self, name: str) -> Array:
        def read() -> Any:
            with self._open_npz() as archive:
                with archive.zip.open(name if name in archive.zip.namelist() else f"{name}.npy") as file:
                    check_whole(file, archive.zip.getinfo(file.name).file_size)
                return archive[name]

        return self._guarded(read, name)

    def _guarded(self, read: Callable[[], Any], name: str = "") -> Any:
        try:
            return read()
        except UNREADABLE as error:
            pickled = "pickle" in str(error)  # NumPy advises to load it unsafely
            if pickled and name:
                raise UserError(
                    f"data.path={self.path}, array {name}: it holds Python objects (as rows of unequal "
                    "length are), and to read these could run code. Save numbers, of equal shape for every "
                    "sample."
                ) from error
            empty = self.place.is_file() and self.place.stat().st_size == 0
            why = "" if pickled else f": {'the file is empty' if empty else first_line(error)}"
            raise UserError(
                f"data.path={self.path}: not an .npz file of plain arrays{why}. (Tables: data=table)"
            ) from error

    def _safetensors(self, name: str) -> Array:
        # The file is only mapped into memory: without a copy, whoever writes it anew would change a run's data.
        return self._of_safetensors(lambda file: file.get_tensor(name).clone())

    def _of_safetensors(self, read: Callable[[Any], Any]) -> Any:
        """What `read` finds in the opened file (https://huggingface.co/docs/safetensors)."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.place, framework="pt") as file:
                return read(file)
        except SafetensorError as error:
            why = first_line(error).rstrip(".")
            raise UserError(f"data.path={self.path}: not a whole .safetensors file: {why}.") from error
