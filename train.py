"""Train: python train.py [key=value ...]; python train.py --help lists every key."""

import sys
from pathlib import Path

# This checkout's src/ first, then the folder where the command is typed (for modules of your own).
sys.path[:1] = [str(Path(__file__).resolve().parent / "src"), str(Path.cwd())]

from plainloop.cli import door


@door("train")
def main(cfg, typed, directory=None, sweep=False):
    from plainloop.commands import train

    train(cfg, typed, directory, sweep)


if __name__ == "__main__":
    main()
