"""What a run was made with: versions, git state, command, hardware."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from plainloop.places import ROOT


def environment(seed: int) -> dict[str, Any]:
    """Versions, git state, command and hardware."""
    import importlib.metadata

    import torch

    packages = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "plainloop")
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    versions["torch"] = torch.__version__  # with its build, as 2.15.0+cu132
    cuda = torch.cuda.is_available()
    return {
        "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "working_directory": os.getcwd(),
        "seed": seed,
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "hostname": platform.node(),
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if cuda else [],
        "git_commit": _git("rev-parse", "HEAD"),
        "git_diff": _git("diff", "HEAD"),
    }


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
