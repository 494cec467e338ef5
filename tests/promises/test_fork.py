"""What docs/fork.md says may be deleted: a kind of data, and the models from elsewhere, each with its configs."""

import ast
import os
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


@pytest.mark.slow
def test_without_sounds_and_without_the_models_from_elsewhere_it_trains(tmp_path: Path):
    """Their files and their configs are deleted, and nothing else is changed."""
    fork = tmp_path / "fork"
    for name in ("src", "configs", "data"):
        shutil.copytree(ROOT / name, fork / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "evaluate.py"):
        shutil.copy(ROOT / name, fork)
    (fork / "src/plainloop/data/kinds/audio.py").unlink()
    shutil.rmtree(fork / "src/plainloop/models/zoo")
    gone = ("plainloop.data.audio", "plainloop.models.torchvision_model", "plainloop.models.timm_model",
            "plainloop.models.hub_model")  # fmt: skip
    for config in (fork / "configs").rglob("*.yaml"):
        if any(target in config.read_text() for target in gone):
            config.unlink()

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
