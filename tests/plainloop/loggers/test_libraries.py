"""The services' own libraries, where they are installed: `pip install -e ".[wandb,trackio,mlflow]"`. What they
keep on this machine (wandb's files, trackio's database, one of MLflow's) is read back and compared with history.jsonl.
"""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import plainloop
from plainloop.training.trainer import Trainer

pytestmark = pytest.mark.slow
WORDS = ["model=linear", "trainer.max_epochs=3", "trainer.log_every=10", "checkpoint.every_steps=25"]


def killed_and_resumed(words: list[str], step: int) -> plainloop.Run:
    """A run that is killed when the service has been told more than the newest checkpoint remembers."""
    log_point = Trainer.log_point

    def dies(self: Trainer, *given: Any) -> None:
        log_point(self, *given)
        if self.step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "log_point", dies)
        with pytest.raises(KeyboardInterrupt):
            plainloop.train([*WORDS, *words, "name=resumed"])
    resumed = plainloop.train(["resume=latest", *[word for word in words if word.startswith("trust")]])
    assert resumed.path.parent.name == "resumed"
    return resumed


def points(records: list[dict[str, Any]]) -> list[tuple[int, str, float]]:
    """(step, name, value) of all, without what a clock measured."""
    return sorted(
        (record["step"], name, value)
        for record in records
        for name, value in record.items()
        if name not in ("step", "samples_per_second")
    )


# --- wandb --------------------------------------------------------------------------------------------------------


def wandb_records(folder: Path) -> Iterator[Any]:
    """What stands in the file of an offline run: a log as LevelDB's, in blocks of 32 kB, of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, part = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last of its parts
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def items(fields: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in fields}


def test_wandb_has_the_points_of_the_history(monkeypatch):
    pytest.importorskip("wandb", reason="wandb isn't installed: it has 90 MB")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    run = plainloop.train([*WORDS, "logger=wandb", "logger.wandb.mode=offline", "logger.wandb.wait=120"])
    (folder,) = Path("wandb").glob("offline-run-*")
    records = list(wandb_records(folder))
    rows = [items(record.history.item) for record in records if record.WhichOneof("record_type") == "history"]
    expected = run.history()
    merged: dict[
        int, dict[str, Any]
    ] = {}  # records of one step are one row: the epoch's rate stands for the log point's
    for record in expected:
        merged.setdefault(record["step"], {}).update(record)
    found = {row["_step"]: row for row in rows}
    assert set(merged) <= set(found)
    for step, record in merged.items():
        assert {name: found[step][name] for name in record if name != "step"} == {
            name: value for name, value in record.items() if name != "step"
        }
    assert found[0]["inputs/format"] == "png"
    (described,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in described.config.update}
    assert config["optimizer"]["lr"] == 0.001
    assert described.display_name == run.path.name
    summary: dict[str, Any] = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert {name: summary[name] for name in metrics} == metrics
    assert not [path for path in run.path.rglob("*") if path.is_file() and b"0123456789" * 4 in path.read_bytes()]


def test_a_resumed_run_is_the_same_one_of_wandb():
    pytest.importorskip("wandb", reason="wandb isn't installed: it has 90 MB")
    killed_and_resumed(["logger=wandb", "logger.wandb.mode=offline", "logger.wandb.wait=120"], 90)
    first, second = sorted(Path("wandb").glob("offline-run-*"))
    ids = {record.run.run_id for folder in (first, second) for record in wandb_records(folder) if record.run.run_id}
    assert len(ids) == 1


# --- trackio ------------------------------------------------------------------------------------------------------


def in_a_process_of_its_own(code: str, *words: str) -> Any:
    """What a few lines print as JSON: these libraries had better not be imported here."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage as storage
print(json.dumps({name: [storage.get_logs("plainloop", name), storage.get_run_config("plainloop", name)]
                  for name in storage.get_runs("plainloop")}, default=str))
"""


@pytest.mark.parametrize("resumed", [False, True])
def test_trackio_has_the_points_of_the_history(resumed, monkeypatch, tmp_path):
    pytest.importorskip("trackio", reason="trackio isn't installed: it holds Pillow below 13")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    words = ["logger=trackio", "logger.trackio.wait=120"]
    run = killed_and_resumed(words, 90) if resumed else plainloop.train([*WORDS, *words])
    ((name, (rows, config)),) = in_a_process_of_its_own(TRACKIO).items()
    assert name.startswith(run.path.name)
    assert config["optimizer"]["lr"] == 0.001
    told = [{key: value for key, value in row.items() if key != "timestamp"} for row in rows if "epoch" in row]
    assert points(told) == points(run.history())
    (result,) = [row for row in rows if "result/test/loss" in row]
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert {key: result[f"result/{key}"] for key in metrics} == metrics
    assert any("confusion_matrix/test" in row for row in rows)


# --- MLflow -------------------------------------------------------------------------------------------------------

MLFLOW = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
(place,) = [each.experiment_id for each in client.search_experiments() if each.name == "plainloop"]
print(json.dumps([{
    "name": run.info.run_name, "status": run.info.status, "params": dict(run.data.params),
    "points": {name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
               for name in run.data.metrics},
    "files": [file.path for file in client.list_artifacts(run.info.run_id, "figures")],
} for run in client.search_runs([place])]))
"""


@pytest.mark.parametrize("resumed", [False, True])
def test_mlflow_has_the_points_of_the_history(resumed, tmp_path):
    pytest.importorskip("mlflow", reason="mlflow isn't installed: it has 90 MB")
    pytest.importorskip("sqlalchemy", reason="MLflow's databases need sqlalchemy and alembic")
    pytest.importorskip("alembic", reason="MLflow's databases need sqlalchemy and alembic")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    words = ["logger=mlflow", f"logger.mlflow.uri={uri}", "logger.mlflow.wait=120", f"trust=['{uri}']"]
    run = killed_and_resumed(words, 90) if resumed else plainloop.train([*WORDS, *words])
    (found,) = in_a_process_of_its_own(MLFLOW, uri)
    assert (found["name"], found["status"]) == (run.path.name, "FINISHED")
    assert found["params"]["optimizer.lr"] == "0.001"
    history = {name: at for name, at in found["points"].items() if not name.startswith("result/")}
    told = [{"step": step, name: value} for name, at in history.items() for step, value in at]
    assert points(told) == points(run.history())
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert {name: found["points"][f"result/{name}"][-1][1] for name in metrics} == metrics
    assert found["files"] == ["figures/confusion_matrix_test.png", "figures/inputs.png"]


def test_a_server_that_isnt_there_stops_nothing(capfd):
    """Nobody listens at port 9: the library tries, and tries again."""
    pytest.importorskip("mlflow", reason="mlflow isn't installed: it has 90 MB")
    run = plainloop.train([*WORDS, "logger=mlflow", "logger.mlflow.uri=http://127.0.0.1:9", "logger.mlflow.wait=2"])
    assert len(run.history()) == 15
    out = capfd.readouterr().out
    assert out.count("warning: logger mlflow: ") == 1
    assert "15 records of 15 may not have arrived; history.jsonl has them all" in out
