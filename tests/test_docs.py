"""Every command and every piece of Python in the documents runs; every link leads somewhere; no option is forgotten."""

import hashlib
import re
import shlex
from pathlib import Path

import pytest

import plainloop
from plainloop.compose import groups
from plainloop.errors import UserError
from tests.conftest import ROOT, command
from tests.formats import write_mnist

DOCUMENTS = [
    "README.md",
    "docs/data.md",
    "docs/tour.md",
    "docs/overfitting.md",
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


def files(document: str) -> dict[str, str]:
    """The pieces of Python that the reader is asked to save: they begin with the file's name."""
    named = [(re.match(r"# (\w+\.py)\n", block), block) for block in blocks(document, "python")]
    return {name[1]: block for name, block in named if name}


# Run elsewhere, or not at all: pip's two commands by .ci/run, verbatim; TensorBoard by test_tensorboard.py; the
# benchmarks take minutes, and their figures mean nothing beside other tests.
ELSEWHERE = ("pip install", "tensorboard ", "python benchmarks/")


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_runs(document, tmp_path: Path):
    """In the document's order, in one folder where MNIST's files lie in data/, and what the reader is to save."""
    write_mnist(tmp_path / "data", train=600, test=100)
    saved = files("docs/data.md") if document == "README.md" else files(document)  # the README's user has data
    for name, block in saved.items():
        (tmp_path / name).write_text(block)
    if document == "README.md":
        assert command(str(tmp_path / "make_examples.py"), folder=tmp_path).status == 0
    for line in commands(document):
        line = line.removeprefix("pip install -e . && ")
        if line.startswith(ELSEWHERE):
            continue
        python, script, *words = shlex.split(line)
        assert python == "python", line
        done = command(str(tmp_path / script) if script in saved else script, *words, folder=tmp_path)
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


# What the three rules of docs/data.md forbid, as `return` lines of its own data set, and what is answered.
BROKEN = {
    "an array": ("self.points[index].numpy(), self.targets[index]", ["must be a tensor", "ndarray", "torch.as_tensor"]),
    "no target": ("self.points[index]", ["(input, target)", "Return both"]),
    "a class by its name": ("self.points[index], 'left'", ["target must be a number", "'left'", "`classes`"]),
    "two shapes": ("torch.zeros(2 + index % 2), self.targets[index]", ["equal shape", "[2]", "[3]", "collate_fn="]),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_the_rules_of_a_data_set_are_answered_by_name(case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before the first step, and nothing is written."""
    line, words = BROKEN[case]
    source = files("docs/data.md")["my_data.py"]
    assert source.count("self.points[index], self.targets[index]") == 1
    module = f"broken_{abs(hash(case))}"
    source = source.replace("self.points[index], self.targets[index]", line).replace("(1000", "(100")
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        plainloop.train(["data=custom", f"data._target_={module}.Spirals"])
    assert all(word in str(error.value) for word in words), error.value
    assert len(str(error.value).splitlines()) <= 2
    assert not (tmp_path / "outputs").exists()
