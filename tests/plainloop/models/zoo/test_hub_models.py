"""torch.hub: local folders and what torch.hub keeps of GitHub; trusted on the command line alone, pinned, explained."""

import shutil
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.config.compose import compose
from plainloop.errors import UserError
from plainloop.models import hub_model
from plainloop.models.zoo.pretrained import over_channels
from tests.conftest import ROOT, Done, command

HUBCONF = """
from pathlib import Path

import torch
import torchvision
from torch import nn

from beside import Net

dependencies = ["torch", "torchvision"]
Path("executed").touch()


def net(width=4, num_classes=1000, in_channels=3):
    '''Takes the data's sizes itself.'''
    return Net(width, num_classes, in_channels)


def fixed(width=4):
    '''Made for colour and 1,000 classes.'''
    import lazily  # beside it, and imported when it is called

    return Net(width, 1000, 3)


def any_arguments(**arguments):
    return torchvision.models.squeezenet1_1(**arguments)


def not_a_model():
    return 3


def download():
    torch.hub.load_state_dict_from_url("http://127.0.0.1:9/weights.pth")


def broken(width):
    raise KeyError("width")


def _private():
    return nn.Linear(1, 1)
"""
BESIDE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, num_classes, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.fc = nn.Linear(width, num_classes)
    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))
"""
QUICK = ("data=digits", "trainer.max_steps=2", "logger=none")


@pytest.fixture(autouse=True)
def forget():
    """What the folders' own modules have left in Python."""
    yield
    for name in ("beside", "lazily"):
        sys.modules.pop(name, None)


@pytest.fixture
def folder() -> str:
    """A hub folder of the user's, in the working directory."""
    return write(Path("theirs"))


def write(place: Path, hubconf: str = HUBCONF) -> str:
    place.mkdir(parents=True)
    (place / "hubconf.py").write_text(hubconf)
    (place / "beside.py").write_text(BESIDE)
    (place / "lazily.py").write_text("")
    return str(place)


def words(repo: str, entrypoint: str = "net", trusted: bool = True) -> list[str]:
    chosen = ["model=hub", f"model.repo={repo}", f"model.entrypoint={entrypoint}", *QUICK]
    return [*chosen, f"trust=[{repo}]"] if trusted else chosen


def refused(*typed: str) -> str:
    with pytest.raises(UserError) as error:
        plainloop.train(typed)
    assert not Path("outputs").exists()
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


def test_an_entry_point_gets_the_datas_sizes_and_its_own_arguments(folder):
    session = assemble(compose([*words(folder), "model.width=5"]))
    assert session.model.conv.weight.shape == (5, 1, 3, 3)
    assert session.model.fc.weight.shape == (10, 5)
    assert not hasattr(session.model, "note")  # nothing was replaced
    assert str(Path(folder).resolve()) not in sys.path


def test_another_ones_first_and_last_layers_are_replaced(folder, capsys):
    """The convolution keeps what it has: a grey image gives what it gave in colour."""
    torch.manual_seed(0)
    run = plainloop.train([*words(folder, "fixed"), "optimizer=sgd", "optimizer.lr=0"])
    assert run.model.conv.weight.shape == (4, 1, 3, 3)
    assert run.model.fc.weight.shape == (10, 4)
    said = capsys.readouterr().out
    assert (
        "replaced: its last layer fc of 1000 outputs by one of 10; its first convolution conv of 3 channels by" in said
    )


def test_null_leaves_the_layers_as_they_are(folder):
    model = hub_model(folder, "fixed", None, None, trusted=[folder])
    assert (model.conv.in_channels, model.fc.out_features) == (3, 1000)
    assert hub_model(folder, "fixed", 1000, 3, trusted=[folder]).conv.in_channels == 3


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_weights_over_other_channels(channels):
    torch.manual_seed(0)
    weight, image = torch.randn(4, 3, 3, 3), torch.randn(2, 1, 8, 8)
    expected = nn.functional.conv2d(image.expand(-1, 3, -1, -1), weight)
    found = nn.functional.conv2d(image.expand(-1, channels, -1, -1), over_channels(weight, channels))
    torch.testing.assert_close(found, expected)


def test_any_arguments_are_passed_on_where_the_entry_point_takes_any(folder):
    session = assemble(compose([*words(folder, "any_arguments"), "model.dropout=0.25", "transforms.resize=17"]))
    assert type(session.model) is torchvision.models.SqueezeNet
    assert session.model(torch.randn(2, 1, 17, 17)).shape == (2, 10)  # its last layer is a convolution
    assert [layer.p for layer in session.model.modules() if isinstance(layer, nn.Dropout)] == [0.25]


@pytest.mark.slow
def test_a_run_is_evaluated_and_resumed_when_it_is_trusted_again(folder):
    """The run's own config, which a stranger may have written, can't say so."""
    run = plainloop.train(words(folder))
    Path("executed").unlink()
    fix = rf"say so on the command line: 'trust=\[{folder}\]'"
    with pytest.raises(UserError, match=fix):
        plainloop.evaluate(run.path)
    with pytest.raises(UserError, match=fix):
        plainloop.train([f"resume={run.path}", "trainer.max_steps=3"])
    assert not Path("executed").exists()
    values = plainloop.evaluate(run.path, overrides=[f"trust=[{folder}]"])
    assert values["test/loss"] == run.metrics["test/loss"]
    again = plainloop.train([f"resume={run.path}", "trainer.max_steps=3", f"trust=[{folder}]"])
    assert again.metrics["steps"] == 3


def test_nothing_is_executed_without_trust(folder):
    assert (
        f"its hubconf.py is code, and would be executed. If you know it, say so on the command line: 'trust=[{folder}]'"
        in (refused(*words(folder, trusted=False)))
    )
    assert "trust=[theirs]" in refused(*words(folder, trusted=False), "trust=[their,theirs/hubconf.py]")
    assert not Path("executed").exists()


@pytest.mark.parametrize("place", ["outputs/digits_mlp/stranger/code", "elsewhere/run/code"])
def test_nothing_in_a_run_directory_is_executed(place):
    folder = write(Path(place))
    (Path(place).parent / "composed.yaml").touch()
    with pytest.raises(UserError, match="lies in a run directory, and nothing in one is ever executed"):
        plainloop.train(words(folder))
    Path("link").symlink_to(place)
    with pytest.raises(UserError, match="lies in a run directory"):
        plainloop.train(words("link"))
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("pytorch/vision", "needs its version, a tag or a commit: model.repo=pytorch/vision:v1.0, say"),
        ("pytorch/vision:main", "main is a branch, which is other code tomorrow"),
        ("pytorch/vision:master", "master is a branch"),
        ("pytorch/vision:refs/heads/release", "is a branch"),
        ("no/such/folder", "there is no such folder, and a repository on GitHub is written OWNER/NAME:VERSION"),
        ("nowhere", "there is no such folder"),
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
def test_what_is_not_pinned_is_refused(repo, message, trusted):
    """Whether it is trusted or not."""
    assert message in refused(*words(f"'{repo}'", trusted=False), *([f"trust=['{repo}']"] if trusted else []))


def test_a_folder_without_a_hubconf():
    Path("empty").mkdir()
    assert "has no hubconf.py, the file that torch.hub loads models from" in refused(*words("empty"))


@pytest.mark.parametrize(
    ("entrypoint", "more", "message"),
    [
        ("nets", [], "theirs has no such entry point. Did you mean net? It has: net, fixed, any_arguments"),
        ("_private", [], "has no such entry point"),
        ("Net", ["model.widht=3"], "takes no such argument. Did you mean width? It accepts: width, num_classes"),
        (
            "net",
            ["model.widht=3"],
            "net takes no such argument. Did you mean width? It accepts: width, num_classes, in_",
        ),
        ("net", ["model.width=wide"], "model.width=wide: net takes a number here"),
        ("any_arguments", ["model.widht=3"], "failed with its arguments (widht=3): TypeError: "),
        ("not_a_model", [], "returned int, and model takes a torch.nn.Module"),
        ("broken", [], "model.width: broken needs it. Write model.width=VALUE"),
        (
            "broken",
            ["model.width=1"],
            "model.entrypoint=broken of theirs failed with its arguments (width=1): KeyError",
        ),
        ("download", [], "couldn't download what it needs: <urlopen error"),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(folder, entrypoint, more, message):
    assert message in refused(*words(folder, entrypoint), *more)


def test_what_must_be_named():
    assert "model.repo: hub_model needs it" in refused("model=hub", *QUICK)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "dependencies = ['torch', 'not_installed_a', 'not_installed_b']\ndef net(): pass",
            "it needs packages that aren't installed here: not_installed_a, not_installed_b",
        ),
        ("import not_installed_a", "its hubconf.py needs the package not_installed_a"),
        ("def net(:", "its hubconf.py can't be imported: SyntaxError"),
        ("raise SystemExit(3)", "its hubconf.py can't be imported: SystemExit"),
        ("1 / 0", "its hubconf.py can't be imported: ZeroDivisionError: division by zero (hubconf.py, line 1)"),
    ],
    ids=["dependencies", "import", "syntax", "exit", "failure"],
)
def test_a_hubconf_that_can_not_be_used(content, message):
    assert message in refused(*words(write(Path("theirs"), content)))


# --- GitHub ---------------------------------------------------------------------------------------------------------

REPO = "someone/nets:v1.2"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where torch.hub keeps repositories."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub"


def test_a_repository_that_torch_hub_keeps_is_not_fetched_again(kept, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download"))
    write(kept / "someone_nets_v1.2")
    run = plainloop.train([*words(f"'{REPO}'", trusted=False), f"trust=['{REPO}']"])
    assert type(run.model).__name__ == "Net"


def test_a_repository_is_downloaded_as_torch_hub_does_it(kept, monkeypatch, tmp_path):
    """From github.com's archive of that version; the folder is where torch.hub itself looks for it."""
    asked = []

    def download(url, file, **_):
        asked.append(url)
        write(tmp_path / "archive" / "nets-1.2")
        shutil.move(shutil.make_archive(str(tmp_path / "made"), "zip", tmp_path / "archive"), file)

    monkeypatch.setattr(torch.hub, "_validate_not_a_forked_repo", lambda *_: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    plainloop.train([*words(f"'{REPO}'", trusted=False), f"trust=['{REPO}']"])
    assert asked == ["https://github.com/someone/nets/zipball/v1.2"]
    assert (kept / "someone_nets_v1.2" / "hubconf.py").is_file()


def test_without_a_network_the_way_round_is_told(kept, monkeypatch):
    def fail(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    message = refused(*words(f"'{REPO}'", trusted=False), f"trust=['{REPO}']")
    assert (
        f"model.repo={REPO}: it couldn't be fetched from github.com: <urlopen error Name or service not known>"
        in message
    )
    assert "git clone --branch v1.2 https://github.com/someone/nets" in message
    assert "model.repo=FOLDER 'trust=[FOLDER]'" in message


# --- the recipe -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_recipe_runs_as_it_is_typed(tmp_path: Path):
    """From any folder, and evaluates again; without trust the fix is named and nothing is written."""
    done = command("train.py", "experiment=hub_resnet", folder=tmp_path)
    assert done.status == 2
    assert "'trust=[src/project/hub]'" in done.err
    assert not (tmp_path / "outputs").exists()
    done = command("train.py", "experiment=hub_resnet", "trust=[src/project/hub]", folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert done.metrics()["test/accuracy"] > 0.9
    again: Done = command("evaluate.py", "run=latest", "trust=[src/project/hub]", folder=tmp_path)
    assert "equal to the run's own numbers" in again.out


def test_the_shipped_folder_works_with_torch_hub_itself():
    """And gives a ResNet of torchvision's for small images: 64 channels at full size, halved three times."""
    model = torch.hub.load(str(ROOT / "src/project/hub"), "small_resnet", source="local", num_classes=7, in_channels=1)
    assert type(model) is torchvision.models.ResNet
    features = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool, model.layer1)(torch.randn(2, 1, 8, 8))
    assert features.shape == (2, 64, 8, 8)
    assert model.layer4(model.layer3(model.layer2(features))).shape == (2, 512, 1, 1)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 7)
