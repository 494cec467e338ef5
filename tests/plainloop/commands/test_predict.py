"""What a run has learned, for new inputs: read as its own were, the same answers as evaluate's, from the run alone."""

import csv
import dataclasses
import gzip
import io
import itertools
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy
import polars
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

import plainloop
from plainloop.commands.predict import predict_config
from plainloop.config.compose import compose
from plainloop.config.schema import PredictConfig
from plainloop.data.kinds.pictures import decode
from plainloop.data.reading import New, Reader
from plainloop.errors import MachineError, UserError
from plainloop.reports.rows import RowFile
from plainloop.training.evaluation import eval_mode
from project.data import TwoMoons
from tests import formats
from tests.conftest import one_in, path_of

QUICK = ("trainer.max_epochs=1", "logger=none", "console.every_epochs=100")


def predicted(run: Path | str, *words: str) -> list[dict[str, str]]:
    """The rows of the file that `python predict.py run=RUN ...` writes."""
    typed = [f"run={run}", *words]
    path = predict_config(compose(typed, PredictConfig), typed)
    assert path is not None
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def measured(run: plainloop.Run) -> dict[str, list[Any]]:
    """What the run's task says of its test split, sample by sample, by a loop of its own."""
    session, found = run.session, {}
    loader = session.loader("test")
    with loader as batches, eval_mode(run.model, session.task), torch.inference_mode():
        for batch in batches:
            inputs, *_ = session.prepare(batch)
            outputs = run.model(**inputs) if isinstance(inputs, dict) else run.model(inputs)
            for name, values in session.task.answers(outputs, inputs, run.classes, 1, False).items():
                found.setdefault(name, []).extend(values)
    return found


def write_reviews(file: Path, count: int = 120) -> str:
    said = ["a good one", "bad and dull", "fine but long"]
    rows = ["review,stars", *(f"{said[number % 3]} {number % 7},{number % 3}" for number in range(count))]
    file.write_text("\n".join(rows) + "\n")
    return str(file)


# The words of the run, given a folder to write in; and what to predict from: all of its samples, in their order.
def patients(folder: Path, *words: str) -> tuple[list[str], str]:
    path = formats.write_patients(folder / "patients.csv")
    return ["data=table", f"data.path={path}", "data.exclude=[patient,day]", *words], path


def pictures(folder: Path, *words: str) -> tuple[list[str], str]:
    formats.write_images(folder / "pets", {"cat": 20, "dog": 20})
    return ["data=images", f"data.path={folder / 'pets'}", *words], str(folder / "pets")


def sounds(folder: Path, *words: str) -> tuple[list[str], str]:
    formats.write_tones(folder / "tones", {"low": 12, "high": 12})
    return ["data=audio", f"data.path={folder / 'tones'}", *words], str(folder / "tones")


def reviews(folder: Path, *words: str) -> tuple[list[str], str]:
    path = write_reviews(folder / "reviews.csv")
    return ["data=text", f"data.path={path}", "data.text=review", "data.target=stars", *words], path


def arrays(folder: Path, *words: str) -> tuple[list[str], str]:
    return ["data=digits", *words], str(Path(plainloop.__file__).parents[2] / "data/digits.npz")


KINDS: dict[str, Any] = {
    "classes of rows": lambda folder: patients(folder, "data.target=drug"),
    "two classes of rows": lambda folder: patients(folder, "data.target=sick"),
    "codes of rows": lambda folder: patients(folder, "data.target=drug", "data.categories=embed", "model=tabular"),
    "numbers of rows": lambda folder: patients(folder, "data.target=cost"),
    "numbers and how sure": lambda folder: patients(folder, "data.target=cost", "task=gaussian_regression"),
    "labels of rows": lambda folder: patients(folder, "data.target=[fever,cough]"),
    "images": pictures,
    "images of another size": lambda folder: pictures(folder, "data.size=[24,32]", "transforms.resize=16"),
    "images, transformed": lambda folder: pictures(
        folder, "transforms.eval=[{_target_:torchvision.transforms.v2.CenterCrop,size:24}]",
        "transforms.train=[{_target_:torchvision.transforms.v2.CenterCrop,size:24}]"),
    "sounds": sounds,
    "texts": reviews,
    "letters of texts": lambda folder: reviews(folder, "data.tokens=char", "data.max_length=9"),
    "arrays": arrays,
    "arrays again": lambda folder: arrays(folder, "task=reconstruction", "model=autoencoder"),
}  # fmt: skip


@pytest.mark.parametrize("kind", one_in(9, KINDS))
def test_the_answers_are_those_of_the_run_sample_by_sample(kind, tmp_path, capsys):
    """And the run is rebuilt without its data: nothing but its directory is there."""
    words, path = KINDS[kind](tmp_path)
    run = plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    taken = run.data.indices.get("test", {}).get("indices")
    truth = measured(run)
    given = Path(
        shutil.copytree(path, tmp_path / "new") if Path(path).is_dir() else tmp_path / f"new{Path(path).suffix}"
    )
    if Path(path).is_file():
        shutil.copy(path, given)
    if "digits" not in path:
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
    rows = predicted(tmp_path / "run", f"input={given}", f"output={tmp_path / 'out.csv'}", "loader.eval.batch_size=7")
    assert len(rows) == sum(run.config.spec.samples(split) or 0 for split in ("train", "val", "test"))
    mine = [rows[index] for index in taken]
    for name, values in truth.items():
        said = [row[name] for row in mine]
        if isinstance(values[0], str):
            assert said == values
        else:
            assert [float(word) for word in said] == pytest.approx(values, rel=1e-4, abs=1e-6)
    if "error" in rows[0]:
        assert {row["error"] for row in rows} == {""}


@pytest.mark.parametrize("kind", one_in(2, ["classes of rows", "images"]))
def test_from_python_the_same(kind, tmp_path):
    words, path = KINDS[kind](tmp_path)
    plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    run = plainloop.load_run(tmp_path / "run")
    frame = run.predict(path, top=2, probabilities=True)
    rows = predicted(tmp_path / "run", f"input={path}", "top=2", "probabilities=true")
    assert frame.columns == list(rows[0])
    assert run.classes == (["cat", "dog"] if kind == "images" else ["a", "b", "new"])
    assert frame["prediction"].to_list() == [row["prediction"] for row in rows]
    for place in range(len(frame)):
        each = {name: frame[f"p({name})"][place] for name in run.classes}
        assert sum(each.values()) == pytest.approx(1, abs=1e-5)
        ranked = sorted(each, key=each.get, reverse=True)
        assert [frame["prediction"][place], frame["prediction 2"][place]] == ranked[:2]
        assert frame["probability 2"][place] == each[ranked[1]]
    if kind == "images":
        some = sorted(str(file) for file in Path(path).rglob("*.png"))[3:6]
        assert run.predict(some)["prediction"].to_list() == frame["prediction"].to_list()[3:6]
    else:
        table = polars.read_csv(path, null_values=[""]).drop("drug")
        assert run.predict(table)["prediction"].to_list() == frame["prediction"].to_list()
        assert run.predict(table.head(3).to_dicts())["prediction"].to_list() == frame["prediction"].to_list()[:3]


# --- series, records, numbers, running text -----------------------------------------------------------------------


SERIES: dict[str, tuple[str, ...]] = {
    "a step ahead": ("data.target=wave",),
    "steps of two columns": ("data.target=[wave,slope]", "data.horizon=3", "data.stride=5", "data.window=10"),
    "its class": ("data.label=rising", "data.features=[slope,wave]"),
    "how sure": ("data.target=wave", "task=gaussian_regression", "transforms.normalize=none"),
}


def write_walk(file: Path, count: int = 240, names: tuple[str, ...] = ("",)) -> str:
    """An uneven wave for each name, what it rises by, and whether it does."""
    rows = ["day,which,wave,slope,rising"]
    for number, name in enumerate(names):
        for day in range(count):
            value, last = (math.sin(at / (5 + number)) + at % 7 / 10 for at in (day, day - 1))
            rows.append(f"{day + 100},{name},{value:.4f},{value - last:.4f},{'up' if value > last else 'down'}")
    file.write_text("\n".join(rows) + "\n")
    return str(file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", one_in(3, SERIES))
def test_a_series_is_answered_for_each_row_that_has_enough_before_it(kind, tmp_path, capsys):
    """Its test windows as they were evaluated, and the last row: what comes after the table's end."""
    path = write_walk(tmp_path / "walk.csv")
    words = ["data=series", f"data.path={path}", "data.time=day", *SERIES[kind]]
    if "label" not in SERIES[kind][0]:
        words.append("data.features=[wave,slope]")
    run = plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    truth, starts = measured(run), run.data.test.starts.tolist()
    window = run.config.spec.input_shape[0]
    rows = predicted(tmp_path / "run", f"input={path}", f"output={tmp_path / 'out.csv'}", "loader.eval.batch_size=7")
    column = "day" if "label" in SERIES[kind][0] else "after day"
    assert [row[column] for row in rows] == [str(100 + end) for end in range(window - 1, 240)]
    for name, values in truth.items():
        said = [rows[start][name] for start in starts]
        if isinstance(values[0], str):
            assert said == values
        else:
            assert [float(word) for word in said] == pytest.approx(values, rel=1e-4, abs=1e-6)
    # The last windows alone, without what is to be predicted, from Python: the end of the answers.
    table = polars.read_csv(path)
    ending = table.drop("rising").tail(window + 1)
    frame = run.predict(ending)
    assert frame[column].to_list() == [row[column] for row in rows[-2:]]
    for name in truth:
        assert [str(value)[:6] for value in frame[name]] == [row[name][:6] for row in rows[-2:]]


def test_several_series_are_answered_each_by_itself(tmp_path, capsys):
    """In whatever order their rows come; one that is too short is counted."""
    path = write_walk(tmp_path / "walk.csv", 120, ("a", "b"))
    words = ["data=series", f"data.path={path}", "data.time=day", "data.series=which", "data.target=wave"]
    words += ["data.features=[wave]", "data.window=8"]
    run = plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    table = polars.read_csv(path)
    alone = {name: run.predict(table.filter(polars.col("which") == name))["wave"].to_list() for name in ("a", "b")}
    short = table.head(5).with_columns(which=polars.lit("c"))
    mixed = polars.concat([table, short]).sample(fraction=1, shuffle=True, seed=1)
    capsys.readouterr()
    mixed.write_csv(tmp_path / "mixed.csv")
    rows = predicted(tmp_path / "run", f"input={tmp_path / 'mixed.csv'}")
    for name in ("a", "b"):
        mine = [row for row in rows if row["after which day"].startswith(name)]
        assert [row["after which day"] for row in mine] == [f"{name} {100 + day}" for day in range(7, 120)]
        assert [float(row["wave"]) for row in mine] == pytest.approx(alone[name], abs=1e-5)
    assert len(rows) == 2 * 113
    said = capsys.readouterr().out
    assert "1 series of fewer than 8 rows left out" in said
    assert "each answer is of 8 rows, and of what follows the last of them" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop("slope"), r"the model needs column=slope: .*has no such column\. It has: "),
        (lambda table: table.drop("day"), r"the model needs column=day: "),
        (lambda table: table.head(3), r"the model looks at 10 rows at a time, and these are 3"),
        (lambda table: table.with_columns(slope=polars.lit("x")), r"slope is 'x', where a number is needed"),
        (lambda table: table.with_columns(slope=None), r"slope is missing \(so in 240 rows\)"),
        (lambda table: polars.concat([table, table.tail(1)]), r"day is 339, the same as in the row before it"),
    ],
    ids=["missing", "no time", "short", "words", "holes", "twice"],
)
def test_a_series_of_another_form_is_refused(change, said, walk, tmp_path):
    change(polars.read_csv(walk / "walk.csv")).write_csv(tmp_path / "new.csv")
    with pytest.raises(UserError, match=said):
        predicted(walk / "run", f"input={tmp_path / 'new.csv'}")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walk")
    path = write_walk(folder / "walk.csv")
    words = ["data=series", f"data.path={path}", "data.time=day", "data.target=wave", "data.features=[wave,slope]"]
    plainloop.train([*words, "data.window=10", *QUICK, f"hydra.run.dir={folder / 'run'}"])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("features", one_in(2, ["fields", "a list"]))
def test_records_are_answered_line_by_line(features, tmp_path, capsys):
    """Of one file and of several, packed or not, by loading processes or without; from Python, too."""
    records = []
    for number in range(90):
        x = [math.sin(number), math.cos(3 * number), number / 90]
        held = {"inputs": x} if features == "a list" else {"x": x[0], "y": x[1], "z": x[2]}
        records.append({**held, "target": "big" if sum(x) > 0.5 else "small"})
    for part in range(3):
        formats.write_lines(tmp_path / f"shards/{part}.jsonl", records[30 * part : 30 * part + 30])
    words = ["data=stream", f"data.path='{tmp_path}/shards/[01].jsonl'", f"data.test={tmp_path}/shards/2.jsonl"]
    words += [] if features == "a list" else ["data.features=[x,y,z]"]
    run = plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    truth = measured(run)
    new = [{name: value for name, value in record.items() if name != "target"} for record in records]
    formats.write_lines(tmp_path / "new.jsonl", new[60:])
    rows = predicted(tmp_path / "run", f"input={tmp_path / 'new.jsonl'}", "probabilities=true")
    assert [row["row"] for row in rows] == [str(number) for number in range(1, 31)]
    assert [row["prediction"] for row in rows] == truth["prediction"]
    assert [float(row["probability"]) for row in rows] == pytest.approx(truth["probability"], abs=1e-6)
    assert run.predict(new[60:])["prediction"].to_list() == truth["prediction"]
    (tmp_path / "shards/0.jsonl.gz").write_bytes(gzip.compress((tmp_path / "shards/0.jsonl").read_bytes()))
    (tmp_path / "shards/0.jsonl").unlink()
    where = f"input='{tmp_path}/shards/*'"
    several = predicted(tmp_path / "run", where, f"output={tmp_path / 'a.csv'}", "loader.num_workers=0")
    assert [row["line"] for row in several[28:32]] == [
        *(f"{tmp_path}/shards/0.jsonl.gz:{number}" for number in (29, 30)),
        *(f"{tmp_path}/shards/1.jsonl:{number}" for number in (1, 2)),
    ]
    assert [row["prediction"] for row in several[60:]] == truth["prediction"]
    if features == "a list":
        two = predicted(tmp_path / "run", where, f"output={tmp_path / 'b.csv'}", "loader.num_workers=2")
        assert [row["prediction"] for row in two] == [row["prediction"] for row in several]
    capsys.readouterr()
    (tmp_path / "bad.jsonl").write_text(f'{json.dumps(new[0])}\n\nno JSON\n{{"inputs": [1], "x": 1}}\n[]\n')
    bad = predicted(tmp_path / "run", f"input={tmp_path / 'bad.jsonl'}")
    assert [(row["row"], bool(row["error"])) for row in bad] == [("1", False), ("3", True), ("4", True), ("5", True)]
    assert bad[1]["error"].startswith("it is not JSON")
    assert "warning: 3 inputs of 4 can't be read" in capsys.readouterr().err


@pytest.mark.slow
def test_numbers_are_typed(tmp_path, capsys):
    """For points, which stand in the config too, and for whatever else takes arrays."""
    run = plainloop.train(["experiment=linear_regression", *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    weight, bias = (float(parameter.detach()) for parameter in run.model.parameters())
    rows = predicted(tmp_path / "run", "input=[[4.0],[5]]")
    assert [float(row["prediction"]) for row in rows] == pytest.approx([4 * weight + bias, 5 * weight + bias], rel=1e-5)
    numpy.save(tmp_path / "new.npy", numpy.array([[4.0], [5.0]], dtype=numpy.float32))
    assert predicted(tmp_path / "run", f"input={tmp_path / 'new.npy'}") == rows
    for given, said in (
        ("[[4.0],[5,6]]", "rows of numbers, of equal length, are needed"),
        ("[[4.0,1],[5,2]]", r"arrays of shape \(N, 1\) are needed"),
        ("[[a]]", "rows of numbers, of equal length, are needed"),
        ("4", "input=4: must be a path, or a list of paths or numbers"),
    ):
        with pytest.raises(UserError, match=said):
            predicted(tmp_path / "run", f"input={given}")


def test_the_users_own_example_has_a_reader(tmp_path):
    run = plainloop.train(["data=mine", "model=mine", *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    truth = measured(run)
    points = torch.stack([run.data.test[place][0] for place in range(len(run.data.test))])
    numpy.save(tmp_path / "new.npy", points.numpy())
    rows = predicted(tmp_path / "run", f"input={tmp_path / 'new.npy'}")
    assert [row["prediction"] for row in rows] == truth["prediction"]
    assert [float(row["probability"]) for row in rows] == pytest.approx(truth["probability"], abs=1e-6)


class Tagged(Dataset):
    """Sequences of numbers of several lengths, of which each place is above or below the one before."""

    classes = ("below", "above")
    splits = ("train", "val", "test")

    def __init__(self, split: str):
        draw = torch.Generator().manual_seed(len(split))
        lengths = torch.randint(2, 9, (40,), generator=draw).tolist()
        self.rows = [torch.randint(0, 10, (length,), generator=draw) for length in lengths]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[index]
        return row, (row > row.roll(1)).long()

    @staticmethod
    def collate_fn(samples: Any) -> Any:
        tokens, tags = zip(*samples, strict=True)
        lengths = torch.tensor([len(row) for row in tokens])
        pad = torch.nn.utils.rnn.pad_sequence
        inputs = {"tokens": pad(tokens, batch_first=True), "lengths": lengths}
        if not tags[0].ndim:
            return inputs, torch.stack(tags)
        return inputs, pad(tags, batch_first=True, padding_value=-100)


class TaggedReader(Reader):
    """A text file with a sequence in each line."""

    def open(self, given: Any) -> New:
        rows = [torch.tensor([int(word) for word in line.split()]) for line in Path(given).read_text().splitlines()]
        return New(TaggedRows(rows), "line", range(1, len(rows) + 1))


class TaggedRows(Tagged):
    def __init__(self, rows: list[Tensor]):
        self.rows = rows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.rows[index], torch.tensor(index)


Tagged.reader = TaggedReader  # type: ignore[attr-defined]


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.rnn, self.head = nn.Embedding(10, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0])


def test_each_place_of_a_sequence_is_labelled(tmp_path):
    """A data set of the user's own with a reader: as many labels as there are places, the padding's left out."""
    words = ["data=custom", f"data._target_={path_of(Tagged)}", "task=sequence_labelling", "model=custom"]
    words += [f"model._target_={path_of(Tagger)}", "loader.batch_size=8"]
    run = plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    truth, rows = measured(run), run.data.test.rows
    (tmp_path / "new.txt").write_text("\n".join(" ".join(map(str, row.tolist())) for row in rows))
    trust = f"trust=[{path_of(Tagged)},{path_of(Tagger)}]"
    found = predicted(tmp_path / "run", f"input={tmp_path / 'new.txt'}", trust)
    assert [row["prediction"] for row in found] == truth["prediction"]
    assert [len(row["prediction"].split()) for row in found] == list(map(len, rows))


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of a text file, and one of a string."""
    folder = tmp_path_factory.mktemp("writers")
    (folder / "verse.txt").write_text("to be, or not to be: that is the question\n" * 30)
    for model in ("char_rnn", "char_transformer"):
        words = ["data=charseq", f"data.path={folder / 'verse.txt'}", "data.length=20", f"model={model}"]
        plainloop.train([*words, *QUICK, "trainer.max_epochs=3", f"hydra.run.dir={folder / model}"])
    plainloop.train(["data=one_string", *QUICK, f"hydra.run.dir={folder / 'string'}"])
    return folder


def text_of(run: Path, capfd: Any, *words: str) -> str:
    capfd.readouterr()
    typed = [f"run={run}", *words]
    assert predict_config(compose(typed, PredictConfig), typed) is None
    return capfd.readouterr().out.removesuffix("\n")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["char_rnn", "char_transformer"])
def test_a_model_of_text_goes_on_with_a_prompt(model, writers, capfd):
    """Greedily: at each place the most probable character after all before it. Drawn: as the seed says, among the k
    most probable, more surely at a low temperature. Nothing but the text stands on standard output."""
    run = plainloop.load_run(writers / model)
    vocabulary = json.loads(run.config.spec.vocabulary)
    prompt = " to be"

    def most_probable(text: str, count: int) -> list[str]:
        tokens = torch.tensor([[vocabulary.index(character) for character in text]])
        logits = run.model(tokens)[0, -1].detach().clone()
        logits[vocabulary.index("\N{REPLACEMENT CHARACTER}")] = -torch.inf
        return [vocabulary[place] for place in logits.argsort(descending=True)[:count].tolist()]

    greedy = prompt
    for _ in range(12):
        greedy += most_probable(greedy, 1)[0]
    asked = f"prompt='{prompt}'"
    assert text_of(writers / model, capfd, asked, "length=12", "temperature=0") == greedy
    assert text_of(writers / model, capfd, asked, "length=12", "top_k=1", "seed=5") == greedy
    assert text_of(writers / model, capfd, asked, "length=12", "temperature=1e-3") == greedy
    drawn = {seed: text_of(writers / model, capfd, asked, "length=40", f"seed={seed}") for seed in (0, 1)}
    assert len(drawn[0]) == len(prompt) + 40
    assert drawn[0] != drawn[1]
    assert text_of(writers / model, capfd, asked, "length=40", "seed=1") == drawn[1]
    assert text_of(writers / model, capfd, asked, "length=40") == drawn[0]
    assert len(text_of(writers / model, capfd, asked)) == len(prompt) + 200
    few = text_of(writers / model, capfd, asked, "length=15", "top_k=2", "temperature=5")
    for place in range(len(prompt), len(few)):
        assert few[place] in most_probable(few[:place], 2)


def test_unknown_characters_of_a_prompt_are_told(writers, capfd):
    text_of(writers / "char_rnn", capfd, "prompt=to", "length=3")
    typed = [f"run={writers / 'char_rnn'}", "prompt='Été to'", "length=3"]
    predict_config(compose(typed, PredictConfig), typed)
    assert "note    not in the training text, and read as unknown: 'É', 'é'" in capfd.readouterr().err
    with pytest.raises(
        UserError, match=r"prompt=xé: the text that the run has learned has no 'x', 'é'\. It has: ' ', 'a'"
    ):
        text_of(writers / "string", capfd, "prompt=xé")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prompt=''"], "prompt='': one character at least"),
        (["prompt=a", "input=b"], "give one of them"),
        (["input=a", "length=3"], r"length=3: that means something with prompt='\.\.\.' only"),
        (["input=a", "seed=3"], "seed=3: that means something with prompt="),
        (["prompt=a", "output=b.csv"], "output=b.csv: that means something with input= only"),
        (["prompt=a", "resume=true"], "resume=true: that means something with input= only"),
        (["prompt=a", "temperature=-1"], "temperature=-1.0: must be a number of at least 0"),
        (["prompt=a", "top_k=0"], "top_k=0: must be a whole number of at least 1"),
        (["prompt=a", "length=many"], "length=many"),
        (["input=a.txt"], "this run has learned to go on with a text: prompt="),
        (["text=hello"], "this run has learned to go on with a text: prompt="),
    ],
)
def test_what_is_mistyped_beside_a_prompt_is_answered(words, said, writers):
    with pytest.raises(Exception, match=said):
        predicted(writers / "string", *words)


def test_a_model_that_writes_nothing_says_so(pets):
    with pytest.raises(UserError, match=r"prompt=hello: this run's model=\w+ writes no text: input=PATH"):
        predicted(pets / "run", "prompt=hello")


# --- what can't be read, and what isn't as it was -------------------------------------------------------------------


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pets")
    words, _ = pictures(folder)
    plainloop.train([*words, *QUICK, f"hydra.run.dir={folder / 'run'}"])
    return folder


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("visits")
    words, _ = patients(folder, "data.target=drug")
    plainloop.train([*words, *QUICK, f"hydra.run.dir={folder / 'run'}"])
    return folder


def test_files_that_cannot_be_read_are_rows_with_an_error(pets, tmp_path, capsys):
    new = tmp_path / "new"
    formats.write_images(new, {"x": 3})
    whole = (new / "x/000.png").read_bytes()
    (new / "x/cut.png").write_bytes(whole[: len(whole) // 2])
    (new / "x/empty.jpg").write_bytes(b"")
    (new / "x/text.jpg").write_text("no picture")
    (new / "x/notes.txt").write_text("passed over")
    rows = predicted(pets / "run", f"input={new}")
    assert [(Path(row["file"]).name, bool(row["prediction"]), bool(row["error"])) for row in rows] == [
        ("000.png", True, False), ("001.png", True, False), ("002.png", True, False), ("cut.png", False, True),
        ("empty.jpg", False, True), ("text.jpg", False, True)]  # fmt: skip
    assert rows[4]["error"] == "the file is empty"
    said = capsys.readouterr()
    assert "warning: 3 inputs of 6 can't be read" in said.err
    shutil.rmtree(new / "x")
    (new / "text.jpg").write_text("no picture")
    with pytest.raises(MachineError, match="none of 1 input can be read, as cannot identify image file"):
        predicted(pets / "run", f"input={new}")


def test_strange_pictures_are_read_as_in_training(pets, tmp_path):
    """CMYK, a palette, 16 bits, turned by EXIF, animated: what `decode` makes of them is what the model gets."""
    draw = numpy.random.default_rng(3)
    colours = Image.fromarray(draw.integers(0, 255, (40, 30, 3), dtype=numpy.uint8))
    new = tmp_path / "new"
    new.mkdir()
    colours.convert("CMYK").save(new / "cmyk.jpg")
    colours.convert("P").save(new / "palette.png")
    Image.fromarray(draw.integers(0, 65535, (40, 30), dtype=numpy.uint16)).save(new / "deep.png")
    turned = colours.getexif()
    turned[0x0112] = 6
    colours.save(new / "turned.jpg", exif=turned)
    colours.save(new / "moving.gif", save_all=True, append_images=[colours.rotate(90)])
    run = plainloop.load_run(pets / "run")
    channels, *size = run.config.spec.reading["shape"]
    for row in predicted(pets / "run", f"input={new}", "probabilities=true"):
        image = decode(row["file"], (size[0], size[1]), channels)
        with torch.inference_mode():
            truth = run.model(run.preprocess(image[None])).softmax(1)[0].tolist()
        assert [float(row["p(cat)"]), float(row["p(dog)"])] == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop("age"), r"the model needs column=age: .*has no such column\. It has: "),
        (lambda table: table.rename({"age": "Age"}), r"the model needs column=age: .*Did you mean Age\?"),
        (lambda table: table.with_columns(age=polars.lit("old")), r"column age: words \(as old\) where numbers belong"),
        (lambda table: table.head(0), "there are no rows in it"),
    ],
    ids=["missing", "renamed", "words", "empty"],
)
def test_a_table_of_another_form_is_refused_by_its_column(change, said, visits, tmp_path):
    change(polars.read_csv(visits / "patients.csv")).write_csv(tmp_path / "new.csv")
    with pytest.raises(UserError, match=said):
        predicted(visits / "run", f"input={tmp_path / 'new.csv'}")


def test_what_is_guessed_of_a_table_is_said(visits, tmp_path, capsys):
    """Columns that aren't used, words that training doesn't have, numbers that are missing; the target isn't needed."""
    table = polars.read_csv(visits / "patients.csv").drop("drug").head(5)
    table = table.with_columns(
        extra=polars.lit(1),
        city=polars.Series(["Bonn", "zeta", "Ulm", "zeta", "Bonn"]),
        age=polars.Series([50.5, None, 3, 4, 5]),
    )
    table.write_csv(tmp_path / "new.csv")
    assert len(predicted(visits / "run", f"input={tmp_path / 'new.csv'}")) == 5
    said = capsys.readouterr().out
    assert "not used: extra" in said
    assert "2 of 5 words in city are in no training row (as zeta)" in said
    assert "filled by the training mean" in said
    assert "1 in age" in said


@pytest.mark.slow
def test_marks_of_numbers_mean_what_they_meant_in_training(tmp_path, capsys):
    """In the new file nothing tells that 1.234 has thousands: the training file did."""
    rows = [f"{number},5;{number}.{number:03};{number % 2}" for number in range(1, 60)]
    (tmp_path / "train.csv").write_text("\n".join(["a;b;y", *rows]) + "\n")
    run = plainloop.train(
        [
            "data=table",
            f"data.path={tmp_path / 'train.csv'}",
            "data.target=y",
            *QUICK,
            f"hydra.run.dir={tmp_path / 'run'}",
        ]
    )
    (tmp_path / "new.csv").write_text("a;b\n7;7.007\n")
    (row,) = predicted(tmp_path / "run", f"input={tmp_path / 'new.csv'}", "probabilities=true")
    with torch.inference_mode():
        truth = run.model(run.preprocess(torch.tensor([[7.0, 7007.0]]))).flatten().float().sigmoid().tolist()
    assert float(row["p(1)"]) == pytest.approx(truth[-1], abs=1e-6)


@pytest.mark.slow
def test_texts_of_several_kinds(tmp_path, capsys):
    words, path = reviews(tmp_path)
    plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    rows = predicted(tmp_path / "run", f"input={path}", f"output={tmp_path / 'all.csv'}")
    (tmp_path / "one.txt").write_text("a good one 0")
    (one,) = predicted(tmp_path / "run", f"input={tmp_path / 'one.txt'}")
    (said,) = predicted(tmp_path / "run", "text='a good one 0'")
    assert one["prediction"] == said["prediction"] == rows[0]["prediction"]
    assert float(one["probability"]) == pytest.approx(float(rows[0]["probability"]), abs=1e-6)
    capsys.readouterr()
    with pytest.raises(MachineError, match="none of 1 input can be read, as no word in it"):
        predicted(tmp_path / "run", "text='   '")
    predicted(tmp_path / "run", "text='zzz yyy'")
    out = capsys.readouterr().out
    assert "2 of 2 words aren't in the training texts" in out
    assert "1 text of unknown words alone" in out


# --- the file of answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "cut"), one_in(6, itertools.product(["csv", "jsonl", "parquet"], [5, 0])))
def test_a_prediction_that_was_killed_is_continued(suffix, cut, pets, tmp_path):
    """From whole lines on: the same file as without an interruption."""
    typed = [f"run={pets / 'run'}", f"input={pets / 'pets'}", f"output={tmp_path / f'whole.{suffix}'}"]
    whole = predict_config(compose(typed, PredictConfig), typed)
    lines = tmp_path / f"whole.{'jsonl' if suffix == 'parquet' else suffix}"
    if suffix == "parquet":
        polars.read_parquet(whole).write_ndjson(lines)
    part = tmp_path / (".part.parquet.rows" if suffix == "parquet" else f"part.{suffix}")
    data = lines.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(data[:12]) + data[12][:cut])
    typed = [*typed[:2], f"output={tmp_path / f'part.{suffix}'}", "resume=true"]
    after = predict_config(compose(typed, PredictConfig), typed)
    if suffix == "parquet":
        assert polars.read_parquet(after).drop("probability").equals(polars.read_parquet(whole).drop("probability"))
    else:
        read = {"csv": polars.read_csv, "jsonl": polars.read_ndjson}[suffix]
        assert read(after).drop("probability").equals(read(whole).drop("probability"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["input=none.png"], "there is no such file or folder, and no file that fits such a pattern"),
        (["input=empty"], "there are no images in it"),
        ([], "says what to predict from, prompt=.* what to go on with: give one of them"),
        (["input=a", "text=b"], "give one of them"),
        (["input=a", "output=a.txt"], "must end in .csv, .jsonl or .parquet"),
        (["input=table.csv", "output=none/a.csv"], "there is no folder none"),
        (["input=paths.csv", "output=paths.csv"], "that is the input"),
        (["input=table.csv", "output=a.csv"], "which column has the paths"),
        (["text=hello"], "text=hello: this run's data=images, of no texts: input=PATH"),
        (["input=pets", "top=0"], "top=0: must be a whole number of at least 1"),
        (["input=pets", "model=mlp"], "model"),
    ],
)
def test_what_is_mistyped_is_answered(words, said, pets, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "paths.csv").write_text("path\nx.png\n")
    with pytest.raises(Exception, match=said):
        predicted(pets / "run", *words)


@pytest.mark.slow
def test_paths_in_a_table_by_a_pattern_and_on_standard_input(pets, tmp_path, monkeypatch):
    files = sorted(str(file) for file in (pets / "pets").rglob("*.png"))
    (tmp_path / "paths.csv").write_text("\n".join(["path", *files[:4]]) + "\n")
    assert [row["file"] for row in predicted(pets / "run", f"input={tmp_path / 'paths.csv'}")] == files[:4]
    found = predicted(pets / "run", f"input='{pets}/pets/cat/*1.png'", f"output={tmp_path / 'a.csv'}")
    assert [row["file"] for row in found] == [file for file in files if "/cat/" in file and file.endswith("1.png")]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(files[2:5]) + "\n"))
    assert [row["file"] for row in predicted(pets / "run", "input=-")] == files[2:5]


def test_a_run_directory_leads_no_answers_elsewhere(pets, tmp_path):
    """It may be a stranger's: where the answers go, a link may lie, or another name of a file of the user's."""
    run = Path(shutil.copytree(pets / "run", tmp_path / "run"))
    (tmp_path / "own.txt").write_text("precious")
    (run / "predictions-pets.csv").symlink_to(tmp_path / "own.txt")
    assert len(predicted(run, f"input={pets / 'pets'}")) == 40
    (run / "predictions-pets.csv").unlink()
    (run / "predictions-pets.csv").symlink_to(tmp_path / "own.txt")
    with pytest.raises(UserError, match="is a link, or no file: nothing is written through it"):
        predicted(run, f"input={pets / 'pets'}", "resume=true")
    (run / "predictions-pets.csv").unlink()
    os.link(tmp_path / "own.txt", run / "predictions-pets.csv")
    predicted(run, f"input={pets / 'pets'}")
    assert (tmp_path / "own.txt").read_text() == "precious"


@pytest.mark.slow
def test_the_command_that_is_typed(pets, type_command, tmp_path):
    done = type_command("predict.py", f"run={pets / 'run'}", f"input={pets / 'pets'}", "output=a.jsonl", "top=2")
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    assert list(rows[0]) == ["file", "prediction", "probability", "prediction 2", "probability 2", "error"]
    assert "written a.jsonl" in done.out
    assert "000.png" in done.out
    missing = type_command("predict.py", f"run={pets / 'run'}", "input=none")
    assert missing.status == 2
    assert missing.err.startswith("error: input=none: there is no such file")


class Unread(TwoMoons):
    reader = None


def test_a_kind_of_data_that_nobody_reads_is_told(tmp_path):
    words = ["data=custom", f"data._target_={path_of(Unread)}", *QUICK]
    run = plainloop.train([*words, f"hydra.run.dir={tmp_path / 'run'}"])
    with pytest.raises(UserError, match=r"Unread: nobody has said how new inputs of this kind of data are read"):
        predicted(run.path, "input=a.npy", f"trust=[{path_of(Unread)}]")


def test_answers_for_another_input_are_not_continued(pets, tmp_path):
    files = sorted((pets / "pets").rglob("*.png"))
    predicted(pets / "run", f"input={files[0]}", f"output={tmp_path / 'a.csv'}")
    with pytest.raises(UserError, match=r"has answers for another input, as its last row \(.*000\.png\) tells"):
        predicted(pets / "run", f"input={files[1]}", f"output={tmp_path / 'a.csv'}", "resume=true")
    assert len(predicted(pets / "run", f"input={pets / 'pets'}", f"output={tmp_path / 'a.csv'}", "resume=true")) == 40


def test_a_prediction_leaves_the_run_as_it_is(pets):
    """What it asks of its loader isn't asked of the run's own."""
    run = plainloop.load_run(pets / "run")
    before = dataclasses.asdict(run.config.loader)
    run.predict(str(pets / "pets"))
    assert dataclasses.asdict(run.config.loader) == before


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_answer_that_is_no_number_is_written(suffix, tmp_path):
    with RowFile(tmp_path / f"a.{suffix}") as file:
        for value in (math.nan, 0.5):
            file.write({"row": 1, "x": value})
    read = {"csv": polars.read_csv, "jsonl": polars.read_ndjson, "parquet": polars.read_parquet}[suffix]
    values = read(tmp_path / f"a.{suffix}")["x"].to_list()
    assert values[0] is None or math.isnan(float(values[0]))
    assert float(values[1]) == 0.5
