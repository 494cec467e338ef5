"""Windows of a series: divided by time, none in two splits, none of two series; what they hold, row by row."""

import datetime
import itertools
from pathlib import Path
from typing import Any

import numpy
import polars
import pytest
import torch

import plainloop
from plainloop.config.compose import compose
from plainloop.data.kinds.series import Windows, series
from plainloop.data.kinds.times import moments_of
from plainloop.data.splits import Division, build_data
from plainloop.errors import UserError
from tests import formats
from tests.conftest import one_in
from tests.later import Later

sklearn = Later("sklearn")

SPLITS = ("train", "val", "test")
START = datetime.datetime(2024, 1, 1)


def written(tmp_path: Path, columns: dict[str, Any], name: str = "series.csv") -> str:
    frame = polars.DataFrame(columns)
    (frame.write_parquet if name.endswith("parquet") else frame.write_csv)(tmp_path / name)
    return str(tmp_path / name)


def numbered(tmp_path: Path, count: int = 100) -> str:
    """Rows whose column `row` is their own number, and two others."""
    return written(
        tmp_path,
        {"row": list(range(count)), "b": [row * row for row in range(count)], "c": [-row for row in range(count)]},
    )


def several(tmp_path: Path, sizes=(60, 40, 80), starts=(0, 30, 10), name="several.csv") -> str:
    """Three series that begin at different hours, their rows mixed in the order of time; `row` counts within each,
    from 0, 1000 and 2000 on."""
    rows = []
    for number, (size, start) in enumerate(zip(sizes, starts, strict=True)):
        rows += [(start + step, f"s{number}", 1000 * number + step) for step in range(size)]
    rows.sort(key=lambda row: row[0])
    hours, names, numbers = zip(*rows, strict=True)
    when = [(START + datetime.timedelta(hours=hour)).isoformat() for hour in hours]
    return written(tmp_path, {"when": when, "hour": hours, "which": names, "row": numbers}, name)


def splits(path: str, **options: Any) -> dict[str, Windows]:
    built = {split: series(path, split, **options) for split in SPLITS}
    return {split: data for split, data in built.items() if data is not None}


def whole(data: Windows) -> tuple[torch.Tensor, torch.Tensor]:
    return data.__getitems__(torch.arange(len(data)))


# --- what a window holds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("window", [1, 7])
def test_windows_are_those_of_numpy(window, horizon, stride, tmp_path):
    """Inputs are `window` rows of all features, targets the `horizon` rows behind them: step by step, both columns."""
    path = numbered(tmp_path)
    data = series(
        path, "train", target=["c", "row"], window=window, horizon=horizon, stride=stride, fractions=(1, 0, 0)
    )
    table = numpy.stack([numpy.arange(100), numpy.arange(100) ** 2, -numpy.arange(100)], axis=1)
    views = numpy.lib.stride_tricks.sliding_window_view(table, window + horizon, axis=0).transpose(0, 2, 1)[::stride]
    inputs, targets = whole(data)
    assert numpy.array_equal(inputs.numpy(), views[:, :window])
    assert numpy.array_equal(targets.numpy(), views[:, window:][:, :, [2, 0]].reshape(len(views), -1))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.float32)
    names = ["c", "row"] if horizon == 1 else [f"{name}+{step}" for step in (1, 2, 3, 4) for name in ("c", "row")]
    assert data.target_names == names
    assert data.facts["step_features"] == 3


def test_one_window_and_a_batch_of_them_are_the_same(tmp_path):
    data = series(numbered(tmp_path), "train", target="c", window=5)
    inputs, targets = data.__getitems__([7, 0, 7])
    for place, index in enumerate([7, 0, 7]):
        assert torch.equal(data[index][0], inputs[place])
        assert torch.equal(data[index][1], targets[place])


def test_features_can_be_chosen(tmp_path):
    """By name, in that order; by default all numbers, and what else there is, is said."""
    count = 60
    path = written(
        tmp_path, {"a": [1.5] * count, "weather": ["rain"] * count, "on": [True, False] * 30, "t": list(range(count))}
    )
    data = series(path, "train", target="a", window=5, time="t")
    assert whole(data)[0][0].tolist() == [[1.5, 1 - step % 2] for step in range(5)]
    assert data.note == "2 features a row: a, on; left out, as they are no numbers: weather"
    data = series(path, "train", target="a", window=5, features=["t", "a"])
    assert whole(data)[0][3, :2].tolist() == [[3, 1.5], [4, 1.5]]


def test_a_windows_class_is_that_of_its_last_row(tmp_path):
    count = 60
    kinds = ["calm", "storm", "calm", "wind"] * 15
    path = written(tmp_path, {"row": list(range(count)), "kind": kinds})
    for data in splits(path, label="kind", window=3).values():
        inputs, targets = whole(data)
        assert inputs.shape[2] == 1
        assert data.classes == ["calm", "storm", "wind"]
        assert [data.classes[target] for target in targets] == [kinds[int(window[-1, 0])] for window in inputs]
        assert targets.dtype == torch.int64
    assert series(path, "train", label="kind", window=3).targets.shape == (48 - 3 + 1,)


# --- divided by time ----------------------------------------------------------------------------------------


def rows_touched(data: Windows) -> list[set[int]]:
    """Of each window, all rows that it takes its inputs and its targets from, by their column `row`."""
    inputs, targets = whole(data)
    return [set(map(int, [*window[:, 0], *target])) for window, target in zip(inputs, targets, strict=True)]


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.7, 0.0, 0.3), (1.0, 0.0, 0.0)], ids=str)
@pytest.mark.parametrize(("window", "horizon", "stride"), [(3, 1, 1), (5, 4, 1), (4, 2, 3), (1, 1, 1)])
def test_no_window_crosses_a_split(fractions, window, horizon, stride, tmp_path):
    """With inputs and targets together, the splits' rows are disjoint, and one lies behind the other; within its rows
    each split has every window that fits."""
    data = splits(
        numbered(tmp_path),
        target="row",
        features=["row"],
        window=window,
        horizon=horizon,
        stride=stride,
        fractions=fractions,
    )
    assert list(data) == [name for name, share in zip(SPLITS, fractions, strict=True) if share > 0]
    last, start = -1, 0
    for name, share in zip(SPLITS, fractions, strict=True):
        end = round(start + 100 * share)
        if name in data:
            rows = rows_touched(data[name])
            assert min(set.union(*rows)) > last
            last = max(set.union(*rows))
            wanted = [set(range(s, s + window + horizon)) for s in range(start, end - window - horizon + 1, stride)]
            assert rows == wanted
        start = end


def test_several_series_are_not_mixed_and_divided_at_the_same_moments(tmp_path):
    """No window has rows of two series, all of its rows follow each other, and what is in train lies before what is in
    val, whichever series it is of."""
    path = several(tmp_path)
    hour_of = dict(polars.read_csv(path).select("row", "hour").iter_rows())
    data = splits(path, target="row", features=["row"], window=4, horizon=2, time="when", series="which")
    hours = {}
    for name, part in data.items():
        for rows in rows_touched(part):
            assert rows == set(range(min(rows), min(rows) + 6))
            assert len({row // 1000 for row in rows}) == 1
        hours[name] = [hour_of[row] for row in set.union(*rows_touched(part))]
    assert max(hours["train"]) < min(hours["val"])
    assert max(hours["val"]) < min(hours["test"])
    assert len({row // 1000 for rows in rows_touched(data["train"]) for row in rows}) == 3
    # Cut where 80 % of all rows lie before.
    everything = sorted(hour_of.values())
    assert max(hours["train"]) < everything[144] <= min(hours["val"])


def test_without_times_each_series_is_divided_by_its_rows(tmp_path):
    path = several(tmp_path)
    data = splits(path, target="row", features=["row"], window=2, series="which", fractions=(0.5, 0.25, 0.25))
    for number, size in enumerate((60, 40, 80)):
        held = [
            sorted(row % 1000 for row in set.union(*rows_touched(part)) if row // 1000 == number)
            for part in data.values()
        ]
        bounds = [0, size // 2, size * 3 // 4, size]
        assert held == [list(range(*pair)) for pair in itertools.pairwise(bounds)]


def test_a_short_series_among_several_has_no_windows(tmp_path):
    path = several(tmp_path, sizes=(60, 3, 80))
    data = series(path, "train", target="row", features=["row"], window=4, series="which")
    assert {row // 1000 for rows in rows_touched(data) for row in rows} == {0, 2}


@pytest.mark.parametrize("kind", ["text", "date", "numbers", "parquet"])
def test_every_kind_of_time(kind, tmp_path):
    """Times, dates and numbers, in text or typed, cut at the same rows."""
    times = {
        "text": [(START + datetime.timedelta(minutes=10 * n)).isoformat(" ") for n in range(50)],
        "date": [str((START + datetime.timedelta(days=n)).date()) for n in range(50)],
        "numbers": [0.5 * n * n for n in range(50)],
        "parquet": [START + datetime.timedelta(hours=n) for n in range(50)],
    }[kind]
    name = "series.parquet" if kind == "parquet" else "series.csv"
    path = written(tmp_path, {"at": times, "row": list(range(50))}, name)
    sizes = [len(part) for part in splits(path, target="row", time="at", window=2).values()]
    assert sizes == [40 - 2, 5 - 2, 5 - 2]
    assert series(path, "train", target="row", time="at", window=2).facts["step_features"] == 1


# --- standardisation ----------------------------------------------------------------------------------------


def wide(tmp_path: Path, count: int = 300) -> str:
    """Two features of very different size that drift, one that never changes, and a target."""
    draw = numpy.random.default_rng(0)
    walk = numpy.cumsum(draw.normal(size=count))
    tiny, load = 1e-3 * draw.normal(size=count), 50 + 10 * numpy.sin(numpy.arange(count) / 5)
    return written(tmp_path, {"pressure": 1000 + 5 * walk, "tiny": tiny, "same": [7.0] * count, "load": load})


def test_statistics_are_each_features_over_the_training_rows(tmp_path):
    """Against scikit-learn on the same rows; a feature that never changes is centred and not scaled."""
    path = wide(tmp_path)
    data = series(path, "train", target="load", window=20, horizon=3)
    preprocess = data.make_preprocess("train", None)
    table = polars.read_csv(path).to_numpy()
    scaler = sklearn.preprocessing.StandardScaler().fit(table[:240])
    inputs = series(path, "test", target="load", window=20, horizon=3)
    expected = numpy.stack([scaler.transform(table[270 + n : 290 + n]) for n in range(len(inputs))])
    torch.testing.assert_close(preprocess(whole(inputs)[0]), torch.tensor(expected).float(), rtol=1e-4, atol=1e-4)
    assert not preprocess(whole(data)[0])[:, :, 2].any()


def test_given_statistics_and_none(tmp_path):
    data = series(wide(tmp_path), "train", target="load", window=5)
    inputs, mean = whole(data)[0], [1.0, 2.0, 3.0, 4.0]
    assert torch.equal(data.make_preprocess("none", None)(inputs), inputs)
    found = data.make_preprocess({"mean": mean, "std": 2}, None)(inputs)
    torch.testing.assert_close(found, (inputs - torch.tensor(mean)) / 2)
    with pytest.raises(UserError, match=r"transforms.normalize.mean has 2 numbers; the series has 4 features"):
        data.make_preprocess({"mean": [1, 2], "std": 1}, None)
    with pytest.raises(UserError, match=r"transforms.normalize.std=0: must be above 0"):
        data.make_preprocess({"mean": 0, "std": 0}, None)


# --- what can't be used -------------------------------------------------------------------------------------


def days(*numbers: int) -> list[str]:
    return [f"2024-01-{number:02d}" for number in numbers]


LINE = {"a": [float(n) for n in range(30)], "b": [float(n % 7) for n in range(30)]}
HALVES = {**LINE, "kind": ["x", "y"] * 12 + ["x"] * 5 + ["z"]}


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (None, {}, "there is no such file"),
        ({"a": []}, {}, "no rows"),
        (LINE, {"target": "c"}, r"data.target=c: .* no such column.* a, b"),
        (LINE, {"features": ["a", "bb"]}, r"data.features=bb: .* no such column. Did you mean b\?"),
        (LINE, {"features": "a"}, r"data.features=a: must be a list, as in data.features=\[a\]"),
        (LINE, {"target": None}, r"data.target or data.label"),
        (LINE, {"label": "b"}, r"data.target or data.label"),
        (LINE, {"window": 30}, r"data.window=30 and data.horizon=1 take 31 rows; train has 24, of 30 in"),
        (LINE, {"window": 3}, r"data.window=3 and data.horizon=1 take 4 rows; val has 3, of 30 in"),
        (LINE, {"horizon": 0}, r"data.horizon=0: must be a whole number of at least 1"),
        (LINE, {"window": 2.5}, r"data.window=2.5: must be a whole number"),
        (LINE, {"stride": 0}, r"data.stride=0"),
        ({**LINE, "b": [1.0, None] + [2.0] * 28}, {}, r"series.csv, line 3: b is missing"),
        ({**LINE, "a": [*range(20), None, *range(9)]}, {}, r"series.csv, line 22: a is missing"),
        ({**LINE, "b": [1.0] * 9 + [float("inf")] + [2.0] * 20}, {}, r"series.csv, line 11, column b: inf"),
        ({**LINE, "w": ["rain"] * 30}, {"target": "w"}, r"line 2: w is 'rain', where a number .*in 30 rows of 30"),
        (
            {**LINE, "w": [*map(str, range(12)), "?!", *map(str, range(17))]},
            {"target": "w"},
            r"series.csv, line 14: w is '\?!', where a number is needed \(so in 1 row of 30\)",
        ),
        (
            {**LINE, "t": days(*range(1, 20), 15, *range(21, 31))},
            {"time": "t"},
            r"line 21: t is 2024-01-15, the same as in the row before it \(.*line 16\): sort the rows by time",
        ),
        (
            {**LINE, "t": days(*range(1, 20), 19, *range(21, 31))},
            {"time": "t"},
            r"line 21: t is 2024-01-19, the same as in the row before it.*data.series=COLUMN",
        ),
        (
            {**LINE, "t": [*days(*range(1, 30)), "later"]},
            {"time": "t"},
            r"line 31: data.time=t is 'later'",
        ),
        ({**LINE, "t": ["noon"] * 30}, {"time": "t"}, r"line 2: data.time=t is 'noon', and no time"),
        ({**LINE, "t": [None, *days(*range(1, 30))]}, {"time": "t"}, r"line 2: t is missing"),
        (LINE, {"time": "when"}, r"data.time=when: .* no such column"),
        (LINE, {"series": "which"}, r"data.series=which: .* no such column"),
        ({"w": ["rain"] * 30, "v": ["sun"] * 30}, {"target": None, "label": "w"}, r"no column of numbers"),
        ({**LINE, "kind": ["x"] * 30}, {"target": None, "label": "kind"}, r"one class only"),
        (
            {**LINE, "kind": ["x"] * 27 + ["y"] * 3},
            {"target": None, "label": "kind"},
            r"kind is x in every training window, .* one class only",
        ),
        (
            HALVES,
            {"target": None, "label": "kind"},
            r"line 31: kind is z, in test, and in no training window .*it can't be learned",
        ),
        (
            {**HALVES, "kind": [*HALVES["kind"][:5], None, *HALVES["kind"][6:]]},
            {"target": None, "label": "kind"},
            r"line 7: kind is missing",
        ),
    ],
)
def test_bad_series_are_answered(columns, options, message, tmp_path):
    path = written(tmp_path, columns) if columns is not None else str(tmp_path / "series.csv")
    with pytest.raises(UserError, match=message):
        series(path, "train", **{"target": "a", "window": 2, **options})


def test_gaps_in_time_are_told(tmp_path):
    """The longest with its line; of a series without any nothing is said."""
    hours = [*range(10), *range(12, 30), *range(40, 52)]
    path = written(tmp_path, {"t": hours, "a": [float(hour) for hour in hours]})
    note = series(path, "train", target="a", window=2, time="t").note
    assert "2 gaps in t, the longest before" in note
    assert "line 30 (40)" in note
    path = written(tmp_path, {"t": list(range(40)), "a": list(range(40))})
    assert "gap" not in series(path, "train", target="a", window=2, time="t").note


def test_a_column_that_may_be_the_time_is_told(tmp_path):
    path = written(tmp_path, {"hour": list(range(40)), "a": [hour % 7 for hour in range(40)]})
    assert "Then data.time=hour" in series(path, "train", target="a", window=2).note
    assert "data.time" not in series(path, "train", target="a", window=2, time="hour").note
    assert "data.time" not in series(path, "train", target="a", window=2, features=["hour", "a"]).note


@pytest.mark.parametrize("key", ["group", "time"])
def test_a_series_is_divided_by_its_time_alone(tmp_path, key):
    path = written(tmp_path, {"a": list(range(40))})
    with pytest.raises(UserError, match="a series is divided by its time alone"):
        build_data(lambda split: series(path, split, target="a", window=2), series, Division(**{key: "a"}), seed=0)


@pytest.mark.parametrize(("window", "rows"), [(48, 40), (500, 320)])
def test_a_window_that_fits_is_told(tmp_path, window, rows):
    path = written(tmp_path, {"a": list(range(400))})
    with pytest.raises(UserError, match=rf"{window + 1} rows; \w+ has {rows}, .* data.window=39 fits"):
        series(path, "train", target="a", window=window)
    series(path, "train", target="a", window=39)


# --- times as files have them -----------------------------------------------------------------------------------------

# Two words, the first and the second of a day's (or month's, quarter's) difference; how long that is.
TIMES = {
    "4/13/2015 16:00:00": ("4/14/2015 16:00:00", 24),
    "13.04.2015": ("14.04.2015", 24),
    "31.12.99 8:00": ("31.12.99 9:00", 1),
    "Jan 2024": ("Feb 2024", 31 * 24),
    "03/2024": ("04/2024", 31 * 24),
    "2024-01-01 0": ("2024-01-01 1", 1),
    "2024-01-01 12:00:00,123": ("2024-01-01 13:00:00,123", 1),
    "2024-01-01 12:00:00+02": ("2024-01-01 13:00:00+02", 1),
    "5/31/2024, 4:00 PM": ("5/31/2024, 5:00 PM", 1),
    "1987-Q1": ("1987-Q2", 90 * 24),
    "1949-01": ("1949-02", 31 * 24),
    "01-Mar-05": ("02-Mar-05", 24),
    "Jan 5, 2020": ("Jan 6, 2020", 24),
    "2020/02/28 23:00": ("2020/02/29 00:00", 1),
    "2020-03-29T01:00:00+01:00": ("2020-03-29T03:00:00+02:00", 1),
    "2020-01-01T00:00:00Z": ("2020-01-01T01:00:00Z", 1),
    "1/25/20 11:30 PM": ("1/26/20 12:30 AM", 1),
    "2020-01-01 00:00:00.5": ("2020-01-01 01:00:00.5", 1),
    "2020-01-01 23:00": ("2020-01-02", 1),  # midnight, as R and pandas write it
    "2020-01-01 23:00:00": ("2020-01-02", 1),
    "20240101T000000Z": ("20240101T010000Z", 1),
    "2024M01": ("2024M02", 31 * 24),
}


@pytest.mark.parametrize("first", one_in(4, TIMES))
def test_a_time_is_read_as_it_is_meant(first):
    second, hours = TIMES[first]
    times, remark = moments_of(polars.Series("t", [first, second]), "data.time", str)
    assert times[1] - times[0] == datetime.timedelta(hours=hours)
    assert remark == "" or ("%y" in remark and str(times[0].year) in remark)  # two digits are said


def test_whether_the_day_or_the_month_comes_first_is_told_from_the_whole_column_and_said():
    days = polars.Series("t", ["01/02/2020", "02/02/2020", "03/02/2020"])
    times, remark = moments_of(days, "data.time", str)
    assert times.to_list() == [datetime.datetime(2020, 2, day) for day in (1, 2, 3)]
    assert remark == (
        "t is read as %d/%m/%Y (01/02/2020 is 01 February 2020); data.time_format='%m/%d/%Y' reads it otherwise"
    )
    months, _ = moments_of(days, "data.time", str, "%m/%d/%Y")
    assert months.to_list() == [datetime.datetime(2020, month, 2) for month in (1, 2, 3)]
    with pytest.raises(UserError, match=r"^0: data\.time=t is '01/02/2020', and not of the form %Y"):
        moments_of(days, "data.time", str, "%Y")


def test_two_digits_of_a_year_are_past(tmp_path):
    times, remark = moments_of(polars.Series("t", ["01/15/62", "01/15/69", "01/15/74"]), "data.time", str)
    assert times.dt.year().to_list() == [1962, 1969, 1974]
    assert remark == "t is read as %m/%d/%y (01/15/62 is 15 January 1962)"


def test_the_hours_of_a_few_days_are_no_months():
    """Though each of them could be on the first of a month."""
    hours = [f"{day:02}/01/2024 {hour:02}:00" for day in range(1, 13) for hour in range(24)]
    times, remark = moments_of(polars.Series("t", hours), "data.time", str)
    assert times[-1] - times[0] == datetime.timedelta(hours=12 * 24 - 1)
    assert remark.startswith("t is read as %d/%m/%Y %H:%M")


def test_a_year_of_two_digits_has_two():
    days = polars.Series("t", [f"{day}/2/24" for day in range(1, 29)])
    assert moments_of(days, "data.time", str)[0].to_list() == [datetime.datetime(2024, 2, d) for d in range(1, 29)]


def test_dates_that_are_written_as_numbers_have_no_gap_at_the_end_of_a_month(tmp_path):
    first = datetime.date(2024, 1, 1)
    days = [int(f"{first + datetime.timedelta(days=day):%Y%m%d}") for day in range(90)]
    note = series(written(tmp_path, {"t": days, "a": list(range(90))}), "train", target="a", time="t", window=2).note
    assert "gap" not in note
    assert "t is read as %Y%m%d (20240101 is 01 January 2024)" in note


def test_a_word_among_the_times_that_are_numbers_is_named(tmp_path):
    path = written(tmp_path, {"t": [*map(str, range(40)), "Total"], "a": list(range(41))})
    with pytest.raises(UserError, match=r"line 42: data\.time=t is 'Total', where the others are numbers"):
        series(path, "train", target="a", time="t")


def test_a_column_that_is_left_out_for_a_word_is_told_with_the_word(tmp_path):
    note = series(written(tmp_path, {"v": [*map(str, range(40)), "x"], "a": list(range(41))}), "train", target="a").note
    assert "left out, as they are no numbers: v ('x' in line 42)" in note


def test_digits_that_float32_does_not_have_are_told(tmp_path):
    path = written(tmp_path, {"t": list(range(60)), "a": list(range(1_700_000_000, 1_700_000_060))})
    assert "a is rounded to the 7 digits of float32" in series(path, "train", target="a", time="t").note


def test_first_days_of_months_are_months():
    months = polars.Series("t", [f"01/{month:02}/2020" for month in range(1, 13)])
    times, remark = moments_of(months, "data.time", str)
    assert times.to_list() == [datetime.datetime(2020, month, 1) for month in range(1, 13)]
    assert "%d/%m/%Y" in remark


def test_a_date_and_a_clock_in_two_columns(tmp_path):
    rows = range(60)
    path = written(
        tmp_path,
        {
            "day": [f"{1 + row // 24:02}.03.2021" for row in rows],
            "clock": [f"{row % 24:02}:00" for row in rows],
            "row": list(rows),
        },
    )
    data = series(path, "train", target="row", time=["day", "clock"], window=4)
    assert data is not None
    assert whole(data)[0].flatten().unique().tolist() == [*range(47)]
    assert data.note == ""


def test_rows_in_another_order_are_sorted_and_said(tmp_path):
    """Newest first, as many a bank has them: the same windows."""
    hours = [(START + datetime.timedelta(hours=hour)).isoformat() for hour in range(60)]
    sorted_ones = written(tmp_path, {"t": hours, "row": list(range(60))})
    reverse = written(tmp_path, {"t": hours[::-1], "row": list(range(60))[::-1]}, "reverse.csv")
    one, other = (splits(path, target="row", time="t", window=3) for path in (sorted_ones, reverse))
    for split in SPLITS:
        assert all(map(torch.equal, whole(one[split]), whole(other[split])))
    assert (one["train"].note, other["train"].note) == ("", "rows sorted by t")


@pytest.mark.parametrize(("rows", "window"), [(1000, 48), (200, 9), (20, 1)])
def test_a_window_is_chosen_that_fits(rows, window, tmp_path):
    found = splits(written(tmp_path, {"row": list(range(rows))}), target="row")
    assert {data.window for data in found.values()} == {window}
    assert (f"window {window}: of 48 rows none would fit" in (found["train"].note or "")) == (window != 48)
    assert all(len(data) >= 1 for data in found.values())


def test_holes_are_refused_left_out_or_carried(tmp_path):
    path = written(tmp_path, {"t": list(range(30)), "x": [row if row % 7 else None for row in range(1, 31)]})
    with pytest.raises(UserError, match=r"line 8: x is missing \(so in 4 rows\)"):
        series(path, "train", target="x", time="t", window=1)
    dropped = series(path, "train", target="x", time="t", window=1, holes="drop", fractions=(1, 0, 0))
    assert dropped is not None
    assert dropped.values.flatten().tolist() == [row for row in range(1, 31) if row % 7]
    assert "4 rows with a hole left out" in (dropped.note or "")
    assert "4 holes filled by the value before (4 in x)" in (
        series(path, "train", target="x", time="t", window=1, holes="carry").note  # type: ignore[union-attr]
    )
    carried = series(path, "train", target="x", time="t", window=1, holes="carry", fractions=(1, 0, 0))
    assert carried is not None
    assert carried.values.flatten().tolist() == [row if row % 7 else row - 1 for row in range(1, 31)]
    assert whole(carried)[1].flatten().tolist() == carried.values.flatten()[1:].tolist()
    path = written(tmp_path, {"x": [None, 1.0, 2.0], "y": [1, 2, 3]})
    with pytest.raises(UserError, match=r"x: a series begins with a hole"):
        series(path, "train", target="x", window=1, holes="carry", fractions=(1, 0, 0))


def test_the_order_is_checked_within_each_series(tmp_path):
    """Rows of several series may be mixed; one of them that goes back is named."""
    times = [1, 1, 2, 2, 3, 3, 4, 3]
    path = written(tmp_path, {"t": times, "which": ["x", "y"] * 4, "a": list(range(8))})
    with pytest.raises(UserError, match=r"line 9: t is 3, the same as in the row before it \(.*line 7\)[^?]*its own.$"):
        series(path, "train", target="a", window=1, time="t", series="which")


# --- training -----------------------------------------------------------------------------------------------


def wave(tmp_path: Path) -> str:
    return formats.write_wave(tmp_path / "series.csv")


def words_for(path: str, *more: str) -> list[str]:
    return [
        "data=series",
        f"data.path={path}",
        "data.time=when",
        "data.window=12",
        "data.target=load",
        "model.hidden_size=12",
        "loader.batch_size=32",
        "optimizer.lr=0.02",
        "logger=none",
        *more,
    ]


def last_weights(run: plainloop.Run) -> torch.Tensor:
    """All weights of the newest checkpoint, in a row."""
    file = max(run.path.glob("checkpoints/step-*.pt"), key=lambda file: int(file.stem.removeprefix("step-")))
    return torch.cat([value.flatten() for value in torch.load(file, weights_only=True)["model"].values()])


@pytest.mark.slow
def test_series_train_evaluate_and_resume(tmp_path, capsys):
    path = wave(tmp_path)
    whole = plainloop.train(words_for(path, "trainer.max_epochs=3"))
    out = capsys.readouterr().out
    assert (
        "308 train, 28 val, 28 test; inputs 12 x 1 float32; target: load; left out, as they are no numbers: kind" in out
    )
    assert "note    task=regression: load is forecast" in out
    assert plainloop.evaluate(whole.path)["test/rmse"] == whole.metrics["test/rmse"]
    first = plainloop.train(words_for(path, "trainer.max_epochs=2"))
    assert not torch.equal(last_weights(first), last_weights(whole))
    again = plainloop.train([f"resume={first.path}", "trainer.max_epochs=3"])
    assert torch.equal(last_weights(again), last_weights(whole))
    assert again.metrics["test/rmse"] == whole.metrics["test/rmse"]


@pytest.mark.slow
def test_a_wave_is_forecast_in_its_own_unit(tmp_path):
    """Three hours ahead: far better than to say the last value again, which is wrong by 50 on average."""
    run = plainloop.train(words_for(wave(tmp_path), "trainer.max_epochs=15", "data.horizon=3"))
    inputs, targets = whole(run.data.test)
    repeated = float((targets - inputs[:, -1]).abs().mean())
    assert repeated > 30
    assert run.metrics["test/mae"] < repeated / 3
    assert run.config.spec.target_names == ["load+1", "load+2", "load+3"]


@pytest.mark.slow
def test_a_linear_model_finds_a_linear_law(tmp_path):
    """x(t) = 1.6 x(t-1) - 0.9 x(t-2) + noise of deviation 1: the best that can be is an error of 1."""
    draw = numpy.random.default_rng(2)
    values = [0.0, 0.0]
    for noise in draw.normal(size=3000):
        values.append(1.6 * values[-1] - 0.9 * values[-2] + noise)
    path = written(tmp_path, {"x": values})
    run = plainloop.train(
        [
            "data=series",
            f"data.path={path}",
            "data.target=x",
            "data.window=2",
            "model=linear_zero",
            "optimizer.lr=0.02",
            "trainer.max_epochs=15",
            "logger=none",
        ]
    )
    assert run.metrics["test/rmse"] == pytest.approx(1.0, abs=0.12)
    weight = run.model.linear.weight[0] * run.session.task.std / run.preprocess.std
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.9, 1.6]), rtol=0, atol=0.05)


@pytest.mark.slow
def test_windows_are_classified(tmp_path):
    path = wave(tmp_path)
    words = [word for word in words_for(path, "trainer.max_epochs=6") if not word.startswith("data.target")]
    run = plainloop.train([*words, "data.label=kind"])
    assert run.config.choices.task == "binary"
    assert run.metrics["test/accuracy"] > 0.85
    assert plainloop.evaluate(run.path)["test/accuracy"] == run.metrics["test/accuracy"]


@pytest.mark.parametrize(
    "words",
    one_in(
        3,
        [
            "split.folds=3",
            "split.folds=3 split.fractions=[0.8,0,0.2]",
            "split.group=when",
            "split.time=load",
            "model=cnn",
        ],
    ),
)
def test_what_does_not_fit_series_is_refused(words, tmp_path):
    """Above all another division, which would be a random one."""
    given = [word for word in words_for(wave(tmp_path)) if not word.startswith("model.")]
    with pytest.raises(UserError, match=words.partition("=")[0]):
        plainloop.train([*given, *words.split()])


def test_the_data_config_chooses_what_follows():
    cfg = compose(["data=series"])
    assert (cfg.choices.model, cfg.choices.task, cfg.transforms.normalize) == ("series_rnn", "auto", "train")
    assert compose(["data=series", "split.fractions=[0.5,0.5,0]"]).data.fractions == [0.5, 0.5, 0]


def test_a_column_that_is_not_used_may_hold_what_it_likes(tmp_path):
    path = written(tmp_path, {"t": list(range(40)), "a": list(range(40)), "b": [float("inf")] * 40})
    assert len(series(path, "train", target="a", time="t", features=["a"], window=2))
    frame = polars.DataFrame({"a": range(40), "b": polars.Series([None] * 40, dtype=polars.Int64)})
    frame.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="b is missing"):
        series(str(tmp_path / "a.parquet"), "train", target="a", window=2)
