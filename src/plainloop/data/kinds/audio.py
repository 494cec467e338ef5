"""Sounds in files: each a waveform of one length, from which the device makes a log-mel spectrogram.

`files.py` finds the files; soundfile (an extra) reads them. To the model a spectrogram is a grey picture, of
mel bands by frames.
"""

import collections
import copy
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.build import factory
from plainloop.data.kinds.files import Files, find
from plainloop.data.kinds.new_files import Unread, files_in, labels_of
from plainloop.data.preprocess import Standardise, normalisation, statistics
from plainloop.data.raw import Raw, lengths
from plainloop.data.reading import New, Reader
from plainloop.errors import UserError
from plainloop.trust import optional

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au")
LONGEST = 10.0  # seconds, where nobody has said it
FLOOR = 1e-10  # energy under which everything is silence: a logarithm of 0 would be infinite


class Sounds(Files):
    """Waveforms (samples,) float32 from -1 to 1, and a class, numbers or labels each.

    A file's channels are averaged, another rate is resampled, what is longer is cut to its middle and what is
    shorter gets silence on both sides.

    Args:
        rate: samples per second.
        count: samples in each.
        mels, window, hop: as in `LogMel`.
        others: as in `Files`.
    """

    def __init__(self, rate: int, count: int, mels: int, window: float, hop: float, **others: Any):
        super().__init__(**others)
        self.rate, self.count = rate, count
        self.features = (rate, mels, window, hop)
        frames = LogMel(*self.features).frames(count)
        self.facts = {
            "sample_rate": rate,
            "in_channels": 1,
            "image_size": [mels, frames],
            "num_features": mels * frames,
        }

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        file, label = self.samples[index]
        return waveform(file, self.rate, self.count), label if self.classes is not None else self.targets[index]

    def make_preprocess(self, normalize: Any, batches: Iterable[Any]) -> "LogMel":
        """The spectrogram, normalised as `transforms.normalize` says: each band by its mean and deviation over the
        training split, or by given numbers."""
        features = LogMel(*self.features)
        features.fit(normalize, batches)
        return features


@factory("data", provides=("in_channels", "image_size", "sample_rate"))
def audio(
    path: str,
    split: str,
    seconds: float | None = None,
    sample_rate: int | None = None,
    mels: int = 64,
    window: float = 0.025,
    hop: float = 0.01,
    audio: str | None = None,
    target: str | Sequence[str] | None = None,
    labels_separator: str | None = None,
    task: str = "multiclass",
) -> Sounds | None:
    """Sounds of your own, and a class for each; or, from a table, numbers, or several labels.

    Args:
        path: a folder with a folder for each class in it (or with train/, val/ and test/, and in these a folder for
            each class), or a table with a column of paths, relative to it, one of labels and, if it likes, one that
            is called `split`.
        split: "train", "val" or "test"; the answer is None for one that the data doesn't have.
        seconds: length of what the model gets; None for one that 9 in 10 files don't exceed, and 10 at most.
        sample_rate: in Hz; None for the rate that most files have.
        mels, window, hop: bands of a spectrogram; seconds in one of its frames, and from one to the next.
        audio, target: the table's columns of paths and of labels; None for the usual names.
        labels_separator, task: as of `images`.
    """
    numbers = {"seconds": seconds, "sample_rate": sample_rate, "mels": mels, "window": window, "hop": hop}
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise UserError(f"data.{name}={value}: must be a number above 0.")
    _soundfile()
    found = find(path, SUFFIXES, "sound files", ("audio", audio), target, task, labels_separator)
    headers = found.look(header)
    if split not in found.files:
        return None
    rates = collections.Counter(rate for _, rate, _ in headers)
    rate = int(sample_rate or rates.most_common(1)[0][0])
    lengths = sorted(count / own_rate for count, own_rate, _ in headers)
    seconds = seconds or suitable_seconds(lengths)
    count = max(1, round(seconds * rate))
    frames = LogMel(rate, int(mels), window, hop).frames(count)
    spectrograms = f"spectrograms of {mels} bands x {frames} frames"
    note = found.note(_lengths(lengths, seconds), f"{_rates(headers, rate)}; {spectrograms}")
    return Sounds(rate, count, int(mels), window, hop, note=note, **found.samples(split))


def _soundfile() -> Any:
    try:
        soundfile = optional("soundfile")
    except (ImportError, OSError) as error:  # OSError: the C library isn't there
        raise UserError(
            "data=audio reads files with soundfile, which isn't installed: pip install soundfile "
            "(or pip install -e '.[audio]' in this folder)."
        ) from error
    return soundfile


def header(file: str) -> tuple[int, int, int]:
    """Samples, samples per second and channels of a sound file, without reading it."""
    info = _soundfile().info(file)
    if info.frames == 0:
        raise ValueError("no sound in it")
    return info.frames, info.samplerate, info.channels


def suitable_seconds(lengths: Sequence[float]) -> float:
    """A length for the model's sounds, from the files' in rising order: a tenth of a second or a few, that 9 in 10 of
    them don't exceed, and 10 s at most."""
    usual = lengths[math.ceil(0.9 * len(lengths)) - 1]
    return min(LONGEST, math.ceil(10 * usual - 1e-6) / 10)


def _lengths(lengths: Sequence[float], seconds: float) -> str:
    low, high = (f"{length:.3g}" for length in (lengths[0], lengths[-1]))
    files = f"files of {low} s" if low == high else f"files from {low} to {high} s"
    return files if lengths[0] == lengths[-1] == seconds else f"{files}, as {seconds:.3g} s (data.seconds=...)"


def _rates(headers: Sequence[tuple[int, int, int]], rate: int) -> str:
    others = sorted({own for _, own, _ in headers} - {rate})
    said = f"at {rate} Hz (data.sample_rate=...)"
    if others:
        count = sum(own != rate for _, own, _ in headers)
        said += f", to which {count} of {', '.join(map(str, others))} Hz are brought"
    several = sum(channels > 1 for *_, channels in headers)
    return said + (f"; {several} of several channels, averaged" if several else "")


def waveform(file: Any, rate: int, count: int) -> Tensor:
    """The middle of a sound file as (count,) float32 at this rate, its channels averaged."""
    with _soundfile().SoundFile(file) as opened:
        own = opened.samplerate
        wanted = math.ceil(count * own / rate) + 2 * (own != rate)
        opened.seek(max(0, (opened.frames - wanted) // 2))
        signal = torch.from_numpy(opened.read(wanted, dtype="float32", always_2d=True)).mean(1)
    if len(signal) == 0:
        raise ValueError("no sound in it")
    if not bool(signal.isfinite().all()):
        raise ValueError("it holds NaN or infinity")
    signal = resampled(signal, own, rate)
    before = (count - len(signal)) // 2  # negative where it is longer: padding by it cuts
    return nn.functional.pad(signal, (before, count - len(signal) - before))


def resampled(signal: Tensor, old: int, new: int) -> Tensor:
    """A signal (samples,) at another rate, (ceil(samples x new / old),): band-limited interpolation.

    Every new sample is a sum over the old ones around it, weighted by a sinc that lets pass what is below half the
    lower rate, under a Hann window of 16 zero crossings on each side (Smith 1984, "A flexible sampling-rate
    conversion method"). Raises ValueError for rates that have no common divisor to speak of.
    """
    if old == new:
        return signal
    weights, reach, step = _interpolation(old, new)
    padded = nn.functional.pad(signal, (reach, reach + step))
    phases = nn.functional.conv1d(padded[None, None], weights, stride=step)  # (1, up, about samples / step)
    return phases[0].T.flatten()[: -(-len(signal) * len(weights) // step)]


@functools.lru_cache(maxsize=16)
def _interpolation(old: int, new: int) -> tuple[Tensor, int, int]:
    """The weights (up, 1, taps) of `resampled`, how far they reach, and `step`: on so many old samples fall `up` new
    ones."""
    up, step = new // math.gcd(old, new), old // math.gcd(old, new)
    if up * step > 5_000_000:
        raise ValueError(f"{old} Hz can't be brought to {new} Hz: convert the file, or choose data.sample_rate={old}")
    zeros, pass_band = 16, 0.98 * min(1.0, new / old)
    reach = math.ceil(zeros / pass_band)
    time = torch.arange(up, dtype=torch.float64)[:, None] * step / up - torch.arange(-reach, reach + step)
    scaled = (time * pass_band).clamp(-zeros, zeros)
    weights = pass_band * torch.sinc(scaled) * torch.cos(math.pi * scaled / (2 * zeros)).square()
    return weights[:, None].float(), reach, step


class LogMel(Standardise):
    """Waveforms (N, samples) to (N, 1, mels, frames): the logarithm of the energy in each mel band over time.

    A frame is the power spectrum under a Hann window; the first is centred on the first sample. Each band is then
    standardised: by 0 and 1 until `fit` is called.

    Args:
        rate: samples per second.
        mels: bands, from 0 Hz to half the rate.
        window, hop: seconds in a frame, and from one to the next.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, rate: int, mels: int, window: float, hop: float):
        super().__init__(torch.zeros(mels, 1), torch.ones(mels, 1))
        self.hop = max(1, round(hop * rate))
        window_length = max(2, round(window * rate))
        self.n_fft = 2 ** math.ceil(math.log2(window_length))
        while rate / self.n_fft >= mel_edges(rate, mels)[2]:  # the lowest band is the narrowest, and needs a bin too
            self.n_fft *= 2
        self.register_buffer("window", torch.hann_window(window_length), persistent=False)
        self.register_buffer("filters", mel_filters(rate, self.n_fft, mels), persistent=False)

    def frames(self, samples: int) -> int:
        """Frames of a waveform of so many samples."""
        return 1 + samples // self.hop

    def logarithms(self, waves: Tensor) -> Tensor:
        """(N, samples) to (N, mels, frames), not normalised."""
        spectrum = torch.stft(
            waves.float(), self.n_fft, self.hop, len(self.window), self.window, pad_mode="constant", return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return (self.filters @ power).clamp(min=FLOOR).log()

    def forward(self, waves: Tensor) -> Tensor:
        return super().forward(self.logarithms(waves)).unsqueeze(1)

    def traceable(self) -> "LogMelByProducts":
        """The same, for exporters."""
        twin = copy.deepcopy(self)
        twin.__class__ = LogMelByProducts
        assert isinstance(twin, LogMelByProducts)
        return twin

    def fit(self, normalize: Any, batches: Iterable[Any]) -> None:
        """Standardise each band as `transforms.normalize` says. Raises UserError.

        Args:
            batches: (waveforms, ...) of the training split.
        """

        def measured() -> tuple[Tensor, Tensor]:
            mean, deviation = statistics((self.logarithms(waves),) for waves, *_ in batches)
            return mean, deviation.where(deviation > 1e-6, 1.0)  # what is less, float32's logarithms have by rounding

        bands = len(self.mean)
        mean, std = normalisation(normalize, bands, f"there are {bands} bands (data.mels)", measured, behind=1)
        self.mean.copy_(mean)
        self.std.copy_(std)


class LogMelByProducts(LogMel):
    """The same numbers, to rounding, in operations that every runtime knows: the spectrum of a frame is its product
    with sines and cosines, in float64, as a plain sum rounds more than the fast transform does."""

    def logarithms(self, waves: Tensor) -> Tensor:
        half, length = self.n_fft // 2, len(self.window)
        padded = nn.functional.pad(waves.double(), (half, half))
        offset = (self.n_fft - length) // 2  # the window lies in the middle of a frame
        turns = torch.arange(half + 1, dtype=torch.float64) * (2 * math.pi / self.n_fft)
        angles = torch.arange(length, dtype=torch.float64)[:, None] * turns
        starts = torch.arange(self.frames(waves.shape[1])) * self.hop + offset
        frames = padded[:, starts[:, None] + torch.arange(length)] * self.window.double()
        power = (frames @ angles.cos()).square() + (frames @ angles.sin()).square()
        return (self.filters @ power.float().transpose(1, 2)).clamp(min=FLOOR).log()


class SoundReader(Reader):
    """Sound files, as the training sounds were read: at their rate, of their length."""

    def _features(self) -> tuple[int, int, float, float]:
        given = {
            name: self.node.get(name, default) for name, default in (("mels", 64), ("window", 0.025), ("hop", 0.01))
        }
        return self.spec.sample_rate, int(given["mels"]), given["window"], given["hop"]

    def preprocess(self) -> LogMel:
        return LogMel(*self._features())

    def open(self, given: Any) -> New:
        (count,) = self.reading("shape")
        _soundfile()
        read = functools.partial(waveform, rate=self.spec.sample_rate, count=count)
        files = files_in(given, SUFFIXES, "sound files")
        sounds = Unread(files, read, torch.zeros(count))
        return New(sounds, "file", files, sounds.why)

    def truths(self, given: Any, new: New) -> tuple[Tensor, Tensor]:
        return labels_of(given, new.names, self.node, self.spec)

    def raw(self) -> Raw:
        (count,) = self.reading("shape")
        return Waves(count, self.spec.sample_rate)


# A WAV file of 16 bits.
OF_A_SOUND = """\
with wave.open(path) as file:
    if file.getframerate() != facts["rate"] or file.getsampwidth() != 2:
        sys.exit(f"{path}: must have {facts['rate']} samples a second, of 16 bits each")
    samples = numpy.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
inputs = {"sound": (samples / 32768).mean(1, dtype="float32").astype("float32")[None]}
"""


class Waves(Raw):
    """Waveforms of any length at the run's rate, "sound" (N, samples) from -1 to 1, of which the middle is taken.

    Args:
        count: samples that the model gets.
        rate: samples per second.
    """

    def __init__(self, count: int, rate: int):
        types, axes = {"sound": torch.float32}, {"sound": ("batch", "samples")}
        sizes = {"samples": (count + 7, *lengths(count))}
        super().__init__(types, axes, sizes, {"rate": rate}, OF_A_SOUND, "import wave\n")
        self.count = count

    def draw(self, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        return {name: noise.mul(0.3).clamp(-1, 1) for name, noise in super().draw(sizes, generator).items()}

    def forward(self, **inputs: Tensor) -> Tensor:
        """What `waveform` does: what is longer is cut to its middle, what is shorter gets silence on both sides."""
        sound = inputs["sound"]
        padded = nn.functional.pad(sound, (self.count, self.count))
        before = torch.div(self.count - torch.ones_like(sound[0]).sum().long(), 2, rounding_mode="floor")
        return padded.index_select(1, torch.arange(self.count) + self.count - before)


audio.reader = SoundReader  # type: ignore[attr-defined]


def mel_edges(rate: int, mels: int) -> Tensor:
    """The frequencies (mels + 2,) in Hz at which the bands begin, peak and end: equal steps on the mel scale
    m = 2595 log10(1 + f / 700) (O'Shaughnessy 1987, "Speech communication: human and machine"), from 0 to rate / 2."""
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    steps = torch.linspace(0, highest, mels + 2, dtype=torch.float64)
    return 700 * (10 ** (steps / 2595) - 1)


def mel_filters(rate: int, n_fft: int, mels: int) -> Tensor:
    """(mels, n_fft / 2 + 1): the weight of every bin of a spectrum in every band: a triangle that rises from the peak
    of the band below to 1 and falls to the peak of the band above (Davis and Mermelstein 1980, "Comparison of
    parametric representations for monosyllabic word recognition")."""
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    edges = mel_edges(rate, mels)[:, None]
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (peak - low), (high - bins) / (high - peak)
    return torch.minimum(rising, falling).clamp(min=0).float()
