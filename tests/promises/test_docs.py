"""Every command and every piece of Python in the documents runs; every link leads somewhere; no option is forgotten."""

import hashlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

import plainloop
from plainloop.config.options import groups
from plainloop.errors import UserError
from tests.conftest import ROOT, Done, command
from tests.formats import write_mnist

DOCUMENTS = [
    "README.md",
    "docs/data.md",
    "docs/using.md",
    "docs/models.md",
    "docs/tour.md",
    "docs/overfitting.md",
    "docs/fork.md",
    "docs/security.md",
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


def cut_down(line: str) -> str:
    """A command that trains as long as its config says trains two epochs, and two batches in each where the model is
    large or the pictures are many; that it learns is tested elsewhere."""
    lengths = ("resume=", "extend=", "run=", "--", "debug=", "schedule.draw", "swa_start")
    if not line.startswith("python train.py") or any(word in line for word in lengths):
        return line
    if re.search(r"=(torchvision|timm|hub_resnet|vit|resnet|fake)\b", line):
        line += " trainer.limit_batches=2"
    return line if "trainer.max_" in line else f"{line} trainer.max_epochs=2"


def in_table(document: str) -> list[str]:
    """The commands in a table's last column."""
    return re.findall(r"\| `(python train\.py [^`]+)` \|$", (ROOT / document).read_text(), re.MULTILINE)


def files(document: str) -> dict[str, str]:
    """What the reader is asked to save: Python and YAML that begin with the file's name."""
    pieces = [*blocks(document, "python"), *blocks(document, "yaml")]
    named = [(re.match(r"(?:# @package \w+\n)?# ([\w/]+\.(?:py|yaml))\n", block), block) for block in pieces]
    return {name[1]: block for name, block in named if name}


def mistakes(document: str) -> list[tuple[str, str]]:
    """The commands of the console blocks, and what is answered (broken into lines to be read)."""
    text = "".join(blocks(document, "console"))
    return [(line, answer) for line, answer in re.findall(r"^\$ (.+)\n((?:(?!\$ ).+\n)+)", text, re.MULTILINE)]


# Run elsewhere, or not at all: pip's two commands by .ci/run, verbatim; TensorBoard by test_tensorboard.py; the
# benchmarks take minutes, and their figures mean nothing beside other tests.
ELSEWHERE = ("pip install", "tensorboard ", "python benchmarks/")


# Of models/, what builds, loads or freezes models, and is none.
NO_CHAPTERS = ("__init__", "freezing", "preset", "unpacked", "weights")


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_runs(document, tmp_path: Path):
    """In the document's order, in one folder where MNIST's files lie in data/, and what the reader is to save: some of
    it in the project itself, of which the folder is a copy then."""
    write_mnist(tmp_path / "data", train=600, test=100)
    examples = files("docs/data.md")
    saved = examples if document == "README.md" else files(document)  # the README's user has data
    if any("/" in name for name in saved):
        for part in ("src", "configs", "data"):
            shutil.copytree(ROOT / part, tmp_path / part, dirs_exist_ok=True)
        for door in ROOT.glob("*.py"):
            shutil.copy(door, tmp_path)
    for name, block in saved.items():
        (tmp_path / name).write_text(block)
    if document in ("README.md", "docs/models.md", "docs/using.md"):
        (tmp_path / "make_examples.py").write_text(examples["make_examples.py"])
        assert command(str(tmp_path / "make_examples.py"), folder=tmp_path).status == 0

    def typed(line: str) -> Done:
        python, script, *words = shlex.split(line)
        assert python == "python", line
        own = tmp_path / script
        return command(str(own) if own.exists() else script, *words, folder=tmp_path)

    once = in_table(document) if document == "docs/models.md" else []  # others' tables are of files that nobody has
    for line in [*commands(document), *once]:
        line = line.removeprefix("pip install -e . && ")
        if line.startswith(ELSEWHERE):
            continue
        done = typed(cut_down(line))
        assert done.status == 0, f"{line}\n{done.err}"
        assert done.err == "" or "python train.py" not in line, f"{line}\n{done.err}"
    for line, answer in mistakes(document):
        done = typed(line)
        assert done.status == 2, line
        # Newer versions of torch name the operation, "addmm: mat1 and mat2 shapes ...".
        said, wanted = (text.replace("addmm: ", "").split() for text in (done.err, answer))
        assert said == wanted, f"{line}\n{done.err}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_piece_of_python_runs(document, capsys: pytest.CaptureFixture):
    for block in blocks(document, "python"):
        names: dict = {}
        exec(compile(block, document, "exec"), names)
        if "logits" in names:
            assert names["logits"].shape == (359, 10)
        if "text" in names:
            assert names["text"] == "if you want you"


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


def test_the_models_page_lists_every_option_of_its_groups():
    text = (ROOT / "docs/models.md").read_text()
    for group in ("loss", "optimizer", "scheduler"):
        for option in groups()[group]:
            assert re.search(rf"`{option}`|{group}={option}\b", text), f"{group}={option}"
    for module in (ROOT / "src/plainloop/models").glob("*.py"):
        if module.stem not in NO_CHAPTERS:
            assert f"models/{module.name})" in text, module.name


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
