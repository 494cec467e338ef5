"""A stranger's run directory touches no file of the user's: git and tar keep links, pipes and what is compressed."""

import io
import itertools
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import plainloop
from plainloop.errors import MachineError, UserError
from plainloop.runs.checkpoint import Checkpoints
from tests.conftest import one_in
from tests.promises.faults.fragile import sealed


def linked(name: str) -> Callable[[Path, Path], None]:
    """A link in the run that leads to the victim: a file, or a folder of checkpoints."""

    def plant(run: Path, victim: Path) -> None:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(victim.with_suffix("") if name in FOLDERS else victim)

    return plant


def piped(name: str) -> Callable[[Path, Path], None]:
    def plant(run: Path, victim: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return plant


FOLDERS = ("checkpoints", "tensorboard", "figures")
FILES = ("train.log", "history.jsonl", "composed.yaml", "metrics.json", "checkpoints/best.pt")
PLANTED = {
    **{f"{name} leads elsewhere": linked(name) for name in (*FOLDERS, *FILES)},
    **{f"{name} is a pipe": piped(name) for name in ("checkpoints/best.pt", "metrics.json", "splits.json")},
}
WAYS: dict[str, Callable[[Path], object]] = {
    "evaluate": lambda run: plainloop.evaluate(run, split="val"),
    "load": plainloop.load_run,
    "resume": lambda run: plainloop.train([f"resume={run}", "trainer.max_epochs=4"]),
    "auto": lambda run: plainloop.train(["model=mlp", "trainer.log_every=10", "trainer.max_epochs=4", "resume=auto",
                                         f"hydra.run.dir={run}"]),
    "extend": lambda run: plainloop.train([f"extend={run}", "trainer.max_epochs=1"]),
    "finetune": lambda run: plainloop.train(["model=mlp", "trainer.max_steps=1", f"finetune.weights={run}"]),
}  # fmt: skip


@pytest.fixture
def strangers(short_run: plainloop.Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(short_run.path, tmp_path / "strangers"))


@pytest.fixture
def victim(short_run: plainloop.Run, tmp_path: Path) -> Path:
    """A file of the user's, and a folder of their checkpoints."""
    shutil.copytree(short_run.path / "checkpoints", tmp_path / "own")
    (tmp_path / "own.txt").write_text("alias ls='ls --color'\n")
    return tmp_path / "own.txt"


def state_of(*places: Path) -> dict[str, tuple[int, int]]:
    files = [file for place in places for file in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    return {str(file): (file.lstat().st_mtime_ns, file.lstat().st_size) for file in files}


@pytest.mark.parametrize(("what", "way"), one_in(7, itertools.product(PLANTED, WAYS)))
def test_a_run_that_leads_elsewhere_is_refused(what, way, strangers, victim):
    """Whatever is asked of it; and nothing is written, anywhere."""
    PLANTED[what](strangers, victim)
    before = state_of(strangers, victim, victim.with_suffix(""))
    with pytest.raises(UserError, match=r"is a link|is no file and no folder") as error:
        WAYS[way](strangers)
    assert len(str(error.value).splitlines()) == 1
    assert state_of(strangers, victim, victim.with_suffix("")) == before
    assert not Path("outputs").exists()


def test_what_another_name_leads_to_as_well_stays_as_it_was(strangers, tmp_path):
    """tar keeps hard links too, and so do backups: the run's own files are copies from then on."""
    for name in ("history.jsonl", "train.log"):
        os.link(strangers / name, tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in ("history.jsonl", "train.log")}
    run = plainloop.train([f"resume={strangers}", "trainer.max_epochs=4"])
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert len(run.history()) > len(before["history.jsonl"].splitlines())
    assert (strangers / "train.log").read_bytes().startswith(before["train.log"])


@pytest.mark.parametrize("which", ["best.pt", "the newest"])
def test_a_checkpoint_that_would_unpack_to_more_is_not_loaded(which, strangers, capsys):
    """torch would unpack it before anybody sees how large it is."""
    path = strangers / "checkpoints/best.pt" if which == "best.pt" else Checkpoints(strangers / "checkpoints").all()[0]
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as parts, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as compressed:
        for part in parts.infolist():
            compressed.writestr(part.filename, parts.read(part))
    path.write_bytes(sealed(packed.getvalue()))
    if which == "best.pt":
        with pytest.raises(MachineError, match=r"best\.pt is compressed"):
            plainloop.evaluate(strangers, split="val")
    else:  # it is passed over as a damaged one is, and told
        plainloop.train([f"resume={strangers}", "trainer.max_epochs=4"])
        assert f"{path.name} is compressed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_folder_called_as_a_checkpoint_is_none(strangers):
    (strangers / "checkpoints/step-9999.pt").mkdir()
    assert plainloop.train([f"resume={strangers}", "trainer.max_epochs=4"]).metrics["epochs"] == 4
    shutil.rmtree(strangers / "checkpoints")
    (strangers / "checkpoints/best.pt").mkdir(parents=True)
    with pytest.raises(MachineError, match=r"best\.pt is no checkpoint: Is a directory"):
        plainloop.evaluate(strangers)


@pytest.mark.parametrize("way", one_in(3, ["evaluate", "resume", "extend"]))
def test_a_strangers_config_asks_for_nothing_of_the_users(way, strangers, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    file = strangers / "composed.yaml"
    file.write_text(file.read_text().replace("name: null", "name: ${oc.env:SECRET}"))
    with pytest.raises(UserError, match="name: only what a run's config has itself"):
        WAYS[way](strangers)
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_temporary_file_that_leads_elsewhere_is_not_written_through(strangers, victim):
    """Ours have names that nobody can foresee, and are never there already."""
    before = state_of(victim)
    for name in (".config.yaml.tmp", ".evaluate-val-best.json.tmp"):
        (strangers / name).symlink_to(victim)
    (strangers / "evaluate-val-best.json").symlink_to(victim)
    plainloop.evaluate(strangers, split="val")
    plainloop.train([f"resume={strangers}", "trainer.max_epochs=4"])
    assert state_of(victim) == before
    assert victim.read_text() == "alias ls='ls --color'\n"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model.dropout='${oc.decode:${spec.num_features}}'", "couldn't be rebuilt"),
        ("model.activation='${model.${name}}'", "couldn't be rebuilt"),
        ("data.path=${oc.env:NOWHERE}", "NOWHERE"),
    ],
)
def test_what_cannot_be_filled_in_is_told_when_a_run_is_begun(word, said):
    """And not when it is to be gone on with."""
    with pytest.raises(UserError, match=said):
        plainloop.train([word])
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_ones_own_environment_is_filled_in_when_a_run_is_begun(monkeypatch):
    """So that its config refers to itself alone, and the run can be gone on with where that is another."""
    monkeypatch.setenv("FILE", "digits.npz")
    run = plainloop.train(["trainer.max_steps=2", "data.path=${paths.data}/${oc.env:FILE}", "logger=none"])
    saved = OmegaConf.load(run.path / "composed.yaml")
    assert OmegaConf.to_container(saved.data)["path"].endswith("data/digits.npz")
    monkeypatch.delenv("FILE")
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]
    assert plainloop.train([f"resume={run.path}", "trainer.max_steps=3"]).metrics["steps"] == 3


@pytest.mark.slow
def test_a_strangers_run_does_not_say_where_others_are_written(strangers, tmp_path):
    file = strangers / "composed.yaml"
    file.write_text(file.read_text().replace("\n  outputs: ", f"\n  outputs: {tmp_path}/elsewhere #"))
    assert OmegaConf.load(file).paths.outputs == f"{tmp_path}/elsewhere"
    run = plainloop.train([f"extend={strangers}", "trainer.max_epochs=1"])
    assert run.path.resolve().is_relative_to(tmp_path / "outputs")
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture(scope="module")
def another_run(tmp_path_factory: pytest.TempPathFactory) -> plainloop.Run:
    folder = tmp_path_factory.mktemp("another")
    return plainloop.train(
        [
            "model=mlp",
            "seed=1",
            "trainer.max_epochs=3",
            "trainer.log_every=10",
            f"paths.outputs={folder}",
            "logger=none",
        ]
    )


def half(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "empty": lambda path, other: path.write_bytes(b""),
    "half": half,
    "missing": lambda path, other: path.unlink(),
    "of another run": lambda path, other: shutil.copy(other, path),
}
# What evaluate says of a file in a run directory, and what resume says: an error, a warning ("~ ..."), or nothing where
# the file isn't needed.
BROKEN = [
    ("config.yaml", "empty", "~ isn't whole; composed.yaml counts", "~ config.yaml isn't whole"),
    ("config.yaml", "half", "~ isn't (whole;|YAML .*) composed.yaml counts", "~ config.yaml .*isn't (whole|YAML)"),
    ("config.yaml", "missing", r"not a run directory \(config.yaml is missing: put it back\)", "is missing"),
    ("config.yaml", "of another run", "~ says seed=1, and composed.yaml, which counts, seed=0", "~ isn't this run's"),
    ("composed.yaml", "empty", "composed.yaml is no run's config, or not all of one", "is no run's config"),
    ("composed.yaml", "half", "composed.yaml .*(it lacks model|isn't YAML)", "it lacks model|isn't YAML"),
    ("composed.yaml", "missing", r"\(composed.yaml is missing: put it back\)", "composed.yaml is missing"),
    ("composed.yaml", "of another run", "best.pt was made with seed=0, and this run .* seed=1", "splits have changed"),
    ("overrides.yaml", "empty", None, "it is no list of words. Delete it: the run goes on without"),
    ("overrides.yaml", "missing", None, None),
    ("environment.json", "empty", None, "~ environment.json can't be read: it is empty. What the run was begun"),
    ("environment.json", "half", None, "~ environment.json can't be read: line .* isn't JSON"),
    ("environment.json", "missing", None, "~ environment.json is missing"),
    ("splits.json", "empty", "splits.json can't be read: it is empty. Put the run's own back", "it is empty"),
    ("splits.json", "half", "splits.json can't be read: line 1 isn't JSON. Put the run's own back", "isn't JSON"),
    ("splits.json", "missing", "splits.json is missing. Put the run's own", "splits.json is missing"),
    ("splits.json", "of another run", "the splits have changed since", "the splits have changed since"),
    ("history.jsonl", "empty", None, "~ history.jsonl is shorter than it was: the records behind its line 0 are lost"),
    ("history.jsonl", "half", None, "~ history.jsonl is shorter than it was: the records behind its line"),
    ("history.jsonl", "missing", None, "~ history.jsonl is shorter than it was"),
    ("history.jsonl", "of another run", None, "~ history.jsonl .*(has changed: its|is shorter than it was)"),
    ("metrics.json", "empty", "it is empty. Delete it: resume= measures the result anew", None),
    ("metrics.json", "half", "line .* isn't JSON. Delete it: resume= measures the result anew", None),
    ("metrics.json", "missing", None, None),
    ("metrics.json", "of another run", "says val/.*, and best.pt .*: it isn't this run's. Delete it", None),
    ("checkpoints/best.pt", "empty", "best.pt is not a whole checkpoint .*checkpoint=last", "Delete it, and"),
    ("checkpoints/best.pt", "half", "best.pt is not a whole checkpoint .*checkpoint=last", "Delete it, and"),
    ("checkpoints/best.pt", "of another run", "best.pt was made with seed=1, and this run .* seed=0", "with seed=1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage", "way", "said"),
    one_in(11, [(name, damage, way, said) for name, damage, *both in BROKEN
               for way, said in zip(("evaluate", "resume"), both, strict=True)
               if said or way == "resume" or damage == "missing"]),
)  # fmt: skip
def test_what_is_broken_in_a_run_is_mended_or_named(name, damage, way, said, strangers, short_run, another_run, capsys):
    DAMAGE[damage](strangers / name, another_run.path / name)
    if said is not None and not said.startswith("~ "):
        before = state_of(strangers)
        with pytest.raises((UserError, MachineError), match=said) as error:
            WAYS[way](strangers)
        assert len(str(error.value).splitlines()) == 1
        assert state_of(strangers) == before
        return
    found: Any = WAYS[way](strangers)
    text = "".join(capsys.readouterr())
    warnings = [line for line in text.splitlines() if line.startswith("warning: ")]
    assert [line for line in warnings if said and re.search(said[2:], line)] == warnings
    assert len(warnings) == (said is not None)
    if way == "evaluate":
        assert found["val/loss"] == short_run.metrics["val/loss"]
    else:  # what was lost is whole again, or is what is told
        assert found.metrics["epochs"] == 4
        assert all(map(json.loads, (found.path / "history.jsonl").read_text().splitlines()))
        plainloop.evaluate(found.path, split="val")
        assert "warning: " not in "".join(capsys.readouterr())


def test_the_result_of_another_run_is_not_believed(strangers, another_run):
    """Nor by a run that is finished, and only read again."""
    shutil.copy(another_run.path / "metrics.json", strangers)
    with pytest.raises(UserError, match=r"metrics.json says val/.*, and best.pt .*: it isn't this run's"):
        plainloop.train([f"resume={strangers}"])


@pytest.mark.parametrize("which", ["best.pt", "the newest"])
def test_weights_of_another_run_are_not_finetuned(which, strangers, another_run):
    """In the run's own name; by their own name they may be."""
    if which == "best.pt":
        other = strangers / "checkpoints/best.pt"
    else:  # a run without validation
        (strangers / "checkpoints/best.pt").unlink()
        (strangers / "metrics.json").unlink()
        other = strangers / "checkpoints/step-999.pt"
    shutil.copy(another_run.path / "checkpoints/best.pt", other)
    with pytest.raises(UserError, match=rf"{other.name} was made with seed=1, and this run .* has seed=0"):
        WAYS["finetune"](strangers)
    plainloop.train(["model=mlp", "trainer.max_steps=1", f"finetune.weights={other}"])


@pytest.mark.parametrize("way", one_in(3, ["evaluate", "resume", "auto"]))
def test_the_best_weights_of_another_run_are_not_believed(way, strangers, another_run):
    """Nor are they measured in a run whose result isn't there yet."""
    shutil.copy(another_run.path / "checkpoints/best.pt", strangers / "checkpoints/best.pt")
    (strangers / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"best\.pt was made with seed=1, and this run .* has seed=0: it isn't this"):
        WAYS[way](strangers)


def test_the_best_weights_of_another_step_are_not_believed(strangers, short_run):
    """Those of the same run, but not the ones that its validation chose."""
    best = short_run.metrics["best/step"]
    others = [path for path in Checkpoints(strangers / "checkpoints").all() if path.stem != f"step-{best}"]
    (strangers / "checkpoints/best.pt").unlink()
    shutil.copy(others[0], strangers / "checkpoints/best.pt")
    with pytest.raises(UserError, match=rf"best\.pt is of step \d+, and this run was best in step {best}"):
        plainloop.evaluate(strangers)
    (strangers / "metrics.json").unlink()  # finished, but for its result
    with pytest.raises(UserError, match=rf"best\.pt is of step \d+, and this run was best in step {best}"):
        plainloop.train([f"resume={strangers}"])


@pytest.mark.slow
def test_no_damage_takes_the_best_and_the_newest_weights(strangers, capsys):
    """They are files of their own, also where they are the same weights."""
    newest = Checkpoints(strangers / "checkpoints").all()[0]
    assert newest.read_bytes() == (strangers / "checkpoints/best.pt").read_bytes()
    with newest.open("r+b") as file:
        file.write(b"damaged")
    run = plainloop.train([f"resume={strangers}", "trainer.max_epochs=4"])
    assert run.metrics["epochs"] == 4
    assert "is damaged: its digest doesn't match its content. Falling back" in capsys.readouterr().out


@pytest.mark.parametrize("place", [".", "checkpoints"])
def test_code_in_a_run_is_not_run_from_within_it(place, strangers, monkeypatch):
    """Also where the directory, or one below it, is the working directory, from which modules are imported."""
    evil = "import pathlib\npathlib.Path('executed').touch()\nfrom plainloop.models import MLP as Net\n"
    (strangers / place / "evil.py").write_text(evil)
    file = strangers / "composed.yaml"
    file.write_text(file.read_text().replace("_target_: plainloop.models.MLP", "_target_: evil.Net"))
    assert "evil.Net" in file.read_text()
    monkeypatch.chdir(strangers / place)
    monkeypatch.syspath_prepend("")
    with pytest.raises(UserError, match="lies in a run directory, and nothing in one is ever executed"):
        plainloop.evaluate(strangers)
    assert not Path("executed").exists()


def test_a_history_that_was_cut_goes_on_with_a_whole_line(strangers, capsys):
    file = strangers / "history.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:10])
    run = plainloop.train([f"resume={strangers}", "trainer.max_epochs=4"])
    said = capsys.readouterr().out
    assert f"warning: {strangers}/history.jsonl is shorter than it was: the records behind its line 3 are lost" in said
    records = run.history()
    assert len(records) > 3
    assert records[-1]["epoch"] == 4
