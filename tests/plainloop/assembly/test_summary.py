"""The summary before the training: shapes, parameters, FLOPs by closed forms, memory as it then is."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.summary import layers, memory, metric, parameter_counts, watched
from plainloop.assembly.trainer import make_trainer
from plainloop.config import compose
from plainloop.models import CNN, MLP, RNNClassifier, TransformerClassifier
from tests.conftest import one_in


def summary_of(model: nn.Module, *inputs: Any, **named: Any) -> Any:
    samples = len([*inputs, *named.values()][0])
    with torch.no_grad(), watched(model.eval(), samples) as summary:
        model(*inputs, **named)
    return summary


def test_flops_of_linear_layers():
    """2 x inputs x outputs each."""
    summary = summary_of(MLP(6, 3, [5]), torch.randn(4, 6))
    assert summary.flops[""] == 2 * (6 * 5 + 5 * 3)
    assert summary.flops["layers.1"] == 2 * 6 * 5
    assert summary.shapes == {
        "": (3,),
        "layers": (3,),
        "layers.0": (6,),
        "layers.1": (5,),
        "layers.2": (5,),
        "layers.3": (3,),
    }


def test_flops_of_convolutions():
    """2 x outputs' pixels x output channels x input channels x kernel."""
    summary = summary_of(CNN(3, 10, (8, 8), [4]), torch.randn(2, 3, 8, 8))
    assert summary.flops["features.0"] == 2 * 64 * 4 * 3 * 9
    assert summary.shapes["features.0"] == (4, 8, 8)
    assert summary.flops[""] == 2 * 64 * 4 * 3 * 9 + 2 * 4 * 10


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_flops_of_recurrent_layers(cell, gates):
    """Each step: gates x hidden x (inputs + hidden), twice; in one direction here."""
    model = RNNClassifier(9, 2, embedding_size=6, hidden_size=5, cell=cell, bidirectional=False)
    summary = summary_of(model, tokens=torch.ones(2, 7, dtype=torch.long), lengths=torch.tensor([7, 7]))
    assert summary.flops[""] == 2 * 7 * gates * 5 * (6 + 5) + 2 * 5 * 2
    assert torch._C._get_mkldnn_enabled()  # as it was


def test_flops_of_attention():
    """Four projections of the width, the products of queries with keys and with values, and two layers of the MLP."""
    places, width = 5, 8
    model = TransformerClassifier(9, 2, width=width, layers=1, heads=2)
    summary = summary_of(model, tokens=torch.ones(2, places, dtype=torch.long), lengths=torch.tensor([5, 5]))
    block = 2 * places * width * (4 * width + 8 * width) + 2 * 2 * places * places * width
    assert summary.flops["transformer"] == block
    encoder = nn.TransformerEncoderLayer(width, 2, 4 * width, batch_first=True)
    assert summary_of(encoder, torch.randn(2, places, width)).flops[""] == block  # in eval mode, too
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize("causal", [True, False])
def test_flops_of_attention_in_one_piece_or_several(backend, causal):
    """Each version of torch, and each device, has attention in other pieces."""
    queries, keys, values = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    with watched(nn.Module(), 2) as summary, sdpa_kernel(backend):
        nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    assert summary.flops[""] == 2 * 3 * 7 * 5 * (8 + 8)


def test_the_table_has_a_row_for_each_module():
    model = MLP(6, 3, [5])
    model.layers[1].requires_grad_(False)
    assert layers(model, summary_of(model, torch.randn(2, 6))) == [
        ["layer", "class", "output", "parameters", "FLOPs"],
        ["layers", "Sequential", "3", "53, 18 trained", "90 "],
        ["  0", "Flatten", "6", "", ""],
        ["  1", "Linear", "5", "35 frozen", "60 "],
        ["  2", "ReLU", "5", "", ""],
        ["  3", "Linear", "3", "18", "30 "],
    ]


def test_the_table_of_a_large_model_shows_its_outermost_modules():
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.resnet18()
        summary = summary_of(model, torch.empty(1, 3, 224, 224))
    rows = layers(model, summary, most=12)
    assert [row[0] for row in rows[1:]] == [name for name, _ in model.named_children()]
    assert summary.flops[""] == pytest.approx(2 * 1.814e9, rel=0.01)  # 1.81 G multiplications, says the paper
    assert len(layers(model, summary)) == 1 + len(list(model.named_modules())) - 1


def test_a_model_without_modules_has_no_table():
    assert layers(nn.Linear(2, 1), summary_of(nn.Linear(2, 1), torch.randn(1, 2))) == []


OPTIMIZERS = ["sgd", "adam", "adamw", "adagrad", "adadelta", "adamax", "nadam", "radam", "rmsprop", "rprop", "muon"]


@pytest.mark.parametrize("optimizer", one_in(3, OPTIMIZERS))
def test_memory_is_what_the_training_then_holds(optimizer):
    words = ["model=mlp", "model.norm=batch", f"optimizer={optimizer}", "finetune.trainable=last:2", "logger=none"]
    session = assemble(compose.compose(words))
    trainer = make_trainer(session)
    told = memory(session.model, trainer.optimizer)
    trainer.train_step([next(iter(trainer.train_batches.epoch(0)))], False)

    def held(tensors: Any) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, torch.Tensor))

    assert told["weights"] == held(session.model.state_dict().values())
    assert told["gradients"] == held(parameter.grad for parameter in session.model.parameters())
    state = trainer.optimizer.state.values()
    assert told["the optimizer's state"] == held(value for kept in state for value in kept.values())


def test_what_is_not_known_is_not_said(capsys):
    plainloop.train(["model=mlp", "optimizer=lbfgs", "trainer.max_steps=1", "logger=none"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("memory"))
    assert "gradients" in line
    assert "optimizer" not in line


def test_frozen_parameters_count_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight  # tied
    model[0].bias.requires_grad_(False)
    assert parameter_counts(model) == (9 + 6, 9 + 3)


@pytest.mark.parametrize(("number", "text"), [(1_234_567, "1.23 M"), (999, "999 "), (1e12, "1 T"), (1500, "1.5 k")])
def test_numbers_are_short(number, text):
    assert metric(number) == text


def test_the_run_keeps_the_whole_table(short_run):
    lines = (short_run.path / "layers.txt").read_text().splitlines()
    assert len(lines) == len(list(short_run.model.named_modules()))
    assert any("Linear" in line and "8,320" in line and "16.4 k" in line for line in lines)


@pytest.mark.slow
def test_a_sweeps_trials_show_no_tables(type_command):
    done = type_command("train.py", "-m", "seed=0,1", "trainer.max_steps=1", "logger=none")
    assert done.status == 0, done.err
    assert "parameters" in done.out
    assert "Sequential" not in done.out


def test_a_summary_warns_of_nothing(recwarn: pytest.WarningsRecorder):
    """Watching an LSTM switches one of torch's libraries off, which must not be answered by a warning of its own."""
    with watched(nn.LSTM(3, 4, batch_first=True), 2) as summary:
        pass
    assert summary.flops[""] == 0
    assert [str(warning.message) for warning in recwarn] == []
