"""`python evaluate.py`: a run is rebuilt from its directory alone, and has the same numbers."""

import dataclasses
import json
import math
import re
import shutil
import threading
from pathlib import Path

import numpy
import polars
import pytest
import torch
from scipy import stats
from sklearn import metrics as truth
from sklearn.dummy import DummyClassifier
from torch import nn
from torch.utils.data import Dataset

import plainloop
from plainloop.commands import train
from plainloop.errors import MachineError, UserError
from plainloop.reports import evaluation, terminal
from plainloop.tasks import Accuracy
from tests.conftest import ROOT, Done, command, copy_configs, one_in, path_of
from tests.plainloop.commands.runs import copy_of, trained
from tests.plainloop.commands.test_predict import KINDS, QUICK


@pytest.fixture
def digits(digits_command: Done, tmp_path: Path) -> Done:
    """A copy of the run and its folder, in which an evaluation may write."""
    return dataclasses.replace(digits_command, folder=Path(shutil.copytree(digits_command.folder, tmp_path / "digits")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "checkpoint"), one_in(4, [("test", "best"), ("val", "best"), ("test", "last"), ("val", "last")])
)
def test_evaluate_reproduces_the_runs_own_numbers_exactly(digits: Done, split, checkpoint):
    values = plainloop.evaluate(digits.run, split=split, checkpoint=checkpoint)
    own = digits.metrics()
    prefix = "last/" if (split, checkpoint) == ("val", "last") else ""
    if (split, checkpoint) == ("test", "last"):
        assert set(values) == {"test/loss", "test/accuracy", "test/macro_f1"}  # the run measured the best weights only
    else:
        assert values == {name: own[prefix + name] for name in values}
    written = json.loads((digits.run / f"evaluate-{split}-{checkpoint}.json").read_text())
    assert written.items() >= values.items()


def rows_of(path: Path) -> polars.DataFrame:
    return polars.read_csv(path, infer_schema_length=None)


def sklearns(rows: polars.DataFrame, metrics: set[str]) -> dict[str, float]:
    """What scikit-learn makes of a file of samples, by the names that the metrics have here."""
    rows = rows.filter(polars.col("loss").is_not_null())
    found = {"loss": rows["loss"].mean()}
    if "exact_match" in metrics:
        names = [column[2:-1] for column in rows.columns if column.startswith("p(")]
        true, said = (
            numpy.array([[name in (text or "").split("|") for name in names] for text in rows[column]])
            for column in ("target", "prediction")
        )
        return found | {
            "exact_match": truth.accuracy_score(true, said),
            "label_accuracy": float((true == said).mean()),
            "label_f1": truth.f1_score(true, said, average="macro", zero_division=0),
        }
    if "accuracy" in metrics:
        true, said = (rows[column].cast(polars.String) for column in ("target", "prediction"))
        found |= {"accuracy": truth.accuracy_score(true, said)}
        if "auroc" in metrics:
            second = [column for column in rows.columns if column.startswith("p(")][1]
            positive = true == second[2:-1]
            found |= {"auroc": truth.roc_auc_score(positive, rows[second])}
            return found | {"f1": truth.f1_score(positive, said == second[2:-1])}
        return found | {"macro_f1": truth.f1_score(true, said, average="macro")}
    if "r2" in metrics:
        true, said = rows["target"], rows["prediction"]
        return found | {
            "mae": truth.mean_absolute_error(true, said),
            "rmse": truth.root_mean_squared_error(true, said),
            "r2": truth.r2_score(true, said),
        }
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", one_in(9, KINDS))
def test_the_file_of_samples_has_the_runs_numbers(kind, tmp_path, capsys):
    """By scikit-learn, to 1e-12; the same with other loading processes, and with batches of another size, in which the
    arithmetic may have other last digits; the worst first."""
    words, path = KINDS[kind](tmp_path)
    run = plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    values = plainloop.evaluate(run.path)
    assert values == {name: run.metrics[name] for name in values}
    told = capsys.readouterr().out
    assert "equal to the run's own numbers" in told
    rows = rows_of(run.path / "evaluate-test-best.csv")
    assert rows["loss"].to_list() == sorted(rows["loss"], reverse=True)
    assert sorted(rows["index"]) == list(range(run.config.spec.samples("test") or 0))
    metrics = {name.removeprefix("test/") for name in values}
    for name, value in sklearns(rows, metrics).items():
        assert values[f"test/{name}"] == pytest.approx(value, rel=1e-6 if name == "loss" else 1e-12, abs=1e-12)
    details = json.loads((run.path / "evaluate-test-best.json").read_text())
    assert details["samples"] == len(rows)
    for name, (low, high) in details["intervals"].items():
        assert low is None or low <= values[f"test/{name}"] <= high
    assert set(details["intervals"]) == metrics
    again = plainloop.evaluate(run.path, overrides=["loader.num_workers=2"])
    assert again == values
    other = plainloop.evaluate(run.path, overrides=["loader.eval.batch_size=7"])
    assert other == pytest.approx(values, rel=1e-5)
    split = rows.sort("index")
    plainloop.evaluate(run.path, overrides=[f"input={path}"])  # all of its samples, as other data
    (file,) = run.path.glob("evaluate-input-*-best.csv")
    everything = rows_of(file).sort("index")
    chosen = everything[(run.data.indices.get("test") or {})["indices"]]
    assert len(everything) == sum(run.config.spec.samples(name) or 0 for name in ("train", "val", "test"))
    for column in ("target", "prediction"):
        if column in chosen.columns and chosen[column].dtype == polars.Float64:
            assert chosen[column].to_numpy() == pytest.approx(split[column].to_numpy(), rel=1e-5)
        elif column in chosen.columns:
            assert chosen[column].to_list() == split[column].to_list()


def test_the_baseline_is_the_majority_of_the_training_split(tmp_path):
    run = plainloop.train(
        ["data=penguins", "data.target=species", "task=multiclass", *QUICK, f"hydra.run.dir={tmp_path}"]
    )
    plainloop.evaluate(tmp_path)
    found = json.loads((tmp_path / "evaluate-test-best.json").read_text())["baseline"]
    dummy = DummyClassifier(strategy="prior")
    train, test = (
        torch.stack([run.data[split][i][1] for i in range(len(run.data[split]))]) for split in ("train", "test")
    )
    dummy.fit(numpy.zeros((len(train), 1)), train)
    nothing = numpy.zeros((len(test), 1))
    assert found["accuracy"] == pytest.approx(dummy.score(nothing, test), abs=1e-12)
    assert found["loss"] == pytest.approx(truth.log_loss(test, dummy.predict_proba(nothing), labels=range(3)), rel=1e-6)
    assert found["macro_f1"] == pytest.approx(truth.f1_score(test, dummy.predict(nothing), average="macro"), abs=1e-12)


def test_the_baseline_of_numbers_is_their_mean(tmp_path):
    run = plainloop.train(["data=penguins", *QUICK, f"hydra.run.dir={tmp_path}"])
    plainloop.evaluate(tmp_path)
    found = json.loads((tmp_path / "evaluate-test-best.json").read_text())["baseline"]
    train, test = (
        torch.stack([run.data[split][i][1] for i in range(len(run.data[split]))]) for split in ("train", "test")
    )
    guess = numpy.full(len(test), train.double().mean())
    assert found["mae"] == pytest.approx(truth.mean_absolute_error(test.flatten(), guess), rel=1e-6)
    assert found["r2"] == pytest.approx(truth.r2_score(test.flatten(), guess), abs=1e-6)


def test_two_runs_are_compared_on_the_same_samples(short_run, tmp_path, capsys):
    other = plainloop.train(["model=linear", *QUICK, f"hydra.run.dir={tmp_path / 'linear'}"])
    first = copy_of(short_run, tmp_path)
    plainloop.evaluate(f"{first},{other.path}")
    told = capsys.readouterr().out
    before, after = (rows_of(run / "evaluate-test-best.csv").sort("index") for run in (first, other.path))
    hits = [(rows["target"] == rows["prediction"]).to_numpy() for rows in (before, after)]
    apart = hits[1].mean() - hits[0].mean()
    line = next(line for line in told[told.index("\nA  ") :].splitlines() if "accuracy" in line).split()
    assert float(line[3]) == pytest.approx(apart, abs=1e-4)
    few = int((hits[0] & ~hits[1]).sum())
    p = stats.binomtest(few, few + int((~hits[0] & hits[1]).sum())).pvalue
    assert float(line[7]) == pytest.approx(p, rel=0.05)
    error = float((hits[1] * 1.0 - hits[0]).std()) / len(before) ** 0.5
    assert [float(line[4]), float(line[6])] == pytest.approx(
        [apart - 1.96 * error, apart + 1.96 * error], abs=error / 3
    )
    assert "A is better" in " ".join(line)


def test_runs_on_other_samples_are_not_compared(short_run, tmp_path):
    other = plainloop.train(["data=breast_cancer", *QUICK, f"hydra.run.dir={tmp_path / 'other'}"])
    with pytest.raises(UserError, match="aren't the same samples"):
        plainloop.evaluate(f"{short_run.path},{other.path}")


class Bold(Accuracy):
    """A change of one of ours that a user made: what is right is only what is sure, too."""

    def update(self, predictions, targets):
        self.right = self.right + ((predictions.argmax(1) == targets) & (predictions.max(1).values > 0.25)).sum()
        self.count += len(targets)


class Bare:
    """All that a metric must have."""

    higher_is_better = True

    def reset(self):
        self.sum, self.count = 0.0, 0

    def update(self, predictions, targets):
        self.sum, self.count = self.sum + float(predictions.max(1).values.sum()), self.count + len(targets)

    def compute(self):
        return self.sum / self.count


class Locked(Bare):
    """It can't be copied."""

    def __init__(self):
        self.lock = threading.Lock()


class Pairs(nn.CrossEntropyLoss):
    """A loss that takes no single sample."""

    def forward(self, outputs, targets):
        if len(outputs) < 2:
            raise ValueError("two samples at least")
        return super().forward(outputs, targets)


def test_metrics_of_ones_own_have_their_own_intervals(tmp_path):
    """And none of them ends the run, whatever it can't do."""
    names = {kind: path_of(kind) for kind in (Bold, Bare, Locked)}
    words = [f"metrics.{kind.__name__.lower()}._target_={name}" for kind, name in names.items()]
    trust = f"trust=[{','.join(names.values())}]"
    run = plainloop.train(["model=linear", *words, trust, *QUICK, "trainer.max_epochs=8", f"hydra.run.dir={tmp_path}"])
    values = plainloop.evaluate(run.path, overrides=[trust])
    rows = rows_of(run.path / "evaluate-test-best.csv")
    sure = ((rows["target"] == rows["prediction"]) & (rows["probability"] > 0.25)).to_numpy()
    assert 0.1 < sure.mean() < 0.9
    assert values["test/bold"] == pytest.approx(sure.mean(), abs=1e-12)
    found = json.loads((run.path / "evaluate-test-best.json").read_text())["intervals"]
    error = float((sure * 1.0).std()) / len(sure) ** 0.5
    wanted = [sure.mean() - 1.96 * error, sure.mean() + 1.96 * error]
    assert found["bold"] == pytest.approx(wanted, abs=error / 3)
    assert found["bare"][0] < values["test/bare"] < found["bare"][1]
    assert "locked" not in found
    assert values["test/locked"] == values["test/bare"]


def test_a_loss_of_ones_own_that_takes_no_single_sample_is_told(tmp_path, capsys):
    words = ["loss=custom", f"loss._target_={path_of(Pairs)}", f"trust=[{path_of(Pairs)}]"]
    run = plainloop.train(["model=linear", *words, *QUICK, f"hydra.run.dir={tmp_path}"])
    assert (run.path / "report.html").exists()
    values = plainloop.evaluate(run.path, overrides=words[-1:])
    assert values["test/loss"] == run.metrics["test/loss"]
    assert "two samples at least" in capsys.readouterr().out


def test_what_hinders_the_report_costs_the_run_nothing(tmp_path, monkeypatch, capsys):
    def broken(*given, **others):
        raise IndexError("of a data set of somebody's")

    monkeypatch.setattr(train, "write_report", broken)
    monkeypatch.setattr(train.evaluation, "of", broken)
    run = plainloop.train(["model=linear", *QUICK, f"hydra.run.dir={tmp_path}"])
    assert run.metrics["test/accuracy"] > 0
    assert (run.path / "metrics.json").exists()
    assert not (run.path / "ended.json").exists()
    told = capsys.readouterr().out
    assert "note    report.html is without what each sample tells" in told
    assert "note    report.html isn't written" in told


def test_a_task_of_ones_own_without_these_methods_is_measured_all_the_same(tmp_path, capsys):
    run = plainloop.train(["model=linear", *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])

    class Odd(type(run.session.task)):
        __module__ = "somebody"

        def answers(self, *given):
            raise KeyError("nothing of the kind")

    answered = run.session.answered()
    answered.task.__class__ = Odd
    values = run.session.measure("test", each=answered.add)
    assert values["loss"] == run.metrics["test/loss"]
    evaluation.say(evaluation.of(run.session, "test", values, answered))
    assert re.search("note    what becomes of each sample isn't known", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("values", "own", "said"),
    [
        ({"val/loss": 0.5, "val/auroc": math.nan}, {"val/loss": 0.5, "val/auroc": None}, "equal to the run's own"),
        ({"val/loss": 0.5, "val/auroc": 0.5}, {"val/loss": 0.5, "val/auroc": None}, "differs .* by up to inf"),
        ({"val/loss": 0.5, "val/auroc": math.nan}, {"val/loss": 0.5, "val/auroc": 0.5}, "differs .* by up to inf"),
        ({"val/loss": 0.5}, {"val/loss": 0.75}, "differs .* by up to 0.25"),
    ],
)
def test_what_is_no_number_is_compared_too(values, own, said, tmp_path, capsys):
    """As an AUROC where one class only occurs: NaN in the evaluation, null in metrics.json."""
    terminal.say_comparison(values, {**own, "best/step": 1}, "val", "best")
    assert re.search(f"check   {said}", capsys.readouterr().out)


@pytest.mark.slow
def test_the_evaluate_command_finds_the_latest_run(digits: Done):
    done = command("evaluate.py", "run=latest", folder=digits.folder)
    assert done.status == 0, done.err
    assert "equal to the run's own numbers" in done.out


@pytest.mark.slow
def test_a_run_that_ends_before_its_first_log_point_has_a_training_loss():
    run = plainloop.train(["model=linear", "trainer.max_steps=2", "trainer.log_every=50", "logger=none"])
    logged = plainloop.train(["model=linear", "trainer.max_steps=2", "trainer.log_every=2", "logger=none"])
    assert run.metrics["train/loss"] == logged.history()[0]["train/loss"]


def test_evaluate_with_larger_batches_asks_for_no_warm_up():
    """Which the training had; with batches of 1,000 samples there would be fewer steps than that."""
    run = plainloop.train(["model=linear", "schedule.warmup_steps=50", "trainer.max_epochs=2", "logger=none"])
    again = plainloop.evaluate(run.path, overrides=["loader.batch_size=1000"])
    assert again["test/accuracy"] == pytest.approx(run.metrics["test/accuracy"])


def test_evaluate_needs_the_run_directory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not the configs that it was composed from, which may have changed since."""
    run = trained()
    (copy_configs(tmp_path, monkeypatch) / "model/mlp.yaml").write_text("_target_: plainloop.models.Linear\n")
    moved = shutil.move(run.path, tmp_path / "elsewhere")
    assert plainloop.evaluate(moved)["test/loss"] == run.metrics["test/loss"]


class Counted(Dataset):
    """Counts how often a sample is read."""

    classes = ("a", "b")
    targets = torch.arange(1000) % 2
    reads = 0

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int):
        type(self).reads += 1
        return torch.full((3,), float(index)), index % 2


@pytest.mark.slow
def test_statistics_are_taken_once(tmp_path: Path):
    """A run's own are loaded when it is evaluated, resumed or extended: its training split isn't read for them."""
    words = ["data=custom", f"data._target_={__name__}.Counted", "task=multiclass", "transforms.normalize=train"]
    run = trained(*words, "loader.num_workers=0")
    inputs = torch.stack([torch.full((3,), float(index)) for index in run.data.indices["train"]["indices"]])
    torch.testing.assert_close(run.preprocess(inputs).std(0, unbiased=False), torch.ones(3))
    Counted.reads = 0
    plainloop.evaluate(run.path, "test")
    assert 100 <= Counted.reads < 400  # the test split's, and some for digests
    again = plainloop.load_run(run.path)
    assert torch.equal(again.preprocess(inputs), run.preprocess(inputs))
    resumed = plainloop.train([f"resume={run.path}", "trainer.max_epochs=3"])
    extended = plainloop.train([f"extend={run.path}", "trainer.max_epochs=1"])
    for longer in (resumed, extended):
        assert torch.equal(longer.preprocess(inputs), run.preprocess(inputs))


def test_load_run_gives_back_model_preprocess_data_and_config():
    run = trained()
    again = plainloop.load_run(run.path)
    assert not again.model.training
    test = again.data.test
    with torch.no_grad():
        accuracy = (again.model(again.preprocess(test.inputs)).argmax(1) == test.targets).float().mean()
    assert float(accuracy) == pytest.approx(run.metrics["test/accuracy"])
    assert again.config.model.hidden_sizes == [128, 64]
    assert again.metrics == run.metrics
    assert len(again.history()) == len(run.history()) > 0


@pytest.mark.slow
def test_data_may_lie_elsewhere_when_a_run_is_evaluated(tmp_path: Path):
    run = trained()
    elsewhere = tmp_path / "moved"
    shutil.copytree(ROOT / "data", elsewhere)
    values = plainloop.evaluate(run.path, overrides=[f"paths.data={elsewhere}"])
    assert values["test/loss"] == run.metrics["test/loss"]
    with pytest.raises(UserError, match="no such file"):
        plainloop.evaluate(run.path, overrides=["paths.data=nowhere"])


def test_data_that_has_changed_is_named(tmp_path: Path):

    run = trained()
    (tmp_path / "moved").mkdir()
    with numpy.load(ROOT / "data/digits.npz") as held:
        numpy.savez(
            tmp_path / "moved/digits.npz",
            **{name: held[name] for name in held} | {"images": held["images"][:1000], "labels": held["labels"][:1000]},
        )
    with pytest.raises(UserError, match=r"the data has changed since .*: num_train was 1258 and is 700"):
        plainloop.evaluate(run.path, overrides=[f"paths.data={tmp_path}/moved"])


@pytest.fixture(scope="module")
def of_rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[plainloop.Run, polars.DataFrame]:
    """A run on a table, and the table."""
    folder = tmp_path_factory.mktemp("rows")
    words, path = KINDS["classes of rows"](folder)
    return plainloop.train([*words, *QUICK, f"hydra.run.dir={folder / 'run'}"]), polars.read_csv(path)


def test_rows_without_a_target_are_counted_and_left_out(of_rows, tmp_path, capsys):
    run, frame = of_rows
    drugs = [None if row < 3 else drug for row, drug in enumerate(frame["drug"])]
    frame.with_columns(polars.Series("drug", drugs)).write_csv(tmp_path / "new.csv")
    values = plainloop.evaluate(run.path, overrides=[f"input={tmp_path / 'new.csv'}"])
    told = capsys.readouterr()
    assert "3 samples without a target, left out" in told.err
    rows = rows_of(run.path / "evaluate-input-new-best.csv")
    assert sorted(rows["index"]) == list(range(3, len(frame)))
    assert values["new/accuracy"] == pytest.approx(truth.accuracy_score(rows["target"], rows["prediction"]), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.with_columns(drug=polars.lit("Z")), "line 2: drug is Z, and so in no training row"),
        (lambda frame: frame.drop("drug"), "data.target=drug: .* has no such column"),
        (lambda frame: frame.drop("age"), "age"),
    ],
)
def test_other_data_that_doesnt_fit_is_answered(of_rows, tmp_path, change, message):
    run, frame = of_rows
    change(frame).write_csv(tmp_path / "new.csv")
    with pytest.raises(UserError, match=message):
        plainloop.evaluate(run.path, overrides=[f"input={tmp_path / 'new.csv'}"])


@pytest.mark.slow
def test_other_pictures_are_measured_by_their_folders(tmp_path, capsys):
    words, path = KINDS["images"](tmp_path)
    run = plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    shutil.copytree(path, tmp_path / "new/test")  # as if a whole data set lay there
    broken = next((tmp_path / "new").rglob("cat/*"))
    broken.write_bytes(b"")
    plainloop.evaluate(run.path, overrides=[f"input={tmp_path / 'new'}"])
    assert "1 input can't be read" in capsys.readouterr().err
    rows = rows_of(run.path / "evaluate-input-new-best.csv")
    assert len(rows) == 39
    assert all(Path(file).parent.name == target for file, target in rows.select("file", "target").iter_rows())
    (tmp_path / "new/test/cat").rename(tmp_path / "new/test/tiger")
    with pytest.raises(UserError, match="lies in no folder that is called as a class"):
        plainloop.evaluate(run.path, overrides=[f"input={tmp_path / 'new'}"])
    with pytest.raises(UserError, match="what is right there"):
        plainloop.evaluate(run.path, overrides=[f"input={next((tmp_path / 'new').rglob('dog/*'))}"])


# --- the best few -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_best(tmp_path_factory: pytest.TempPathFactory) -> plainloop.Run:
    """A run whose validations get worse again at the end (the learning rate grows), and that keeps the best three."""
    words = ["model=linear", "trainer.max_epochs=7", "checkpoint.keep_best=3", "scheduler=exponential", "logger=none"]
    place = tmp_path_factory.mktemp("three_best") / "run"
    return plainloop.train([*words, "scheduler.gamma=6", "optimizer.lr=3e-4", f"hydra.run.dir={place}"])


@pytest.mark.slow
def test_the_best_few_are_those_of_the_history(three_best: plainloop.Run):
    """Each is measured anew, with predict's weights too."""
    validations = [record for record in three_best.history() if "val/accuracy" in record]
    ranking = sorted(validations, key=lambda record: (-record["val/accuracy"], record["val/loss"]))[:3]
    assert ranking != sorted(ranking, key=lambda record: -record["step"])  # not merely the newest ones
    for record, name in zip(ranking, ("best", "best-2", "best-3"), strict=True):
        values = plainloop.evaluate(three_best.path, "val", name)
        assert values == {key: record[key] for key in values}
        assert json.loads((three_best.path / f"evaluate-val-{name}.json").read_text()).items() >= values.items()
    second = plainloop.load_run(three_best.path, "best-2")
    state = torch.load(three_best.path / "checkpoints/best-2.pt", weights_only=True)["model"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in second.model.state_dict().items())


def test_a_rank_that_is_not_there_is_answered_with_those_that_are(three_best: plainloop.Run):
    with pytest.raises(UserError, match=r"best-4: of the best this run has best, best-2, best-3\. .*keep_best"):
        plainloop.evaluate(three_best.path, "val", "best-4")


@pytest.mark.slow
def test_a_runner_up_must_be_whole_and_the_runs_own(three_best: plainloop.Run, tmp_path: Path):
    run = Path(shutil.copytree(three_best.path, tmp_path / "run"))
    second = run / "checkpoints/best-2.pt"
    other = plainloop.train(["model=linear", "trainer.max_epochs=1", "seed=1", "logger=none"])
    shutil.copy(other.path / "checkpoints/best.pt", second)
    for use in (lambda: plainloop.evaluate(run, "val", "best-2"), lambda: plainloop.train([f"resume={run}"])):
        with pytest.raises(UserError, match=r"best-2\.pt was made with seed=1"):
            use()
    second.write_bytes(second.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"best-2\.pt is not a whole checkpoint"):
        plainloop.evaluate(run, "val", "best-2")
    with pytest.raises(MachineError, match=r"best-2\.pt is not a whole checkpoint .*Delete it, and the run goes on"):
        plainloop.train([f"resume={run}"])
