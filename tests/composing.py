"""Hydra in tests: what it has read and merged once, it needn't read and merge again; and YAML is written by libyaml.

Of a test's run, which takes half a second, Hydra's composition was a third: it parses the same twenty files and merges
them one by one, before it looks at what was typed. Here the parsed files, and what they are merged to, are remembered
by their paths and times of change; which files are chosen, and all that is typed, is up to Hydra as ever.
"""

import contextlib
import copy
import os
import pickle
from collections.abc import Sequence
from typing import Any

import yaml
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.config_store import ConfigStore
from omegaconf import omegaconf

parsed: dict[Any, Any] = {}
schemas: dict[int, Any] = {}  # they stay alive, so that no other one comes to have the same id
embedded: dict[Any, bytes] = {}
merged: dict[Any, bytes] = {}


def place(repo: Any, path: str) -> tuple[Any, ...]:
    """What the content of a config follows from: where it is looked for, and the state of the files there."""
    found: list[Any] = [path]
    for source in repo.get_sources():
        scheme, _, folder = source.path.partition("://")
        found.append(source.path)
        if scheme == "file":
            try:
                state = os.stat(os.path.join(folder, f"{path.removesuffix('.yaml')}.yaml"))
                found.append((state.st_mtime_ns, state.st_size, state.st_ino))
            except OSError:
                found.append(None)
        elif scheme == "structured":
            schema = ConfigStore.instance().repo.get(f"{path}.yaml")
            schemas[id(schema)] = schema
            found.append(id(schema))
    return tuple(found)


class Only:
    """A repository whose one config may be changed."""

    def __init__(self, result: Any, repo: Any):
        self.result, self.get_schema_source = result, repo.get_schema_source

    def load_config(self, config_path: str) -> Any:
        return self.result


def remember() -> None:
    """From now on in this process, and in those that are forked from it."""
    load, embed = CachingConfigRepository.load_config, ConfigLoaderImpl._load_single_config
    merge = ConfigLoaderImpl._compose_config_from_defaults_list
    choices = defaults_list._create_interpolation_map

    def begin(self: Any, delegate: Any) -> None:
        self.delegate, self.cache = copy.copy(delegate), {}  # Hydra's own copies every schema that it knows

    def load_once(self: Any, config_path: str) -> Any:
        if f"config_path={config_path}" in self.cache:
            return load(self, config_path)
        key = place(self, config_path)
        if key not in parsed:
            parsed[key] = load(self, config_path)
        self.cache[f"config_path={config_path}"] = parsed[key]
        return parsed[key]

    def embed_once(self: Any, default: Any, repo: Any) -> Any:
        key = (place(repo, default.config_path), default.package, default.primary)
        if key not in embedded:
            result = copy.copy(repo.load_config(default.config_path))
            result.config = copy.deepcopy(result.config)  # whoever embeds it changes it
            embedded[key] = pickle.dumps(embed(self, default, Only(result, repo)))  # type: ignore[arg-type]
        return pickle.loads(embedded[key])

    def merge_once(self: Any, defaults: Sequence[Any], repo: Any) -> Any:
        key = tuple((place(repo, d.config_path), d.package, d.is_self, d.primary) for d in defaults)
        if key not in merged:
            merged[key] = pickle.dumps(merge(self, list(defaults), repo))
        return pickle.loads(merged[key])

    def choices_where_needed(overrides: Any, defaults: Any, self_added: bool) -> Any:
        return choices(overrides, defaults, self_added) if any(d.is_interpolation() for d in defaults) else None

    CachingConfigRepository.__init__ = begin  # type: ignore[method-assign]
    defaults_list._create_interpolation_map = choices_where_needed  # type: ignore[assignment]
    CachingConfigRepository.load_config = load_once  # type: ignore[method-assign]
    with contextlib.suppress(AttributeError):  # PyYAML has been built without it
        theirs = omegaconf.get_omega_conf_dumper()
        same = {name: getattr(theirs, name) for name in ("yaml_representers", "yaml_implicit_resolvers")}
        quick = type("Quick", (yaml.CDumper,), {**same, "str_representer": theirs.str_representer})
        omegaconf.get_omega_conf_dumper = lambda: quick
    ConfigLoaderImpl._load_single_config = embed_once  # type: ignore[method-assign]
    ConfigLoaderImpl._compose_config_from_defaults_list = merge_once  # type: ignore[assignment,method-assign]
