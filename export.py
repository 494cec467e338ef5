"""Export: python export.py run=RUN [format=onnx|torch_export|safetensors] [output=FILE]."""

import gc
import sys
from pathlib import Path

# This checkout's src/ first. The folder where the command is typed comes last, and once a module of your own in it is
# named (trust.py): it may be a stranger's.
sys.path[0] = str(Path(__file__).resolve().parent / "src")

from plainloop.commands.cli import door
from plainloop.config.schema import ExportConfig


@door(ExportConfig)
def main(cfg, typed, directory=None, is_trial=False):
    gc.disable()  # importing torch makes a million objects and no garbage; switched on again before the work begins
    from plainloop.commands.export import export_config

    return export_config(cfg, typed)


if __name__ == "__main__":
    main()
