"""Every command and every piece of Python in the documents runs; every link leads somewhere; no option is forgotten."""

import hashlib
import re
import shlex
from pathlib import Path

import pytest

from plainloop.compose import groups
from tests.conftest import ROOT, command
from tests.formats import write_mnist

DOCUMENTS = [
    "README.md",
    "docs/tour.md",
    "docs/fork.md",
    "docs/reproducibility.md",
    "data/README.md",
    "benchmarks/README.md",
]


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[str]:
    """The lines of the bash blocks, without their comments."""
    lines = [line for block in blocks(document, "bash") for line in block.splitlines()]
    return [stripped for line in lines if (stripped := re.sub(r"\s+#.*$", "", line).strip())]


# Run elsewhere, or not at all: pip's two commands by .ci/run, verbatim; TensorBoard by test_tensorboard.py; the
# benchmarks take minutes, and their figures mean nothing beside other tests.
ELSEWHERE = ("pip install", "tensorboard ", "python benchmarks/")


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_runs(document, tmp_path: Path):
    """In the document's order, in one folder, where MNIST's files lie in data/."""
    write_mnist(tmp_path / "data", train=600, test=100)
    for line in commands(document):
        line = line.removeprefix("pip install -e . && ")
        if line.startswith(ELSEWHERE):
            continue
        python, script, *words = shlex.split(line)
        assert python == "python", line
        done = command(script, *words, folder=tmp_path)
        assert done.status == 0, f"{line}\n{done.err}"
        assert done.err == "" or script != "train.py", f"{line}\n{done.err}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_piece_of_python_runs(document, capsys: pytest.CaptureFixture):
    for block in blocks(document, "python"):
        names: dict = {}
        exec(compile(block, document, "exec"), names)
        if "logits" in names:
            assert names["logits"].shape == (359, 10)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
        if not target.startswith("http"):
            assert ((ROOT / document).parent / target).exists(), target


def test_the_readme_lists_every_option_and_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    for group, options in groups().items():
        for option in options:
            assert re.search(rf"`{option}`|{group}={option}\b", text), f"{group}={option}"


def test_the_first_code_block_is_the_set_up():
    assert commands("README.md")[:2] == [
        "pip install -e . && python train.py model=mlp",
        'pip install -e ".[dev]" && pytest',
    ]


def test_the_shipped_data_are_those_of_the_checksums():
    """And git turns no line ending of theirs (.gitattributes)."""
    sums = re.findall(r"^([0-9a-f]{64})  (\S+)$", (ROOT / "data/README.md").read_text(), re.MULTILINE)
    assert len(sums) == 3
    for digest, name in sums:
        assert hashlib.sha256((ROOT / "data" / name).read_bytes()).hexdigest() == digest
