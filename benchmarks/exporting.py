"""Which models are exported, how long that takes, and how far their files are from PyTorch: no time of ours, but a
table of everything.

Each row is a run of one step, exported as export.py does it. The file is then run in onnxruntime and in OpenVINO, at
shapes that it wasn't traced with. What can't be exported is a row with the reason; a traceback ends the script.

    python benchmarks/exporting.py [--only resnet18 digits_mlp] [--json FILE]
"""

import argparse
import contextlib
import json
import math
import struct
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch

import plainloop
from plainloop.assembly.deployable import TRIED, difference
from plainloop.assembly.onnx_file import Exported
from plainloop.assembly.quiet import quietly
from plainloop.assembly.serving import of_session
from plainloop.commands.export import export_config
from plainloop.config.compose import compose
from plainloop.config.schema import ExportConfig
from plainloop.errors import MachineError, UserError

# Families of torchvision, by one small model each, with the side of the images.
FAMILIES = {
    "alexnet": 64,
    "vgg11": 32,
    "resnet18": 32,
    "squeezenet1_1": 32,
    "densenet121": 32,
    "googlenet": 64,
    "inception_v3": 80,
    "shufflenet_v2_x0_5": 32,
    "mobilenet_v3_small": 32,
    "mnasnet0_5": 32,
    "efficientnet_b0": 32,
    "regnet_x_400mf": 32,
    "convnext_tiny": 32,
    "vit_b_16": 32,
    "swin_t": 32,
}
TEXTS = "data=text data.path=texts.csv data.text=text data.target=kind"
SERIES = "data=series data.path=series.csv data.target=height data.window=6"
# Models and data of the repository.
OURS = {
    "digits_linear": "data=digits model=linear",
    "digits_mlp": "data=digits model=mlp",
    "digits_mlp_normed": "data=digits model=mlp model.norm=batch",
    "digits_cnn": "data=digits model=cnn",
    "digits_resnet": "data=digits model=resnet",
    "digits_vit": "data=digits model=vit",
    "digits_autoencoder": "data=digits task=reconstruction model=autoencoder",
    "fake_resized": "data=fake data.count=64 model=cnn transforms.resize=20",
    "penguins": "data=penguins",
    "penguins_gaussian": "data=penguins task=gaussian_regression",
    "penguins_tabular": "data=penguins data.categories=embed model=tabular",
    "breast_cancer": "data=breast_cancer",
    "breast_cancer_manual": "data=breast_cancer model=manual_linear",
    "points": "data=points",
    "one_string": "data=one_string",
    "one_string_bare": "data=one_string model=bare_rnn",
    "one_string_transformer": "data=one_string model=char_transformer",
    "mine": "data=mine model=mine task=mine",
    "texts_lstm": f"{TEXTS}",
    "texts_gru": f"{TEXTS} model.cell=gru model.layers=2",
    "texts_rnn": f"{TEXTS} model.cell=rnn model.bidirectional=false",
    "texts_transformer": f"{TEXTS} model=transformer",
    "series_gru": f"{SERIES}",
    "series_lstm": f"{SERIES} model.cell=lstm model.layers=2 model.bidirectional=true",
    "series_rnn": f"{SERIES} model.cell=rnn",
    "series_mlp": f"{SERIES} model=mlp model.in_features=6",
    "sounds_cnn": "data=audio data.path=sounds",
    "sounds_resnet": "data=audio data.path=sounds model=resnet",
}


def write_data(folder: Path) -> None:
    """A few texts, a series and sounds of two kinds."""
    texts = [f"{word} thing number {number},{word}" for number in range(40) for word in ("good", "bad")]
    (folder / "texts.csv").write_text("\n".join(["text,kind", *texts]))
    (folder / "series.csv").write_text("\n".join(["height", *(f"{math.sin(step / 5):.4f}" for step in range(200))]))
    for kind, pitch in (("low", 220), ("high", 660)):
        for number in range(12):
            (folder / "sounds" / kind).mkdir(parents=True, exist_ok=True)
            with wave.open(str(folder / "sounds" / kind / f"{number}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                samples = [int(8000 * math.sin(2 * math.pi * pitch * t / 8000 + number)) for t in range(2000)]
                file.writeframes(struct.pack(f"<{len(samples)}h", *samples))


def words_of(name: str) -> list[str]:
    if name in OURS:
        return OURS[name].split()
    side = FAMILIES[name]
    return ["data=fake", "data.count=16", f"data.size={side}", "model=torchvision", f"model.name={name}"]


def measured(name: str, folder: Path) -> dict[str, Any]:
    """A row of the table."""
    import openvino

    run = folder / name
    with quietly():
        trained = plainloop.train(
            [*words_of(name), "trainer.max_steps=1", "loader.batch_size=8", "test=false", "logger=none",
             "trainer.limit_batches=1", f"hydra.run.dir={run}"])  # fmt: skip
    start = time.perf_counter()
    typed = [f"run={run}"]
    try:
        with quietly():
            file = export_config(compose(typed, ExportConfig), typed)
    except (UserError, MachineError) as error:
        return {"refused": str(error).splitlines()[0]}
    seconds = time.perf_counter() - start
    trained.model.eval()
    served = of_session(trained.session)
    onnx, raw, generator = Exported(file, name), served.reader.raw(), torch.Generator().manual_seed(5)
    with quietly():
        vino = openvino.Core().compile_model(str(file), "CPU")
    pairs = [pair for key, (_, axes) in onnx.facts["takes"].items() for pair in zip(raw.axes[key], axes, strict=True)]
    fixed = {axis: size for axis, size in pairs if isinstance(axis, str) and isinstance(size, int)}
    apart, other = 0.0, 0.0
    for place, count in enumerate(TRIED):
        sizes = {axis: min(each[1 + place], each[0]) for axis, each in raw.sizes.items()}
        inputs = raw.draw({"batch": count, **sizes, **fixed}, generator)
        batch = served.prepare((raw(**inputs),))[0]
        with torch.inference_mode():
            truth = served.task.named(
                trained.model(**batch) if isinstance(batch, dict) else trained.model(batch), batch
            )
        said, too = onnx(inputs), vino({key: each.numpy() for key, each in inputs.items()})
        for key, value in truth.items():
            apart = max(apart, difference(torch.from_numpy(said[key]), value))
            other = max(other, difference(torch.from_numpy(too[key]), value))
    return {
        "seconds": seconds,
        "MB": file.stat().st_size / 1e6,
        "onnxruntime": apart,
        "OpenVINO": other,
        "fixed": " ".join(fixed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[*OURS, *FAMILIES])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    print(f"{'':<24}{'seconds':>8}{'MB':>9}{'onnxruntime':>13}{'OpenVINO':>10}  fixed")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_data(Path(folder))
        for name in given.only:
            row = rows[name] = measured(name, Path(folder))
            if "refused" in row:
                print(f"{name:<24}  {row['refused']}", flush=True)
                continue
            figures = f"{row['seconds']:>8.1f}{row['MB']:>9.3f}{row['onnxruntime']:>13.1e}{row['OpenVINO']:>10.1e}"
            print(f"{name:<24}{figures}  {row['fixed']}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
