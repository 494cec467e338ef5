"""A run as one file: the same answers as predict's, from raw inputs, in runtimes that know nothing of this project."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import plainloop
from plainloop.assembly import deployable
from plainloop.assembly.deployable import TRIED, difference
from plainloop.assembly.onnx_file import Exported
from plainloop.assembly.quiet import quietly
from plainloop.assembly.serving import of_session
from plainloop.commands.evaluate import evaluate_config
from plainloop.commands.export import export_config
from plainloop.config.compose import compose
from plainloop.config.schema import EvaluateConfig, ExportConfig
from plainloop.errors import MachineError, UserError
from plainloop.models.unpacked import Unpacked
from tests import formats
from tests.conftest import one_in, path_of, slow
from tests.plainloop.commands.test_predict import KINDS as TO_PREDICT
from tests.plainloop.commands.test_predict import QUICK, pictures, predicted, reviews


def exported(run: Path | str, *words: str) -> Path:
    """The file that `python export.py run=RUN ...` writes."""
    typed = [f"run={run}", *words]
    return export_config(compose(typed, ExportConfig), typed)


def used(beside: Path, path: Path | str) -> list[dict[str, Any]]:
    """What `python use.py FILE` says, typed where there is no plainloop."""
    done = subprocess.run(
        [sys.executable, "-I", str(beside / "use.py"), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def weather(folder: Path, *words: str) -> tuple[list[str], str]:
    path = formats.write_wave(folder / "wave.csv")
    return ["data=series", f"data.path={path}", "data.time=when", "data.target=load", "data.window=12", *words], path


def book(folder: Path, *words: str) -> tuple[list[str], str]:
    path = folder / "book.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return ["data=charseq", f"data.path={path}", "data.length=20", *words], str(path)


# The words of the run, and what to predict from. (Every model of the repository, and families of torchvision's, are
# rows of benchmarks/exporting.py.)
KINDS: dict[str, Any] = {
    "arrays": TO_PREDICT["arrays"],
    "two classes of rows": TO_PREDICT["two classes of rows"],
    "codes of rows": TO_PREDICT["codes of rows"],
    "numbers and how sure": TO_PREDICT["numbers and how sure"],
    "sounds": TO_PREDICT["sounds"],
    "texts": TO_PREDICT["texts"],
    "a series": lambda folder: weather(folder, "model.cell=lstm", "model.layers=2", "model.bidirectional=true"),
    "a series, flat": lambda folder: weather(folder, "model=mlp", "model.in_features=12"),
    "characters": lambda folder: book(folder, "model=char_transformer", "model.width=32", "model.layers=2"),
    "a string": lambda folder: (["data=one_string", "model=bare_rnn"], ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", one_in(99, KINDS))
def test_the_file_says_what_the_run_says(kind, tmp_path, capsys):
    """In batches and sizes that it wasn't traced with, in onnxruntime and in OpenVINO; and `use.py` says it of a file,
    without plainloop."""
    import openvino

    words, path = KINDS[kind](tmp_path)
    run = plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    capsys.readouterr()
    file = exported(tmp_path / "run")
    said = capsys.readouterr()
    assert said.err == ""
    assert {line.split()[0] for line in said.out.splitlines()} <= {
        "run", "takes", "gives", "fixed", "note", "checked", "written", "next"}  # fmt: skip
    run.model.eval()
    served = of_session(run.session)
    onnx, raw = Exported(file, "the file"), served.reader.raw()
    with quietly():
        vino = openvino.Core().compile_model(str(file), "CPU")

    facts, fixed = onnx.facts, {}
    for name, (_, axes) in facts["takes"].items():
        fixed |= {axis: size for axis, size in zip(raw.axes[name], axes, strict=True) if isinstance(size, int)}
    assert set(fixed) - {*range(10_000)} == ({"rows"} if kind == "a series, flat" else set())
    assert ("fixed   rows is always 12" in said.out) == (kind == "a series, flat")
    assert facts["names"] == run.classes
    assert facts["weights"] == deployable.digest_of(run.model, run.preprocess, run.session.task)
    assert facts["plainloop"] == plainloop.__version__
    assert facts["task"] == run.config.choices.get("task")

    generator = torch.Generator().manual_seed(7)
    for place, count in enumerate(TRIED):
        sizes = {axis: min(each[1 + place], 20 if kind == "characters" else 99) for axis, each in raw.sizes.items()}
        inputs = raw.draw({"batch": count, **sizes, **fixed}, generator)
        answer, other = onnx(inputs), vino({name: each.numpy() for name, each in inputs.items()})
        batch = served.prepare((raw(**inputs),))[0]
        with torch.inference_mode():
            outputs = run.model(**batch) if isinstance(batch, dict) else run.model(batch)
            truth = served.task.named(outputs, batch)
        assert list(answer) == list(truth)
        for name, value in truth.items():
            assert len(answer[name]) == count
            assert difference(torch.from_numpy(answer[name]), value) < 1e-4
            assert difference(torch.from_numpy(other[name]), value) < 1e-4

    probable = next((name for name in onnx.names if name == "probabilities"), None)
    loader = run.session.loader("val") or run.session.loader("train")
    with loader as batches:
        for batch in batches:
            inputs = raw.back(batch[0])
            answer, other = onnx(inputs), vino({name: each.numpy() for name, each in inputs.items()})
            assert all(
                difference(torch.from_numpy(other[name]), torch.from_numpy(answer[name])) < 1e-4 for name in truth
            )
            if probable:  # the class is the same on the whole of the split
                assert (answer[probable].argmax(-1) == other[probable].argmax(-1)).all()

    if kind in TO_PREDICT:
        single = path if Path(path).is_file() else one_of(path)
        if kind == "texts":
            single = str(tmp_path / "one.txt")
            Path(single).write_text("A good one,\nbut unheard-of")
        for row, line in zip(predicted(tmp_path / "run", f"input={single}"), used(file.parent, single), strict=True):
            for name, value in line.items():
                if isinstance(value, str):
                    assert value == row[name]
                else:
                    assert value == pytest.approx(float(row[name]), rel=1e-4, abs=1e-5)


def one_of(folder: str) -> str:
    """A file in a folder."""
    return str(next(file for file in sorted(Path(folder).rglob("*")) if file.is_file()))


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pets")
    words, _ = pictures(folder, "model=mlp", "data.size=[24,32]", "transforms.resize=16")
    plainloop.train([*words, *QUICK, f"hydra.run.dir={folder / 'run'}"])
    exported(folder / "run")
    return folder


@pytest.mark.slow
def test_pictures_of_every_kind_and_size(pets, tmp_path):
    """Grey, with a palette, transparent, of 16 bits, turned by EXIF, in CMYK: as `predict.py` reads them."""
    draw = numpy.random.default_rng(3)
    colours = Image.fromarray(draw.integers(0, 255, (40, 90, 3), dtype=numpy.uint8))
    pale = Image.fromarray(draw.integers(0, 255, (70, 70, 4), dtype=numpy.uint8))
    turned = colours.getexif()
    turned[0x0112] = 6
    colours.save(tmp_path / "a.png")
    colours.convert("L").save(tmp_path / "grey.png")
    colours.convert("P").save(tmp_path / "palette.png")
    colours.convert("CMYK").save(tmp_path / "cmyk.jpg")
    colours.resize((400, 300)).save(tmp_path / "large.jpg", quality=95)
    colours.resize((500, 430)).save(tmp_path / "large.png")
    colours.save(tmp_path / "turned.jpg", exif=turned)
    pale.save(tmp_path / "transparent.png")
    Image.fromarray(draw.integers(0, 65535, (40, 60), dtype=numpy.uint16)).save(tmp_path / "deep.png")
    for row in predicted(pets / "run", f"input={tmp_path}", "probabilities=true"):
        (line,) = used(pets / "run/export", row["file"])
        assert line["probability"] == pytest.approx(float(row["probability"]), abs=3e-3), row["file"]


@pytest.mark.slow
def test_nothing_of_the_run_becomes_code(tmp_path):
    """Names of classes and columns are a stranger's, perhaps: `use.py` is the same whatever they are."""
    programs = []
    wicked = "'''); __import__('os').mkdir('pwned')#{\\}\u202e"
    for name, word in (("harmless", "x"), ("wicked", wicked)):
        file = tmp_path / f"{name}.csv"
        rows = [f'{number},{number % 7},"{word}{number % 2}","{word} {number % 3}"' for number in range(60)]
        file.write_text("\n".join([f'a,b,"{word} c",kind', *rows]) + "\n")
        run = tmp_path / f"run {name}"
        words = ["data=table", f"data.path={file}", "data.target=kind", "data.separator=','"]
        plainloop.train([*words, *QUICK, f"hydra.run.dir='{run}'"])
        beside = exported(f"'{run}'").parent
        programs.append((beside / "use.py").read_text())
        said = used(beside, file)
        assert [line["prediction"] for line in said] == [
            row["prediction"] for row in predicted(f"'{run}'", f"input={file}")
        ]
        assert not (tmp_path / "pwned").exists()
    assert programs[0] == programs[1]
    modules = {node.names[0].name if isinstance(node, ast.Import) else node.module for node in
               ast.walk(ast.parse(programs[0])) if isinstance(node, ast.Import | ast.ImportFrom)}  # fmt: skip
    assert modules == {"csv", "json", "sys", "pathlib", "numpy", "onnxruntime"}


# --- other formats --------------------------------------------------------------------------------------------------

PLAIN_TORCH = """
import json, sys, torch
extra = {"facts.json": ""}
module = torch.export.load(sys.argv[1], extra_files=extra).module()
assert "plainloop" not in sys.modules
facts = json.loads(extra["facts.json"])
found = []
for n, t in ((1, 5), (3, 2), (7, 30)):
    tokens, lengths = torch.arange(1, n * t + 1).reshape(n, t) % 9, torch.tensor([1 + i % t for i in range(n)])
    found.append(module(tokens, lengths))
print(json.dumps([{name: each.tolist() for name, each in one.items()} for one in found] + [facts["names"]]))
"""


@pytest.mark.slow
def test_a_program_of_torchs_needs_torch_alone(tmp_path):
    words, _ = reviews(tmp_path)
    run = plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    file = exported(tmp_path / "run", "format=torch_export", f"output={tmp_path / 'reviews.pt2'}")
    assert not (tmp_path / "use.py").exists()
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_TORCH, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *found, names = json.loads(done.stdout)
    assert names == run.classes
    for said, (count, most) in zip(found, ((1, 5), (3, 2), (7, 30)), strict=True):
        tokens = torch.arange(1, count * most + 1).reshape(count, most) % 9
        with torch.inference_mode():
            truth = run.model(tokens, torch.tensor([1 + place % most for place in range(count)]))
        torch.testing.assert_close(torch.tensor(said["logits"]), truth, atol=1e-6, rtol=0)


def test_weights_alone(short_run, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file

    file = exported(short_run.path, "format=safetensors", f"output={tmp_path / 'digits.safetensors'}")
    weights, own = load_file(file), short_run.model.state_dict()
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["plainloop"])
    assert told["names"] == short_run.classes
    assert told["arguments"]["_target_"] == "plainloop.models.MLP"
    assert told["arguments"]["in_features"] == 64
    torch.testing.assert_close(torch.tensor(told["state of preprocess"]["scale"]), short_run.preprocess.scale)
    other = plainloop.train(["model=mlp", f"finetune.weights={file}", *QUICK, "optimizer.lr=0.0"])
    assert torch.equal(other.model.state_dict()["layers.1.weight"], own["layers.1.weight"])


# --- what isn't so, and what can't be -------------------------------------------------------------------------------


class Lying(nn.Module):
    """It says something else once it is traced."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.layer(inputs.flatten(1))
        return outputs + 0.1 if torch.compiler.is_compiling() else outputs


class Looking(Lying):
    """What it does depends on the values of its inputs."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.layer(inputs.flatten(1))
        return -outputs if outputs.sum().item() > 0 else outputs


class Counting(Lying):
    """It works for batches of one size once it is traced."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.flatten(1)) + torch.zeros(len(inputs), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        slow(
            (Lying, MachineError, r"says something else than PyTorch: logits differs by 0.0\d+ .* No file is written")
        ),
        (Looking, UserError, "Looking can't be traced, and so not exported: what it does depends on the values"),
        (Counting, UserError, "Counting works for batches of 2 samples only once it is traced"),
    ],
)
@pytest.mark.parametrize("form", one_in(2, ["onnx", "torch_export"]))
def test_a_model_that_cannot_be_exported_is_told_and_leaves_no_file(model, kind, said, form, tmp_path):
    name = path_of(model)
    plainloop.train(
        ["model=custom", f"model._target_={name}", "model.in_features=${spec.num_features}",
         "model.out_features=${spec.num_outputs}", *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])  # fmt: skip
    with pytest.raises(kind, match=said):
        exported(tmp_path / "run", f"format={form}", f"trust=[{name}]")
    assert not (tmp_path / "run/export").exists()


def test_transforms_of_samples_are_refused_before_tracing(tmp_path, monkeypatch):
    words, _ = TO_PREDICT["images, transformed"](tmp_path)
    plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: pytest.fail("it is traced"))
    with pytest.raises(UserError, match=r"transforms.eval: what it does is done to each sample where it is loaded"):
        exported(tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["format=tflite"], r"format=tflite: must be one of onnx, torch_export, safetensors"),
        (["output=model.pt"], r"output=model.pt: format=onnx writes a file that ends in .onnx"),
        (["output=none/model.onnx"], r"output=none/model.onnx: there is no folder none"),
        (["format=torch_export", "quantize=int8"], r"quantize=int8: it is for format=onnx"),
        (["output=folder.onnx"], r"output=folder.onnx: that is a folder"),
        (["output=mine/model.onnx"], r"use.py isn't one that export.py has written, and would be replaced"),
        (["checkpoint=none.pt"], r"checkpoint=none.pt: must be best, best-2, last, or the path of a file"),
        (["model=mlp"], r"model"),
    ],
)
def test_what_is_mistyped_is_answered(words, said, short_run, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/use.py").write_text("precious = True\n")
    with pytest.raises(UserError, match=said):
        exported(short_run.path, *words)
    assert (tmp_path / "mine/use.py").read_text() == "precious = True\n"
    assert not (short_run.path / "export").exists()


def test_without_the_extra_it_is_said_how_to_install_it(monkeypatch):
    """Before torch is imported: while the config is composed."""
    from plainloop.config import schema

    found = schema.importlib.util.find_spec
    monkeypatch.setattr(
        schema.importlib.util, "find_spec", lambda name, *more: None if name == "onnxscript" else found(name, *more)
    )
    with pytest.raises(UserError, match=r"format=onnx needs onnxscript, which isn't installed. Type: pip install -e"):
        compose(["run=latest"], ExportConfig)
    assert compose(["run=latest", "format=torch_export"], ExportConfig).format == "torch_export"


def test_a_run_directory_leads_no_file_elsewhere(short_run, tmp_path):
    run = Path(shutil.copytree(short_run.path, tmp_path / "run"))
    (tmp_path / "elsewhere").mkdir()
    (run / "export").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link: nothing is written through it"):
        exported(run, "format=safetensors")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_the_command_that_is_typed(type_command, tmp_path):
    """What torch's exporter and the libraries below it print isn't seen."""
    run = plainloop.train(["data=breast_cancer", "model=mlp", *QUICK, "hydra.run.dir=run"])
    done = type_command("export.py", f"run={run.path}", f"output={tmp_path / 'cells.onnx'}")
    assert (done.status, done.err) == (0, "")
    first = [line.partition(" ")[0] for line in done.out.splitlines()]
    assert first == ["run", "takes", "gives", "gives", "checked", "written", "written", "next"]
    assert {file.name for file in tmp_path.iterdir()} == {"cells.onnx", "use.py", "run"}


def test_models_are_left_as_they_are(short_run, tmp_path):
    """What is traced is a copy: recurrent layers in it are changed for their twins, in the run's model none is."""
    model = nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 3))
    twin = deployable._traceable(model)
    assert isinstance(twin[1], Unpacked)
    assert isinstance(model[1], nn.GRU)
    assert twin[0].weight is model[0].weight


# --- measured like the run ------------------------------------------------------------------------------------------


def evaluated(run: Path | str, *words: str) -> dict[str, float]:
    typed = [f"run={run}", *words]
    return evaluate_config(compose(typed, EvaluateConfig), typed)


@pytest.fixture(scope="module")
def digits(short_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of the short run."""
    return exported(short_run.path, f"output={tmp_path_factory.mktemp('digits') / 'digits.onnx'}")


@pytest.mark.slow
def test_a_file_is_measured_like_the_run(short_run, digits, capsys):
    capsys.readouterr()
    found = evaluated(short_run.path, f"model={digits}")
    own = short_run.metrics
    assert found["test/accuracy"] == own["test/accuracy"]
    assert found == pytest.approx({name: own[name] for name in found}, abs=1e-6)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.startswith("        ") and line.split()}
    assert rows["size"] == ["size", "ms", "per", "sample", "loss", "accuracy", "macro_f1"]
    assert rows["PyTorch"][4:] == rows["ONNX"][4:]
    assert float(rows["ONNX"][1]) == pytest.approx(digits.stat().st_size / 1e6, abs=1e-3)
    result = json.loads((short_run.path / "evaluate-test-best-digits.json").read_text())
    assert result == pytest.approx(found)


@pytest.mark.slow
def test_a_file_of_others_is_refused(short_run, digits, tmp_path):
    import onnx

    other = plainloop.train(["model=mlp", "seed=1", *QUICK])
    with pytest.raises(
        UserError, match=rf"it has other weights than this run's \(it is of the run {short_run.path.name}"
    ):
        evaluated(other.path, f"model={digits}")
    bare = onnx.load(digits)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    with pytest.raises(UserError, match="it tells nothing of where it comes from"):
        evaluated(short_run.path, f"model={tmp_path / 'bare.onnx'}")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UserError, match=r"model=.*text.onnx: onnxruntime can't load it"):
        evaluated(short_run.path, f"model={tmp_path / 'text.onnx'}")
    for word, said in (("none.onnx", "there is no such file"), ("cnn", "must be an ONNX file that export.py wrote")):
        with pytest.raises(UserError, match=f"model={word}: {said}"):
            evaluated(short_run.path, f"model={word}")


@pytest.mark.slow
def test_a_file_of_averaged_weights_is_measured_too(tmp_path):
    words, _ = TO_PREDICT["numbers of rows"](tmp_path)
    run = plainloop.train([*words, *QUICK, "trainer.ema_decay=0.5", f"hydra.run.dir={tmp_path / 'run'}"])
    found = evaluated(run.path, f"model={exported(run.path)}")
    assert found == pytest.approx({name: run.metrics[name] for name in found}, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_a_quantised_file_tells_what_it_loses(tmp_path, capsys):
    run = plainloop.train(["data=breast_cancer", "model=mlp", *QUICK])
    whole = exported(run.path).stat().st_size
    file = exported(run.path, "quantize=int8", f"output={tmp_path / 'small.onnx'}")
    assert file.stat().st_size < 0.6 * whole
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("int8"))
    found, was = evaluated(run.path, f"model={file}", "split=val"), run.metrics["val/accuracy"]
    assert f"val/accuracy {found['val/accuracy']:.4f} instead of {was:.4f}" in line
    assert found["val/accuracy"] == pytest.approx(was, abs=0.06)
    exported(run.path, "quantize=int8", f"output={tmp_path / 'small.onnx'}", "paths.data=nowhere")
    assert "what it loses isn't measured: data.path=nowhere/breast_cancer.csv" in capsys.readouterr().out
