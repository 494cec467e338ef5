"""Fine-tuning: blocks, what is frozen and stays so bit for bit, and initial weights from runs and files."""

import copy
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import plainloop
from plainloop.errors import UserError
from plainloop.models import CNN, MLP, Autoencoder, CharTransformer, ResNet, RNNClassifier, TransformerClassifier, ViT
from plainloop.models.blocks import blocks_of
from plainloop.models.freezing import freeze, train_mode
from plainloop.models.weights import load_weights, read_weights
from plainloop.runs import checkpoint
from tests.conftest import one_in

SHORT = ["trainer.max_epochs=2", "trainer.limit_batches=4", "logger=none"]


# --- blocks -------------------------------------------------------------------------------------------------

MODELS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "mlp": (lambda: MLP(4, 3, [5, 6], norm="batch"), ["layers.1", "layers.4", "layers.7"]),
    "cnn": (lambda: CNN(1, 3, (8, 8), [4, 8]), ["features.0", "features.4", "head.3"]),
    "resnet": (lambda: ResNet(1, 3, (8, 8), depth=[1, 2]), ["stem.0", "blocks.0", "blocks.1", "blocks.2", "head.3"]),
    "vit": (lambda: ViT(1, 3, (8, 8), layers=2), ["patches", "transformer.blocks.0", "transformer.blocks.1", "head"]),
    "transformer": (lambda: TransformerClassifier(9, 2, layers=2), ["embedding", "transformer.blocks.0",
                                                                    "transformer.blocks.1", "head"]),
    "tied": (lambda: CharTransformer(9, 9, layers=2, tie_weights=True), [
        "embedding", "positions", "transformer.blocks.0", "transformer.blocks.1"]),
    "rnn": (lambda: RNNClassifier(9, 2), ["embedding", "recurrent", "head"]),
    "autoencoder": (lambda: Autoencoder((4,), [3, 2]), ["encoder.1", "encoder.3", "decoder.0", "decoder.2"]),
    "torchvision's resnet": (torchvision.models.resnet18, [
        "conv1", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)), "fc"]),
    "torchvision's vit": (torchvision.models.vit_b_16, [
        "conv_proj", *(f"encoder.layers.encoder_layer_{n}" for n in range(12)), "heads.head"]),
    "torchvision's densenet": (torchvision.models.densenet121, [
        "features.conv0",
        *(f"features.denseblock1.denselayer{n}" for n in range(1, 7)), "features.transition1.conv",
        *(f"features.denseblock2.denselayer{n}" for n in range(1, 13)), "features.transition2.conv",
        *(f"features.denseblock3.denselayer{n}" for n in range(1, 25)), "features.transition3.conv",
        *(f"features.denseblock4.denselayer{n}" for n in range(1, 17)), "classifier"]),
    "one layer": (lambda: nn.Linear(2, 1), [""]),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_what_a_reader_of_the_model_would_say(name):
    make, expected = MODELS[name]
    with torch.device("meta"):
        model = make()
    blocks = blocks_of(model)
    assert [block.name for block in blocks] == expected
    held = [parameter for block in blocks for parameter in block.parameters]
    assert sorted(held) == sorted(dict(model.named_parameters()))  # each once


def test_norms_go_with_what_comes_before_and_tokens_with_what_comes_after():
    parameters = {block.name: block.parameters for block in blocks_of(ViT(1, 3, (8, 8), layers=2))}
    assert parameters["patches"] == ["class_token", "positions", "patches.weight", "patches.bias"]
    assert parameters["transformer.blocks.1"][-2:] == ["transformer.norm.weight", "transformer.norm.bias"]


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_the_last_block_of_every_torchvision_model_is_its_head(name):
    """It has as many outputs as there are classes, and nothing else has."""
    meta = name not in ("maxvit_t",) and "regnet" not in name  # those compute with numbers while they are built
    plain = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta" if meta else "cpu"):
        model = torchvision.models.get_model(name, weights=None, num_classes=17, **plain)
    head = blocks_of(model)[-1]
    shapes = [tuple(model.get_parameter(parameter).shape) for parameter in head.parameters]
    assert {shape[0] for shape in shapes} == {17}
    assert len(shapes) in (1, 2)


# --- what is frozen -----------------------------------------------------------------------------------------


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ("all", {"layers.1.weight", "layers.1.bias", "layers.3.weight", "layers.3.bias"}),
        ("head", {"layers.3.weight", "layers.3.bias"}),
        ("last:1", {"layers.3.weight", "layers.3.bias"}),
        ("last:2", {"layers.1.weight", "layers.1.bias", "layers.3.weight", "layers.3.bias"}),
        (r"bias$", {"layers.1.bias", "layers.3.bias"}),
        (r"^layers\.1", {"layers.1.weight", "layers.1.bias"}),
    ],
)
def test_what_is_trained(trainable, expected):
    model = MLP(4, 3, [5])
    freeze(model, trainable)
    assert trained(model) == expected


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        ("heads", "no parameter's name has it.*layers.1.weight"),
        ("last:3", "has 2 blocks, layers.1, layers.3"),
        ("last:0", "has 2 blocks"),
        ("(", "regular expression"),
    ],
)
def test_what_names_nothing_is_answered(trainable, message):
    with pytest.raises(UserError, match=message):
        freeze(MLP(4, 3, [5]), trainable)


def test_frozen_norms_stay_in_eval_mode():
    """Those whose own parameters are frozen, and those without parameters in a part that is frozen."""
    model = nn.Sequential(
        OrderedDict(
            body=nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False), nn.Dropout()),
            end=nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False)),
        )
    )
    freeze(model, "^end")
    train_mode(model)
    assert [module.training for module in model.body] == [True, False, False, True]
    assert all(module.training for module in model.end)
    assert model.training


@pytest.mark.slow
def test_frozen_parts_are_unchanged_bit_for_bit(tmp_path):
    """Weights and BatchNorm's buffers; what is trained changes, and alone reaches the optimizer."""
    run = plainloop.train(["model=cnn", *SHORT, "trainer.max_epochs=1"])
    before = copy.deepcopy(run.model.state_dict())
    words = ["model=cnn", *SHORT, f"finetune.weights={run.path}", "finetune.trainable=last:2"]
    tuned = plainloop.train([*words, "optimizer.weight_decay=0.1", f"hydra.run.dir={tmp_path}/tuned"])
    after = tuned.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = [name for name, module in tuned.model.named_modules() if list(module.parameters(recurse=False))]
    assert {name.rpartition(".")[0] for name in changed} == set(layers[-3:])  # a convolution, its norm, the head
    assert f"{layers[-2]}.running_mean" in changed
    state = checkpoint.load(tuned.path / "checkpoints/best.pt")
    count = sum(len(group["params"]) for group in state["optimizer"]["param_groups"])
    assert count == len(trained(tuned.model)) == 5
    log = (tuned.path / "train.log").read_text()
    assert "frozen: features.0, features.1, features.4, features.5" in log
    assert f"20 of 20 tensors from {run.path}" in log
    assert plainloop.evaluate(tuned.path)["test/loss"] == tuned.metrics["test/loss"]


@pytest.mark.slow
def test_a_fine_tuned_run_is_resumed_without_its_first_weights():
    """They may be gone; the bits are those of the uninterrupted run."""
    first = plainloop.train(["model=cnn", *SHORT, "seed=7"])
    words = ["model=cnn", *SHORT, f"finetune.weights={first.path}", "finetune.trainable=head"]
    whole = plainloop.train([*words, "trainer.max_epochs=3"])
    part = plainloop.train(words)
    shutil.rmtree(first.path)
    again = plainloop.train([f"resume={part.path}", "trainer.max_epochs=3"])
    for (name, one), other in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert plainloop.evaluate(part.path)["test/loss"] == again.metrics["test/loss"]


@pytest.mark.slow
def test_fine_tuning_is_the_same_by_hand():
    """Three steps of SGD on the head alone, over features that a plain loop computes in eval mode."""
    first = plainloop.train(["model=cnn", *SHORT])
    run = plainloop.train(
        [
            "model=cnn",
            f"finetune.weights={first.path}",
            "finetune.trainable=head",
            "optimizer=sgd",
            "optimizer.lr=0.1",
            "trainer.max_steps=3",
            "loader.shuffle=false",
            "trainer.validate_every=0",
            "logger=none",
        ]
    )
    model = copy.deepcopy(first.model).eval()
    head = model.head[3]
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    inputs, targets = first.data.train.__getitems__(torch.arange(96))
    for step in range(3):
        batch = slice(32 * step, 32 * step + 32)
        optimizer.zero_grad()
        with torch.no_grad():
            features = model.features(first.preprocess(inputs[batch])).mean((2, 3))
        nn.functional.cross_entropy(head(features), targets[batch]).backward()
        optimizer.step()
    torch.testing.assert_close(run.model.head[3].weight, head.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(run.model.head[3].bias, head.bias, rtol=1e-4, atol=1e-6)


# --- initial weights ----------------------------------------------------------------------------------------


def saved_by(kind: str, weights: dict[str, Tensor], folder: Path) -> Path:
    path = folder / f"weights.{'safetensors' if kind == 'safetensors' else 'pt'}"
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file(weights, path)
    elif kind == "state_dict":
        torch.save(weights, path)
    elif kind == "DistributedDataParallel's":
        torch.save({f"module.{name}": value for name, value in weights.items()}, path)
    elif kind == "a compiled model's":
        torch.save({"epoch": 3, "model": {f"_orig_mod.{name}": value for name, value in weights.items()}}, path)
    elif kind == "Lightning's":
        torch.save({"state_dict": {f"model.{name}": value for name, value in weights.items()}}, path)
    return path


@pytest.mark.parametrize(
    "kind", ["state_dict", "safetensors", "DistributedDataParallel's", "a compiled model's", "Lightning's"]
)
def test_weights_from_files_of_others(kind, tmp_path):
    torch.manual_seed(3)
    weights = {name: value.clone() for name, value in MLP(64, 10).state_dict().items()}
    path = saved_by(kind, weights, tmp_path)
    run = plainloop.train([f"finetune.weights={path}", "optimizer=sgd", "optimizer.lr=0", *SHORT])
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.fixture
def run_of_mlp(tmp_path: Path) -> Any:
    return plainloop.train(["model=mlp", *SHORT, f"paths.outputs={tmp_path}/outputs", "trainer.ema_decay=0.5"])


@pytest.mark.parametrize("how", one_in(2, ["directory", "latest", "folder of runs", "best.pt"]))
def test_weights_of_a_run_are_its_best_ones(how, run_of_mlp, tmp_path):
    """As evaluate takes them, averaged where it averages; and the config says which run it was."""
    place = {
        "directory": run_of_mlp.path,
        "latest": "latest",
        "folder of runs": run_of_mlp.path.parent,
        "best.pt": run_of_mlp.path / "checkpoints/best.pt",
    }[how]
    run = plainloop.train(
        [f"finetune.weights={place}", "optimizer=sgd", "optimizer.lr=0", *SHORT, f"paths.outputs={tmp_path}/outputs"]
    )
    for one, other in zip(run.model.parameters(), run_of_mlp.model.parameters(), strict=True):
        assert torch.equal(one, other)
    source = place if how == "best.pt" else run_of_mlp.path
    assert Path(run.config.finetune.weights).resolve() == source.resolve()


@pytest.mark.slow
def test_what_a_run_does_to_its_inputs_goes_with_its_weights(run_of_mlp, capsys):
    """Its mean and deviation, though the new data has others; where they can't, there is a warning."""
    words = [f"finetune.weights={run_of_mlp.path}", *SHORT]
    other = plainloop.train([*words, "data.only=[3,4]", "finetune.partial=true"])
    for name, value in run_of_mlp.preprocess.state_dict().items():
        assert torch.equal(other.preprocess.state_dict()[name], value), name
    assert "warning" not in capsys.readouterr().out
    plainloop.train([*words, "transforms.normalize=none"])
    assert "inputs are normalised in another way" in capsys.readouterr().out


@pytest.mark.slow
def test_another_size_of_images_does_not_change_how_they_are_normalised(tmp_path, capsys):
    words = ["model=resnet", "model.width=4", "transforms.normalize=train", "trainer.max_steps=1", "logger=none"]
    first = plainloop.train(words)
    for resize in ("16", "none"):
        run = plainloop.train([*words, "seed=1", f"transforms.resize={resize}", f"finetune.weights={first.path}"])
        both = [each.preprocess.state_dict().values() for each in (run, first)]
        assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))
        first = run
    assert "normalised in another way" not in capsys.readouterr().out


def test_weights_that_do_not_fit_are_named(run_of_mlp, capsys):
    words = [f"finetune.weights={run_of_mlp.path}", *SHORT, "data.only=[3,4,5]"]
    with pytest.raises(UserError) as caught:
        plainloop.train(words)
    message = str(caught.value)
    assert "4 of the model's 6 tensors fit" in message
    assert "layers.5.weight (10, 64), here (3, 64)" in message
    assert "finetune.partial=true" in message
    assert len(message.splitlines()) == 2
    run = plainloop.train([*words, "finetune.partial=true", "optimizer=sgd", "optimizer.lr=0"])
    log = capsys.readouterr().out
    assert "weights 4 of 6 tensors" in log
    assert "not loaded: 2 of other shapes: layers.5.weight" in log
    assert torch.equal(run.model.layers[1].weight, run_of_mlp.model.layers[1].weight)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda path: None, "there is no such run or file"),
        (lambda path: path.write_bytes(b"not weights"), "can't be read as weights"),
        (lambda path: path.write_bytes(b"root:x:0:0:root:/root:/bin/bash"), "can't be read as weights"),
        (lambda path: path.write_bytes(b"}q\x00."), "can't be read as weights"),
        (lambda path: torch.save([1, 2], path), "holds no tensors by name"),
        (lambda path: torch.save({"model": nn.Linear(1, 1)}, path), "can't be read as weights"),  # code
        (lambda path: torch.save({"a": torch.ones(1)}, path), "nothing in it fits this model"),
    ],
)
def test_files_that_are_no_weights_are_answered(given, message, tmp_path):
    given(tmp_path / "weights.pt")
    with pytest.raises(UserError, match=message):
        plainloop.train(["finetune.weights=weights.pt"])
    assert not (tmp_path / "outputs").exists()


def test_partial_alone_says_nothing():
    with pytest.raises(UserError, match=r"finetune\.partial=true says how"):
        plainloop.train(["finetune.partial=true"])


def test_a_file_of_safetensors_that_is_none(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"not a whole \.safetensors file"):
        read_weights(tmp_path / "weights.safetensors", "finetune.weights=FILE")


def test_prefixes_are_taken_off_only_where_they_are_wrappers():
    """A model whose own names begin with `model.` keeps them."""
    inner = nn.Sequential(OrderedDict(model=nn.Linear(2, 1)))
    weights = {"model.weight": torch.full((1, 2), 5.0), "model.bias": torch.zeros(1)}
    load_weights(inner, weights, "here")
    assert torch.equal(inner.model.weight, weights["model.weight"])
    load_weights(inner, {f"module.{name}": value + 1 for name, value in weights.items()}, "here")
    assert inner.model.bias.tolist() == [1.0]
