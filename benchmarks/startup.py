"""How long a command takes before, and beside, the training.

Each command is a fresh process in an empty folder; they take turns, and the first round, which warms the disk's cache,
isn't counted. The measure of a run of one step is a bare script that imports torch and makes one step of a fused
optimizer; what the run imports beyond that script is listed at the end. Beside the time on the clock stands that of
the processor, over all threads, which is steadier on a machine that has other work.

    python benchmarks/startup.py [--rounds 7] [--only "train.py --help" ...] [--json FILE]
"""

import argparse
import collections
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TRAIN = str(Path(__file__).resolve().parents[1] / "train.py")
BARE = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
optimizer = torch.optim.Adam(model.parameters(), fused=True)
inputs, targets = torch.rand(64, 64), torch.randint(10, (64,))
optimizer.zero_grad()
loss = torch.nn.functional.cross_entropy(model(inputs), targets)
loss.backward()
optimizer.step()
"""
MEASURE = "bare: import, one step"
ONE_STEP = [TRAIN, "trainer.max_steps=1"]
COMMANDS = {
    "import torch": ["-c", "import torch"],
    MEASURE: ["-c", BARE],
    "train.py --help": [TRAIN, "--help"],
    "train.py --cfg job": [TRAIN, "--cfg", "job"],
    "train.py, one step": ONE_STEP,
    "  logger=none": [*ONE_STEP, "logger=none"],
    "  logger=none test=false": [*ONE_STEP, "logger=none", "test=false"],
    "  debug=fast": [TRAIN, "debug=fast"],
}
# (what, beside what, at most so many seconds more)
TARGETS = [
    ("train.py --help", None, 0.7),
    ("train.py --cfg job", None, 0.7),
    ("train.py, one step", MEASURE, 0.8),
]


def processor_seconds() -> float:
    """What all processes that were started from here, and have ended, have taken of the processor."""
    used = os.times()
    return used.children_user + used.children_system


def run(arguments: list[str]) -> tuple[float, float, str]:
    """Seconds that `python ARGUMENTS` takes in an empty folder, on the clock and of the processor, and what it says on
    stderr."""
    with tempfile.TemporaryDirectory() as folder:
        before, started = processor_seconds(), time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return seconds, processor_seconds() - before, done.stderr


def take_turns(commands: dict[str, list[str]], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of every command in every round, on the clock and of the processor."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    processor: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name in commands if number % 2 else reversed(commands):
            taken, used, _ = run(commands[name])
            if number > 0:
                seconds[name].append(taken)
                processor[name].append(used)
    return seconds, processor


def report(title: str, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Print seconds, and how much more than the bare script each command takes."""
    bare = seconds[MEASURE]
    print(f"\n  {title:28}{'minimum':>10}{'median':>10}{'minimum - bare':>18}{'median - bare':>16}")
    result: dict[str, Any] = {}
    for name, values in seconds.items():
        least, middle = min(values), statistics.median(values)
        more, middle_more = least - min(bare), statistics.median(a - b for a, b in zip(values, bare, strict=True))
        result[name.strip()] = {"minimum": least, "median": middle, "more": more, "median more": middle_more}
        print(f"  {name:28}{least:10.3f}{middle:10.3f}{more:18.3f}{middle_more:16.3f}")
    return result


def judge(seconds: dict[str, list[float]]) -> None:
    """Compare with the targets."""
    for name, beside, most in (target for target in TARGETS if target[0] in seconds):
        value = min(seconds[name]) - (min(seconds[beside]) if beside else 0)
        what = f"{name} minus {beside.partition(':')[0]}" if beside else name
        print(f"  target: {what} at most {most} s: {value:.3f} s, {'met' if value <= most else 'missed'}")


def imported(arguments: list[str]) -> dict[str, int]:
    """Microseconds that each module takes to import by itself, without what it imports in turn."""
    *_, told = run(["-X", "importtime", *arguments])
    lines = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)$", told, re.MULTILINE)
    return {name: int(microseconds) for microseconds, name in lines}


def package_of(module: str) -> str:
    """`torch._dynamo.utils` is torch._dynamo, `hydra.core.utils` is hydra."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] in ("torch", "plainloop") else 1])


def print_imports(name: str, most: int) -> dict[str, float]:
    """What a command imports that the bare script doesn't, by package, the slowest first.

    A module is counted without the modules that it is the first to import; -X importtime slows all of them down.
    """
    bare, ours = imported(COMMANDS[MEASURE]), imported(COMMANDS[name])
    sums: collections.Counter[str] = collections.Counter()
    modules: collections.Counter[str] = collections.Counter()
    for module, microseconds in ours.items():
        if module not in bare:
            sums[package_of(module)] += microseconds
            modules[package_of(module)] += 1
    total, total_bare = sum(ours.values()) / 1e3, sum(bare.values()) / 1e3
    print(f"\n  imports of {name}: {len(ours)} modules, {total:.0f} ms (bare: {len(bare)}, {total_bare:.0f} ms)")
    print(f"  beyond those of the bare script: {sum(modules.values())} modules, {sum(sums.values()) / 1e3:.0f} ms")
    print(f"  {'package':28}{'modules':>10}{'ms':>10}")
    for package, microseconds in sums.most_common(most):
        print(f"  {package:28}{modules[package]:10}{microseconds / 1e3:10.1f}")
    return {package: microseconds / 1e3 for package, microseconds in sums.most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each command")
    parser.add_argument("--only", nargs="+", choices=[name.strip() for name in COMMANDS], help="which commands")
    parser.add_argument("--top", type=int, default=15, help="packages in the list of imports")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    print(f"Python {sys.version.partition(' ')[0]}, {arguments.rounds} runs of each command, in turns")
    only = {MEASURE, *(arguments.only or map(str.strip, COMMANDS))}
    chosen = {name: words for name, words in COMMANDS.items() if name.strip() in only}
    seconds, processor = take_turns(chosen, arguments.rounds)
    result = {"seconds": report("seconds", seconds), "processor": report("seconds of the processor", processor)}
    judge(seconds)
    result["imports, ms"] = {
        name: print_imports(name, arguments.top) for name in ("train.py --help", "train.py, one step") if name in chosen
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
