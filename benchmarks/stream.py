"""How much memory it takes to train on a stream of JSON lines that is larger than memory.

Files of JSON lines (64 numbers, a class, and 2,000 letters that aren't used) are written to a temporary folder, and
`train.py data=stream` trains an epoch on them, with its validation and test. Meanwhile the memory of that process and
of all that it has started is looked at ten times a second: what they hold for themselves and what they share, without
the pages of libraries' files. The program's own memory is what the same command takes on a few hundred records. Needs
Linux's /proc.

    python benchmarks/stream.py [--megabytes 2000 ...] [--workers 0] [--buffer 10000] [--folder .] [--json FILE]
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = 300e6
FILES = 8


def write_shards(folder: Path, size: float) -> str:
    """Files of about `size` bytes together; the pattern that finds them."""
    numbers = random.Random(0)
    folder.mkdir()
    records = [record(numbers) for _ in range(1000)]
    blocks = round(size / FILES / sum(map(len, records)))
    for number in range(FILES):
        with (folder / f"{number}.jsonl").open("wb") as file:
            for _ in range(blocks):
                numbers.shuffle(records)
                file.writelines(records)
            file.writelines(records[:50])
    return f"{folder}/*.jsonl"


def record(numbers: random.Random) -> bytes:
    kind = numbers.randrange(10)
    inputs = [round(numbers.gauss(kind * (place % 10 == kind), 1), 4) for place in range(64)]
    text = "".join(numbers.choices("abcdefghijklmnopqrstuvwxyz ", k=2000))
    return json.dumps({"inputs": inputs, "target": f"class {kind}", "text": text}).encode() + b"\n"


def memory_of(process: int) -> int:
    """Bytes of a process and of all that it has started: pages that several hold are counted once."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return own + sum(memory_of(int(child)) for child in children)


def peak_of_training(path: str, folder: Path, workers: int, buffer: int) -> tuple[int, float]:
    """The most memory that a training takes, and its seconds."""
    words = [
        "data=stream",
        f"data.path={path}",
        f"data.buffer={buffer}",
        f"loader.num_workers={workers}",
        "loader.batch_size=64",
        "trainer.max_epochs=1",
        "logger=none",
        "console.progress=false",
    ]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words], cwd=folder, stdout=said, stderr=subprocess.STDOUT
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.1)
        if process.returncode:
            said.seek(0)
            sys.exit(said.read().decode())
    return peak, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[2000], help="sizes of streams to train on")
    parser.add_argument("--workers", type=int, default=0, help="loading processes")
    parser.add_argument("--buffer", type=int, default=10_000, help="records that are shuffled at a time")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("this benchmark reads Linux's /proc, and there is none")
    peaks: dict[str, int] = {}
    print(f"{arguments.workers} loading processes, a buffer of {arguments.buffer:,} records\n")
    for megabytes in (0, *arguments.megabytes):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name).resolve()
            path = write_shards(folder / "shards", megabytes * 1e6)
            peak, seconds = peak_of_training(path, folder, arguments.workers, arguments.buffer)
        peaks[str(megabytes)] = peak
        above = peak - peaks["0"]
        what = f"{megabytes:,} MB" if megabytes else "the program's own"
        verdict = (
            f"; {above / 1e6:+.0f} MB, target at most {TARGET / 1e6:.0f}: {'met' if above <= TARGET else 'NOT MET'}"
        )
        print(f"  {what:20}{peak / 1e6:8.0f} MB in {seconds:4.0f} s{verdict if megabytes else ''}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(peaks, indent=2) + "\n")


if __name__ == "__main__":
    main()
