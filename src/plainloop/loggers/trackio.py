"""trackio: a local database (`trackio show`), a Space of Hugging Face's, or a server of your own."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from plainloop.errors import UserError
from plainloop.loggers import service


class Trackio(service.Service):
    """A run of trackio's with the points of history.jsonl, the config, the figures, and the result as `result/...`.

    A run that is resumed goes on as the same one: what the local database has from after the checkpoint isn't written
    again.

    Args:
        project: the project's name.
        space: a Space, as USER/NAME; null: the database on this machine, or what TRACKIO_SPACE_ID says.
        server: the address of a server of your own; its token belongs into TRACKIO_WRITE_TOKEN.
        name: of the run; null: that of its directory.
        wait: at the end, so many seconds at most for what is still to be sent.
    """

    package, extra = "trackio", "trackio"

    def __init__(
        self,
        project: str = "plainloop",
        space: str | None = None,
        server: str | None = None,
        name: str | None = None,
        wait: float = 15.0,
    ):
        if space is not None and server is not None:
            raise UserError("logger.trackio.space and logger.trackio.server both say where it goes: give one of them.")
        if server is not None and service.has_password(server):
            raise UserError(
                "logger.trackio.server has a token in it, and the config is written down: put it into the environment, "
                "as TRACKIO_WRITE_TOKEN."
            )
        super().__init__(wait, project=project, space=space, server=server, name=name)
        self.destination = server or space


class Client(service.Client):
    def __init__(self, run: Mapping[str, Any], project: str, space: str | None, server: str | None, name: str | None):
        super().__init__(run)
        import trackio

        self.image = trackio.Image
        name = f"{name or run['name']}-{run['id']}"  # trackio knows a run by its name
        remote = space or server or os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
        self.there = 0
        if run["resumed"] and not remote:
            self.there = max(0, recorded(project, name) - run["records"])
        self.run = trackio.init(
            project=project,
            name=name,
            group=run["group"],
            space_id=space,
            server_url=server,
            config=dict(run["config"]),
            resume="allow",
            embed=False,
        )
        self.notes.append(remote or f"trackio show --project {project}")

    def log(self, record: Mapping[str, Any]) -> None:
        if self.there > 0:  # written before the run was interrupted
            self.there -= 1
            return
        self.run.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])

    def figure(self, name: str, path: str, step: int) -> None:
        self.run.log({name: self.image(path)}, step=step)

    def result(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.log({f"result/{name}": value for name, value in metrics.items()}, step=step)

    def close(self) -> None:
        self.run.finish()


def recorded(project: str, name: str) -> int:
    """How many records the local database has of a run: rows with an epoch."""
    with contextlib.suppress(Exception):  # no part of what trackio promises
        from trackio.sqlite_storage import SQLiteStorage

        return sum("epoch" in row for row in SQLiteStorage.get_logs(project, name))
    return 0
