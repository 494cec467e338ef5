"""How fast a run goes on."""

import time


class Rate:
    """Samples per second of training, with the time for validation and saving left out."""

    def __init__(self) -> None:
        self.seconds, self.samples = 0.0, 0
        self.since: tuple[float, int] | None = None

    def start(self, samples: int) -> None:
        self.since = (time.perf_counter(), samples)

    def pause(self, samples: int) -> None:
        if self.since is not None:
            self.seconds += time.perf_counter() - self.since[0]
            self.samples += samples - self.since[1]
            self.since = None

    def read(self, samples: int) -> float:
        """The rate since the last read."""
        running = self.since is not None
        self.pause(samples)
        rate = self.samples / self.seconds if self.seconds > 0 else 0.0
        self.seconds, self.samples = 0.0, 0
        if running:
            self.start(samples)
        return rate
