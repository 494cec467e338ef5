"""What comes from strangers runs no code: checkpoints, configs, arrays, archives."""

import hashlib
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy
import pytest
import torch
import torchvision
from omegaconf import OmegaConf

import plainloop
from plainloop.errors import MachineError, UserError
from tests.promises.faults.fragile import QUICK, Typed, assert_told, contents, newest, sealed, write_arrays

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def evil_files(file: Path) -> dict[str, bytes]:
    """A pickle with code in it, by itself and where torch puts it, with our digest and without."""
    import io

    state, zipped = {"model": Evil(file), "position": {"step": 99}}, io.BytesIO()
    torch.save(state, zipped)
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    kinds = {"pickle": pickle.dumps(state), "torch": zipped.getvalue(), "old torch": legacy.getvalue()}
    return {**kinds, **{f"{name}, sealed": sealed(data) for name, data in kinds.items()}}


EVIL = ["pickle", "torch", "old torch", "pickle, sealed", "torch, sealed", "old torch, sealed"]


@pytest.mark.parametrize("kind", EVIL)
def test_code_in_the_newest_checkpoint_is_not_run(kind, trained, copied, tmp_path):
    """It is passed over as a damaged one is, or refused."""
    executed = tmp_path / "executed"
    run = copied(*QUICK)
    path = newest(run)
    for way in (
        lambda: plainloop.train([f"resume={run}"]),
        lambda: plainloop.train([f"extend={run}"]),
        lambda: plainloop.evaluate(run, split="val", checkpoint="last"),
    ):
        path.write_bytes(evil_files(executed)[kind])
        before = contents(run / "checkpoints")
        try:
            way()
        except (MachineError, UserError) as error:
            assert_told(str(error), str(path))
            assert contents(run / "checkpoints") == before
        assert not executed.exists()
    pickle.loads(evil_files(executed)["pickle"])["model"].close()  # what is in it does work
    assert executed.exists()


@pytest.mark.parametrize("kind", EVIL)
def test_code_in_the_best_or_a_given_checkpoint_is_not_run(kind, copied, tmp_path):
    executed = tmp_path / "executed"
    run = copied(*QUICK)
    (tmp_path / "given.pt").write_bytes(evil_files(executed)[kind])
    shutil.copyfile(tmp_path / "given.pt", run / "checkpoints/best.pt")
    before = contents(run)
    for name, way in (
        ("best.pt", lambda: plainloop.evaluate(run, split="val")),
        ("best.pt", lambda: plainloop.load_run(run)),
        ("given.pt", lambda: plainloop.evaluate(run, split="val", checkpoint="given.pt")),
    ):
        with pytest.raises((MachineError, UserError)) as caught:
            way()
        assert_told(str(caught.value), name)
        assert not executed.exists()
    assert contents(run) == before


@pytest.mark.parametrize("kind", ["torch, sealed", "pickle, sealed"])
def test_typed_code_in_a_checkpoint_is_not_run(kind, copied, tmp_path):
    executed = tmp_path / "executed"
    run = copied(*QUICK)
    for file in (run / "checkpoints").iterdir():
        file.write_bytes(evil_files(executed)[kind])
    before = contents(run)
    for script, words in (("evaluate.py", ["run=run"]), ("train.py", ["resume=run"])):
        done = Typed(tmp_path, *words, script=script).ended()
        assert done.status in (1, 2), done.err
        assert_told(done.err, "error: ", "run/checkpoints")
    assert not executed.exists()
    assert contents(run) == before


SOURCES = [
    "os.system",
    "torch.hub.load",
    "torch.load",
    "torch.hub.load_state_dict_from_url",
    "pickle.load",
    "subprocess.Popen",
]


@pytest.mark.parametrize("target", SOURCES)
def test_what_loads_code_is_no_target(target, copied, tmp_path):
    """Neither typed nor in a stranger's run, which says that it is trusted."""
    run = copied(*QUICK)
    for file in (run / "composed.yaml", run / "config.yaml"):
        cfg = OmegaConf.load(file)
        cfg.model, cfg.trust = {"_target_": target}, [target]
        OmegaConf.save(cfg, file)
    before = contents(run)
    for way in (
        lambda: plainloop.train(["model=custom", f"model._target_={target}"]),
        lambda: plainloop.train([f"resume={run}"]),
        lambda: plainloop.train([f"extend={run}"]),
        lambda: plainloop.evaluate(run),
    ):
        with pytest.raises(UserError) as caught:
            way()
        assert_told(str(caught.value), f"model._target_={target}")
    assert contents(run) == before
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("file", ["config.yaml", "composed.yaml"])
def test_yaml_that_would_call_something_does_not(file, copied, tmp_path):
    """Whether it is read at all or not; where it is, it is refused."""
    executed = tmp_path / "executed"
    run = copied(*QUICK)
    text = (run / file).read_text()
    assert "seed: 0\n" in text
    (run / file).write_text(text.replace("seed: 0\n", f"seed: !!python/object/apply:os.system ['touch {executed}']\n"))
    for way in (lambda: plainloop.evaluate(run, split="val"), lambda: plainloop.train([f"resume={run}"])):
        if file == "composed.yaml":
            with pytest.raises(UserError) as caught:
                way()
            assert_told(str(caught.value), file)
        else:
            way()
        assert not executed.exists()


def crafted_archive(folder: Path) -> Path:
    """An archive with CIFAR-10's name whose members want to lie elsewhere."""
    import io

    folder.mkdir()
    archive = folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-py")
        link.type, link.linkname = tarfile.SYMTYPE, ".."
        tar.addfile(link)
        for name in ("../outside", "cifar-10-batches-py/outside", str(folder.parent / "outside"), "inside"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    return archive


@pytest.mark.parametrize("lies", ["there", "on the server"])
def test_an_archive_with_another_digest_is_not_opened(lies, tmp_path, monkeypatch):
    """Whether it lies in the folder already or is what the server gives: nothing is taken out of it."""
    made = crafted_archive(tmp_path / "made")
    url = made.as_uri() if lies == "on the server" else (tmp_path / "nowhere").as_uri()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", url)
    if lies == "there":
        shutil.copytree(made.parent, tmp_path / "data")
    with pytest.raises(UserError) as caught:
        plainloop.train(["data=cifar10", "paths.data=data"])
    assert_told(str(caught.value), "CIFAR10", "paths.data=FOLDER")
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in found} == {made.name}


def test_an_archive_never_writes_outside_its_folder(tmp_path, monkeypatch):
    """Even one whose digest is right."""
    made = crafted_archive(tmp_path / "data")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(made.read_bytes()).hexdigest())
    with pytest.raises(UserError):
        plainloop.train(["data=cifar10", "paths.data=data"])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_typed_an_archive_with_another_digest_is_not_opened(tmp_path):
    """There is no network: the proxy's port is closed."""
    made = crafted_archive(tmp_path / "data")
    nowhere = dict.fromkeys(
        ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )
    done = Typed(tmp_path, "data=cifar10", "paths.data=data", env=nowhere).ended()
    assert done.status == 2
    assert_told(done.err, "error: CIFAR10 is not in data and could not be downloaded", "paths.data=FOLDER")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [made]


@pytest.mark.parametrize("name", ["inputs", "targets", "classes"])
def test_code_in_arrays_is_not_run(name, tmp_path):
    executed = tmp_path / "executed"
    write_arrays()
    with numpy.load("mine.npz") as held:
        arrays = {**held, name: numpy.array([Evil(executed)] * len(held[name]), dtype=object)}
    numpy.savez("mine.npz", **arrays)
    with pytest.raises(UserError) as caught:
        plainloop.train(["data.path=mine.npz", "data.inputs=inputs", "data.targets=targets"])
    assert_told(str(caught.value), "mine.npz", "Python objects", "could run code")
    assert not executed.exists()
    assert not (tmp_path / "outputs").exists()
