"""MLflow: a tracking server, or what else its URI names."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from plainloop.errors import UserError
from plainloop.loggers import service


class MLflow(service.Service):
    """A run of MLflow's with the points of history.jsonl, the config as parameters, the figures as artifacts, and the
    result as metrics `result/...`.

    A run that is resumed goes on as the same one: what the server has from after the checkpoint isn't sent again.

    Args:
        uri: of the server, as http://localhost:5000; null: what MLFLOW_TRACKING_URI says. A user and a password belong
            into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: the config is written down.
        experiment: its name.
        name: of the run; null: that of its directory.
        wait: at the end, so many seconds at most for what is still to be sent.
    """

    package, extra = "mlflow", "mlflow"

    def __init__(
        self, uri: str | None = None, experiment: str = "plainloop", name: str | None = None, wait: float = 15.0
    ):
        if uri is None and not os.environ.get("MLFLOW_TRACKING_URI"):
            raise UserError("logger=mlflow: which server? Write logger.mlflow.uri=http://HOST:5000")
        if uri is not None and service.has_password(uri):
            raise UserError(
                "logger.mlflow.uri has a password in it, and the config is written down: put it into the environment, "
                "as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            )
        super().__init__(wait, uri=uri, experiment=experiment, name=name)
        self.destination = uri


class Client(service.Client):
    def __init__(self, run: Mapping[str, Any], uri: str | None, experiment: str, name: str | None):
        super().__init__(run)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self.metric = Metric
        self.client = MlflowClient(tracking_uri=uri)
        found = self.client.get_experiment_by_name(experiment)
        place = found.experiment_id if found is not None else self.client.create_experiment(experiment)
        mine = self.client.search_runs([place], f"tags.`plainloop.id` = '{run['id']}'") if run["resumed"] else []
        self.there = 0
        if mine:
            self.id = mine[0].info.run_id
            self.there = len(self.client.get_metric_history(self.id, "epoch")) - run["records"]
            self.client.set_terminated(self.id, "RUNNING")
        else:
            tags = {"plainloop.id": run["id"], "plainloop.folder": run["folder"]}
            self.id = self.client.create_run(place, tags=tags, run_name=name or run["name"]).info.run_id
            parameters = [Param(*each) for each in flat(run["config"])]
            for first in range(0, len(parameters), 100):
                self.client.log_batch(self.id, params=parameters[first : first + 100])
        self.notes.append(f"experiment {experiment}, run {self.id}")

    def log(self, record: Mapping[str, Any]) -> None:
        if self.there > 0:  # sent before the run was interrupted
            self.there -= 1
            return
        self._send({name: value for name, value in record.items() if name != "step"}, record["step"])

    def _send(self, values: Mapping[str, Any], step: int) -> None:
        now = int(1000 * time.time())
        points = [self.metric(allowed(name), value, now, step) for name, value in values.items() if value is not None]
        for first in range(0, len(points), 100):
            self.client.log_batch(self.id, metrics=points[first : first + 100])

    def figure(self, name: str, path: str, step: int) -> None:
        self.client.log_artifact(self.id, path, "figures")

    def result(self, metrics: Mapping[str, float], step: int) -> None:
        self._send({f"result/{name}": value for name, value in metrics.items()}, step)
        self.finished = True

    def close(self) -> None:
        self.client.set_terminated(self.id, "FINISHED" if getattr(self, "finished", False) else "KILLED")


def allowed(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w./: -]", "_", name)


def flat(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The config's values by their keys, as words of at most 500 characters."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            text = str(value)
            yield allowed(f"{prefix}{name}")[:250], text if len(text) <= 500 else f"{text[:490]} ..."
