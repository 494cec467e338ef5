"""What a prediction costs beside a bare loop with the same decoder, and how much memory many files take.

A folder of JPEGs is predicted by `Served.rows` (what predict.py runs), with its rows written to a CSV, and by a loop
that decodes the same files with the same function, stacks batches, calls the same model and keeps the classes. They
take turns. Then two processes predict a few files and many, and their memory is compared.

    python benchmarks/predicting.py [--files 1000] [--many 20000] [--rounds 5] [--json FILE]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy
import torch

import plainloop
from plainloop.assembly.serving import of_session
from plainloop.data.kinds.pictures import decode
from plainloop.reports.rows import RowFile

BATCH = 32


def write_pictures(folder: Path, count: int) -> list[str]:
    """So many JPEGs of 96 x 128; beyond a thousand they are links to the first."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    draw, files = numpy.random.default_rng(0), []
    for number in range(count):
        file = folder / f"{number:06d}.jpg"
        if number < 1000:
            Image.fromarray(draw.integers(0, 255, (96, 128, 3), dtype=numpy.uint8)).save(file, quality=90)
        else:
            os.link(folder / f"{number % 1000:06d}.jpg", file)
        files.append(str(file))
    return files


def trained(folder: Path) -> plainloop.Run:
    """A small run on pictures of two classes."""
    for name in ("a", "b"):
        write_pictures(folder / "pictures" / name, 20)
    words = ["data=images", f"data.path={folder / 'pictures'}", "trainer.max_epochs=1", "logger=none"]
    return plainloop.train(
        [*words, f"loader.batch_size={BATCH}", "loader.num_workers=0", f"hydra.run.dir={folder / 'run'}"]
    )


def bare(run: plainloop.Run, files: list[str]) -> list[int]:
    """The loop that one would write by hand."""
    channels, height, width = run.config.spec.reading["shape"]
    model, preprocess, found = run.model.eval(), run.preprocess, []
    with torch.inference_mode():
        for start in range(0, len(files), BATCH):
            images = torch.stack([decode(file, (height, width), channels) for file in files[start : start + BATCH]])
            found += model(preprocess(images)).softmax(1).argmax(1).tolist()
    return found


def ours(run: plainloop.Run, files: list[str], output: Path) -> list[str]:
    served, found = of_session(run.session), []
    with RowFile(output) as file:
        for row in served.rows(served.reader.open(files)):
            file.write(row)
            found.append(row["prediction"])
    return found


def memory(folder: Path, count: int) -> float:
    """MB that a process has taken at most which predicts so many files."""
    code = subprocess.run(
        [sys.executable, __file__, "--child", str(folder), "--files", str(count)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(code.stdout.split()[-1])


def child(folder: Path, count: int) -> None:
    """Predict a folder of files as the command does, and tell the memory."""
    from plainloop.commands.predict import predict_config
    from plainloop.config.compose import compose
    from plainloop.config.schema import PredictConfig

    torch.set_num_threads(1)
    words = [f"run={folder / 'run'}", f"input={folder / f'many-{count}'}", f"output={folder / 'out.csv'}"]
    predict_config(compose([*words, "loader.num_workers=0"], PredictConfig), [*words, "loader.num_workers=0"])
    print(most_memory())


def most_memory() -> float:
    """MB that this process has taken at most. (What getrusage tells begins with the process that started this one.)"""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.files)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = trained(folder)
        files = write_pictures(folder / f"many-{given.files}", given.files)
        seconds: dict[str, list[float]] = {"bare": [], "plainloop": []}
        for _ in range(given.rounds):
            start = time.perf_counter()
            classes = bare(run, files)
            middle = time.perf_counter()
            names = ours(run, files, folder / "out.csv")
            seconds["bare"].append(middle - start)
            seconds["plainloop"].append(time.perf_counter() - middle)
            assert names == [run.classes[number] for number in classes], "not the same answers"
        best = {name: min(values) for name, values in seconds.items()}
        middle_ratio = statistics.median(b / o for b, o in zip(*seconds.values(), strict=True))
        write_pictures(folder / f"many-{given.many}", given.many)
        few, many = memory(folder, given.files), memory(folder, given.many)
    figures = {
        "files": given.files,
        "bare files/s": given.files / best["bare"],
        "plainloop files/s": given.files / best["plainloop"],
        "rate by minima": best["bare"] / best["plainloop"],
        "rate by round": middle_ratio,
        f"MB for {given.files}": few,
        f"MB for {given.many}": many,
        "MB more": many - few,
    }
    for name, value in figures.items():
        print(f"{name:<20} {value:,.3f}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
