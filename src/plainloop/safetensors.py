"""Files of safetensors, read without a library: nothing in them can be executed.

Such a file is: the header's length in 8 bytes, the header in JSON, the tensors' bytes without gaps
(https://huggingface.co/docs/safetensors).
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plainloop.errors import UserError

# What the header calls the types of numbers, all little-endian.
TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


def read_header(place: Path, what: str) -> tuple[dict[str, Any], int]:
    """What a file says of its tensors, {name: {dtype, shape, data_offsets}}, and where their bytes begin.

    Args:
        what: the file as the user calls it, for messages: `data.path=FILE`.

    Raises:
        UserError: the header and the bytes don't fit together.
    """

    def refused(why: str) -> UserError:
        return UserError(f"{what}: not a whole .safetensors file: {why}.")

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


def read_tensor(place: Path, entry: dict[str, Any], start: int) -> Tensor:
    """The tensor that an entry of the header describes.

    Args:
        start: where the tensors' bytes begin.
    """
    begin, end = entry["data_offsets"]
    with open(place, "rb") as file:
        file.seek(start + begin)
        content = bytearray(file.read(end - begin))
    if not content:
        return torch.empty(entry["shape"], dtype=TYPES[entry["dtype"]])
    return torch.frombuffer(content, dtype=TYPES[entry["dtype"]]).reshape(entry["shape"])
