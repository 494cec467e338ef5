"""The options of each group, as the folder configs/ holds them."""

from typing import Any

from omegaconf import OmegaConf

from plainloop.places import ROOT

CONFIGS = ROOT / "configs"


def usual() -> dict[str, str | None]:
    """The option of each group that is taken where nothing is said: what the defaults list of train.yaml names."""
    listed: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "train.yaml"))
    return {name: option for entry in listed["defaults"] if isinstance(entry, dict) for name, option in entry.items()}


def groups() -> dict[str, list[str]]:
    """The config groups and their options: {"model": ["cnn", "linear", ...], ...}."""
    found = {}
    for folder in sorted(path for path in CONFIGS.iterdir() if path.is_dir()):
        found[folder.name] = sorted(file.stem for file in folder.glob("*.yaml"))
    return found


def read(group: str, option: str) -> dict[str, Any]:
    """An option as it stands in its file, `${...}` and all; without those that it begins with."""
    found: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{option}.yaml"))
    return found or {}
