"""torch's profiler around the training."""

import contextlib
from collections.abc import Iterator

from plainloop.loggers import Console
from plainloop.runs.directory import RunDir
from plainloop.training.trainer import Trainer


@contextlib.contextmanager
def profiled(run: RunDir, trainer: Trainer, console: Console, wanted: bool) -> Iterator[None]:
    """trainer.profile: torch's profiler around the training, its trace and table in profile/."""
    if not wanted:
        yield
        return
    from torch.profiler import ProfilerActivity, profile

    cuda = trainer.device.type == "cuda"
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])], record_shapes=True
    ) as profiler:
        yield
    run.profile.mkdir(exist_ok=True)
    for name in ("trace.json", "operations.txt"):  # another name may lead to them
        (run.profile / name).unlink(missing_ok=True)
    profiler.export_chrome_trace(str(run.profile / "trace.json"))
    by = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=40)
    (run.profile / "operations.txt").write_text(table)
    console.say("\n".join(table.splitlines()[:14]))
    console.say(
        f"profile {run}/profile/operations.txt; open trace.json beside it in chrome://tracing or ui.perfetto.dev"
    )
