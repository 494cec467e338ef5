"""`python runs.py`, typed after some runs: the table, its formats, and some runs beside each other."""

import csv
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import plainloop
from plainloop.commands import sweep, train
from plainloop.commands.cli import help_text
from plainloop.commands.runs import show_runs
from plainloop.config.schema import RunsConfig
from plainloop.config.words import taken
from plainloop.errors import MachineError, UserError, shown
from plainloop.runs.finding import find
from tests.conftest import ROOT, Done, Typed, command

pytestmark = pytest.mark.slow  # what they look at is tested quickly by runs/test_survey.py and reports/test_overview.py


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where somebody has trained: two models, a table, a sweep, a debug run, one that failed; and something else."""
    home = tmp_path_factory.mktemp("home")
    quick = ["logger=none", "console.every_epochs=100", f"paths.outputs={home}/outputs"]
    plainloop.train([*quick, "model=mlp", "trainer.max_epochs=3"])
    plainloop.train([*quick, "model=linear", "optimizer.lr=0.01", "trainer.max_epochs=2"])
    plainloop.train([*quick, "data=penguins", "trainer.max_epochs=2"])
    plainloop.train([*quick, "debug=fast"])
    sweep.run([*quick, "model=linear", "seed=0,1", "trainer.max_epochs=1"], train.train_config)
    with pytest.raises(MachineError):
        plainloop.train([*quick, "optimizer.lr=1e30", "trainer.max_epochs=2"])
    (home / "outputs/others/deep").mkdir(parents=True)
    (home / "outputs/others/deep/file").write_text("x")
    return home


def looked(folder: Path, *words: str, width: int = 0) -> Done:
    """What the door does, in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("COLUMNS", str(width))
        try:
            show_runs(taken(words, RunsConfig))
        except UserError as error:
            status = shown(error)
    return Done(status, out.getvalue(), err.getvalue(), folder)


def table_of(done: Done) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(done.out)))


def path_with(folder: Path, part: str) -> Path:
    (found,) = (path.parent for path in (folder / "outputs").glob("**/composed.yaml") if part in str(path))
    return found


# --- the table ----------------------------------------------------------------------------------------------------


def test_all_runs_stand_in_a_table(folder):
    done = command("runs.py", folder=folder, env={"COLUMNS": "0"})
    assert (done.status, done.err) == (0, "")
    assert looked(folder).out == done.out  # so that the other tests needn't type it
    lines = done.out.splitlines()
    assert lines[0].split()[:2] == ["run", "status"]
    assert {"data", "model", "optimizer.lr", "seed", "best", "val/accuracy", "test/accuracy", "time"} <= {
        *lines[0].split()
    }
    assert "split.fractions" not in lines[0]  # it follows from the data
    rows = [line.split() for line in lines[1:8]]
    assert sorted(row[1] for row in rows) == ["failed", *["finished"] * 5, "finished,"]
    assert (rows[0][1], rows[-1][0].partition("/")[0]) == ("failed", "digits_mlp")  # the last one, and the first
    assert [row[0].partition("/")[0] for row in rows if "debug" in row] == ["debug_fast"]
    assert re.search(r"^failed: digits_mlp/\S+: the loss is nan within epoch 1\.", done.out, re.MULTILINE)
    assert lines[-1] == (
        "7 runs in outputs (6 finished, 1 failed), the newest first; "
        "1 passed over (no runs, or none that can be read): "
        "outputs/others/"
    )


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(folder, width):
    lines = looked(folder, width=width).out.splitlines()
    assert max(map(len, lines[:8])) <= width
    assert "val/accuracy" in lines[0]


def test_csv_holds_the_numbers_of_the_runs_in_full(folder):
    """Standard output is the file, and what is to be said stands elsewhere."""
    done = looked(folder, "format=csv")
    rows = table_of(done)
    assert len(rows) == 7
    for row in rows:
        path = folder / row["run"]
        metrics = json.loads((path / "metrics.json").read_text()) if (path / "metrics.json").exists() else {}
        assert {name: float(row[name]) for name in metrics} == metrics
        assert row["status"] == ("finished" if metrics else "failed")
    assert "7 runs in outputs" in done.err
    assert "failed: " in done.err
    assert {row["debug"] for row in rows} == {"null", "fast"}


@pytest.mark.parametrize(
    ("words", "models"),
    [
        (["sort=val/accuracy", "filter=data=digits,status=finished,debug=null"], None),
        (["filter=optimizer.lr<1e-2,model=linear"], ["linear", "linear"]),
        (["filter=status=failed"], ["mlp"]),
        (["filter=model=mlp,data=penguins"], ["mlp"]),
    ],
)
def test_filtered_and_sorted(folder, words, models):
    rows = table_of(looked(folder, *words, "format=csv"))
    if models is None:
        values = [float(row["val/accuracy"]) for row in rows]
        assert values == sorted(values, reverse=True)
        assert len(values) == 4
    else:
        assert [row["model"] for row in rows if row.get("model")] in (models, [])
        assert len(rows) == len(models)


@pytest.mark.parametrize(
    ("format", "begin"), [("md", "| run |"), ("latex", r"\begin{tabular}"), ("html", "<!doctype html>")]
)
def test_each_format_is_a_file(folder, format, begin):
    done = looked(folder, f"format={format}")
    assert done.status == 0
    assert done.out.startswith(begin)
    names = {path.parent.name for path in (folder / "outputs").glob("**/composed.yaml")}
    text = done.out.replace("\\_", "_")
    assert all(name in text for name in names)
    assert "7 runs in outputs" in done.err


def test_a_folder_is_typed_without_a_key(folder):
    """A sweep, say; and one run alone."""
    trials = table_of(looked(folder, *[str(next((folder / "outputs/digits_linear").glob("sweep-*")))], "format=csv"))
    assert sorted(row["seed"] for row in trials) == ["0", "1"]
    one = looked(folder, str(path_with(folder, "penguins").relative_to(folder)))
    assert one.out.splitlines()[-1].startswith("1 run in outputs/penguins_mlp/")


def test_without_runs(tmp_path):
    (tmp_path / "outputs/empty").mkdir(parents=True)
    done = looked(tmp_path)
    assert (done.status, done.out) == (0, "0 runs in outputs\n")


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("elsewhere", "elsewhere: there is no such folder."),
        ("sort", "sort: settings are typed as key=value. Write sort=VALUE"),
        ("sort=acuracy", "sort=acuracy: no run has acuracy. Did you mean val/accuracy?"),
        ("filter=lr<1", "filter=lr<1: no run has lr. Did you mean optimizer.lr?"),
        ("formt=md", "formt: there is no such key. Did you mean format? (python runs.py --help lists them all)"),
        ("format=text", "format=text: must be one of terminal, md, csv, latex, html."),
        ("--format=md", "settings are typed as key=value, without dashes. Write format=md"),
        ("format=null", "format=null: must be one of terminal"),
        ("paths.outputs=x", "paths.outputs: there is no such key. Did you mean outputs?"),
        ("compare=latest", "compare=latest: two to 26 runs are compared, named by commas."),
        ("compare=latest,", "compare=: no run in outputs is called so."),
        ("compare=latest,latest", "is named twice"),
        ("compare=latest,digits", "compare=digits: 5 runs are called so: "),
        ("compare=latest,xyz", "compare=xyz: no run in outputs is called so. There are: "),
        ("compare=a,b sort=run", "compare= names its runs: leave sort= and filter= out."),
        ("sort=run sort=status", "sort= is given twice."),
    ],
)
def test_what_is_mistyped_is_answered(folder, word, answer):
    done = looked(folder, *word.split())
    assert done.status == 2
    assert done.out == ""
    assert answer in done.err
    assert len(done.err.splitlines()) <= 2


def test_help_lists_its_keys_and_nothing_of_a_config():
    text = help_text(RunsConfig)
    assert text.startswith("python runs.py ")
    for key in ("outputs=outputs", "sort=null", "filter=null", "compare=null", "format=terminal"):
        assert f"\n  {key} " in text
    assert "_target_" not in text
    assert "as in the run" not in text


def test_a_run_is_named_by_the_end_of_its_path(folder, monkeypatch):
    """As the table shows it; by every command."""
    monkeypatch.chdir(folder)
    path = path_with(folder, "penguins")
    assert find(path.name[-4:]).path == path.relative_to(folder)
    with pytest.raises(UserError, match="there is no such directory"):
        find("/0")  # too short: it might be any
    for name in ("a", "b"):
        shutil.copytree(path, folder / f"outputs/twice/{name}-same")
    try:
        with pytest.raises(UserError, match="2 runs end so"):
            find("same")
    finally:
        shutil.rmtree(folder / "outputs/twice")


def test_torch_is_not_imported_nor_waited_for(folder, tmp_path):
    """With a torch that can't be imported."""
    for name in ("torch", "torchvision", "polars", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')\n")
    words = [sys.executable, str(ROOT / "runs.py"), "compare=penguins,/1"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, check=False, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "val/loss" in done.stdout


# --- some runs beside each other ------------------------------------------------------------------------------------


def test_two_runs_beside_each_other(folder):
    """The keys that differ, what came out, and both curves."""
    first, second = path_with(folder, "digits_linear/2"), path_with(folder, "penguins")
    done = looked(folder, f"compare={first.name},{second.name}", width=100)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[:2] == [f"A  digits_linear/{first.name}", f"B  penguins_mlp/{second.name}"]
    table, _, plots = done.out.partition("\nval/accuracy\n")
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[3:] if line.strip()}
    assert rows["model"] == ["linear", "mlp"]
    assert rows["optimizer.lr"] == ["0.01", "0.001"]
    assert rows["data"] == ["digits", "penguins"]
    sizes = [len(json.loads((path / "splits.json").read_text())["train"]["indices"]) for path in (first, second)]
    assert [int(size) for size in rows["spec.num_train"]] == sizes
    assert "seed" not in rows
    assert "optimizer.betas" not in rows
    for path, place in ((first, 0), (second, 1)):
        metrics = json.loads((path / "metrics.json").read_text())
        assert float(rows["val/loss"][place]) == pytest.approx(metrics["val/loss"], abs=5e-5)
    assert re.search(r"\|.*A", plots)
    assert re.search(r"\|.*B", plots.partition("val/loss\n")[2])
    assert lines[-1].endswith("format=html > compare.html")


def test_a_comparison_as_csv_is_exact(folder):
    second = path_with(folder, "penguins")
    finished = next(path.parent for path in folder.glob("outputs/digits_mlp/*/metrics.json"))
    done = looked(folder, f"compare={finished.name},{second.name}", "format=csv")
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(done.out))}
    metrics = json.loads((finished / "metrics.json").read_text())
    assert float(rows["val/accuracy"][0]) == metrics["val/accuracy"]
    assert float(rows["seconds"][0]) == metrics["seconds"]
    assert rows["val/accuracy"][1] == ""


def test_a_comparison_as_a_page_loads_nothing(folder):
    """And has a curve of each run, in colours that stay."""
    done = looked(folder, "compare=/0,/1,penguins", "format=html")
    page = done.out
    assert page.isascii()
    assert not re.search(r"https?://(?!www\.w3\.org)|<script|url\(|@import|<img|\son\w+=", page)
    figures = re.findall(r'<figure class="curves">.*?</figure>', page, re.DOTALL)
    captions = [re.search(r"<figcaption>(.*?)</figcaption>", figure)[1] for figure in figures]
    assert {"val/accuracy", "val/loss", "train/epoch_loss", "val/mae"} <= {*captions}
    by_name = dict(zip(captions, figures, strict=True))
    assert "--series-3" in by_name["val/mae"]
    assert "--series-1" not in by_name["val/mae"]
    assert by_name["val/accuracy"].count("<li>") == 2


def test_a_strangers_names_are_text_on_a_page(folder, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    for number, name in enumerate(("<b>a", "b&\u202e")):
        path = Path(shutil.copytree(path_with(folder, "penguins"), tmp_path / f"outputs/{name}"))
        composed = (path / "composed.yaml").read_text()
        (path / "composed.yaml").write_text(composed.replace("seed: 0", f"seed: '{evil}{number}'"))
        history = (path / "history.jsonl").read_text().replace("val/mae", f"val/{evil}")
        (path / "history.jsonl").write_text(history)
    for words in (["format=html"], ["compare=<b>a,b&\u202e", "format=html"]):
        page = looked(tmp_path, *words).out
        assert "<img" not in page
        assert "<b>" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
    for words in ([], ["compare=<b>a,b&\u202e"], ["format=csv"], ["format=md"]):
        done = looked(tmp_path, *words)
        assert done.status == 0
        assert "\u202e" not in done.out + done.err


# --- while runs run -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_running_then_killed_then_stopped(tmp_path):
    """The real thing: a run is running for as long as its process lives, whatever ends that."""
    for how, status in ((signal.SIGKILL, "interrupted"), (signal.SIGTERM, "interrupted")):
        name = how.name.lower()
        trains = Typed("train.py", "trainer.max_epochs=100000", "logger=none", f"name={name}", folder=tmp_path)
        while not any(tmp_path.glob(f"outputs/{name}/*/history.jsonl")):
            assert trains.process.poll() is None, trains.said()
            time.sleep(0.05)
        time.sleep(0.5)
        (row,) = table_of(looked(tmp_path, f"filter=run={name}*", "format=csv"))
        assert row["status"] == "running"
        assert 0 <= float(row["seconds"]) < 100
        assert float(row["val/accuracy"]) > 0
        os.killpg(trains.process.pid, how)
        trains.ended()
        (row,) = table_of(looked(tmp_path, f"filter=run={name}*", "format=csv"))
        assert row["status"] == status
        assert int(row["epochs"]) >= 1
        assert ("stopped by a signal and saved" in row["error"]) == (how == signal.SIGTERM)


# --- how long it takes --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_runs_take_less_than_two_seconds(folder, tmp_path):
    """Of a processor that nobody else keeps busy. Each has a learning rate and a seed of its own, and 30
    epochs with three log points each."""
    sources = [path_with(folder, part) for part in ("digits_linear/2", "penguins")]
    lines = []
    for number in range(120):
        record = {
            "step": number,
            "epoch": number // 4 + 1,
            "lr": 0.1 * number,
            "samples_per_second": 1e5 / (number + 1),
        }
        names = ("val/loss", "val/accuracy", "train/epoch_loss") if number % 4 == 3 else ("train/loss", "grad_norm")
        lines.append(json.dumps(record | dict.fromkeys(names, 1 / (number + 1))))
    for number in range(1000):
        source = sources[number % 2]
        path = tmp_path / f"outputs/{source.parent.name}/{number:04x}"
        shutil.copytree(source, path, ignore=shutil.ignore_patterns("*.pt", "figures", "tensorboard"))
        for name in ("composed.yaml", "config.yaml"):
            text = re.sub(r"^(  lr: ).*$", rf"\g<1>{1 / (number + 3)!r}", (path / name).read_text(), flags=re.MULTILINE)
            (path / name).write_text(re.sub(r"^seed: .*$", f"seed: {number}", text, flags=re.MULTILINE))
        environment = json.loads((path / "environment.json").read_text())
        (path / "environment.json").write_text(json.dumps(environment | {"git_diff": f"+ {number}\n" * 2000}))
        (path / "history.jsonl").write_text("\n".join(lines) + "\n")
        if number % 10 == 0:
            (path / "metrics.json").unlink()

    def spent(*words: str) -> tuple[float, str]:
        """The seconds of a processor, and what was said."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(
            [sys.executable, *words], check=True, cwd=tmp_path, env=env, capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout

    ratios = []
    for _ in range(3):
        seconds, said = spent(str(ROOT / "runs.py"), "sort=val/loss")
        assert "1,000 runs in outputs (900 finished, 100 interrupted)" in said
        start, _ = spent("-c", "import plainloop.commands.cli")  # half a second; more where other tests are in the way
        ratios.append(seconds / max(1, start / 0.5))
    assert min(ratios) < 2
