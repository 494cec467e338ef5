"""Weights & Biases: online (`wandb login`, or WANDB_API_KEY), or as files below wandb/ (mode=offline)."""

from collections.abc import Mapping
from typing import Any

from plainloop.errors import UserError
from plainloop.loggers import service

MODES = ("online", "offline")


class WandB(service.Service):
    """A run of wandb's with the points of history.jsonl, the config, the figures, and the result as its summary.

    A run that is resumed goes on as the same one. wandb passes over points of steps that it has: so what had been sent
    after the checkpoint stays, and what comes in its place is the same.

    Args:
        project: the project's name.
        entity: the user or team that it belongs to; null: yours.
        mode: online or offline. Its files lie where wandb puts them: in ./wandb, or below WANDB_DIR.
        name: of the run; null: that of its directory.
        wait: at the end, so many seconds at most for what is still to be sent.
    """

    package, extra = "wandb", "wandb"

    def __init__(
        self,
        project: str = "plainloop",
        entity: str | None = None,
        mode: str = "online",
        name: str | None = None,
        wait: float = 15.0,
    ):
        if mode not in MODES:
            raise UserError(f"logger.wandb.mode={mode}: must be online or offline.")
        super().__init__(wait, project=project, entity=entity, mode=mode, name=name)
        self.destination = entity


class Client(service.Client):
    def __init__(self, run: Mapping[str, Any], project: str, entity: str | None, mode: str, name: str | None):
        super().__init__(run)
        import wandb

        self.image = wandb.Image
        settings = wandb.Settings(console="off", save_code=False, silent=True, symlink=False, login_timeout=30)
        self.run = wandb.init(
            project=project,
            entity=entity,
            mode=mode,
            id=run["id"],
            resume="allow" if mode == "online" else None,
            name=name or run["name"],
            group=run["group"],
            config=dict(run["config"]),
            settings=settings,
        )
        self.notes.append(self.run.url or f"wandb sync {self.run.settings.sync_dir} sends it")

    def log(self, record: Mapping[str, Any]) -> None:
        self.run.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])

    def figure(self, name: str, path: str, step: int) -> None:
        self.run.log({name: self.image(path)}, step=step)

    def result(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.log({}, step=step, commit=True)  # the last row's values are in the summary before the result's are
        self.run.summary.update(dict(metrics))

    def close(self) -> None:
        self.run.finish()
