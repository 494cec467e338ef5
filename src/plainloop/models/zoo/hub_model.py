"""Models from torch.hub: the entry points of a `hubconf.py`, in a GitHub repository or a local folder.

A hubconf.py is somebody's code, and it is executed: only if the user trusts its repository on the command line.
"""

import contextlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from plainloop.build import check_arguments, factory
from plainloop.errors import UserError, did_you_mean, first_line, listed, origin, out_of_memory
from plainloop.models.zoo.pretrained import first_convolution, replace_first_convolution
from plainloop.places import ROOT
from plainloop.trust import refuse_a_runs_own, trusting

MOVING = ("main", "master", "HEAD", "develop", "dev", "trunk")  # names of branches, which are other code tomorrow
GITHUB = re.compile(r"([\w.-]+)/([\w.-]+)(?::([\w./+-]+))?")


@factory("model")
def hub_model(
    repo: str,
    entrypoint: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    trusted: Sequence[str] = (),
    **arguments: Any,
) -> nn.Module:
    """Build what an entry point of a torch.hub repository returns.

    Args:
        repo: OWNER/NAME:VERSION on GitHub, the version a tag or a commit, downloaded once; or a local folder with a
            hubconf.py, looked for from the working directory, then in the checkout.
        entrypoint: a function in its hubconf.py.
        num_classes, in_channels: given to an entry point that names such arguments. Of another one's model, the last
            layer and the first convolution are replaced where they are of another size; None leaves them.
        trusted: what the user trusts; must hold `repo`, as it is written.
        arguments: the entry point's own, as pretrained=true.

    Raises:
        UserError: a repository that isn't trusted, pinned or there, an entry point or argument that doesn't exist,
            what can't be downloaded.
    """
    folder = _local_folder(repo)
    if folder is None:
        _check_pinned(repo)
    if repo not in trusted:
        raise UserError(
            f"model.repo={repo}: its hubconf.py is code, and would be executed. If you know it, say so on "
            f"the command line: {trusting([repo])}"
        )
    folder = _fetched(repo) if folder is None else folder
    refuse_a_runs_own(folder / "hubconf.py", f"model.repo={repo}")
    with _importable(folder):
        entry = _entry(folder, repo, entrypoint)
        sizes = {"num_classes": num_classes, "in_channels": in_channels}
        named = inspect.signature(entry).parameters
        taken = {name: value for name, value in sizes.items() if name in named and value is not None}
        check_arguments(entry, {**taken, **arguments}, "model", {})
        with _explained(repo, entrypoint, arguments):
            model = entry(**taken, **arguments)
    if isinstance(model, nn.Module):
        _fit(model, *(None if name in taken else value for name, value in sizes.items()))
    return model


def _local_folder(repo: str) -> Path | None:
    """The folder that `repo` names; None for a repository on GitHub. Raises UserError for a folder that isn't there."""
    for folder in (Path(repo).expanduser(), ROOT / repo):
        if folder.is_dir():
            if not (folder / "hubconf.py").is_file():
                raise UserError(
                    f"model.repo={repo}: {folder} has no hubconf.py, the file that torch.hub loads models from."
                )
            return folder.resolve()
    if GITHUB.fullmatch(repo):
        return None
    raise UserError(
        f"model.repo={repo}: there is no such folder, and a repository on GitHub is written "
        "OWNER/NAME:VERSION, as pytorch/vision:v0.20.0."
    )


def _check_pinned(repo: str) -> None:
    match = GITHUB.fullmatch(repo)
    assert match is not None
    name, version = f"{match[1]}/{match[2]}", match[3]
    if version is None:
        raise UserError(
            f"model.repo={repo}: there is no such folder, and a repository on GitHub needs its version, a "
            f"tag or a commit: model.repo={name}:v1.0, say."
        )
    if version in MOVING or version.startswith("refs/heads/"):
        raise UserError(
            f"model.repo={repo}: {version} is a branch, which is other code tomorrow. Name a tag or a "
            f"commit of {name}, as in model.repo={name}:v1.0"
        )


def _fetched(repo: str) -> Path:
    """Where torch.hub keeps a repository, downloaded if it isn't there yet. Raises UserError."""
    owner_and_name, _, version = repo.partition(":")
    kept = Path(torch.hub.get_dir()) / f"{owner_and_name}_{version}".replace("/", "_")
    if kept.is_dir():
        return kept
    try:
        torch.hub.list(repo, trust_repo=True, verbose=False)
    except (OSError, HTTPException, RuntimeError, ValueError, KeyError) as error:
        if not kept.is_dir():
            raise UserError(
                f"model.repo={repo}: it couldn't be fetched from github.com: {first_line(error).rstrip('.')}.\n"
                f"With a network elsewhere: git clone --branch {version} https://github.com/{owner_and_name}, bring "
                "the folder here, and give it as model.repo=FOLDER 'trust=[FOLDER]'."
            ) from error
    except Exception:  # of its hubconf.py, which is looked at next
        if not kept.is_dir():
            raise
    return kept


@contextlib.contextmanager
def _importable(folder: Path):
    """The folder's own modules can be imported, as torch.hub has it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _entry(folder: Path, repo: str, entrypoint: str) -> Callable[..., Any]:
    """The function `entrypoint` of the folder's hubconf.py. Raises UserError."""
    spec = importlib.util.spec_from_file_location("hubconf", folder / "hubconf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    what = f"model.repo={repo}"
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what}: its hubconf.py needs the package {error.name}, which isn't installed here."
        ) from error
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{what}: its hubconf.py can't be imported: {type(error).__name__}: {first_line(error)} ({origin(error)})"
        ) from error
    needed = getattr(module, "dependencies", [])
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what}: it needs packages that aren't installed here: {listed(missing)}.")
    found = getattr(module, str(entrypoint), None)
    if not callable(found) or str(entrypoint).startswith("_"):
        names = [name for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")]
        raise UserError(
            f"model.entrypoint={entrypoint}: {repo} has no such entry point."
            f"{did_you_mean(str(entrypoint), names)} It has: {listed(names)}."
        )
    return found


@contextlib.contextmanager
def _explained(repo: str, entrypoint: str, arguments: dict[str, Any]):
    """What an entry point complains of, as a UserError."""
    what = f"model.entrypoint={entrypoint} of {repo}"
    try:
        yield
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"{what} couldn't download what it needs: {first_line(error)}.\nA file of weights that lies in "
            f"{torch.hub.get_dir()}/checkpoints isn't fetched again; or leave its pretrained weights out."
        ) from error
    except UserError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        typed = listed(f"{name}={value}" for name, value in arguments.items()) or "none"
        raise UserError(
            f"{what} failed with its arguments ({typed}): {type(error).__name__}: {first_line(error)} ({origin(error)})"
        ) from error


def _fit(model: nn.Module, num_classes: int | None, in_channels: int | None) -> None:
    """Replace the last linear layer (without one, the last convolution, as SqueezeNet ends) and the first convolution,
    where they are of another size. The first keeps what it has learned, as `over_channels` says."""
    notes = []
    named = list(model.named_modules())
    linear = [name for name, module in named if isinstance(module, nn.Linear)]
    last = linear or [name for name, module in named if isinstance(module, nn.Conv2d)]
    if num_classes is not None and last:
        old: Any = model.get_submodule(last[-1])
        count, bias = (old.out_features if linear else old.out_channels), old.bias is not None
        if count != num_classes:
            new: nn.Module = (
                nn.Linear(old.in_features, num_classes, bias=bias)
                if linear
                else nn.Conv2d(old.in_channels, num_classes, old.kernel_size, old.stride, old.padding, bias=bias)
            )
            model.set_submodule(last[-1], new)
            notes.append(f"its last layer {last[-1]} of {count} outputs by one of {num_classes}")
    convolution = first_convolution(model)
    if in_channels is not None and convolution:
        old = model.get_submodule(convolution)
        if old.in_channels != in_channels:
            replace_first_convolution(model, in_channels, keep=True)
            notes.append(f"its first convolution {convolution} of {old.in_channels} channels by one of {in_channels}")
    if notes:
        model.note = f"replaced: {'; '.join(notes)}"  # type: ignore[assignment]
