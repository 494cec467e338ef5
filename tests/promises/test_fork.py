"""What docs/fork.md says may be deleted can be: kinds of data, the models from elsewhere, each with its configs."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

KINDS = ROOT / "src" / "plainloop" / "data" / "kinds"


def is_factory(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and any("factory" in ast.unparse(each) for each in node.decorator_list)


FACTORIES = {path.stem for path in KINDS.glob("*.py") if any(map(is_factory, ast.parse(path.read_text()).body))}


def test_nobody_needs_a_kind_of_data():
    """Neither the engine nor another kind, so that each can go: what several share lies in files that are no kinds."""
    assert {"arrays", "audio", "images", "table"} <= FACTORIES
    for path in (ROOT / "src" / "plainloop").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{each.name}" for each in node.names} | {str(node.module)}
                kinds = {f"plainloop.data.{kind}" for kind in FACTORIES}
                assert not {name.replace(".kinds.", ".") for name in names} & kinds, f"{path}: {ast.unparse(node)}"


def deletable() -> list[str]:
    """The paths in the last column of the table in docs/fork.md."""
    chapter = (ROOT / "docs/fork.md").read_text().partition("## What may be deleted")[2].partition("\n## ")[0]
    cells = re.findall(r"\| ([^|]+) \|$", chapter, re.MULTILINE)
    return [path for cell in cells for path in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.slow
def test_without_all_that_may_be_deleted_it_trains(tmp_path: Path):
    """And nothing else is changed."""
    fork = tmp_path / "fork"
    for name in ("src", "configs", "data"):
        shutil.copytree(ROOT / name, fork / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "evaluate.py", "predict.py", "export.py", "runs.py"):
        shutil.copy(ROOT / name, fork)
    assert {"src/plainloop/data/kinds/audio.py", "src/plainloop/models/zoo"} <= {*deletable()}
    for name in deletable():
        assert (ROOT / name).exists(), name
        if (fork / name).is_dir():
            shutil.rmtree(fork / name)
        else:
            (fork / name).unlink(missing_ok=True)  # docs/, say, was never copied

    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}  # the engine is the fork's own
        command = [sys.executable, *words]
        return subprocess.run(command, check=False, cwd=fork, env=environment, capture_output=True, text=True)

    for words in (["train.py", "model=cnn", "trainer.max_epochs=1"], ["evaluate.py", "run=latest"]):
        done = typed(*words)
        assert done.returncode == 0, done.stderr
    deleted = typed("train.py", "data=custom", "data._target_=plainloop.data.audio")
    assert deleted.returncode == 2
    assert "data._target_=plainloop.data.audio: plainloop.data has no audio" in deleted.stderr
