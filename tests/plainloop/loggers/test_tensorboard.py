"""A real TensorBoard server is started on a finished run and asked, as the browser would ask it."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset

import plainloop


@pytest.fixture(scope="module")
def ask(short_run) -> Iterator[Callable[[str], object]]:
    """ask("data/plugin/...") is the server's JSON (or bytes) for a run of three epochs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tensorboard.main",
            "--logdir",
            str(short_run.path.parent),
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
            "--load_fast=false",
            "--reload_interval=1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )

    def get(path: str, body: dict | None = None) -> object:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            content = answer.read()
        return json.loads(content) if "json" in answer.headers["Content-Type"] else content

    try:
        for _ in range(240):
            try:
                if len(get("data/runs")) == 4:
                    break
            except OSError:
                pass
            assert server.poll() is None, server.stderr.read().decode()
            time.sleep(0.25)
        yield get
    finally:
        server.terminate()
        server.wait()


def base(run) -> str:
    return f"{run.path.name}/tensorboard"


def scalars(ask, run, split: str, tag: str) -> list[tuple[int, float]]:
    where = f"{base(run)}/{split}" if split else base(run)
    return [(step, value) for _, step, value in ask(f"data/plugin/scalars/scalars?run={where}&tag={tag}")]


def test_train_val_and_test_share_their_tags(ask, short_run):
    tags = ask("data/plugin/scalars/tags")
    assert {"loss", "accuracy", "macro_f1", "lr", "grad_norm", "samples_per_second", "epoch_loss"} <= set(
        tags[f"{base(short_run)}/train"]
    )
    assert set(tags[f"{base(short_run)}/val"]) == {"loss", "accuracy", "macro_f1"}
    assert set(tags[f"{base(short_run)}/test"]) == {"loss", "accuracy", "macro_f1"}


def test_the_curves_are_the_history(ask, short_run):
    history = short_run.history()
    for split, tag, key in (
        ("train", "loss", "train/loss"),
        ("val", "accuracy", "val/accuracy"),
        ("train", "grad_norm", "grad_norm"),
    ):
        expected = [(record["step"], record[key]) for record in history if key in record]
        shown = scalars(ask, short_run, split, tag)
        assert len(expected) > 0
        assert [step for step, _ in shown] == [step for step, _ in expected]
        assert [value for _, value in shown] == pytest.approx([value for _, value in expected])
    assert scalars(ask, short_run, "test", "accuracy") == [
        (short_run.metrics["steps"], pytest.approx(short_run.metrics["test/accuracy"]))
    ]


def test_pictures_and_the_config_are_there(ask, short_run):
    images = ask("data/plugin/images/tags")[base(short_run)]
    assert set(images) == {"inputs", "confusion_matrix/test"}
    for tag in images:
        (entry,) = ask(f"data/plugin/images/images?run={base(short_run)}&tag={tag}&sample=0")
        picture = ask(f"data/plugin/images/individualImage?{entry['query']}")
        assert picture.startswith(b"\x89PNG")
    (text,) = ask(f"data/plugin/text/text?run={base(short_run)}&tag=config%2Ftext_summary")
    assert "max_epochs: 3" in text["text"]


def test_the_hparams_page_is_filled_in(ask, short_run):
    """What the page itself asks for: the experiment, then its session groups."""
    experiment = ask("data/plugin/hparams/experiment", {})
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"optimizer.lr", "loader.batch_size", "model", "seed"} <= names
    groups = ask(
        "data/plugin/hparams/session_groups",
        {
            "startIndex": 0,
            "sliceSize": 10,
            "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
            "colParams": [{"metric": info["name"]} for info in experiment["metricInfos"]],
        },
    )
    (group,) = groups["sessionGroups"]
    assert group["hparams"]["model"] == "mlp"
    assert group["hparams"]["optimizer.lr"] == pytest.approx(0.001)
    values = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
    for name in ("val/accuracy", "test/accuracy", "test/loss"):
        assert values[name] == pytest.approx(short_run.metrics[name])


class Squares(IterableDataset):
    """A stream of small images."""

    classes = ("dark", "bright")

    def __iter__(self) -> Iterator[Any]:
        for number in range(24):
            yield torch.full((1, 8, 8), 10 * number, dtype=torch.uint8), number % 2


def test_the_inputs_of_a_stream_are_drawn_too():
    words = [
        "model=mlp",
        "data=custom",
        f"data._target_={__name__}.Squares",
        "trainer.max_epochs=1",
        "loader.batch_size=8",
        "console.progress=false",
    ]
    run = plainloop.train(words)
    with Image.open(run.path / "figures/inputs.png") as image:
        shades = set(numpy.asarray(image.convert("L")).flat)
    assert {round(255 * number / 23) for number in range(24)} <= shades  # from the darkest to the brightest
