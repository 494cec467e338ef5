"""A table becomes numbers: what is fitted is fitted on the training rows, nothing is guessed in silence, and what
can't be used is told with its row and column."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy
import polars
import pytest
import torch
from omegaconf import OmegaConf

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.config.compose import compose
from plainloop.data import table
from plainloop.data.kinds.frames import read_frame
from plainloop.data.kinds.source import Source
from plainloop.data.kinds.table import TableEncoder, encode, task_of
from plainloop.errors import UserError
from tests import formats
from tests.later import Later

sklearn = Later("sklearn")

BIRDS = """\
island,mass,ringed,kind
north,3.5,true,gull
south,4,false,auk
east,1.25,true,gull
south,-2,true,tern
"""
PATIENTS = ["age", "visits", "smoker", "city", "drug"]  # the features: three of numbers, two of words


@pytest.fixture
def write(tmp_path):
    """Write a CSV file; its path."""

    def written(text: str, name: str = "table.csv") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


def rows_of(count: int, line) -> str:
    return "".join(f"{line(number)}\n" for number in range(count))


@pytest.fixture
def patients(tmp_path) -> str:
    return formats.write_patients(tmp_path / "patients.csv")


def words_for(path: str, target: str = "sick", *more: str) -> list[str]:
    """The command line that trains on patients.csv for two epochs."""
    return [
        "data=table",
        f"data.path={path}",
        f"data.target={target}",
        f"data.features=[{','.join(PATIENTS)}]",
        "trainer.max_epochs=2",
        "loader.batch_size=16",
        "logger=none",
        *more,
    ]


def cells(path: str | Path) -> dict[str, list[str]]:
    """A CSV file's columns as text, read without polars."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def numbers(values: list[str]) -> numpy.ndarray:
    words = {"": "nan", "true": "1", "false": "0"}
    return numpy.array([float(words.get(value, value)) for value in values])


def indices_of(run: plainloop.Run) -> dict[str, list[int]]:
    """The rows of each split, as the run directory has them."""
    splits = json.loads((run.path / "splits.json").read_text())
    return {name: entry["indices"] for name, entry in splits.items()}


def encoded_by_sklearn(path: str, train: list[int]) -> numpy.ndarray:
    """What scikit-learn makes of the patients' features, fitted on the training rows: (N, 3 + cities + drugs)."""
    text = cells(path)
    values = numpy.stack([numbers(text[name]) for name in PATIENTS[:3]], axis=1)
    holes = numpy.array(
        [[text[name][row] or None for name in PATIENTS[3:]] for row in range(len(values))], dtype=object
    )
    every = [sorted({word for word in text[name] if word}) for name in PATIENTS[3:]]
    rows = numpy.concatenate([values.astype(object), holes], axis=1)
    seen = [
        [word for word in words if word in {text[name][row] for row in train}]
        for name, words in zip(PATIENTS[3:], every, strict=True)
    ]
    filled = sklearn.impute.SimpleImputer(strategy="mean")  # a hole is no measurement
    of_numbers = sklearn.pipeline.make_pipeline(sklearn.preprocessing.StandardScaler(), filled)
    of_words = sklearn.preprocessing.OneHotEncoder(categories=seen, handle_unknown="ignore", sparse_output=False)
    transformer = sklearn.compose.ColumnTransformer([("numbers", of_numbers, [0, 1, 2]), ("words", of_words, [3, 4])])
    found = transformer.fit(rows[train]).transform(rows).astype(float)
    # Ours has a column for every word of the file, which is 0 for those that the training split doesn't have.
    known = [word in words for words, all_words in zip(seen, every, strict=True) for word in all_words]
    whole = numpy.zeros((len(rows), 3 + len(known)))
    whole[:, [0, 1, 2, *(3 + place for place, flag in enumerate(known) if flag)]] = found
    return whole


# --- what a table holds --------------------------------------------------------------------------------------------


def test_numbers_stand_first_and_words_are_codes(write):
    """Columns of numbers (and true and false) in the file's order; then a code per column of words, from 1, sorted."""
    data = table(write(BIRDS), target="kind")
    assert data.columns == {"numbers": ["mass", "ringed"], "categories": {"island": ["east", "north", "south"]}}
    assert data.inputs.tolist() == [[3.5, 1, 2], [4, 0, 3], [1.25, 1, 1], [-2, 1, 3]]
    assert data.inputs.dtype == torch.float32


def test_a_hole_is_nan_or_code_0_and_counted(write):
    data = table(write("a,b,y\n1,x,1.5\n,y,2\n3,,3\n?,,4\n"), target="y")
    assert torch.equal(data.inputs.isnan(), torch.tensor([[0, 0], [1, 0], [0, 0], [1, 0]]).bool())
    assert data.inputs[:, 1].tolist() == [1, 2, 0, 0]
    assert "2 missing values filled by the mean (2 in a); 2 without a word (2 in b)" in data.note


def test_classes_are_sorted(write):
    """Classes by name in sorted order, whatever order they occur in; targets (N,) int64."""
    data = table(write(BIRDS), target="kind")
    assert list(data.classes) == ["auk", "gull", "tern"]
    assert data.targets.dtype == torch.int64
    assert data.targets.tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize(
    ("column", "classes", "targets"),
    [
        ("10\n9\n10", ["9", "10"], [1, 0, 1]),
        ("1.0\n0.0\n1.0", ["0", "1"], [1, 0, 1]),
        ("true\nfalse\ntrue", ["false", "true"], [1, 0, 1]),
    ],
    ids=["numbers", "whole numbers with a point", "true and false"],
)
def test_classes_that_are_no_words(write, column, classes, targets):
    """Numbers are sorted as numbers (9 before 10), false before true: the second of two is the positive one."""
    rows = "\n".join(f"{number},{value}" for number, value in enumerate(column.split("\n")))
    data = table(write(f"x,y\n{rows}\n"), target="y", task="binary")
    assert data.classes == classes
    assert data.targets.tolist() == targets


def test_a_number_to_predict(write):
    """Targets are (N, 1) float32 in their own unit, and the name is kept."""
    data = table(write(BIRDS), target="mass", features=["ringed"])
    assert data.targets.tolist() == [[3.5], [4.0], [1.25], [-2.0]]
    assert data.targets.dtype == torch.float32
    assert (data.target_names, data.classes) == (["mass"], None)


def test_features_are_taken_in_the_order_given(write):
    data = table(write("a,b,c,y\n1,2,3,4.5\n5,6,7,8\n"), target="y", features=["c", "a"])
    assert data.inputs.tolist() == [[3, 1], [7, 5]]


def test_columns_can_be_left_out(write):
    """One by one, and those that decide the split unless they are named as features."""
    path = write("a,b,c,d,y\n1,2,3,2024-01-01,4.5\n5,6,7,2024-01-02,8\n")
    assert table(path, target="y", exclude=["a", "d"]).columns["numbers"] == ["b", "c"]
    assert table(path, target="y", group="b", time="d").columns["numbers"] == ["a", "c"]
    assert table(path, target="y", group="b", time="d", features=["b"]).columns["numbers"] == ["b"]


def test_numbers_that_are_names(write):
    path = write("code,y\n" + rows_of(20, lambda n: f"0{n % 3},{n * 1.5}"))
    assert table(path, target="y").columns["numbers"] == ["code"]
    data = table(path, target="y", categorical=["code"])
    assert data.columns == {"numbers": [], "categories": {"code": ["00", "01", "02"]}}
    assert data.inputs[:4, 0].tolist() == [1, 2, 3, 1]


def test_parquet_and_json_lines_hold_the_same_table(write, tmp_path):
    """Categoricals, decimals and NaN of Parquet included."""
    frame = polars.DataFrame(
        {"a": [1.5, float("nan"), None], "b": ["x", None, "z"], "y": [1.5, 2.5, 3.5]},
        schema={"a": polars.Float64, "b": polars.Categorical, "y": polars.Decimal(10, 1)},
    )
    frame.write_parquet(tmp_path / "table.parquet")
    lines = '{"a": 1.5, "b": "x", "y": 1.5}\n{"y": 2.5}\n{"b": "z", "y": 3.5}\n'
    for path in (str(tmp_path / "table.parquet"), write(lines, "table.jsonl")):
        data = table(path, target="y")
        assert torch.equal(data.inputs.nan_to_num(-1), torch.tensor([[1.5, 1], [-1, 0], [-1, 2]]))
        assert data.targets.flatten().tolist() == [1.5, 2.5, 3.5]


A_STRAY_WORD = "a,y\n" + rows_of(40, lambda n: f"{'x' if n == 7 else n % 4},{n / 2}")


@pytest.mark.parametrize(
    ("text", "arguments", "remark"),
    [
        ("a,b,y\n1,2,1.5\n1,3,2\n", {}, "constant: a"),
        ("a,b,y\n,2,1.5\n,3,2\n", {}, "without any value, left out: a"),
        (",b,y\n" + rows_of(12, lambda n: f"{n},{n * n},{n / 2}"), {}, "counts the rows, as it seems: column_1"),
        ("a,y\n" + rows_of(12, lambda n: f"{1_700_000_000 + n},{n / 2}"), {}, "a is rounded to the 7 digits"),
        (A_STRAY_WORD, {}, "a is taken as words because of 'x' in line 9"),
        ("a,y\n1,1.5\n2,\n3,2\n", {"missing_target": "drop"}, "1 row without y left out"),
    ],
    ids=["constant", "empty", "row numbers", "too fine", "a stray word", "no target"],
)
def test_what_is_worth_knowing_is_said(write, text, arguments, remark):
    assert remark in table(write(text), target="y", **arguments).note


def test_a_table_without_peculiarities_says_nothing(write):
    assert table(write("a,b,y\n1,2,1.5\n3,3,2\n2,7,1\n"), target="y").note == ""


# --- targets -------------------------------------------------------------------------------------------------------

TARGETS = {
    "numbers": lambda n: n / 3,
    "words": lambda n: "abc"[n % 3],
    "two words": lambda n: "ab"[n % 2],
    "flags": lambda n: ["true", "false"][n % 2],
    "0 and 1": lambda n: n % 2,
    "0 and 1 again": lambda n: int(n % 3 == 0),
    "few whole": lambda n: n % 5,
    "many whole": lambda n: n,
    "whole with points": lambda n: f"{n % 5}.0",
}


@pytest.fixture
def of_every_kind(write) -> str:
    lines = rows_of(60, lambda n: ",".join([str(n * n), *(str(make(n)) for make in TARGETS.values())]))
    return write(",".join(["x", *TARGETS]) + "\n" + lines)


@pytest.mark.parametrize(
    ("target", "task", "why"),
    [
        ("numbers", "regression", "numbers holds numbers from 0 to 19.6667"),
        ("words", "multiclass", "words holds 3 words (a, b, c)"),
        ("two words", "binary", "two words holds 2 words (a, b)"),
        ("flags", "binary", "flags holds 2 words"),
        ("0 and 1", "binary", "0 and 1 holds 2 whole numbers (0, 1)"),
        ("few whole", "multiclass", "few whole holds 5 whole numbers (0, 1, 2, 3, 4)"),
        ("many whole", "regression", "many whole holds numbers from 0 to 59"),
        ("whole with points", "multiclass", "5 whole numbers"),
        (["0 and 1", "0 and 1 again"], "multilabel", "hold 0 and 1"),
        (["0 and 1", "flags"], "multilabel", "hold 0 and 1"),
        (["0 and 1", "many whole"], "regression", "hold numbers"),
    ],
    ids=str,
)
def test_the_task_follows_from_the_target(of_every_kind, target, task, why):
    """And the table's targets have the form that this task needs, without being told."""
    found, said = task_of(of_every_kind, target)
    assert found == task
    assert why in said
    data = table(of_every_kind, target=target, features=["x"])
    assert (data.classes is not None) == (task in ("binary", "multiclass"))
    if task == "multilabel":
        assert data.targets.unique().tolist() == [0, 1]


def test_the_user_may_say_otherwise(of_every_kind):
    """Whole numbers as values, or as classes; columns of 0 and 1 as values; another task looks for itself."""
    assert table(of_every_kind, target="few whole", task="regression").targets[:6].flatten().tolist() == [
        0,
        1,
        2,
        3,
        4,
        0,
    ]
    assert table(of_every_kind, target="few whole", task="multiclass").classes == ["0", "1", "2", "3", "4"]
    assert table(of_every_kind, target="two words", task="mine").classes == ["a", "b"]
    both = table(of_every_kind, target=["0 and 1", "flags"], features=["x"], task="regression")
    assert (both.targets.shape, both.target_names) == ((60, 2), ["0 and 1", "flags"])


# --- the shipped tables --------------------------------------------------------------------------------------------


def test_shipped_breast_cancer_is_scikit_learns():
    """data/breast_cancer.csv has the numbers of sklearn.datasets.load_breast_cancer; malignant is class 1 here."""
    data, truth = table("data/breast_cancer.csv", target="diagnosis"), sklearn.datasets.load_breast_cancer()
    assert list(data.classes) == ["benign", "malignant"]
    assert torch.equal(data.inputs, torch.tensor(truth.data, dtype=torch.float32))
    assert data.targets.tolist() == (1 - truth.target).tolist()


def test_shipped_penguins_keep_all_birds_that_were_weighed():
    """As data/README.md says: 344 rows, 11 of them without a sex (2 of these without the measurements too)."""
    data = table("data/penguins.csv", target="body_mass_g", missing_target="drop")
    assert len(data) == 344 - 2
    assert "2 rows without body_mass_g left out" in data.note
    assert "9 without a word (9 in sex)" in data.note
    assert [len(words) for words in data.columns["categories"].values()] == [3, 3, 2]  # species, islands, sexes


@pytest.mark.slow
@pytest.mark.parametrize(("data", "metric", "least"), [("penguins", "r2", 0.8), ("breast_cancer", "accuracy", 0.95)])
def test_the_shipped_tables_are_learned(data, metric, least):
    assert plainloop.train([f"data={data}", "logger=none"]).metrics[f"test/{metric}"] > least


# --- what the model gets -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_encoding_is_scikit_learns_fitted_on_the_training_rows(patients):
    """Mean imputation, standardisation and one-hot columns of ColumnTransformer, for the rows of all splits."""
    run = plainloop.train(words_for(patients))
    rows = indices_of(run)
    expected = torch.tensor(encoded_by_sklearn(patients, rows["train"]), dtype=torch.float32)
    for split in ("train", "val", "test"):
        torch.testing.assert_close(run.preprocess(run.data[split].inputs), expected[rows[split]], rtol=1e-5, atol=1e-5)
    assert run.config.spec.num_features == expected.shape[1] == run.model.layers[1].in_features


def test_nothing_but_the_training_rows_is_looked_at(patients):
    """Mean and deviation are NumPy's over the training rows, and not those over all."""
    run = plainloop.train(words_for(patients))
    age = numbers(cells(patients)["age"])
    train = age[indices_of(run)["train"]]
    assert run.preprocess.fill[0].item() == pytest.approx(numpy.nanmean(train), rel=1e-6)
    filled = numpy.where(numpy.isnan(train), numpy.nanmean(train), train)
    deviation = numpy.nanstd(train)  # of what is there: a hole is filled, and no measurement
    assert 1 / run.preprocess.scale[0].item() == pytest.approx(deviation, rel=1e-6)
    assert numpy.nanmean(age) != pytest.approx(numpy.nanmean(train), rel=1e-6)
    assert filled.std() < deviation


def test_one_hot_columns_are_those_of_polars(patients):
    """With every category seen in training: to_dummies without its column for the holes."""
    run = plainloop.train(words_for(patients, "sick", "split.fractions=[1,0,0]"))
    dummies = polars.read_csv(patients, columns=["city", "drug"]).to_dummies()
    expected = dummies.select(sorted(name for name in dummies.columns if not name.endswith("_null"))).to_numpy()
    assert numpy.array_equal(run.preprocess(run.data.train.inputs)[:, 3:].numpy(), expected)


def test_a_category_that_training_has_not_seen_counts_as_unknown(patients):
    """The drug `new` comes late: split by time it is in no training row, and its column is 0 like a hole's."""
    run = plainloop.train(words_for(patients, "sick", "split.time=day"))
    test = run.data.test.inputs
    assert (test[:, 4] == 3).any()
    hole = test.clone()
    hole[:, 4] = 0
    assert torch.equal(run.preprocess(test), run.preprocess(hole))
    whole = plainloop.train(words_for(patients))
    assert not torch.equal(whole.preprocess(test), whole.preprocess(hole))


def test_no_statistics_and_given_ones(patients):
    """normalize=none fills holes and leaves numbers as they are; numbers of one's own are taken."""
    for words, of_age in (
        ("transforms.normalize=none", lambda age, mean: age),
        ("transforms.normalize={mean: [50, 0, 0], std: 12}", lambda age, mean: (age - 50) / 12),
    ):
        session = assemble(compose(words_for(patients, "cost", "task=regression", words)))
        age = session.data.train.inputs[:, 0]
        filled = torch.where(age.isnan(), age.nanmean(), age)
        got = session.preprocess(session.data.train.inputs)[:, 0]
        torch.testing.assert_close(got, of_age(filled, age.nanmean()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("normalize", "message"),
    [("{mean: [1, 2], std: 1}", "mean has 2 numbers; the table has 3"), ("{mean: 0, std: 0}", "std=.*above 0")],
)
def test_given_statistics_must_fit(patients, normalize, message):
    with pytest.raises(UserError, match=message):
        assemble(compose(words_for(patients, "sick", "task=binary", f"transforms.normalize={normalize}")))


def test_numbers_that_do_not_vary_in_training_are_centred_alone(write):
    """A column that is constant, or has no value, in all training rows: deviation 1, and no NaN comes out of it."""
    path = write("t,a,b,y\n" + rows_of(50, lambda n: f"{n},{7 if n < 45 else n},{'' if n < 45 else n},{n / 2}"))
    session = assemble(compose(["data=table", f"data.path={path}", "data.target=y", "split.time=t", "task=regression"]))
    assert session.preprocess(session.data.train.inputs).unique().tolist() == [0]
    assert session.preprocess(session.data.test.inputs).tolist() == [[n - 7, n] for n in range(45, 50)]


def encoder(embed: bool) -> TableEncoder:
    """Two numbers, and categories of 2 and 3 words of which training has seen 1 and (1, 3)."""
    known = [torch.tensor([True, True, False]), torch.tensor([False, True, False, True])]
    return TableEncoder(torch.tensor([5.0, 0]), torch.tensor([5.0, 1]), torch.tensor([2.0, 4]), known, embed)


def test_codes_stay_codes_to_be_embedded():
    inputs = torch.tensor([[7.0, 5, 1, 3], [torch.nan, 1, 2, 2], [5, torch.nan, 0, 1]])
    assert encoder(embed=True)(inputs).tolist() == [[1, 1, 1, 3], [0, 0, 0, 0], [0, -0.25, 0, 1]]
    assert encoder(embed=False)(inputs).tolist() == [
        [1, 1, 1, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
        [0, -0.25, 0, 0, 1, 0, 0],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("embed", [True, False])
def test_the_encoder_can_be_exported_and_saved(embed):
    inputs = torch.tensor([[7.0, 5, 1, 3], [torch.nan, 1, 2, 2], [5, torch.nan, 0, 1]])
    expected = encoder(embed)(inputs)
    exported = torch.export.export(encoder(embed), (inputs,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    assert torch.equal(exported.module()(inputs[:2]), expected[:2])
    other = TableEncoder(torch.ones(2), torch.ones(2), torch.ones(2), [torch.ones(3), torch.ones(4)], embed)
    assert not torch.equal(other(inputs), expected)
    other.load_state_dict(encoder(embed).state_dict())
    assert torch.equal(other(inputs), expected)


def test_a_run_knows_how_to_read_another_file(patients, tmp_path):
    """`spec.columns` of config.yaml encodes a raw file, whose columns stand in another order and hold a new word, as
    the run's own rows were encoded."""
    run = plainloop.train(words_for(patients))
    columns = OmegaConf.load(run.path / "config.yaml").spec.columns
    text = cells(patients)
    with open(tmp_path / "raw.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(reversed(PATIENTS))
        writer.writerows([text[name][row] for name in reversed(PATIENTS)] for row in indices_of(run)["test"])
        writer.writerow(["placebo", "Rome", "true", "3", "41.5"])
    found = encode(read_frame(Source(tmp_path / "raw.csv")), columns, "raw.csv")
    assert torch.equal(found[:-1].nan_to_num(-1), run.data.test.inputs.nan_to_num(-1))
    assert found[-1].tolist() == [41.5, 3, 1, 0, 0]
    with pytest.raises(UserError, match=r"raw\.csv has no such column"):
        encode(read_frame(Source(tmp_path / "raw.csv")).drop("age"), columns, "raw.csv")
    with pytest.raises(UserError, match=r"raw\.csv, column age: words \(as old\) where numbers belong"):
        encode(read_frame(Source(tmp_path / "raw.csv")).with_columns(age=polars.lit("old")), columns, "raw.csv")


# --- training ------------------------------------------------------------------------------------------------------

KINDS = {
    "classes": ("sick", ()),
    "embedded": ("sick", ("data.categories=embed", "model=tabular")),
    "one-hot with model=tabular": ("sick", ("model=tabular",)),
    "a number": ("cost", ()),
    "several numbers": ("[cost,visits]", ("data.features=[age,smoker,city,drug]",)),
    "several labels": ("[fever,cough]", ()),
    "grouped": ("sick", ("split.group=patient",)),
    "balanced": ("sick", ("loader.sampler=balanced",)),
    "rebuilt": ("sick", ("task=reconstruction", "model=autoencoder")),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_trains_and_is_measured_again(patients, kind):
    """The task is found out, the loss falls, and evaluate finds the same numbers from the run directory alone."""
    target, more = KINDS[kind]
    run = plainloop.train(words_for(patients, target, *more))
    epochs = [record["train/epoch_loss"] for record in run.history() if "train/epoch_loss" in record]
    assert epochs[-1] < epochs[0]
    measured = plainloop.evaluate(run.path)
    assert measured == {name: value for name, value in run.metrics.items() if name in measured}
    assert measured["test/loss"] == run.metrics["test/loss"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("data.categories=embed", "model=tabular")], ids=["one-hot", "embedded"])
def test_a_resumed_run_ends_with_the_same_bits(patients, more):
    whole = plainloop.train(words_for(patients, "sick", *more, "trainer.max_epochs=3"))
    half = plainloop.train(words_for(patients, "sick", *more))
    resumed = plainloop.train([f"resume={half.path}", "trainer.max_epochs=3"])
    for one, other in ((whole.model, resumed.model), (whole.preprocess, resumed.preprocess)):
        for name, value in one.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)
    assert resumed.metrics["test/loss"] == whole.metrics["test/loss"]


@pytest.mark.slow
def test_loading_processes_change_nothing(patients):
    results = [plainloop.train(words_for(patients, "sick", f"loader.num_workers={count}")) for count in (0, 2)]
    assert results[0].metrics["test/loss"] == results[1].metrics["test/loss"]
    for name, value in results[0].model.state_dict().items():
        assert torch.equal(results[1].model.state_dict()[name], value)


@pytest.mark.slow
def test_errors_are_in_the_targets_own_unit(patients):
    """MAE and RMSE of two targets, by hand from the model's outputs: one is of thousands, the other of a few, and they
    aren't mixed."""
    run = plainloop.train(words_for(patients, "[cost,visits]", "data.features=[age,smoker,city]"))
    text, rows = cells(patients), indices_of(run)
    targets = numpy.stack([numbers(text[name]) for name in ("cost", "visits")], axis=1)
    train = targets[rows["train"]]
    with torch.inference_mode():
        outputs = run.model.eval()(run.preprocess(run.data.test.inputs)).numpy()
    predicted = outputs * train.std(0) + train.mean(0)
    errors = predicted - targets[rows["test"]]
    for place, name in enumerate(("cost", "visits")):
        assert run.metrics[f"test/mae/{name}"] == pytest.approx(numpy.abs(errors[:, place]).mean(), rel=1e-4)
        deviation = numpy.sqrt((errors[:, place] ** 2).mean())
        assert run.metrics[f"test/rmse/{name}"] == pytest.approx(deviation, rel=1e-4)
    assert "test/mae" not in run.metrics
    again = plainloop.evaluate(run.path)
    assert again == {name: run.metrics[name] for name in again}


@pytest.mark.slow
def test_embeddings_learn_more_than_a_linear_model(write):
    """A target that is a product of two categories' signs: no sum of one-hot columns gives it."""
    random = numpy.random.default_rng(1)
    left, right = random.integers(0, 8, (2, 600))
    path = write("l,r,y\n" + rows_of(600, lambda n: f"w{left[n]},v{right[n]},{(left[n] % 2) ^ (right[n] % 2)}"))
    words = ["data=table", f"data.path={path}", "data.target=y", "logger=none", "trainer.max_epochs=15"]
    assert plainloop.train([*words, "model=linear"]).metrics["test/accuracy"] < 0.7
    embedded = plainloop.train([*words, "data.categories=embed", "model=tabular", "optimizer.lr=0.01"])
    assert embedded.metrics["test/accuracy"] > 0.95
    assert embedded.config.spec.cardinalities == [9, 9]


def test_codes_are_no_numbers_to_another_model(patients):
    with pytest.raises(UserError, match=r"model=mlp doesn't fit data=table(.|\n)*model=tabular embeds them"):
        plainloop.train(words_for(patients, "sick", "data.categories=embed"))
    columns = "data.features=[age,visits]"  # where there are no words there are no codes
    assert assemble(compose(words_for(patients, "sick", "task=binary", "data.categories=embed", columns)))


# --- splits --------------------------------------------------------------------------------------------------------


def test_no_group_is_on_two_sides(patients):
    run = plainloop.train(words_for(patients, "sick", "split.group=patient"))
    of_row = cells(patients)["patient"]
    groups = [{of_row[row] for row in rows} for rows in indices_of(run).values()]
    assert len(groups) == 3
    assert sum(map(len, groups)) == len(set.union(*groups)) == 60


def test_the_latest_rows_are_tested(patients):
    """Whatever the order of the lines in the file."""
    lines = Path(patients).read_text().splitlines()
    Path(patients).write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    run = plainloop.train(words_for(patients, "sick", "split.time=day"))
    days = cells(patients)["day"]
    train, val, test = ([days[row] for row in rows] for rows in indices_of(run).values())
    assert max(train) < min(val) <= max(val) < min(test)
    assert (len(train), len(val), len(test)) == (192, 24, 24)


def test_times_are_ordered_as_times_and_not_as_words(write):
    """2024-2-3 is before 2024-10-1, and 23:00+00:00 before 00:30 of the next day at +00:00."""
    path = write("t,a,y\n2024/10/01,1,1.5\n2024/02/03,2,2.5\n2024/09/30,3,3.5\n")
    times = table(path, target="y", time="t").column("t")
    assert sorted(range(3), key=lambda row: times[row]) == [1, 2, 0]


@pytest.mark.slow
def test_every_row_validates_once_over_the_folds(patients):
    """And each fold's encoder is fitted on its own training rows."""
    held, means = [], set()
    for fold in range(3):
        words = words_for(patients, "sick", "split.folds=3", f"split.fold={fold}", "trainer.max_epochs=1")
        run = plainloop.train(words)
        rows = indices_of(run)
        assert not set(rows["train"]) & (set(rows["val"]) | set(rows["test"]))
        held += rows["val"]
        test = rows["test"]
        age = numbers(cells(patients)["age"])[rows["train"]]
        assert run.preprocess.fill[0].item() == pytest.approx(numpy.nanmean(age), rel=1e-6)
        means.add(run.preprocess.fill[0].item())
    assert sorted(held + test) == list(range(240))
    assert len(means) == 3


def test_balanced_sampling_draws_the_rare_class_as_often(write):
    """One in ten is `rare`: drawn as often as the other, within chance, and not without the sampler."""
    path = write("a,y\n" + rows_of(400, lambda n: f"{n * n},{'rare' if n % 10 == 0 else 'usual'}"))
    words = ["data=table", f"data.path={path}", "data.target=y", "task=binary"]
    for more, share in ((["loader.sampler=balanced"], 0.5), ([], 0.1)):
        session = assemble(compose([*words, *more]))
        loader = session.training_loader()
        drawn = torch.cat([targets for epoch in range(10) for _, targets in loader.epoch(epoch)])
        assert len(drawn) == 3200
        assert (drawn == 0).double().mean().item() == pytest.approx(share, abs=5 * (0.25 / 3200) ** 0.5)


def test_a_class_that_no_training_row_has_is_named(write):
    """Late rows are of another class: it can't be learned, and that is said with its name and line."""
    path = write("t,a,y\n,,\n" + rows_of(60, lambda n: f"{n},{n * n},{'late' if n > 57 else 'ab'[n % 2]}"))
    words = ["data=table", f"data.path={path}", "data.target=y", "split.time=t", "task=multiclass"]
    with pytest.raises(UserError, match=r"table\.csv, line 61: the class late isn't in the training split \(2 in test"):
        assemble(compose(words))


def test_dates_and_free_text_are_left_out_and_said(write):
    """Unless they are asked for by name."""
    lines = rows_of(40, lambda n: f"2024-01-{1 + n % 28:02},{n * n},a house in street {n},{'uv'[n % 2]},{n / 2}")
    path = write("sold,area,comment,kind,y\n" + lines)
    data = table(path, target="y")
    assert data.columns == {"numbers": ["area"], "categories": {"kind": ["u", "v"]}}
    assert "left out: sold (dates or times), comment (40 different words in 40 rows)" in data.note
    with pytest.raises(UserError, match=r"column comment: 40 different words"):
        table(path, target="y", features=["area", "comment"])
    with pytest.raises(UserError, match=r"column sold: dates or times"):
        table(path, target="y", categorical=["sold"])


# --- mistakes ------------------------------------------------------------------------------------------------------

STRAY = "a,y\n" + rows_of(40, lambda n: f"{'x' if n == 7 else n},{n / 2}")
IDS = "id,a,y\n" + rows_of(40, lambda n: f"p{n},{n * n},{n / 2}")
MANY = "city,y\n" + rows_of(4000, lambda n: f"c{n % 1500},{n / 2}")


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (BIRDS, {"target": "mas"}, r"data\.target=mas: .* no such column\. Did you mean mass\? It has: island, mass"),
        (BIRDS, {"target": None}, r"which column is to be predicted\? .* has: island, mass, ringed, kind"),
        (BIRDS, {"target": ["mass", "kin"]}, r"data\.target=kin.*Did you mean kind"),
        (BIRDS, {"features": ["iland"]}, r"data\.features=iland.*Did you mean island"),
        (BIRDS, {"exclude": ["iland"]}, r"data\.exclude=iland.*Did you mean island"),
        (BIRDS, {"categorical": ["iland"]}, r"data\.categorical=iland.*Did you mean island"),
        (BIRDS, {"group": "iland"}, r"split\.group=iland.*Did you mean island"),
        (BIRDS, {"time": "iland"}, r"split\.time=iland.*Did you mean island"),
        (BIRDS, {"features": "island"}, r"must be a list, as in data\.features=\[island\]"),
        (BIRDS, {"categories": "emb"}, r"data\.categories=emb: must be onehot or embed. Did you mean embed"),
        (BIRDS, {"missing_target": "skip"}, r"data\.missing_target=skip: must be error or drop"),
        (BIRDS, {"target": "kind", "task": "regression"}, "column of words .*task=multiclass"),
        (BIRDS, {"target": "mass", "task": "multiclass"}, "4 different numbers in 4 rows.*task=regression"),
        (BIRDS, {"target": ["mass", "kind"]}, "kind holds words"),
        (BIRDS, {"target": ["mass", "ringed"], "task": "binary"}, "takes one target, and data.target names 2"),
        (BIRDS, {"target": ["ringed", "mass"], "task": "multilabel"}, r"line 2: mass is 3\.5, .* columns of 0 and 1"),
        (BIRDS, {"target": "mass", "features": ["mass", "ringed"]}, r"data\.features=mass, ringed: .*from itself"),
        (BIRDS, {"features": []}, r"data\.features=\[\]: there is no column"),
        ("y\n1\n2\n", {}, r"there is no column to predict y from"),
        ("x,y\n1,a\n2,a\n", {}, r"data\.target=y: .* one class only \(a\)"),
        ("x,y\n1,2\n2,2\n", {}, r"data\.target=y: .* one value only \(2\)"),
        ("x,y\n,1.5\n,2\n", {}, "no column with a value is left"),
        ("x,y\n1,\n2,\n", {}, r"data\.target=y: this column of .* has no values"),
        ("x,y\n", {}, "there are no rows in it"),
        ("", {}, "the file is empty"),
        ("x,y\n1,2\n1,2,3,4\n", {}, "line 3: 4 fields"),
        ("x,y\n1,2\n2,\n3,4\n4,NA\n", {}, r"line 3: the target y is missing, and in 1 row after it.*=drop"),
        ("x,y\n1,2\n\ninf,3\n", {}, r"line 4, column x: inf is infinite"),
        ("x,y\n1,2\n2,-inf\n3,4\n", {"task": "regression"}, r"line 3, column y: -inf is infinite"),
        ("x,y\n1,2\n1e39,3\n", {}, r"line 3, column x: 1e\+39 is too large for float32"),
        (IDS, {"features": ["id", "a"]}, r"column id: 40 different words in 40 rows, as 'p0': .* data\.exclude=\[id\]"),
        (IDS, {"target": "id"}, r"data\.target=id: 40 different words in 40 rows"),
        (MANY, {}, r"column city: 1500 different words(.|\n)*data\.categories=embed model=tabular"),
        (STRAY, {}, r"column a: numbers, but for 1 word \(the first is 'x' in line 9\)"),
        ("d,y\n2024-05-31,1\n2024-06-01,2\n", {}, r"column d: dates or times \(as 2024-05-31\)(.|\n)*split\.time=d"),
        ("d,y\n31.5.2024 10:00,1\n1.6.2024 11:00,2\n", {}, r"column d: dates or times"),
        ("d,y\n10:30,1\n11:30:05,2\n", {}, r"column d: dates or times \(as 10:30\)"),
        ("d,y\n1,2024-05-31\n2,2024-06-01\n", {}, r"column y: dates or times"),
        ("d,a,y\nMay 24,1,1\nJune 24,2,2\n", {"time": "d"}, r"line 2: split\.time=d is May 24.*Write 2024-"),
        ("d,a,y\n5/1/2024,1,1\n6/1/2024,2,2\n", {"time": "d"}, r"line 2: split\.time=d could be read in two ways"),
        ("d,a,y\n2024-05-31,1,1\n2024-05-31T10:00:00Z,2,2\n", {"time": "d"}, r"split\.time=d is .*of one form"),
        ("d,a,y\n2024-05-31,1,1\n,2,2\n", {"time": "d"}, r"line 3: split\.time=d is missing"),
        ("g,a,y\np,1,1\n,2,2\n", {"group": "g"}, r"line 3: split\.group=g is missing"),
    ],
)
def test_tables_that_do_not_fit_are_answered(write, text, arguments, message):
    """The user's mistakes, each in one or two lines with the row, the column or the key it is in."""
    with pytest.raises(UserError, match=message) as caught:
        table(write(text), **{"target": "mass" if text == BIRDS else "y", **arguments})
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("kind", ["list", "bytes", "date"])
def test_columns_that_are_neither_numbers_nor_words_are_named(tmp_path, kind):
    values: Any = {"list": [[1], [2]], "bytes": [b"a", b"b"], "date": polars.Series(["2024-05-31"] * 2).str.to_date()}[
        kind
    ]
    polars.DataFrame({"odd": values, "y": [1.5, 2]}).write_parquet(tmp_path / "table.parquet")
    with pytest.raises(UserError, match=r"column odd: .*where numbers or words are needed(.|\n)*data\.exclude=\[odd\]"):
        table(str(tmp_path / "table.parquet"), target="y")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.path=none\.csv: there is no such file"):
        table("none.csv", target="y")
    with pytest.raises(UserError, match="a folder, and a table is a file"):
        table(str(tmp_path), target="y")


def test_a_column_that_is_asked_for_must_be_there(write):
    data = table(write(BIRDS), target="mass")
    assert data.column("kind") == ["gull", "auk", "gull", "tern"]
    with pytest.raises(UserError, match=r"no such column\. Did you mean kind"):
        data.column("kin")


# --- who is in which split, as the file says ----------------------------------------------------------------------


def test_a_column_of_splits_is_obeyed(write):
    """As images do; it is no feature, and a word that isn't such makes it one."""
    text = "a,kind,Split\n1,x,train\n2,y,Train\n3,x,validation\n4,y,test\n5,x,training\n"
    path = write(text)
    parts = {split: table(path, target="kind", split=split) for split in ("train", "val", "test")}
    assert {split: data.inputs.flatten().tolist() for split, data in parts.items()} == {
        "train": [1, 2, 5], "val": [3], "test": [4]
    }  # fmt: skip
    assert {split: data.targets.tolist() for split, data in parts.items()} == {
        "train": [0, 1, 0], "val": [0], "test": [1]
    }  # fmt: skip
    assert parts["train"].columns == {"numbers": ["a"], "categories": {}}
    assert "divided by its column Split" in parts["train"].note
    assert parts["val"].where(0).endswith("line 4")
    with pytest.raises(UserError, match=r"line 5: Split is later, where the others are train, val or test"):
        table(write(text.replace("test", "later"), "other.csv"), target="kind")
    banana = write("a,kind,split\n1,x,banana\n2,y,orange\n3,x,banana\n", "fruit.csv")
    assert table(banana, target="kind").columns["categories"] == {"split": ["banana", "orange"]}
    assert table(banana, target="kind", split="val") is None


def test_files_of_their_own_for_validation_and_test(write):
    """Encoded as the training rows are: a word that these don't have is 0."""
    path = write("a,city,kind\n1,Rome,x\n2,Oslo,y\n3,Rome,x\n")
    test = write("kind,city,a\ny,Rome,4\nx,Bern,5\n", "test.csv")
    data = table(path, target="kind", split="test", test=test)
    assert data.inputs.tolist() == [[4, 2], [5, 0]]
    assert data.targets.tolist() == [1, 0]
    assert data.classes == ["x", "y"]
    assert data.where(1).endswith("test.csv, line 3")
    assert table(path, target="kind", split="val", test=test) is None
    wrong = write("kind,city,a\nz,Rome,4\n", "wrong.csv")
    with pytest.raises(UserError, match=r"wrong\.csv, line 2: kind is z, and so in no training row"):
        table(path, target="kind", split="val", val=wrong)
    with pytest.raises(UserError, match=r"data\.test=nowhere\.csv: there is no such file"):
        table(path, target="kind", split="test", test="nowhere.csv")


@pytest.mark.slow
def test_a_divided_table_trains_and_is_measured_on_its_own_test(write):
    rows = rows_of(60, lambda number: f"{number % 2},{'yx'[number % 2]},{('train', 'val', 'test')[number % 3]}")
    path = write("a,kind,split\n" + rows)
    words = ["data=table", f"data.path={path}", "data.target=kind", "trainer.max_epochs=30", "logger=none"]
    run = plainloop.train(words)
    assert [len(run.data[split]) for split in ("train", "val", "test")] == [20, 20, 20]
    assert run.metrics["test/accuracy"] == 1.0
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]


def test_one_word_among_numbers_to_predict_is_named(write):
    path = write("a,price\n" + rows_of(300, lambda number: f"{number},{number * 1.5 if number != 250 else 'n/k'}"))
    with pytest.raises(UserError, match=r"line 252: data\.target=price is 'n/k', where 299 rows of 300 hold numbers"):
        table(path, target="price")
    data = table(path, target="price", missing=["n/k"], missing_target="drop", task="regression")
    assert len(data) == 299


def test_a_class_called_none_is_not_lost(write):
    path = write("severity,a\n" + rows_of(30, lambda number: f"{('None', 'mild', 'severe')[number % 3]},{number}"))
    assert table(path, target="severity").classes == ["None", "mild", "severe"]
    assert task_of(path, "severity")[0] == "multiclass"


@pytest.mark.parametrize("name", [2019, "2019"])
def test_a_column_may_be_called_by_a_number(name, write):
    """As the command line gives it: data.target=2019."""
    path = write("2018,2019,2020,id\n" + rows_of(40, lambda number: f"{number},{number % 2},{number % 5},{number}"))
    data = table(path, target=name, features=[2018, "2020"], exclude=[])
    assert data.columns["numbers"] == ["2018", "2020"]
    assert data.classes == ["0", "1"]


def test_several_labels_in_one_field(write):
    path = write("a,tags\n1,red|big\n2,\n3,big\n4,red | small\n", "tags.csv")
    assert task_of(path, "tags", labels_separator="|")[0] == "multilabel"
    data = table(path, target="tags", labels_separator="|", missing_target="drop")
    assert data.target_names == ["big", "red", "small"]
    assert data.targets.tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 1]]
    test = write("a,tags\n5,small\n6,red|green\n", "test.csv")
    with pytest.raises(UserError, match=r"test\.csv, line 3: tags holds green, and so does no training row"):
        table(path, target="tags", labels_separator="|", missing_target="drop", split="test", test=test)
    with pytest.raises(UserError, match=r"data\.labels_separator=;: no field of tags in .* holds one"):
        table(path, target="tags", labels_separator=";", missing_target="drop")


@pytest.mark.slow
def test_several_labels_are_learned(write):
    rows = rows_of(200, lambda number: f"{number % 2},{number % 3 // 2},{'|'.join(tags_of(number)) or 'none'}")
    path = write("a,b,tags\n" + rows)
    words = ["data=table", f"data.path={path}", "data.target=tags", "data.labels_separator='|'", "optimizer.lr=0.01"]
    run = plainloop.train([*words, "trainer.max_epochs=60", "logger=none"])
    assert run.config.choices.task == "multilabel"
    assert run.metrics["test/exact_match"] == 1.0


def tags_of(number: int) -> list[str]:
    return ["odd"] * (number % 2) + ["third"] * (number % 3 // 2)


def test_dates_that_can_be_read_in_one_way_only_divide_a_table(tmp_path):
    """The last of May comes before the first of June, though not by its letters."""
    path = tmp_path / "table.csv"
    path.write_text("d,a,y\n31.5.2024,1,0\n1.6.2024,2,1\n2.4.2024,3,0\n")
    data = table(str(path), "y", time="d")
    assert data is not None
    times = data.column("d")
    assert [times.index(each) for each in sorted(times)] == [2, 0, 1]


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        ("k,x,y\na,1,0\nb,2,1\n", "k,x,y\na,1,0\nc,2,1\nd,2,1\n", "2 of 3 words in k are in no training row (as c)"),
        ("k,x,y\na,1,0\nb,2,1\n", "k,x,y\na,1,0\nb,2,1\n", None),
    ],
)
def test_words_that_training_does_not_have_are_counted(train, val, said, tmp_path):
    for name, text in (("train", train), ("val", val)):
        (tmp_path / f"{name}.csv").write_text(text)
    data = table(str(tmp_path / "train.csv"), "y", split="val", val=str(tmp_path / "val.csv"))
    assert data is not None
    assert (f"{tmp_path}/val.csv: {said}" in data.note) if said else ("no training row" not in data.note)


def test_names_that_are_numbers_are_the_same_with_a_point(tmp_path):
    """pandas makes floats of whole numbers where a value is missing."""
    polars.DataFrame({"k": [1, 2, 3], "z": [1, 1, 3], "y": [1.5, 2.5, 3.5]}).write_parquet(tmp_path / "train.parquet")
    polars.DataFrame({"k": [2.0, None, 3.0], "z": [1, 1, 2], "y": [1.5, 2.5, 4.0]}).write_parquet(
        tmp_path / "t.parquet"
    )
    train, test = str(tmp_path / "train.parquet"), str(tmp_path / "t.parquet")
    data = table(train, "y", categorical=["k"], split="test", test=test)
    assert data is not None
    assert data.columns["categories"] == {"k": ["1", "2", "3"]}
    assert data.inputs[:, 1].tolist() == [2, 0, 3]


@pytest.mark.parametrize(("train", "val"), [("12%", "0.12"), ("0.5", "5%"), ("$3", "3")])
def test_another_unit_in_another_file_is_told(train, val, tmp_path):
    for name, value in (("train", train), ("val", val)):
        (tmp_path / f"{name}.csv").write_text(f"x,y\n{value},1\n{value.replace('3', '4').replace('5', '6')},0\n")
    with pytest.raises(
        UserError, match=r"val\.csv: x holds numbers .*, and in .*train\.csv .*: write them in one unit"
    ):
        table(str(tmp_path / "train.csv"), "y", split="val", val=str(tmp_path / "val.csv"))


@pytest.mark.parametrize("name", ["x", "y"])
def test_digits_that_float32_does_not_have_are_told(name, tmp_path):
    """Of features, and of targets too; also where a double has them neither."""
    path = tmp_path / "table.csv"
    for start in (1_700_000_000, 1234567890123456789):
        columns = {"x": range(30), "y": range(30), "z": [0, 1, 1] * 10} | {name: range(start, start + 30)}
        polars.DataFrame(columns).write_csv(path)
        data = table(str(path), "y", task="regression")
        assert data is not None
        assert f"{name} is rounded to the 7 digits of float32" in data.note


def test_labels_parted_by_a_comma_are_no_numbers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('x,y\n1,"1,2"\n2,3\n3,"2,3"\n')
    data = table(str(path), "y", labels_separator=",", task="multilabel")
    assert data is not None
    assert data.target_names == ["1", "2", "3"]
    assert data.targets.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 1]]


def test_a_number_that_is_written_otherwise_is_named(tmp_path):
    path = tmp_path / "table.csv"
    rows = [f"{number},5;{number % 2};{number}" for number in range(59)]
    path.write_text("\n".join(["x;y;z", *rows, "30.0;1;2"]) + "\n")
    with pytest.raises(
        UserError, match=r"column x: numbers, but not all written in one way, as '30\.0' in line 61: mend"
    ):
        table(str(path), "y")
    with pytest.raises(
        UserError, match=r"line 61: data\.target=x is '30\.0', and not written as most of its numbers are"
    ):
        table(str(path), "x")


def test_a_column_of_codes_among_which_many_are_words_is_left_out(tmp_path):
    """The tickets of the Titanic: a quarter of them have letters."""
    path = tmp_path / "table.csv"
    rows = [f"{'PC ' * (number % 4 == 0)}{1000 + 7 * number},{number},{number % 2}" for number in range(40)]
    path.write_text("\n".join(["ticket,x,y", *rows]) + "\n")
    data = table(str(path), "y")
    assert data is not None
    assert "left out: ticket (40 different words in 40 rows)" in data.note


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            [2.5, -200, 3.5, -200, 9.0, 4.0],
            "x is -200 in 2 rows, far from all others: if nothing was measured there, data.m",
        ),
        ([2, 9999, 3, 9999, 9, 4], "x is 9999 in 2 rows"),
        ([2, 9999, 3, 8, 9, 4], None),  # once: it may be one
        ([-1, 0, 1, -1, 0, 1], None),  # among its like
        ([99, 98, 97, 99, 12, 3], None),
    ],
)
def test_a_number_in_the_place_of_a_missing_one_is_asked_about(values, said, tmp_path):
    polars.DataFrame({"x": values, "z": [1, 2, 4, 3, 5, 0], "y": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]}).write_csv(
        tmp_path / "a.csv"
    )
    data = table(str(tmp_path / "a.csv"), "y")
    assert data is not None
    assert (said in data.note) if said else ("far from all others" not in data.note)
