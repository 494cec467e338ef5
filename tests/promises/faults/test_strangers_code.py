"""Nothing in a stranger's run directory is executed, whatever is asked of it: no module is imported that the user
doesn't know, no process is started, no socket opened, and no file written but the run's own and the new run's.

An audit hook of Python's sees all of that (https://peps.python.org/pep-0578/).
"""

import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import plainloop
from plainloop.config.compose import compose
from plainloop.errors import MachineError, UserError
from plainloop.runs.checkpoint import Checkpoints
from plainloop.runs.files import everything_in
from tests.conftest import one_in
from tests.plainloop.commands.test_predict import predicted
from tests.promises.faults.fragile import sealed

EVIL = "import pathlib\npathlib.Path('executed').touch()\nfrom plainloop.models import MLP as Net\n"
WAYS: dict[str, Callable[[Path], object]] = {
    "evaluate": lambda run: plainloop.evaluate(run, split="val"),
    "load": plainloop.load_run,
    "predict": lambda run: predicted(run, "input=data/digits.npz"),
    "resume": lambda run: plainloop.train([f"resume={run}", "trainer.max_epochs=4"]),
    "auto": lambda run: plainloop.train(["resume=auto", f"hydra.run.dir={run}"]),
    "extend": lambda run: plainloop.train([f"extend={run}", "trainer.max_epochs=1"]),
    "finetune": lambda run: plainloop.train(["model=mlp", "trainer.max_steps=1", f"finetune.weights={run}"]),
}


# --- what is seen ---------------------------------------------------------------------------------------------------

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn")
CONNECTS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


class Watch:
    """What Python does meanwhile: processes, sockets, code from the run, files that are written elsewhere."""

    def __init__(self) -> None:
        self.found: list[str] | None = None
        self.run = self.allowed = Path()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.found is None:
            return
        found, self.found = self.found, None  # what is done here isn't watched
        try:
            if event == "subprocess.Popen" and arguments[1][:2] == ["git", "-C"]:
                return  # what the checkout's commit is
            if event in (*STARTS, *CONNECTS):
                found.append(f"{event} {arguments!r:.200}")
            elif event == "exec" and self.within(getattr(arguments[0], "co_filename", ""), self.run):
                found.append(f"code of {arguments[0].co_filename}")
            elif event == "open" and writes(arguments[2]) and not self.may_write(arguments[0]):
                found.append(f"written: {arguments[0]}")
            elif event in CHANGES and not all(self.may_write(path) for path in arguments[:2] if isinstance(path, str)):
                found.append(f"{event} {arguments[:2]}")
        finally:
            self.found = found

    @staticmethod
    def within(path: Any, folder: Path) -> bool:
        known = isinstance(path, str | bytes | os.PathLike)
        return known and Path(os.path.abspath(os.fsdecode(path))).is_relative_to(folder)

    def may_write(self, path: Any) -> bool:
        """The run's own files, those of the new run, and what Python and torch keep of what they have compiled."""
        own = isinstance(path, str) and ("__pycache__" in path or path.startswith(("/dev/", "/proc/")))
        return own or isinstance(path, int) or self.within(path, self.run) or self.within(path, self.allowed)

    @contextmanager
    def over(self, run: Path) -> Iterator[list[str]]:
        self.run, self.allowed, self.found = run.resolve(), Path("outputs").resolve(), []
        found = self.found
        try:
            yield found
        finally:
            self.found = None


def writes(flags: Any) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


@pytest.fixture(scope="session")
def watch() -> Watch:
    hook = Watch()
    sys.addaudithook(hook)  # for good: Python has no way to take it off
    return hook


def test_the_watch_sees(watch, tmp_path):
    """Each kind, done on purpose."""
    import socket
    import subprocess

    run = tmp_path / "run"
    run.mkdir()
    (run / "code.py").write_text("pass")
    with watch.over(run) as found:
        subprocess.run([sys.executable, "-c", ""], check=True)
        with socket.socket() as one, suppress(OSError):
            one.connect(("127.0.0.1", 9))
        exec(compile("pass", str(run / "code.py"), "exec"))
        (tmp_path / "elsewhere").write_text("")
        (tmp_path / "elsewhere").unlink()
        (run / "own").write_text("")
    kinds = [line.split()[0] for line in found]
    for kind in ("subprocess.Popen", "socket.connect", "code", "written:", "os.remove"):
        assert kind in kinds
    assert not any("own" in line for line in found)


# --- what a stranger would try ----------------------------------------------------------------------------------------


@pytest.fixture
def strangers(short_run: plainloop.Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(short_run.path, tmp_path / "shared" / "run"))


def edited(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """The run's config, changed as a text editor would."""

    def plant(run: Path) -> None:
        for name in ("composed.yaml", "config.yaml"):
            cfg = OmegaConf.load(run / name)
            OmegaConf.set_struct(cfg, False)
            change(cfg)
            OmegaConf.save(cfg, run / name)

    return plant


def names(target: str, slot: str = "model") -> Callable[[Path], None]:
    """A `_target_`, with files of evil code wherever it could be looked for."""

    def change(cfg: Any) -> None:
        node = {"_target_": target}
        cfg.trust = [target]
        if slot in ("callbacks", "metrics", "logger"):
            cfg[slot] = {**(cfg[slot] or {}), "mine": node}
        elif slot.partition(".")[2]:
            values = {"loader.collate_fn": target, "transforms.train": [node]}
            OmegaConf.update(cfg, slot, values.get(slot, node), force_add=True)
        else:
            cfg[slot] = node if slot in ("model", "data") else {**(cfg[slot] or {}), **node}

    def plant(run: Path) -> None:
        for folder in (Path(), run, run.parent, run / "checkpoints"):
            (folder / "helper.py").write_text(EVIL)
            (folder / "test_helper.py").write_text(EVIL)
        edited(change)(run)

    return plant


def replaced(name: str, content: Callable[[Path], bytes]) -> Callable[[Path], None]:
    def plant(run: Path) -> None:
        path = Checkpoints(run / "checkpoints").all()[0] if name == "the newest" else run / name
        path.write_bytes(content(run))

    return plant


class Executes:
    def __reduce__(self):
        return os.system, ("touch executed",)


def in_torchs_format(run: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"model": Executes(), "position": {"step": 99}}, file)
    return sealed(file.getvalue())


def torch_saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return sealed(file.getvalue())


def in_state(change: Callable[[dict[str, Any]], object], name: str = "the newest") -> Callable[[Path], None]:
    """A checkpoint, changed, and sealed again."""

    def plant(run: Path) -> None:
        path = Checkpoints(run / "checkpoints").all()[0] if name == "the newest" else run / name
        state = torch.load(path, weights_only=True)
        change(state)
        path.write_bytes(torch_saved(state))

    return plant


def over_and_over() -> list:
    held: list = ["x"]
    for _ in range(40):
        held = [held, held]
    return held


def step_that_is_a_path(run: Path) -> None:
    """Where a file of the user's would be written, if a checkpoint could say its own name."""
    (run / "checkpoints/step-").mkdir()
    (run / "metrics.json").unlink()
    step = "/../../../../elsewhere"
    in_state(lambda state: state["carried"].update(step=step, over=step, stopped="x", batch=1, ended=-1))(run)


def deep(folder: Path) -> None:
    """Two hundred folders within each other. (More can't be deleted by Python itself.)"""
    here = os.getcwd()
    os.chdir(folder)
    for _ in range(200):
        os.mkdir("a")
        os.chdir("a")
    os.chdir(here)


def write_postscript(folder: Path) -> None:
    """Called as pictures, and none."""
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


def shape_bomb(run: Path) -> bytes:
    """A file of torch's that is small, and whose one tensor has a stride of nothing: 8 TB, if it were copied."""
    file = io.BytesIO()
    torch.save({"model": {"layers.0.weight": torch.zeros(1).expand(10**12)}, "position": {"step": 99}}, file)
    return sealed(file.getvalue())


def one_part_many_times(run: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("archive/data.pkl", bytes(1 << 24))
    return sealed(file.getvalue())


PLACES = ("model", "data", "loss", "optimizer", "scheduler", "task", "metrics", "callbacks", "logger", "trainer",
          "loader.collate_fn", "loader.sampler", "transforms.train")  # fmt: skip
# Each would start something when it is imported, or as a data set writes.
STARTED = ("venv.__main__.X", "unittest.__main__.X", "test.__main__.X", "idlelib.idle.X", "pip.__main__.X",
           "antigravity.X", "this.X", "torch.utils.bottleneck.__main__.X", "lib2to3.__main__.X",
           "helper._x.X")  # fmt: skip
ATTACKS: dict[str, Callable[[Path], None]] = {
    **{f"{slot}: beside the run": names("helper.Net", slot) for slot in PLACES},
    "model: in a folder of the working directory": names("shared.helper.Net"),
    "model: in the run": names("shared.run.helper.Net"),
    **{f"model: {name}": names(name) for name in STARTED},
    **{f"data: {name}": names(f"torchvision.datasets.{name}", "data") for name in ("MNIST", "SBDataset")},
    "data: downloaded": edited(lambda cfg: cfg.update({"data": {
        "_target_": "plainloop.data.torchvision_set", "name": "MNIST", "root": "elsewhere", "download": True}})),
    "model: a repository in the run": edited(lambda cfg: cfg.update({"trust": ["shared/run"], "model": {
        "_target_": "plainloop.models.hub_model", "repo": "shared/run", "entrypoint": "Net"}})),
    "model: a repository of the internet's": edited(lambda cfg: cfg.update({"trust": ["a/b:v1"], "model": {
        "_target_": "plainloop.models.hub_model", "repo": "a/b:v1", "entrypoint": "Net"}})),
    "model: weights of the internet's": edited(lambda cfg: cfg.update({"model": {
        "_target_": "plainloop.models.torchvision_model", "name": "resnet18", "weights": "DEFAULT",
        "num_classes": 10, "in_channels": 1}})),
    "finetune: weights of another": edited(lambda cfg: cfg.finetune.update({"weights": "/etc/passwd"})),
    "model: a repository whose name is a command": edited(lambda cfg: cfg.update({"model": {
        "_target_": "plainloop.models.hub_model", "repo": "a/b:v1]';touch executed;#", "entrypoint": "Net"}})),
    "data: pictures that are programs": lambda run: (write_postscript(run / "pics"), edited(lambda cfg: cfg.update({
        "data": {"_target_": "plainloop.data.images", "path": f"{run}/pics"}}))(run))[1],
    "data: downloaded by reference": edited(lambda cfg: cfg.update({"data": {
        "_target_": "plainloop.data.torchvision_set", "name": "MNIST", "root": "elsewhere",
        "download": "${trainer.max_epochs}"}})),
    "choices: lead elsewhere": edited(lambda cfg: cfg.choices.update({"data": f"{Path.cwd()}/elsewhere"})),
    "choices: no mapping": edited(lambda cfg: cfg.update({"choices": 3})),
    "name: no text": edited(lambda cfg: cfg.update({"name": "a\0b"})),
    "name: the environment, escaped twice": edited(lambda cfg: cfg.update({"name": "\\\\${oc.env:HOME}"})),
    "name: repeated": edited(lambda cfg: cfg.update({"name": '${times:"x",10000000000}'})),
    "monitor: itself": edited(lambda cfg: cfg.update({"monitor": "${monitor}"})),
    "paths: written elsewhere": edited(lambda cfg: cfg.paths.update({"outputs": "elsewhere"})),
    "name: leads elsewhere": edited(lambda cfg: cfg.update({"name": "../../elsewhere"})),
    "trainer: a trace that is written": edited(lambda cfg: cfg.trainer.update({"profile": True})),
    "the newest checkpoint: a pickle": replaced("the newest", lambda run: sealed(pickle.dumps(Executes()))),
    "the newest checkpoint: torch's": replaced("the newest", in_torchs_format),
    "best.pt: torch's": replaced("checkpoints/best.pt", in_torchs_format),
    "best.pt: of 4 TB": replaced("checkpoints/best.pt", shape_bomb),
    "best.pt: compressed": replaced("checkpoints/best.pt", one_part_many_times),
    "best.pt: counted bytes": replaced("checkpoints/best.pt", lambda run: torch_saved(bytearray(1 << 20))),
    "best.pt: compressed, and no zip to Python": replaced(
        "checkpoints/best.pt", lambda run: sealed(one_part_many_times(run)[:-60] + b"PK\5\6" + b"\x40" * 18)),
    "the newest checkpoint: another content": replaced("the newest", lambda run: torch_saved({"position": 3})),
    "the newest checkpoint: its step is a path": step_that_is_a_path,
    "the newest checkpoint: before the beginning": in_state(lambda state: state["position"].update(batch=-5)),
    "the newest checkpoint: words for numbers": in_state(lambda state: state["carried"].update(epoch_loss="x")),
    "the newest checkpoint: the best is a list": in_state(lambda state: state["best"].update(step=[1], better=3)),
    "the newest checkpoint: a run that is a word": in_state(lambda state: state.update(fingerprint="x")),
    "the newest checkpoint: of no run": in_state(lambda state: state.update(fingerprint={})),
    "the newest checkpoint: lists over and over": in_state(
        lambda state: state["fingerprint"]["kinds"].update(model=over_and_over())),
    "the newest checkpoint: groups over and over": in_state(
        lambda state: state["optimizer"]["param_groups"][0].update(more=over_and_over())),
    "the newest checkpoint: tensors shown large": in_state(
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(1).expand(600_000_000))),
    "the newest checkpoint: lengths without an end": in_state(
        lambda state: state["loggers"]["history"].update(length=float("inf"))),
    "the newest checkpoint: a length that is a word": in_state(
        lambda state: state["loggers"]["history"].update(length="x")),
    "the newest checkpoint: loggers that are words": in_state(lambda state: state.update(loggers={"history": 3})),
    "the newest checkpoint: very large, of holes": lambda run: os.truncate(
        Checkpoints(run / "checkpoints").all()[0], 1 << 41),
    "best.pt: very large, of holes": lambda run: os.truncate(run / "checkpoints/best.pt", 1 << 41),
    "logger: one that takes the place of ours": edited(lambda cfg: cfg.update({"logger": {
        "history": {"_target_": "plainloop.loggers.TensorBoard"}}})),
    "logger: one that takes the terminal's place": edited(lambda cfg: cfg.update({"logger": {
        "console": {"_target_": "plainloop.loggers.TensorBoard"}}})),
    "loader: batches of more than there is": edited(lambda cfg: cfg.loader.update({"batch_size": 10**30})),
    "splits.json: lists without an end": replaced(
        "splits.json", lambda run: b'{"train": [' + b"[]," * 2_000_000 + b"[]]}"),
    "metrics.json: very long": replaced("metrics.json", lambda run: b'{"a": [' + b"1," * 3_000_000 + b"1]}"),
    "config.yaml: very large, of holes": lambda run: os.truncate(run / "config.yaml", 1 << 41),
    "checkpoints: a name": lambda run: shutil.copy(run / "checkpoints/best.pt", run / "checkpoints/step-\u00b2.pt"),
    "tensorboard: very deep": lambda run: deep(run / "tensorboard"),
    "metrics.json: no numbers": replaced("metrics.json", lambda run: b'{"best/step": "x", "val/loss": 1e400}'),
    "overrides.yaml: a number": replaced("overrides.yaml", lambda run: b"3\n"),
    "composed.yaml: a number": replaced("composed.yaml", lambda run: b"3\n"),
    "metrics.json: a pickle": replaced("metrics.json", lambda run: pickle.dumps(Executes())),
    "metrics.json: names that lead elsewhere": replaced(
        "metrics.json", lambda run: json.dumps({"../../elsewhere": 1.0, "best/step": "1; touch executed"}).encode()),
    "history.jsonl: what is no record": replaced("history.jsonl", lambda run: b"[" * 100_000),
    "metrics.json: deep": replaced("metrics.json", lambda run: b"[" * 100_000),
    "splits.json: places that nobody has": replaced(
        "splits.json", lambda run: json.dumps({"train": [-1, 10**9], "val": ["x"], "test": None}).encode()),
    "overrides.yaml: calls": replaced(
        "overrides.yaml", lambda run: b"- !!python/object/apply:os.system ['touch executed']\n"),
    "environment.json: another shape": replaced("environment.json", lambda run: b'{"resumed": 3}'),
}  # fmt: skip


@pytest.fixture
def far_from_all(monkeypatch) -> Iterator[None]:
    """Nothing that an attack imports stays, and the working directory is where modules are looked for."""
    monkeypatch.syspath_prepend("")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("helper", "shared", "venv", "unittest", "idlelib", "pip", "antigravity", "this"):
            del sys.modules[name]


# Each in one or two of the six ways.
TRIED = [
    (attack, way) for row, attack in enumerate(ATTACKS) for place, way in enumerate(WAYS) if (row + place) % 5 == 0
]


@pytest.mark.parametrize(("attack", "way"), one_in(31, TRIED))
def test_nothing_of_a_strangers_is_executed(attack, way, strangers, watch, far_from_all):
    """It is refused in a line or two, or the run is used and the attack means nothing in it."""
    ATTACKS[attack](strangers)
    before = {name for name in sys.modules if name.split(".")[0] in ("helper", "shared", "venv", "idlelib", "pip")}
    said = ""
    with watch.over(strangers) as found:
        try:
            WAYS[way](strangers)
        except (UserError, MachineError) as error:
            said = str(error)
    assert found == [], "\n".join(found)
    assert len(said.splitlines()) <= 3
    assert len(said) < 1000
    names = [path.name for path, _ in everything_in(Path())]
    assert not [name for name in names if name == "executed" or name.startswith("elsewhere")]
    after = {name for name in sys.modules if name.split(".")[0] in ("helper", "shared", "venv", "idlelib", "pip")}
    assert after == before


@pytest.mark.parametrize("way", one_in(4, ["evaluate", "extend", "resume", "finetune"]))
def test_what_a_run_is_called_names_nothing(way, strangers, far_from_all):
    """The folder of the run is helper.Net, as an archive may have it, and helper.py lies beside."""
    ATTACKS["model: beside the run"](strangers)
    run = strangers.rename(Path("helper.Net"))
    # Finetuning takes its weights alone, and sees that they aren't those of such a model.
    said = r"made with model\._target_=.*MLP, and .*helper\.Net" if way == "finetune" else r"'trust=\[helper\.Net\]'"
    with pytest.raises(UserError, match=said):
        WAYS[way](run)
    assert not Path("executed").exists()


def test_what_is_advised_to_be_trusted_can_be_pasted(strangers):
    """Whatever a stranger calls a repository: one word for the shell, one for Hydra."""
    import shlex

    folder = strangers / "a b';touch executed;'"
    folder.mkdir()
    (folder / "hubconf.py").write_text(EVIL)
    name = f"shared/run/{folder.name}"
    edited(lambda cfg: cfg.update({"model": {
        "_target_": "plainloop.models.hub_model", "repo": name, "entrypoint": "Net"}}))(strangers)  # fmt: skip
    with pytest.raises(UserError, match="would be executed") as error:
        plainloop.evaluate(strangers)
    (word,) = shlex.split(str(error.value).rpartition("the command line: ")[2])
    assert compose([word]).trust == [name]


def test_a_file_beside_is_no_package(strangers, far_from_all):
    """Of a package that isn't installed: `import timm` would take it."""
    Path("zstandard.py").write_text(EVIL)
    (strangers / "t.csv.zst").write_bytes(b"nothing")
    edited(lambda cfg: cfg.update({"data": {
        "_target_": "plainloop.data.table", "path": f"{strangers}/t.csv.zst", "target": "y"}}))(strangers)  # fmt: skip
    with pytest.raises(UserError, match=r"unpacked by the package zstandard|it can't be unpacked"):
        plainloop.evaluate(strangers)
    assert not Path("executed").exists()


@pytest.mark.slow
def test_hard_links_in_what_tensorboard_and_the_profiler_write(tmp_path):
    """tar keeps them: the user's file stays as it was."""
    (tmp_path / "own").write_text("mine")
    run = plainloop.train(["trainer.max_epochs=1", "trainer.limit_batches=2", "trainer.profile=true"])
    for place in ("tensorboard/x.tfevents", "profile/operations.txt"):
        (run.path / place).unlink(missing_ok=True)
        os.link(tmp_path / "own", run.path / place)
    plainloop.train([f"resume={run.path}", "trainer.max_epochs=2"])
    assert (tmp_path / "own").read_text() == "mine"


@pytest.mark.parametrize("place", one_in(3, [name for name in ATTACKS if name.endswith("beside the run")]))
@pytest.mark.parametrize("way", one_in(2, ["evaluate", "resume"]))
def test_what_lies_beside_a_run_has_to_be_trusted(place, way, strangers, far_from_all):
    """It is refused by name, with the word that allows it."""
    if way == "evaluate" and place.partition(":")[0] in ("callbacks", "logger", "optimizer", "scheduler", "trainer"):
        return  # which an evaluation doesn't build
    ATTACKS[place](strangers)
    with pytest.raises(UserError, match=r"'trust=\[helper\.Net\]'|isn't|is not|can't change") as error:
        WAYS[way](strangers)
    assert "helper.Net" in str(error.value)


OWN = "from plainloop.models import MLP\n\n\nclass Net(MLP):\n    pass\n"


@pytest.mark.slow
def test_what_is_trusted_is_imported(far_from_all):
    """One's own model in the working directory, named anew when a run's own config has it."""
    Path("ownmodel.py").write_text(OWN)
    run = plainloop.train(["model._target_=ownmodel.Net", "trainer.max_steps=2", "logger=none"])
    trust, own = ["trust=[ownmodel.Net]"], {"val/loss": run.metrics["val/loss"]}
    for way, trusted in (
        (lambda *words: plainloop.evaluate(run.path, split="val", overrides=words), own),
        (lambda *words: plainloop.train([f"resume={run.path}", "trainer.max_steps=4", *words]).metrics, {"steps": 4}),
        (lambda *words: plainloop.train([f"extend={run.path}", "trainer.max_steps=1", *words]).metrics, {"steps": 1}),
    ):
        del sys.modules["ownmodel"]
        with pytest.raises(UserError, match=r"this is in .*\n.*'trust=\[ownmodel\.Net\]'"):
            way()
        assert "ownmodel" not in sys.modules
        assert way(*trust).items() >= trusted.items()
    del sys.modules["ownmodel"]


@pytest.mark.slow
def test_typed_ones_own_model_is_trusted_by_the_printed_commands(type_command, tmp_path):
    """The lines below `next` are typed as they stand."""
    import shlex

    (tmp_path / "ownmodel.py").write_text(OWN)
    done = type_command("train.py", "model._target_=ownmodel.Net", "trainer.max_epochs=1")
    assert done.status == 0, done.err
    shown = [line.strip().removeprefix("next").strip() for line in done.out.splitlines()]
    printed = [shlex.split(line) for line in shown if line.startswith("python ")]
    assert len(printed) == 2
    for _, script, *words in printed:
        again = type_command(Path(script).name, *words)
        assert again.status == 0, again.err
        assert "trust=[ownmodel.Net]" in words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "words"), [(".", ("evaluate.py", "split=val")), ("run", ("train.py", "trainer.max_epochs=4"))]
)
def test_typed_within_an_archive_nothing_of_it_is_executed(place, words, short_run, type_command, tmp_path):
    """Hydra looks for plugins along the path, torch for entry points, libraries for optional packages, and the loading
    processes for all that they import."""
    run = Path(shutil.copytree(short_run.path, tmp_path / "run"))
    evil = f"import pathlib\npathlib.Path({str(tmp_path / 'executed')!r}).touch()\ndef f(): pass\n"
    for folder in (tmp_path, run):
        for name in ("hydra_plugins", "e-1.dist-info"):
            (folder / name).mkdir()
        (folder / "hydra_plugins/e.py").write_text(evil)
        (folder / "e-1.dist-info/METADATA").write_text("Name: e\nVersion: 1\n")
        (folder / "e-1.dist-info/entry_points.txt").write_text("[torch.backends]\ne = payload:f\n")
        for name in ("payload", "multiprocessing", "signal", "attr", "tensorflow", "tabulate", "dill", "gmpy2", "evil"):
            (folder / f"{name}.py").write_text(evil)
    here = os.path.relpath(run, tmp_path / place)
    key = "run" if words[0] == "evaluate.py" else "resume"
    workers = () if key == "run" else ("loader.num_workers=1",)
    edited(lambda cfg: cfg.loader.update({"num_workers": 1}))(run)
    done = type_command(words[0], f"{key}={here}", *words[1:], *workers, folder=tmp_path / place, cold=True)
    assert done.status == 0, done.err
    assert not (tmp_path / "executed").exists()


def test_an_environment_variable_is_no_class(tmp_path, monkeypatch):
    """What stands in a file of data is text, however many backslashes stand before it."""
    monkeypatch.setenv("MY_SECRET", "hunter2")
    names = [rf"{slashes}${{oc.env:MY_SECRET}}" for slashes in ("", "\\", "\\\\")]
    rows = [f"{number},{names[number % 3]}" for number in range(60)]
    Path("table.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    run = plainloop.train(["data=table", "data.path=table.csv", "data.target=y", "trainer.max_epochs=1", "logger=none"])
    assert run.config.spec.class_names == sorted(names)
    written = [path for path, _ in everything_in(run.path) if path.is_file() and path.name != "environment.json"]
    assert not [path for path in written if b"hunter2" in path.read_bytes()]  # (which has the checkout's changes)
    assert plainloop.load_run(run.path).config.spec.class_names == sorted(names)


@pytest.mark.parametrize("name", ["???", "two\u0085lines"])
def test_a_name_that_a_config_cannot_hold_is_told_before_the_training(name):
    Path("table.csv").write_text("x,y\n" + "".join(f"{number},{['a', name][number % 2]}\n" for number in range(40)))
    with pytest.raises(UserError, match=r"can't stand in a run's config: give this class, column or word another name"):
        plainloop.train(["data=table", "data.path=table.csv", "data.target=y"])


def test_a_terminal_obeys_nothing_that_stands_in_a_file(capsys):
    """Neither what is printed nor what is logged: names of classes, of columns, of metrics."""
    rows = [f"{number},{number % 3},{['cat', chr(27) + '[31mdog' + chr(0x9B)][number % 2]}" for number in range(60)]
    Path("table.csv").write_text("\n".join(["a\x1b]0;title\x07,b,y", *rows]) + "\n")
    run = plainloop.train(["data=table", "data.path=table.csv", "data.target=y", "trainer.max_epochs=1", "logger=none"])
    plainloop.evaluate(run.path)
    said = "".join(capsys.readouterr()) + (run.path / "train.log").read_text()
    assert r"\x1b[31mdog\x9b" in said
    assert not [sign for sign in said if sign != "\n" and (ord(sign) < 32 or 127 <= ord(sign) < 160)]
