"""A checkpoint is what was written, bit for bit, or it is called damaged; and no failure spoils the one before it."""

import collections
import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from plainloop.errors import MachineError
from plainloop.runs import checkpoint
from plainloop.runs.checkpoint import Checkpoints, Damaged, check_plain, load, save, step_of
from plainloop.training.selection import Selection

NESTED = {
    "tensors": {
        "float32": torch.randn(50, 20, generator=torch.Generator().manual_seed(0)),
        "bfloat16": torch.ones(3, dtype=torch.bfloat16),
        "int64": torch.arange(5),
        "bool": torch.tensor([True, False]),
        "uint8": torch.arange(256).to(torch.uint8),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "strided": torch.arange(12).reshape(3, 4).T,
    },
    "numbers": [1, -(2**70), 1.5, float("inf"), True, None],
    "words": ("a", "ä\n", b"\0\1"),
    "by number": {0: {"step": torch.tensor(3.0)}, 1: []},
    "module": torch.nn.Linear(2, 3).state_dict(),
    "position": {"step": 7},
}


def assert_same(one: Any, other: Any) -> None:
    """Equal in type, order and value; tensors bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


@pytest.fixture
def path(tmp_path) -> Path:
    """A checkpoint that has been written."""
    save(tmp_path / "step-7.pt", NESTED)
    return tmp_path / "step-7.pt"


# --- what is written ----------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(path):
    assert_same(load(path), NESTED)
    assert [file.name for file in path.parent.iterdir()] == ["step-7.pt"]


def test_torch_reads_it_too(path):
    """The digest stands behind torch's own format: torch.load needs nothing of ours, and runs no code."""
    assert_same(torch.load(path, weights_only=True), NESTED)


def test_tensors_come_back_on_the_cpu(path):
    assert all(tensor.device.type == "cpu" for tensor in load(path)["tensors"].values())


def test_optimizers_and_modules_can_be_saved(tmp_path):
    """What torch's own state_dicts hold is plain."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
    save(tmp_path / "a.pt", state)
    assert_same(load(tmp_path / "a.pt"), state)


class Words(dict):
    """A dict that isn't torch's to load."""


class Marked(torch.Tensor):
    """A tensor that isn't either."""


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": {"b": [1, {2, 3}]}}, r"state\.a\.b\[1\] is a set"),
        ({"a": numpy.float64(1)}, r"state\.a is a float64"),
        ({"a": [numpy.zeros(2)]}, r"state\.a\[0\] is a ndarray"),
        ({"a": ({"b": Path("x")},)}, r"state\.a\[0\]\.b is a PosixPath|WindowsPath"),
        ({"a": {"f": print}}, r"state\.a\.f is a builtin_function"),
        ({"a": torch.float32}, r"state\.a is a dtype"),
        ({"a": torch.Size([1])}, r"state\.a is a Size"),
        ({"a": {(1, 2): 3}}, r"state\.a has a key of type tuple"),
        ({"a": {1.5: 3}}, r"state\.a has a key of type float"),
        ({"a": {"n": collections.defaultdict(int, {"b": 1})}}, r"state\.a\.n is a defaultdict"),
        ({"a": Words(b=1)}, r"state\.a is a Words"),
        ({"a": torch.ones(2).as_subclass(Marked)}, r"state\.a is a Marked"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, state, place):
    """Found when it is saved, with the place, and nothing is written."""
    with pytest.raises(TypeError, match=place):
        check_plain(state)
    with pytest.raises(TypeError, match=place):
        save(tmp_path / "a.pt", state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value",
    [collections.OrderedDict(a=1), collections.Counter("aab"), torch.nn.Parameter(torch.ones(2)), {"a": ()}],
    ids=lambda value: type(value).__name__,
)
def test_what_may_be_saved_can_be_loaded(tmp_path, value):
    """A Counter is the milestones of torch's MultiStepLR."""
    save(tmp_path / "a.pt", {"a": value})
    assert_same(load(tmp_path / "a.pt"), {"a": value})


# --- what is damaged ----------------------------------------------------------------------------------------


def places_in(data: bytes) -> list[int]:
    """Twenty places all over a file, among them bytes of the tensors and of the digest."""
    tensor = data.index(NESTED["tensors"]["float32"].numpy().tobytes())
    spread = [round(number * (len(data) - 1) / 13) for number in range(14)]
    return [*spread, tensor, tensor + 1001, tensor + 3999, len(data) - 20, len(data) - 40, len(data) - 1]


@pytest.mark.parametrize("number", range(20))
def test_every_flipped_bit_is_found(path, number):
    """In the tensors, in what describes them, in the digest: whichever bit of the byte it is."""
    whole = path.read_bytes()
    place = places_in(whole)[number]
    for bit in (0, 3, 7):
        data = bytearray(whole)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        with pytest.raises(Damaged, match=r"step-7\.pt"):
            load(path)
    path.write_bytes(whole)
    assert_same(load(path), NESTED)


@pytest.mark.parametrize("left", [0, 1, 16, 47, 48, 49, 0.25, 0.5, 0.99, -48, -16, -1], ids=str)
def test_a_cut_file_is_found(path, left):
    """So many bytes of it, such a share of it, or all but the last few."""
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data)) if isinstance(left, float) else left])
    with pytest.raises(Damaged):
        load(path)


@pytest.mark.parametrize(
    "spoil",
    [lambda d: d + b"\0", lambda d: b"\0" * len(d), lambda d: d[:48] + d, lambda d: d + d],
    ids=["longer", "zeros", "shifted", "twice"],
)
def test_other_damage_is_found(path, spoil):
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(Damaged):
        load(path)


def test_a_file_of_torchs_is_not_ours(tmp_path):
    """Without the digest nobody knows whether it is whole."""
    torch.save({"a": 1}, tmp_path / "a.pt")
    with pytest.raises(Damaged, match="not a whole checkpoint"):
        load(tmp_path / "a.pt")


# --- writing that fails -------------------------------------------------------------------------------------


def disk_is_full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def half_written(state: Any, file: Any) -> None:
    file.write(b"half of a checkpoint")
    disk_is_full()


def enforce_fails(*_: Any, **__: Any) -> None:
    raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0")  # torch, on a full disk


@pytest.mark.parametrize(
    ("place", "name", "failure"),
    [
        (torch, "save", half_written),
        (torch, "save", enforce_fails),
        (os, "fsync", disk_is_full),
        (os, "replace", disk_is_full),
    ],
    ids=["while writing", "torch's own error", "while syncing", "while renaming"],
)
def test_a_failed_write_leaves_the_old_file(path, monkeypatch, place, name, failure):
    """The old checkpoint stands, nothing is left beside it, and the error is the machine's, with the path."""
    with monkeypatch.context() as patched:
        patched.setattr(place, name, failure)
        with pytest.raises(MachineError, match=r"step-7\.pt could not be written"):
            save(path, {"new": 1})
    assert [file.name for file in path.parent.iterdir()] == ["step-7.pt"]
    assert_same(load(path), NESTED)


def test_a_missing_folder_is_the_machines_error(tmp_path):
    with pytest.raises(MachineError, match="could not be written"):
        save(tmp_path / "gone" / "step-1.pt", {"a": 1})


def test_the_new_file_is_synced_before_it_takes_the_old_ones_place(path, monkeypatch):
    """Written, synced, renamed, folder synced, in this order: else a power cut could leave neither."""
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        done.append("rename")
        assert_same(load(Path(source)), {"a": 1})  # whole already
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    save(path, {"a": 1})
    if os.path.isdir("/proc/self/fd"):
        assert done == ["file", "rename", "folder"]


# --- the folder of a run ------------------------------------------------------------------------------------


def state_at(step: int) -> dict[str, Any]:
    """The smallest state of a run."""
    position = {"epoch": 0, "batch": step, "step": step, "samples": step}
    parts = {name: {} for name in ("optimizer", "preprocess", "task", "carried", "loggers")}
    weight = torch.arange(4.0) + step
    return {**parts, "model": {"weight": weight}, "average": None, "position": position, "seconds": 1.0}


def folder_of(path: Path, **options: Any) -> Checkpoints:
    return Checkpoints(path / "checkpoints", **options)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(file.name for file in checkpoints.folder.iterdir())


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("keep", "left"), [(1, [40]), (2, [30, 40]), (3, [9, 30, 40]), (9, [1, 9, 30, 40])])
def test_the_newest_few_are_kept(tmp_path, keep, left):
    """By their step as a number: 9 is older than 30."""
    checkpoints = folder_of(tmp_path, keep=keep)
    for step in (1, 9, 30, 40):
        checkpoints.save(state_at(step), best=False)
    assert [step_of(path) for path in checkpoints.all()] == sorted(left, reverse=True)
    assert names(checkpoints) == sorted(f"step-{step}.pt" for step in left)
    path, state = checkpoints.last()
    assert path.name == "step-40.pt"
    assert_same(state, state_at(40))


def test_the_best_stays_when_its_step_is_dropped(tmp_path):
    """best.pt names the best, whole, however many steps come after it; a new best takes its place."""
    checkpoints = folder_of(tmp_path, keep=2)
    for step, best in ((1, True), (2, False), (3, True), (4, False), (5, False), (6, False)):
        checkpoints.save(state_at(step), best)
        assert_same(load(checkpoints.folder / "best.pt"), state_at(1 if step < 3 else 3))
    assert names(checkpoints) == ["best.pt", "step-5.pt", "step-6.pt"]


def test_a_step_that_is_saved_again_does_not_change_the_best(tmp_path):
    checkpoints = folder_of(tmp_path)
    checkpoints.save(state_at(1), best=True)
    checkpoints.save({**state_at(1), "model": {"weight": torch.zeros(4)}}, best=False)
    assert_same(load(checkpoints.folder / "best.pt"), state_at(1))
    assert not load(checkpoints.folder / "step-1.pt")["model"]["weight"].any()


def test_the_best_and_the_newest_are_files_of_their_own(tmp_path):
    """So that no damage takes both."""
    checkpoints = folder_of(tmp_path)
    checkpoints.save(state_at(1), best=True)
    damage(checkpoints.folder / "best.pt")
    assert_same(load(checkpoints.folder / "step-1.pt"), state_at(1))


def test_the_last_whole_one_is_taken(tmp_path):
    """Damaged ones are passed over, newest first, and the user is told of each."""
    checkpoints = folder_of(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(state_at(step), best=False)
    damage(checkpoints.folder / "step-3.pt")
    (checkpoints.folder / "step-2.pt").write_bytes(b"")
    told: list[str] = []
    path, state = checkpoints.last(told.append)
    assert path.name == "step-1.pt"
    assert_same(state, state_at(1))
    assert len(told) == 2
    assert "step-3.pt" in told[0]
    assert "step-2.pt" in told[1]


def test_other_files_are_no_checkpoints(tmp_path):
    checkpoints = folder_of(tmp_path)
    checkpoints.save(state_at(5), best=True)
    for name in ("step-x.pt", "step-.pt", "other-9.pt", ".step-9.pt.123.tmp", "step-9.pt.tmp"):
        (checkpoints.folder / name).write_bytes(b"")
    assert [path.name for path in checkpoints.all()] == ["step-5.pt"]
    assert [step_of(Path(name)) for name in ("step-12.pt", "best.pt", "step--3.pt")] == [12, -1, -1]


@pytest.mark.parametrize("damaged", [0, 2])
def test_no_usable_checkpoint_is_said(tmp_path, damaged):
    checkpoints = folder_of(tmp_path)
    for step in range(damaged):
        checkpoints.save(state_at(step), best=False)
        damage(checkpoints.folder / f"step-{step}.pt")
    with pytest.raises(MachineError, match="all 2 are damaged" if damaged else "there is none"):
        checkpoints.last(lambda text: None)


@pytest.mark.parametrize("keep", [1, 2])
def test_after_a_damaged_one_the_new_ones_are_kept(tmp_path, keep):
    """A run that fell back from step 30 to 20 and went on to 25: it is 25 that is the newest, and it isn't dropped
    for the sake of the damaged file with the higher number."""
    checkpoints = folder_of(tmp_path, keep=3)
    for step in (10, 20, 30):
        checkpoints.save(state_at(step), best=False)
    damage(checkpoints.folder / "step-30.pt")
    resumed = folder_of(tmp_path, keep=keep)
    assert resumed.last(lambda text: None)[0].name == "step-20.pt"
    resumed.save(state_at(25), best=False)
    told: list[str] = []
    assert resumed.last(told.append)[0].name == "step-25.pt"
    assert told == []
    whole = [path for path in resumed.all() if load(path)]
    assert len(whole) == keep


WRONG: dict[str, Any] = {
    "nothing": {},
    "no position": {"position": None},
    "a word for a step": {"position": {"epoch": 0, "batch": 1, "step": "1", "samples": 1}},
    "a list of weights": {"model": [torch.zeros(1)]},
    "words for weights": {"model": {"weight": "heavy"}},
    "an average without a count": {"average": {"model": {}}},
    "no optimizer": {"optimizer": None},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_whole_file_with_another_content_is_passed_over(what, tmp_path):
    """Its digest is right: somebody has written it on purpose."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state_at(1), best=False)
    save(checkpoints.folder / "step-2.pt", {**state_at(2), **WRONG[what]} if WRONG[what] else {"a": 1})
    told: list[str] = []
    path, state = checkpoints.last(told.append)
    assert path.name == "step-1.pt"
    assert_same(state, state_at(1))
    assert len(told) == 1
    assert "step-2.pt is whole, and doesn't hold the state of a run" in told[0]


class Killed(BaseException):
    """The process is gone: nothing catches it, nothing is tidied up."""


@pytest.mark.parametrize("instant", range(1, 6))
def test_killed_at_any_instant_the_best_is_not_lost(tmp_path, monkeypatch, instant):
    """When a new best is saved: the best on disk is the one that the newest checkpoint remembers, or a later one
    (which the resumed run, repeating its steps, finds again); never one from before."""
    checkpoints, calls = folder_of(tmp_path), 0
    checkpoints.save({**state_at(1), "best": 1}, best=True)

    def killed_at_the_instant(real: Any) -> Any:
        def call(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == instant:
                raise Killed
            real(*arguments)

        return call

    with monkeypatch.context() as patched:
        for name in ("replace", "fsync"):
            patched.setattr(os, name, killed_at_the_instant(getattr(os, name)))
        patched.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        with contextlib.suppress(Killed):
            checkpoints.save({**state_at(2), "best": 2}, best=True)
    _, newest = folder_of(tmp_path).last()
    assert load(checkpoints.folder / "best.pt")["position"]["step"] >= newest["best"]
    checkpoints.save({**state_at(2), "best": 2}, best=True)
    assert load(checkpoints.folder / "best.pt")["position"]["step"] == 2


# --- the best few -------------------------------------------------------------------------------------------


LIFE = [0.5, 0.7, 0.3, 0.6, 0.6, 0.9, 0.1, 0.65, 0.9, 0.95]  # what is monitored after steps 1, 2, ...: more is better


def lived(folder: Path, keep_best: int, until: int = len(LIFE)) -> None:
    """A run that goes on from what its folder remembers: each step is validated and saved."""
    checkpoints, selection = Checkpoints(folder, keep_best=keep_best), Selection("x", "max", keep=keep_best)
    step = 0
    if checkpoints.all():
        _, state = checkpoints.last(lambda text: None)
        selection.load_state_dict(state["best"])
        step = state["position"]["step"]
    for now in range(step + 1, until + 1):
        best = selection.better(LIFE[now - 1], 1 - LIFE[now - 1], 1, now)
        checkpoints.save({**state_at(now), "best": selection.state_dict()}, best, selection.steps)


def ranked(folder: Path) -> dict[str, int]:
    return {path.name: load(path)["position"]["step"] for path in Checkpoints(folder).all_best()}


def in_order(keep_best: int, until: int = len(LIFE)) -> dict[str, int]:
    """By sorting everything: of equal values the earlier step is ahead."""
    steps = sorted(range(1, until + 1), key=lambda step: (-LIFE[step - 1], step))[:keep_best]
    return {f"best{'' if rank == 1 else f'-{rank}'}.pt": step for rank, step in enumerate(steps, 1)}


@pytest.mark.parametrize("keep_best", [1, 2, 3, 20])
def test_the_best_few_are_kept_in_their_order(tmp_path, keep_best):
    for until in range(1, len(LIFE) + 1):
        lived(tmp_path / "stepwise", keep_best, until)  # each step by another process
        assert ranked(tmp_path / "stepwise") == in_order(keep_best, until)
    lived(tmp_path / "whole", keep_best)
    assert ranked(tmp_path / "whole") == in_order(keep_best)
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "whole").iterdir())  # no damage takes two


def test_without_links_the_best_few_are_copied(tmp_path, monkeypatch):
    def refused(*given: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    lived(tmp_path / "copied", 3)
    assert ranked(tmp_path / "copied") == in_order(3)


def counting(monkeypatch: pytest.MonkeyPatch, instant: int) -> list[str]:
    """Whatever changes a folder or makes a change durable: killed before the call of this number, from 1. The calls."""
    calls: list[str] = []

    def killed_at_the_instant(name: str, real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            if instant and len(calls) >= instant:
                return None  # a `finally` of a process that is gone
            calls.append(name)
            if len(calls) == instant:
                raise Killed
            return real(*given, **named)

        return call

    for name in ("replace", "link", "fsync", "unlink"):
        monkeypatch.setattr(os, name, killed_at_the_instant(name, getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", killed_at_the_instant("unlink", Path.unlink))
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("keep_best", [1, 3])
def test_killed_at_any_instant_the_best_few_come_out_the_same(tmp_path, keep_best):
    """Killed once at each instant of a whole life, and continued. In between, each rank that had a file has one, and
    the best is that of the newest checkpoint or a later one."""
    with pytest.MonkeyPatch.context() as patched:
        calls = counting(patched, 0)
        lived(tmp_path / "whole", keep_best)
    instants = len(calls)
    assert instants > 40 * keep_best
    files = set(names(Checkpoints(tmp_path / "whole")))
    for instant in range(1, instants + 1):
        folder = tmp_path / str(instant)
        with pytest.MonkeyPatch.context() as patched, contextlib.suppress(Killed):
            counting(patched, instant)
            lived(folder, keep_best)
        if Checkpoints(folder).all():
            remembered = Selection("x", "max", keep=keep_best)
            remembered.load_state_dict(Checkpoints(folder).last()[1]["best"])
            found = ranked(folder)
            assert len(found) >= len(remembered.steps)
            assert LIFE[found["best.pt"] - 1] >= LIFE[remembered.step - 1]
            assert set(found.values()) >= set(remembered.steps) - {remembered.steps[-1]}
        lived(folder, keep_best)
        assert ranked(folder) == in_order(keep_best)
        assert set(names(Checkpoints(folder))) - files <= {"step-8.pt"}  # killed in the last save, before it is dropped


@pytest.mark.parametrize("step", range(5, 11))
def test_behind_a_damaged_checkpoint_the_best_few_are_found_again(tmp_path, step):
    """The newest ones are damaged, and what was pruned since the one before them is missing for a while: whenever one
    of the best is saved, no rank holds another step than its own."""
    checkpoints = Checkpoints(tmp_path / "run", keep=3, keep_best=3)
    lived(tmp_path / "run", 3, step - 3)
    shutil.copy(checkpoints.all()[0], tmp_path)
    lived(tmp_path / "run", 3, step)
    for path in checkpoints.all():
        damage(path)
    shutil.copy(tmp_path / f"step-{step - 3}.pt", tmp_path / "run")
    for until in range(step - 2, len(LIFE) + 1):
        lived(tmp_path / "run", 3, until)
        right, found = in_order(3, until), ranked(tmp_path / "run")
        if until in right.values():
            assert all(found[name] == right[name] for name in found if name != "best.pt" or until >= step)
    assert found == right


def test_fewer_of_the_best_may_be_kept_from_now_on(tmp_path):
    lived(tmp_path / "run", 3, 5)
    lived(tmp_path / "run", 2)
    assert ranked(tmp_path / "run") == in_order(2)


def test_when_a_checkpoint_is_due(tmp_path, monkeypatch):
    """At every n-th epoch's end, every n-th step, and so many minutes after the last one."""
    trainer = SimpleNamespace(epoch=4, step=30)
    for options, at_step, at_epoch in (
        ({"every_epochs": 1}, False, True),
        ({"every_epochs": 2}, False, True),
        ({"every_epochs": 3}, False, False),
        ({"every_epochs": None}, False, False),
        ({"every_epochs": None, "every_steps": 10}, True, False),
        ({"every_epochs": None, "every_steps": 7}, False, False),
    ):
        checkpoints = folder_of(tmp_path, **options)
        assert (checkpoints.due(trainer, False), checkpoints.due(trainer, True)) == (at_step, at_epoch)
    checkpoints = folder_of(tmp_path, every_epochs=None, every_minutes=2)
    now = checkpoints.clock()
    for seconds, due in ((0, False), (119, False), (121, True)):
        monkeypatch.setattr(checkpoints, "clock", lambda seconds=seconds: now + seconds)
        assert checkpoints.due(trainer, False) == due
    checkpoints.save(state_at(1), best=False)
    assert not checkpoints.due(trainer, False)


def test_the_digest_is_of_the_whole_content(path):
    """SHA-256 over everything in front of it, by hashlib on its own."""
    data = path.read_bytes()
    assert data[-16:] == checkpoint.MAGIC
    assert hashlib.sha256(data[:-48]).digest() == data[-48:-16]
