"""Two commands in one run directory."""

import os
import shutil
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import plainloop
from plainloop.errors import UserError
from plainloop.runs import checkpoint
from tests.conftest import Done, path_of
from tests.plainloop.runs.test_checkpoint import assert_same
from tests.promises.faults.fragile import QUICK, Typed, WaitsForALine, assert_same_end, assert_told, newest

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


HELD_UP = f"callbacks.wait._target_={path_of(WaitsForALine)}"
TRUSTED = f"trust=[{path_of(WaitsForALine)}]"  # what a run's own config may not name without a word


def two_at_once(folder: Path, *words: str) -> tuple[int, Done, Done]:
    """Type the same command twice at the same time, with 0 and 1 for SEED: the number of the one that trains (it is
    held up until the other one has ended), how it has ended, and how the other has."""
    os.mkfifo(folder / "go")
    pipe = os.open(folder / "go", os.O_RDWR)
    both = [Typed(folder, *(word.replace("SEED", str(number)) for word in words)) for number in (0, 1)]
    with ThreadPoolExecutor(2) as threads:
        waiting = {threads.submit(each.ended): number for number, each in enumerate(both)}
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        os.write(pipe, b"go\n")
    os.close(pipe)
    (folder / "go").unlink()
    (won,) = [each for each in waiting if each not in done]  # one has ended while the other one waited
    return waiting[won], won.result(), done.pop().result()


@pytest.mark.parametrize("words", ["hydra.run.dir=run", "hydra.run.dir=run resume=auto"])
def test_typed_of_two_in_one_directory_one_wins(words, tmp_path, trained):
    """Also where both are told to continue what is there, and nothing is yet. The loser writes nothing."""
    winner, won, lost = two_at_once(tmp_path, *QUICK, "seed=SEED", HELD_UP, *words.split())
    assert won.status == 0, won.err
    assert won.err == ""
    assert lost.status == 1
    assert_told(lost.err, "error: run is being trained by another process")
    assert OmegaConf.load(tmp_path / "run/config.yaml").seed == winner
    assert f"seed={winner}" in (tmp_path / "run/overrides.yaml").read_text()
    assert_same_end(tmp_path / "run", trained(*QUICK, f"seed={winner}", HELD_UP))


def test_a_run_directory_that_lost_a_part_is_told_apart(copied, tmp_path):
    """What may stand where a run is to be started; nothing of it is overwritten."""
    started = [*QUICK, f"hydra.run.dir={tmp_path}/run"]

    def left(*names: str) -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        path = copied(*QUICK)
        for name in names:
            target = path / name
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        return path

    for names, message in (
        (["config.yaml"], "holds checkpoints, and not the config.yaml and composed.yaml"),
        (["composed.yaml", "checkpoints"], "holds a config.yaml that isn't a run's"),
        (["metrics.json", "checkpoints"], "a run that saved no checkpoint. Delete it"),
        (["checkpoints"], "a finished run without its checkpoints. Delete it"),
        ([], "Continue it with resume="),
    ):
        path = left(*names)
        before = sorted(path.rglob("*"))
        with pytest.raises(UserError, match=message):
            plainloop.train(started)
        assert sorted(path.rglob("*")) == before
    for name in ("config.yaml", "composed.yaml"):
        with pytest.raises(UserError, match=rf"not a run directory \({name} is missing: put it back\)"):
            plainloop.evaluate(left(name))


def test_a_best_checkpoint_alone_does_not_outlive_a_new_start(copied, tmp_path):
    """Killed between best.pt and its first step-N.pt, and started again with resume=auto."""
    path = copied(*QUICK)
    (path / "metrics.json").unlink()
    for file in (path / "checkpoints").glob("step-*.pt"):
        file.unlink()
    best = path / "checkpoints/best.pt"
    best.write_bytes(b"of a run that is no more")
    run = plainloop.train([*QUICK, "trainer.validate_every=0", f"hydra.run.dir={path}", "resume=auto"])
    assert run.path == path
    assert not best.exists()


@pytest.mark.parametrize("how", ["hydra.run.dir=run resume=auto", "resume=run"])
def test_typed_of_two_that_continue_one_run_one_wins(how, tmp_path, trained):
    plainloop.train([*QUICK, HELD_UP, "trainer.max_epochs=1", "hydra.run.dir=run"])
    _, won, lost = two_at_once(tmp_path, *how.split(), "trainer.max_epochs=3", TRUSTED)
    assert won.status == 0, won.err
    assert lost.status == 1
    assert_told(lost.err, "error: run is being trained by another process")
    assert_same_end(tmp_path / "run", trained(*QUICK, HELD_UP))


def test_typed_two_without_a_directory_get_their_own(tmp_path, trained):
    both = [Typed(tmp_path, *QUICK) for _ in range(2)]
    runs = [each.ended().run for each in both]
    assert runs[0] != runs[1]
    for run in runs:
        assert (run / "metrics.json").is_file()
        assert_same(checkpoint.load(newest(run))["model"], checkpoint.load(newest(trained(*QUICK)))["model"])
