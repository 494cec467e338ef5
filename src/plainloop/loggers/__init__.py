"""Where records go: the history (the truth), the console, TensorBoard; others by a file and a YAML of their own.

    logger.py         what every logger is
    history.py        history.jsonl
    console.py        the terminal and train.log
    tensorboard.py    TensorBoard's event files
    service.py        what sends to a service, from a process of its own
    wandb.py          Weights & Biases
    trackio.py        trackio
    mlflow.py         MLflow

Imports: runs, ground.
"""

from plainloop.loggers.console import Console
from plainloop.loggers.history import History
from plainloop.loggers.logger import Logger
from plainloop.loggers.tensorboard import TensorBoard

__all__ = ["Console", "History", "Logger", "TensorBoard"]
