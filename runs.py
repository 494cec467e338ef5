"""Runs: python runs.py [FOLDER] [sort=test/accuracy] [filter=...] [compare=A,B] [format=md|csv|latex|html]."""

import gc
import sys
from pathlib import Path

# This checkout's src/ first.
sys.path[0] = str(Path(__file__).resolve().parent / "src")

from plainloop.commands.cli import door
from plainloop.config.schema import RunsConfig


@door(RunsConfig)
def main(config, typed, directory=None, is_trial=False):
    gc.disable()  # it is over in a second
    from plainloop.commands.runs import show_runs

    show_runs(config)


if __name__ == "__main__":
    main()
