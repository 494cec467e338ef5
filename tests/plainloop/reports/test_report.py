"""report.html: one file, that loads nothing and runs nothing but its own script, whatever a run calls its classes."""

import json
import re
import shutil
import signal
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import plainloop
from plainloop.config.keys import plain
from plainloop.errors import Interrupted, MachineError
from plainloop.reports import page
from plainloop.reports.report import differences
from plainloop.training.trainer import Trainer
from tests import formats

QUICK = ("trainer.max_epochs=1", "logger=none", "console.every_epochs=100")


class Read(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, path: Path):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def check_alone(path: Path) -> Read:
    """Nothing is loaded from elsewhere, no script but the page's own, at most 2 MB."""
    read, text = Read(path), path.read_text()
    assert path.stat().st_size < 2_000_000
    assert "url(" not in text
    assert "@import" not in text
    for tag, attributes in read.found:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name in ("src", "href", "srcset", "action", "data"):
                assert value is not None
                assert value.startswith("data:"), value
    assert [tag for tag, _ in read.found].count("script") == 1
    assert "default-src 'none'" in text
    return read


def test_the_report_of_a_run_says_what_metrics_json_does(short_run):
    read = check_alone(short_run.path / "report.html")
    words = read.words()
    for name in ("val/accuracy", "test/accuracy", "test/loss"):
        assert page.number(short_run.metrics[name]) in words
    for title in ("Result", "Curves", "Confusion", "The worst", "By class", "Calibration", "Configuration", "Cost"):
        assert title in words
    for command in ("train.py", "evaluate.py", "predict.py", "export.py"):
        assert command in words
    assert "finished" in words
    assert [tag for tag, _ in read.found].count("img") >= 24  # and those of the cells, where it has been evaluated
    counts = [
        int(text) for text in re.findall(r"<(?:button[^>]*|span)>(\d+)<", (short_run.path / "report.html").read_text())
    ]
    assert sum(counts) == 359  # every sample of the test is in one cell of the matrix


def test_only_what_isnt_so_by_default_is_listed(short_run):
    found = {name: (value, default) for name, value, default in differences(plain(short_run.session.composed))}
    assert found["trainer.max_epochs"] == (3, 30)
    assert found["trainer.log_every"] == (10, 50)
    assert "model" not in found  # model=mlp is what everybody gets
    assert "trainer.precision" not in found


@pytest.mark.slow
def test_evaluate_writes_it_anew_with_the_samples_behind_the_cells(tmp_path):
    run = plainloop.train(["model=linear", *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
    before = (run.path / "report.html").read_text()
    assert "data-opens" not in before.partition("<script>")[0]
    plainloop.evaluate(run.path)
    read = check_alone(run.path / "report.html")
    opens = [attributes["data-opens"] for _, attributes in read.found if "data-opens" in attributes]
    cells = [attributes["id"] for _, attributes in read.found if attributes.get("class") == "cell"]
    assert opens
    assert sorted(opens) == sorted(cells)
    (run.path / "report.html").unlink()
    plainloop.evaluate(run.path, overrides=["report=false"])
    assert not (run.path / "report.html").exists()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> plainloop.Run:
    """A run whose classes, files and folder are named as somebody would who wants to be seen."""
    folder = tmp_path_factory.mktemp("odd")
    names = {"<img src=x onerror=alert(1)>": 12, "a&b\u202e'\"": 12}
    formats.write_images(folder / "pets", names)
    for place, file in enumerate(sorted((folder / "pets").rglob("*.*"))):
        file.rename(file.with_name(f"<b onclick=alert({place})>{file.name}"))
    path = folder / "<script>alert(2)<" / "run"
    run = plainloop.train(["data=images", f"data.path={folder / 'pets'}", *QUICK, f"hydra.run.dir={path}"])
    plainloop.evaluate(run.path)
    return run


def test_names_are_text(odd):
    read = check_alone(odd.path / "report.html")
    assert "<img src=x onerror=alert(1)>" in read.words()
    assert "\u202e" not in (odd.path / "report.html").read_text()
    assert "<b onclick" in read.words()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_browser_has_nothing_to_complain_of(odd, tmp_path):
    """And it runs the page's script, and that alone: a table gets heads that can be reached by keys."""
    assert CHROMIUM is not None
    shown = tmp_path / "report.html"
    shutil.copy(odd.path / "report.html", shown)
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *flags, f"file://{shown}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    assert 'tabindex="0"' in done.stdout
    bad = tmp_path / "bad.html"
    bad.write_text(shown.read_text().replace("</body>", "<script>document.title = 'run'</script></body>"))
    done = subprocess.run([CHROMIUM, *flags, f"file://{bad}"], capture_output=True, text=True, timeout=120, check=False)
    assert "CONSOLE" in done.stderr  # a script that isn't ours is refused, and that is told
    assert "<title>run</title>" not in done.stdout


def test_a_run_that_fails_has_a_report(tmp_path):
    with pytest.raises(MachineError):
        plainloop.train(
            [*QUICK, "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=3", f"hydra.run.dir={tmp_path}"]
        )
    words = check_alone(tmp_path / "report.html").words()
    assert "failed" in words
    assert "resume=" in words


@pytest.mark.slow
def test_what_a_person_sees_of_a_sample_is_shown(tmp_path):
    """Of an autoencoder both pictures; of running text what the model goes on with; of a row its columns."""
    pair = plainloop.train(["task=reconstruction", "model=autoencoder", *QUICK, f"hydra.run.dir={tmp_path / 'pair'}"])
    assert [tag for tag, _ in check_alone(pair.path / "report.html").found].count("img") == 48
    (tmp_path / "book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    words = ["data=charseq", f"data.path={tmp_path / 'book.txt'}", "data.length=20", "model.hidden_size=8"]
    text = plainloop.train([*words, *QUICK, f"hydra.run.dir={tmp_path / 'text'}"])
    plainloop.evaluate(text.path)
    read = check_alone(text.path / "report.html").words()
    prompt = "".join(text.model.vocabulary[int(token)] for token in text.data.test[0][0].flatten()[:30])
    assert re.search(rf"{re.escape(prompt)}\|[a-z .]{{250}}", read)
    rows = plainloop.train(["data=penguins", *QUICK, f"hydra.run.dir={tmp_path / 'rows'}"])
    assert re.search(
        r"bill_length_mm \d+.*species (Adelie|Gentoo|Chinstrap)", check_alone(rows.path / "report.html").words()
    )


def test_no_report_where_none_is_wanted(tmp_path):
    plainloop.train(["model=linear", *QUICK, "report=false", f"hydra.run.dir={tmp_path}"])
    assert not (tmp_path / "report.html").exists()


def test_a_history_that_isnt_whole_is_read_as_far_as_it_goes(short_run, tmp_path):
    run = Path(shutil.copytree(short_run.path, tmp_path / "run"))
    with open(run / "history.jsonl", "a") as file:
        file.write('[1, 2]\n{"step": 1e999}\n{"step": 30, "val/loss": "x", "<i>": 1}\n{"step": 4')
    metrics = json.loads((run / "metrics.json").read_text())
    plainloop.evaluate(run)
    assert page.number(metrics["test/accuracy"]) in check_alone(run / "report.html").words()


def test_a_run_that_is_interrupted_has_a_report(tmp_path, monkeypatch):
    def interrupted(trainer: Any) -> None:
        raise Interrupted("interrupted after step 7.", signal.SIGINT)

    monkeypatch.setattr(Trainer, "fit", interrupted)
    with pytest.raises(Interrupted):
        plainloop.train(["model=linear", *QUICK, f"hydra.run.dir={tmp_path}"])
    words = check_alone(tmp_path / "report.html").words()
    assert "interrupted: interrupted after step 7." in words
    assert "Nothing has been measured." in words
    assert "resume=" in words
