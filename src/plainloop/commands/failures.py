"""Failures of the machine in two lines: what happened, and how to go on."""

import contextlib
import re
from collections.abc import Callable, Iterator

from plainloop.commands import resume
from plainloop.errors import Interrupted, MachineError, UserError, first_line, label_outside, out_of_memory
from plainloop.places import typed
from plainloop.runs.checkpoint import DISK_FULL, Checkpoints
from plainloop.runs.directory import Busy, RunDir


@contextlib.contextmanager
def explained(run: RunDir | None, *trust: str) -> Iterator[None]:
    """Failures of the machine in two lines: what happened, and how to go on.

    Args:
        trust: the word `trust=[...]` that the run needs then.
    """

    def resumable(*words: str, go_on: str = "resume") -> str:
        if run is None or not Checkpoints(run.checkpoints).all():
            return ""
        how = "Continue from the last checkpoint" if go_on == "resume" else "Go on from its weights, as a new run,"
        return f"\n{how} with: {typed('train.py', run.word(go_on), *words, *trust)}"

    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"{error}{resumable()}", error.status - 128) from error
    except MemoryError as error:
        raise MachineError(f"out of memory: {_smaller_batch(run, resumable)}") from error
    except Busy:
        raise
    except MachineError as error:
        raise MachineError(f"{error}{resumable()}") from error
    except IndexError as error:
        if outside := label_outside(error):
            raise UserError(outside) from error
        raise
    except (RuntimeError, ValueError) as error:
        if out_of_memory(error) and not isinstance(error, UserError):
            raise MachineError(f"out of memory: {_smaller_batch(run, resumable)}") from error
        if re.search(r"Expected more than 1 value per channel when training", str(error)):
            raise UserError(
                "model: BatchNorm needs more than one value per channel in a training batch: raise loader.batch_size."
            ) from error
        lost = re.search(
            r"DataLoader worker \(pid\D* [\d, ]+\) (is killed by signal: [\w ]+|exited unexpectedly[^.]*)", str(error)
        )
        slow = re.search(r"DataLoader timed out after ([\d.]+) seconds", str(error))
        if slow:
            what = (
                f"no batch came from the loading processes within {float(slow[1]):g} s. Is a sample slow to read, or "
            )
            what += (
                "a file system gone? loader.timeout=SECONDS waits longer; loader.num_workers=0 shows where it hangs."
            )
        elif lost:
            what = f"a loading process was lost ({lost[1]}). Was it short of memory? Try a lower loader.num_workers."
        elif "DataLoader worker" in str(error):
            what = first_line(error)
        else:
            raise
        raise MachineError(f"{what}{resumable()}") from error
    except OSError as error:
        if error.errno is None:
            raise
        full = " Is the disk full, or a quota reached?" if error.errno in DISK_FULL else ""
        raise MachineError(f"{error}.{full}{resumable()}") from error


def _smaller_batch(run: RunDir | None, resumable: Callable[..., str]) -> str:
    """What to type after an out of memory: half the batch, twice the accumulation, which keeps the steps. (Of a batch
    that can't be halved a third, and so on.)"""
    if run is None:
        return "lower loader.batch_size."
    cfg = run.saved_config()
    size, windows = cfg.loader.batch_size, cfg.trainer.accumulate_steps
    if size == 1:
        return f"a batch has one sample already. A smaller model, smaller inputs, or more memory?{resumable()}"
    advice = "lower loader.batch_size and raise trainer.accumulate_steps by as much."
    parts = next(number for number in range(2, size + 1) if size % number == 0)
    words = [f"loader.batch_size={size // parts}", f"trainer.accumulate_steps={windows * parts}"]
    if resume.keeps_length(cfg, size // parts, windows * parts):
        return f"{advice}{resumable('resume_inexact=true', *words) or ' Try ' + ' '.join(words)}"
    return f"{advice}{resumable(*words, go_on='extend') or ' Try ' + ' '.join(words)}"
