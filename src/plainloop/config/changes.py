"""A config that starts from a run's own: what was typed is applied, where it may change."""

import copy
from collections.abc import Callable, Iterable, Sequence

from omegaconf import DictConfig, OmegaConf

from plainloop.config.keys import as_typed, is_among, is_decided
from plainloop.config.options import groups
from plainloop.config.schema import Config
from plainloop.config.sections import OF_WORKERS
from plainloop.errors import UserError, listed


def changed(
    saved: DictConfig,
    composed: DictConfig,
    typed: Iterable[str],
    allowed: Iterable[str],
    why: Callable[[str], str],
    before: Sequence[str] | None = None,
) -> DictConfig:
    """`saved` with the typed overrides applied: key by key, and `scheduler=cosine` as the whole section.

    Args:
        composed: where Hydra has already put and checked their values.
        allowed: what may change, as `may_change` lists it. Other keys raise UserError with `why(key)`, unless they say
            what the run has already.
        before: the words that the run was started with: a key that repeats one of them is passed over. None: no key
            that isn't allowed is.
    """
    cfg, allowed = copy.deepcopy(saved), list(allowed)
    for override in typed:
        name = override.partition("=")[0]
        if name == "hydra.run.dir":  # no part of the config: whoever starts or continues the run looks at it
            continue
        if not is_among(name, allowed):
            if before is not None and (
                _said_again(saved, composed, name) or (override in before and is_decided(Config, name))
            ):
                continue
            old = saved.choices.get(name) if name in groups() else OmegaConf.select(saved, name, throw_on_missing=False)
            has = f" (the run has {name}={as_typed(old)})" if old is not None else ""
            raise UserError(f"{override}: {why(name)}{has}. What may change: {listed(allowed)}.")
        OmegaConf.update(cfg, name, OmegaConf.select(composed, name), merge=False, force_add=True)
        if name in cfg.choices:
            cfg.choices[name] = composed.choices[name]
        if name == "scheduler":  # it says when it ticks
            cfg.schedule.interval = composed.schedule.interval
    if cfg.loader.num_workers == 0:  # the run's own options of workers mean nothing now; typed ones are a mistake
        for name in OF_WORKERS:
            cfg.loader[name] = composed.loader[name]
    return cfg


def _said_again(saved: DictConfig, composed: DictConfig, name: str) -> bool:
    """Whether an override repeats what the run has already: a cluster restarts with the same command line."""
    if name in groups():
        return composed.choices.get(name) == saved.choices.get(name)
    raw = [OmegaConf.to_container(cfg, resolve=False) for cfg in (saved, composed)]
    for part in name.split("."):
        raw = [node.get(part) if isinstance(node, dict) else None for node in raw]
    return raw[0] == raw[1]
