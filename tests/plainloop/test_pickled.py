"""What torch would unpickle is looked at before: nothing that torch.save writes is refused, and nothing that would use
up memory or time is let through."""

import collections
import io
import pickle
import zipfile

import pytest
import torch

from plainloop import pickled
from plainloop.pickled import is_blown_up, objection


def saved(state: object, **options: bool) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file, **options)
    file.seek(0)
    return file


def zipped(code: bytes) -> io.BytesIO:
    """A file of torch's with this pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as parts:
        parts.writestr("archive/data.pkl", code)
        parts.writestr("archive/version", "3\n")
    file.seek(0)
    return file


def checkpoint() -> dict:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    shared = (0.9, 0.999)
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "words": [shared] * 3000, "none": None,
            "counted": collections.Counter("abc"), "bytes": b"hex", "nested": {"a": [{"b": (1, (2, (3,)))}]},
            "half": torch.ones(3, dtype=torch.bfloat16), "numbers": {3: True, -1: 1e300}}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False], ids=["a zip", "as torch 1.5 wrote it"])
def test_what_torch_saves_is_loaded(zipped):
    state = checkpoint()
    file = saved(state, _use_new_zipfile_serialization=zipped)
    assert objection(file) == ""
    assert not is_blown_up(torch.load(saved(state), weights_only=True), len(file.getvalue()))


def doubled(depth: int, end: bytes) -> bytes:
    """A pair of pairs of pairs ..., each of which holds the one before twice."""
    code = b"\x80\x02}K\x01q\x00"
    for number in range(depth):
        code += b"h%ch%c\x86q%c" % (number, number, number + 1)
    return code + end


HEX = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R."
REFUSED = {
    "a key that is hashed for ever": (zipped(doubled(60, b"K\x01s.")), "over and over"),
    "lists within lists, each twice": (zipped(pickle.dumps([], 2)[:-1] + b"".join(
        b"]q%c(h%ch%ce" % (number + 1, number, number) for number in range(60)) + b"."), "over and over"),
    "one within the other": (zipped(b"\x80\x02" + b"]" * 500 + b"a" * 499 + b"."), "too deep"),
    "a list in itself": (zipped(b"\x80\x02]q\x00h\x00a."), "lies in another already"),
    "a list that is filled when it lies in another": (
        zipped(b"\x80\x02]q\x00]q\x01h\x00a0h\x00h\x01a."), "lies in another already"),
    "bytes of bytes": (zipped(HEX), "packed in a way"),
    "counted bytes": (io.BytesIO(b"\x80\x02cbuiltins\nbytearray\nJ\x00\x5e\xd0\x72\x85R."), "makes a bytearray"),
    "counted bytes in a zip": (zipped(b"\x80\x02cbuiltins\nbytearray\nK\x09\x85R."), "makes a bytearray"),
    "names from the stack": (zipped(b"\x80\x04\x8c\x08builtins\x8c\x09bytearray\x93K\x09\x85R."), "names functions"),
    "no zip": (io.BytesIO(b"PK" + b"x" * 100), "isn't as torch.save writes it"),
    "nothing": (io.BytesIO(b""), "isn't as torch.save writes it"),
    "text": (io.BytesIO(b"hello\nworld\n"), "isn't as torch.save writes it"),
    "an opcode that takes what isn't there": (zipped(b"\x80\x02\x86."), "isn't as torch.save writes it"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_use_up_memory_or_time_is_refused(case):
    file, why = REFUSED[case]
    file.seek(0)
    assert why in objection(file)


def test_a_file_that_is_larger_than_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(pickled, "PHYSICAL", 100)
    assert "bytes, and this machine 100 of memory" in objection(saved({"a": torch.zeros(100)}))


def test_tensors_that_are_shown_larger_than_they_are():
    """A stride of nothing: one number, shown as a billion of them; a small one is honest."""
    large, small = torch.zeros(1).expand(10**9), torch.zeros(1).expand(1000)
    assert is_blown_up({"a": [{"b": large}]}, 1000)
    assert not is_blown_up({"a": [small]}, 1000)
