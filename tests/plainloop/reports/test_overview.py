"""Which runs are shown, in which order, with which columns."""

import csv
import io
import math
import random
from pathlib import Path

import pytest

from plainloop.errors import UserError
from plainloop.reports import overview, tables
from plainloop.runs.directory import RunDir
from plainloop.runs.survey import Entry, Survey

STAMP = "2026-11-21_13-27-09"


def run(name: str = "a", typed: str = "", status: str = "finished", metrics: dict | None = None, **settings) -> Entry:
    """A run as a survey finds it; the `typed` keys by commas, and dots in `settings` written __."""
    config = {"model": "mlp", "data": "digits", "optimizer.lr": "0.001", "debug": "null", "monitor": "val/accuracy"}
    config |= {"monitor_mode": "max", "trainer.max_epochs": "30", "trainer.max_steps": "null"}
    config |= {key.replace("__", "."): value for key, value in settings.items()}
    keys = frozenset(filter(None, typed.split(",")))
    return Entry(RunDir(Path("outputs") / name), name, status, config, keys, metrics or {}, 3, 1e9, 12.0)


RUNS = [
    run("first", metrics={"val/accuracy": 0.9, "test/accuracy": 0.8, "val/loss": 0.3}),
    run("second", metrics={"val/accuracy": 0.7, "test/accuracy": math.nan, "val/loss": 0.1}, optimizer__lr="0.01"),
    run("third", status="failed", optimizer__lr="1e-05", model="cnn", model__channels="[8,16]"),
    run("fourth", metrics={"val/loss": 0.2}, data="penguins", monitor="val/loss", monitor_mode="min", model="resnet"),
]


# --- which --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ("model=mlp", ["first", "second"]),
        ("model!=mlp", ["third", "fourth"]),
        ("model=res*", ["fourth"]),
        ("model=mlp,optimizer.lr=1e-2", ["second"]),  # a number, however it is written
        ("optimizer.lr<1e-2", ["first", "third", "fourth"]),
        ("optimizer.lr<=0.01", ["first", "second", "third", "fourth"]),
        ("optimizer.lr>1e-3", ["second"]),
        ("status=finished", ["first", "second", "fourth"]),
        (" status = failed ", ["third"]),
        ("val/accuracy>=0.7", ["first", "second"]),
        ("val/accuracy!=0.7", ["first", "third", "fourth"]),
        ("test/accuracy<1", ["first"]),  # NaN is none
        ("model.channels=[8,16]", ["third"]),
        ("model.channels!=[8,16],status==finished", ["first", "second", "fourth"]),
        ("run=f*", ["first", "fourth"]),
        ("epochs=3,seconds<60", ["first", "second", "third", "fourth"]),
        ("started>2001-01-01,started<2002-01-01", ["first", "second", "third", "fourth"]),
        ("started>2026-11-21T13:00", []),
    ],
)
def test_a_filter_takes_what_it_says(conditions, names):
    found, remark = overview.filtered(RUNS, conditions)
    assert [entry.name for entry in found] == names
    assert bool(remark) == (not names)


@pytest.mark.parametrize(
    ("conditions", "answer"),
    [
        ("lr<1", "no run has lr. Did you mean optimizer.lr?"),
        ("acuracy>0.5", "no run has acuracy. Did you mean val/accuracy?"),
        ("accuracy>0.5", "no run has accuracy. Did you mean val/accuracy or test/accuracy?"),
        ("modle=mlp", "no run has modle. Did you mean model?"),
        ("xyz=1", "no run has xyz. Metrics: test/accuracy, val/accuracy, val/loss."),
        ("model<cnn", "< compares numbers, and cnn is none"),
        ("model", "a condition is written KEY=VALUE"),
        ("", "a condition is written KEY=VALUE"),
        ("model=mlp,", "a condition is written KEY=VALUE"),
        ("=3", "a condition is written KEY=VALUE"),
        ("started<yesterday", "a time is written 2026-11-21"),
    ],
)
def test_a_mistyped_filter_is_answered(conditions, answer):
    with pytest.raises(UserError) as error:
        overview.filtered(RUNS, conditions)
    assert answer in str(error.value)


def test_where_no_run_is_left_it_is_said_what_there_is():
    assert overview.filtered(RUNS, "status=finishd") == (
        [],
        "no run has status=finishd; status is finished (3), failed (1)",
    )


# --- in which order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "names", "order"),
    [
        ("val/accuracy", ["first", "second", "third", "fourth"], "the highest val/accuracy first"),
        ("-val/accuracy", ["second", "first", "third", "fourth"], "the lowest val/accuracy first"),
        ("test/accuracy", ["first", "second", "third", "fourth"], "the highest test/accuracy first"),
        ("val/loss", ["second", "fourth", "first", "third"], "the lowest val/loss first"),
        ("optimizer.lr", ["third", "first", "fourth", "second"], "the lowest optimizer.lr first"),
        ("-optimizer.lr", ["second", "first", "fourth", "third"], "the highest optimizer.lr first"),
        ("model", ["third", "first", "second", "fourth"], "the lowest model first"),
        ("-run", ["third", "second", "fourth", "first"], "the highest run first"),
    ],
)
def test_the_best_stand_first_and_those_without_a_value_last(word, names, order):
    found, said = overview.ordered(RUNS, word, RUNS)
    assert [entry.name for entry in found] == names
    assert said == order


@pytest.mark.parametrize("name", ["test/mae", "test/rmse", "test/perplexity", "test/loss", "best/epoch"])
def test_of_errors_the_lowest_is_the_best(name):
    runs = [run("a", metrics={name: 2.0}), run("b", metrics={name: 1.0})]
    assert [entry.name for entry in overview.ordered(runs, name, runs)[0]] == ["b", "a"]


@pytest.mark.parametrize("name", ["test/macro_f1", "test/auroc", "test/r2", "test/top_5", "test/map"])
def test_of_what_is_right_the_highest(name):
    runs = [run("a", metrics={name: 1.0}), run("b", metrics={name: 2.0})]
    assert [entry.name for entry in overview.ordered(runs, name, runs)[0]] == ["b", "a"]


def test_a_metric_of_ones_own_is_sorted_as_the_run_monitors_it():
    runs = [
        run(name, metrics={"val/cost": value, "test/cost": value}, monitor="val/cost", monitor_mode="min")
        for name, value in (("a", 2.0), ("b", 1.0))
    ]
    assert [entry.name for entry in overview.ordered(runs, "test/cost", runs)[0]] == ["b", "a"]


def test_a_key_may_be_one_of_runs_that_are_not_shown():
    failed, _ = overview.filtered(RUNS, "status=failed")
    assert overview.ordered(failed, "val/accuracy", RUNS)[0] == failed
    assert overview.filtered(RUNS, "model=mlp,model.channels!=8")[0] == RUNS[:2]


def test_a_mistyped_order_is_answered():
    with pytest.raises(UserError, match=r"sort=acuracy: no run has acuracy\. Did you mean val/accuracy\?"):
        overview.ordered(RUNS, "acuracy", RUNS)


# --- with which columns -------------------------------------------------------------------------------------------


def test_what_differs_is_shown_and_what_follows_from_a_choice_is_not():
    runs = [
        run("a", "model,seed", model="mlp", model__layers="2", seed="0", loader__batch_size="32"),
        run("b", "model,seed", model="mlp", model__layers="2", seed="1", loader__batch_size="64"),
        run("c", "model,seed", model="cnn", model__channels="8", seed="0", loader__batch_size="32"),
    ]
    shown, follow = overview.differing(runs)
    assert shown == ["model", "seed", "loader.batch_size"]  # nobody has typed the last: a config file was changed
    assert follow == ["model.layers", "model.channels"]
    assert overview.differing(runs[:1]) == ([], [])


def test_another_class_under_the_same_option_is_a_difference():
    """A config file was changed."""
    runs = [run(each, model="mine", model___target_=f"project.{each}") for each in ("A", "B")]
    assert overview.differing(runs) == (["model._target_"], [])


def test_what_was_typed_is_never_said_to_follow():
    runs = [
        run("a", "model,model.layers", model="mlp", model__layers="2"),
        run("b", "model,model.layers", model="cnn", model__layers="3"),
    ]
    assert overview.differing(runs) == (["model", "model.layers"], [])


def test_where_a_run_lies_is_no_difference_in_how_it_was_made():
    runs = [run(each, paths__outputs=each, test=test) for each, test in (("a", "true"), ("b", "false"))]
    assert overview.differing(runs) == ([], [])


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120, 160, 240])
def test_the_table_fits_the_terminal(width):
    """The more room, the more columns; of each run its name and status, always; what is left out is said."""
    random.seed(0)
    runs = [
        run(
            f"digits_mlp/{STAMP}-{number:04x}" if number % 3 else f"digits/sweep-{STAMP}-{number:04x}/{number}",
            "optimizer.lr,model,seed,loader.batch_size,model.hidden_sizes",
            random.choice(["finished", "interrupted"]),
            {name: random.random() for name in ("val/accuracy", "test/accuracy", "best/epoch")},
            optimizer__lr=repr(random.random()),
            model=random.choice(["mlp", "cnn"]),
            seed=str(number),
            loader__batch_size=str(number % 2),
            model__hidden_sizes=f"[{','.join(['128'] * (number + 1))}]",
        )
        for number in range(12)
    ]
    rows, left, notes = overview.for_people(runs, width)
    text = tables.table(rows, left)
    assert max(map(len, text.splitlines())) <= width
    assert rows[0][:2] == ("run", "status")
    assert {row[1] for row in rows[1:]} == {"finished", "interrupted"}
    whole, *_ = overview.for_people(runs, 0)
    heads = [name.rpartition(".")[2] for name in whole[0]]
    assert [heads.index(name.rpartition(".")[2]) for name in rows[0]] == sorted(
        heads.index(name.rpartition(".")[2]) for name in rows[0]
    )
    said = " ".join(notes)
    assert ("too wide" in said) == (len(rows[0]) < len(heads))
    for full, short in zip([row[0] for row in whole[1:]], [row[0] for row in rows[1:]], strict=True):
        assert full.endswith(short.rpartition("...")[2])  # by which it can be named
    if width >= 80:
        assert "val/accuracy" in rows[0]


def test_a_debug_run_is_marked():
    rows, *_ = overview.for_people([run("a"), run("b", debug="fast")])
    assert [row[1] for row in rows[1:]] == ["finished", "finished, debug"]


def test_what_it_is_sorted_by_has_a_column():
    runs = [run("a", metrics={"val/accuracy": 1.0, "test/top_5": 0.5})]
    assert "test/top_5" not in overview.for_people(runs)[0][0]
    for width in (0, 40):
        assert "test/top_5" in overview.for_people(runs, width, "test/top_5")[0][0]


def test_numbers_for_people():
    entry = run("a", metrics={"val/accuracy": 0.91236, "best/epoch": 2, "val/loss": 1.23e-5, "parameters": 17226})
    said = [overview.for_reading(entry, name) for name in ("val/accuracy", "best/epoch", "val/loss", "parameters")]
    assert said == ["0.9124", "2", "1.23e-05", "17,226"]
    assert overview.for_reading(entry, "epochs") == "3/30"
    assert overview.for_reading(run("a", trainer__max_steps="100"), "epochs") == "3"
    assert overview.for_reading(run("a", optimizer__lr="0.00046115445648817096"), "optimizer.lr") == "0.000461154"
    assert overview.for_reading(run("a", optimizer__lr="0.0001"), "optimizer.lr") == "0.0001"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (99.4, "99 s"), (100, "1.7 min"), (720, "12 min"),
        (6000, "1.7 h"), (86400, "24 h"), (3 * 86400, "3.0 d"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds, said):
    assert overview.lasted(seconds) == said


def test_csv_has_everything_in_full_precision():
    value = 0.1 + 0.2
    runs = [
        run(
            "a|b,c\n", metrics={"val/accuracy": value, "last/val/loss": 1e-300}, optimizer__lr="0.00046115445648817096"
        ),
        run("b", status="failed", metrics={"val/accuracy": math.nan}, debug="fast"),
    ]
    text = tables.comma_separated(overview.for_programs(runs))
    first, second = csv.DictReader(io.StringIO(text))
    assert float(first["val/accuracy"]) == value
    assert float(first["last/val/loss"]) == 1e-300
    assert first["optimizer.lr"] == "0.00046115445648817096"
    assert first["started"] == "2001-09-09T01:46:40+00:00"
    assert first["seconds"] == "12.0"
    assert math.isnan(float(second["val/accuracy"]))
    assert second["last/val/loss"] == ""
    assert (second["status"], second["debug"]) == ("failed", "fast")


def test_the_last_line_counts():
    found = Survey(Path("outputs"), RUNS, ["outputs/x/", "outputs/y/composed.yaml can't be read: it isn't YAML"])
    assert overview.summed_up(found, RUNS, "the newest first", None) == (
        "4 runs in outputs (3 finished, 1 failed), the newest first; "
        "2 passed over (no runs, or none that can be read): "
        "outputs/x/, outputs/y/composed.yaml can't be read: it isn't YAML"
    )
    one = overview.summed_up(Survey(Path("outputs"), RUNS, []), RUNS[2:3], "the newest first", "status=failed")
    assert one == "1 of 4 runs in outputs (1 failed)"


def test_failures_are_told_of_the_first_few():
    runs = [run(str(number), status="failed") for number in range(5)]
    for entry in runs:
        entry.error = f"the loss is nan ({entry.name})\nmore"
    assert overview.failures(runs) == [
        "failed: 0: the loss is nan (0)",
        "failed: 1: the loss is nan (1)",
        "failed: 2: the loss is nan (2)",
        "and 2 more have failed (format=csv has all)",
    ]
