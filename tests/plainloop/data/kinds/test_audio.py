"""Sounds in files: the waveform that a file holds, the spectrogram that the formulas give, and training on them."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import plainloop
from plainloop.data.kinds.audio import (
    LogMel,
    Sounds,
    audio,
    mel_edges,
    mel_filters,
    resampled,
    suitable_seconds,
    waveform,
)
from plainloop.errors import MachineError, UserError
from tests import formats

# --- waveforms ----------------------------------------------------------------------------------------------------

NOISE = numpy.random.default_rng(0).uniform(-0.9, 0.9, 2000)


def test_a_file_gives_its_samples(tmp_path):
    written = formats.write_wav(tmp_path / "a.wav", NOISE)
    assert numpy.array_equal(waveform(tmp_path / "a.wav", 8000, 2000).numpy(), written)


def test_channels_are_averaged(tmp_path):
    written = formats.write_wav(tmp_path / "a.wav", NOISE.reshape(1000, 2))
    expected = written.astype(float).mean(1)
    assert numpy.allclose(waveform(tmp_path / "a.wav", 8000, 1000).numpy(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("count", "before"), [(2000, 0), (1000, -500), (1999, 0), (2600, 300), (2601, 300)])
def test_the_middle_is_taken_and_silence_put_around(tmp_path, count, before):
    """What is longer loses as much at both ends, what is shorter gets as much silence on both sides, within one."""
    written = formats.write_wav(tmp_path / "a.wav", NOISE)
    expected = (
        written[-before : -before + count] if before <= 0 else numpy.pad(written, (before, count - 2000 - before))
    )
    assert numpy.array_equal(waveform(tmp_path / "a.wav", 8000, count).numpy(), expected)


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".aiff"])
def test_other_formats(tmp_path, suffix):
    """What soundfile reads besides WAV, a FLAC and an AIFF of 16 bits without loss."""
    import soundfile

    signal = 0.5 * numpy.sin(numpy.arange(4000) / 20)
    soundfile.write(tmp_path / f"a{suffix}", signal, 8000)
    away = abs(waveform(tmp_path / f"a{suffix}", 8000, 4000).numpy() - signal).max()
    assert away < (0.05 if suffix == ".ogg" else 2**-15)


@pytest.mark.parametrize(("old", "new"), [(44100, 16000), (48000, 16000), (8000, 16000), (16000, 22050), (11025, 8000)])
def test_tones_stay_the_same_tones_at_another_rate(old, new):
    """A sum of sines below half the lower rate: at the new rate, what its formula gives there."""

    def tones(count: int, rate: int) -> torch.Tensor:
        time = torch.arange(count, dtype=torch.float64) / rate
        limit = min(old, new) / 2
        return sum(torch.sin(2 * math.pi * share * limit * time + share) for share in (0.05, 0.31, 0.62, 0.8)) / 4

    ours = resampled(tones(old // 2, old).float(), old, new)
    assert len(ours) == math.ceil(old // 2 * new / old)
    edge = new // 50  # where the filter reaches over the ends
    torch.testing.assert_close(ours.double()[edge:-edge], tones(len(ours), new)[edge:-edge], rtol=0, atol=2e-3)


def test_what_the_lower_rate_cannot_hold_is_taken_out():
    """A tone above half the new rate would come back as a wrong one (aliasing)."""
    time = torch.arange(44100, dtype=torch.float64) / 44100
    ours = resampled(torch.sin(2 * math.pi * 10_000 * time).float(), 44100, 16000)
    assert ours[500:-500].abs().max() < 1e-3


def test_rates_without_a_common_divisor_are_refused():
    with pytest.raises(ValueError, match="44099 Hz can't be brought to 16000 Hz"):
        resampled(torch.zeros(100), 44099, 16000)


# --- spectrograms -------------------------------------------------------------------------------------------------


def filters_by_hand(rate: int, n_fft: int, mels: int) -> numpy.ndarray:
    """Band by band and bin by bin, as the definition says it: HTK's mel scale, triangles of height 1."""

    def hertz(mel: float) -> float:
        return 700 * (10 ** (mel / 2595) - 1)

    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = [hertz(top * step / (mels + 1)) for step in range(mels + 2)]
    found = numpy.zeros((mels, n_fft // 2 + 1))
    for band in range(mels):
        low, peak, high = edges[band : band + 3]
        for number in range(n_fft // 2 + 1):
            frequency = number * rate / n_fft
            if low < frequency <= peak:
                found[band, number] = (frequency - low) / (peak - low)
            elif peak < frequency < high:
                found[band, number] = (high - frequency) / (high - peak)
    return found


@pytest.mark.parametrize(
    ("rate", "n_fft", "mels"), [(16000, 512, 64), (8000, 256, 40), (44100, 2048, 128), (16000, 1024, 5)]
)
def test_the_bands_are_those_of_the_formula(rate, n_fft, mels):
    assert numpy.allclose(mel_filters(rate, n_fft, mels).numpy(), filters_by_hand(rate, n_fft, mels), rtol=0, atol=1e-6)


def test_the_mel_scale_has_a_thousand_at_1000_hz():
    """As it was defined; and its steps are equal."""
    edges = mel_edges(16000, 64).numpy()
    mels = 1127.01048 * numpy.log(1 + edges / 700)  # the same with a natural logarithm
    assert 1127.01048 * math.log(1 + 1000 / 700) == pytest.approx(1000, abs=0.1)
    assert numpy.allclose(numpy.diff(mels), numpy.diff(mels)[0])
    assert (edges[0], edges[-1]) == (0, pytest.approx(8000))


@pytest.mark.parametrize(
    ("rate", "mels", "window", "hop"), [(8000, 40, 0.025, 0.01), (16000, 64, 0.02, 0.0125), (4000, 8, 0.064, 0.016)]
)
def test_the_spectrogram_is_that_of_the_formula(rate, mels, window, hop):
    """Frame by frame: Hann window, zeros around, numpy's discrete Fourier transform, power, bands, logarithm."""
    features = LogMel(rate, mels, window, hop)
    waves = torch.as_tensor(numpy.random.default_rng(0).uniform(-1, 1, (2, rate // 2))).float()
    ours = features(waves)
    length, step, n_fft = round(window * rate), round(hop * rate), features.n_fft
    hann = 0.5 - 0.5 * numpy.cos(2 * numpy.pi * numpy.arange(length) / length)
    left = (n_fft - length) // 2
    taper = numpy.pad(hann, (left, n_fft - length - left))
    bands = filters_by_hand(rate, n_fft, mels)
    assert tuple(ours.shape) == (2, 1, mels, features.frames(rate // 2)) == (2, 1, mels, 1 + rate // 2 // step)
    for wave, spectrogram in zip(waves.double().numpy(), ours[:, 0], strict=True):
        padded = numpy.pad(wave, n_fft // 2)
        for number in range(spectrogram.shape[1]):
            power = abs(numpy.fft.rfft(padded[number * step : number * step + n_fft] * taper)) ** 2
            expected = numpy.log(numpy.maximum(bands @ power, 1e-10))
            assert numpy.allclose(spectrogram[:, number].numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [4000, 8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("mels", [10, 40, 64, 128])
def test_no_band_is_without_a_bin(rate, mels):
    """The transform is as long as the narrowest band needs it: a band without a bin would be silent for ever."""
    features = LogMel(rate, mels, 0.025, 0.01)
    assert (features.filters.sum(1) > 0).all()
    assert features.n_fft >= len(features.window)


def test_silence_is_finite():
    assert LogMel(8000, 40, 0.025, 0.01)(torch.zeros(1, 800)).isfinite().all()


def test_a_tone_is_loudest_in_its_band():
    time = torch.arange(16000) / 16000
    spectrogram = LogMel(16000, 64, 0.025, 0.01)(torch.sin(2 * math.pi * 1000 * time)[None])[0, 0]
    edges = mel_edges(16000, 64)
    band = int(spectrogram[:, 50].argmax())
    assert edges[band] < 1000 < edges[band + 2]


def test_bands_are_normalised_by_the_training_sounds():
    """Mean 0 and deviation 1 in every band, over all batches; a band that never changes is centred."""
    waves = torch.as_tensor(numpy.random.default_rng(0).uniform(-1, 1, (20, 1600))).float()
    features = LogMel(8000, 16, 0.025, 0.01)
    raw = features.logarithms(waves)
    features.fit("train", [(waves[:12], 0), (waves[12:], 0)])
    expected = (raw - raw.mean((0, 2), keepdim=True)) / raw.std((0, 2), correction=0, keepdim=True)
    torch.testing.assert_close(features(waves)[:, 0], expected, rtol=1e-3, atol=1e-3)
    silent = LogMel(8000, 16, 0.025, 0.01)
    silent.fit("train", [(torch.zeros(4, 1600), 0)])
    assert silent(torch.zeros(4, 1600)).abs().max() < 1e-4


def test_normalising_by_given_numbers():
    waves = torch.rand(3, 1600)
    features = LogMel(8000, 4, 0.025, 0.01)
    raw = features.logarithms(waves)
    features.fit({"mean": -3, "std": 2}, [])
    torch.testing.assert_close(features(waves)[:, 0], (raw + 3) / 2)
    features.fit({"mean": [1, 2, 3, 4], "std": [1, 1, 2, 2]}, [])
    torch.testing.assert_close(features(waves)[:, 0, 2], (raw[:, 2] - 3) / 2)
    with pytest.raises(UserError, match=r"transforms.normalize.mean has 3 numbers; there are 4 bands"):
        features.fit({"mean": [1, 2, 3], "std": 1}, [])
    with pytest.raises(UserError, match=r"transforms.normalize.std=0: must be above 0"):
        features.fit({"mean": 0, "std": 0}, [])


# --- finding them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "seconds"),
    [([1.0] * 5, 1.0), ([0.5] * 9 + [8.0], 0.5), ([0.5] * 8 + [0.93, 8.0], 1.0), ([3.0, 60.0], 10.0), ([0.004], 0.1)],
    ids=str,
)
def test_suitable_lengths(lengths, seconds):
    assert suitable_seconds(lengths) == seconds


def test_a_folder_for_each_class(tmp_path):
    """Lengths, rates and channels are looked at, and said; what is no sound is passed over or named."""
    formats.write_tones(tmp_path / "s", {"low": 8, "high": 4}, seconds=0.5)
    formats.write_wav(tmp_path / "s/low/stereo.wav", numpy.zeros((4000, 2)))
    formats.write_wav(tmp_path / "s/low/other.wav", numpy.zeros(2000), rate=4000)
    formats.write_wav(tmp_path / "s/high/long.wav", numpy.zeros(16000))
    formats.write_wav(tmp_path / "s/high/empty.wav", numpy.zeros(0))
    (tmp_path / "s/high/text.wav").write_text("no sound")
    (tmp_path / "s/high/notes.txt").write_text("x")
    data = audio(str(tmp_path / "s"), "train")
    assert data.classes == ["high", "low"]
    assert data.targets.bincount().tolist() == [5, 10]
    assert {tuple(wave.shape) for wave, _ in data} == {(4000,)}
    lines = data.note.split("\n")
    assert lines[0] == "files from 0.5 to 2 s, as 0.5 s (data.seconds=...)"
    rates = "at 8000 Hz (data.sample_rate=...), to which 1 of 4000 Hz are brought; 1 of several channels, averaged"
    assert lines[1] == f"{rates}; spectrograms of 64 bands x 51 frames"
    assert lines[2] == "5 to 10 sound files per class"
    assert lines[3] == "passed over: 1 .txt"
    assert lines[4].startswith("2 can't be read and are left out: ")
    assert "empty.wav: no sound in it" in lines[4]
    assert "text.wav" in lines[4]
    assert audio(str(tmp_path / "s"), "test") is None


def test_a_table_of_paths_and_labels(tmp_path):
    formats.write_tones(tmp_path / "s", {"x": 4})
    rows = ["file,label,split", "x/000.wav,a,train", "x/001.wav,b,train", "x/002.wav,a,train", "x/003.wav,b,test"]
    (tmp_path / "s/a.csv").write_text("\n".join(rows))
    assert audio(str(tmp_path / "s/a.csv"), "train").targets.tolist() == [0, 1, 0]
    assert audio(str(tmp_path / "s/a.csv"), "test").targets.tolist() == [1]


def test_lengths_and_rates_are_keys(tmp_path):
    formats.write_tones(tmp_path, {"low": 2, "high": 2}, seconds=0.5)
    data = audio(str(tmp_path), "train", seconds=0.3, sample_rate=16000, mels=20)
    assert tuple(data[0][0].shape) == (4800,)
    assert data.facts == {"sample_rate": 16000, "in_channels": 1, "image_size": [20, 31], "num_features": 620}


def test_a_sound_with_nan_is_refused(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", numpy.array([0.0, math.nan, 0.0]), 8000, subtype="FLOAT")
    with pytest.raises(ValueError, match="NaN"):
        waveform(tmp_path / "a.wav", 8000, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"seconds": 0}, "data.seconds=0: must be a number above 0"),
        ({"mels": -1}, "data.mels=-1"),
        ({"hop": "fast"}, "data.hop=fast"),
        ({"sample_rate": True}, "data.sample_rate=True"),
        ({"path": "none"}, "data.path=none: there is no such file or folder"),
        ({"target": "kind"}, ""),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(tmp_path, words, message):
    formats.write_tones(tmp_path, {"low": 2, "high": 2})
    given = {"path": str(tmp_path), "split": "train", **words}
    if not message:  # a folder has no columns: the argument is for tables
        assert isinstance(audio(**given), Sounds)
        return
    with pytest.raises(UserError, match=message):
        audio(**given)


def test_an_absent_soundfile_is_explained(tmp_path, monkeypatch):
    formats.write_tones(tmp_path, {"low": 2, "high": 2})
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match="reads files with soundfile, which isn't installed: pip install soundfile"):
        audio(str(tmp_path), "train")


# --- training -----------------------------------------------------------------------------------------------------


def words(path: Path, *more: str) -> list[str]:
    return [
        "data=audio",
        f"data.path={path}",
        "data.mels=16",
        "model.channels=[8,16]",
        "loader.batch_size=8",
        "logger=none",
        *more,
    ]


def numbers(run: Any) -> dict[str, float]:
    return {name: value for name, value in run.metrics.items() if name != "seconds"}


@pytest.mark.slow
def test_a_folder_of_sounds_trains_from_one_command(tmp_path, capsys):
    """It tells the tones apart, and is measured again with the same numbers."""
    formats.write_tones(tmp_path / "sounds", {"low": 20, "high": 20})
    run = plainloop.train(words(tmp_path / "sounds", "trainer.max_epochs=5", "optimizer.lr=0.01"))
    said = capsys.readouterr().out
    assert (
        "data    audio: 32 train, 4 val, 4 test; inputs 2400 float32; 2 classes (high, low)\n        files of" in said
    )
    assert "model   cnn (CNN)" in said
    assert run.metrics["test/accuracy"] == 1.0
    assert list(run.config.spec.image_size) == [16, 31]
    assert plainloop.evaluate(run.path) == {key: run.metrics[key] for key in run.metrics if key.startswith("test/")}


@pytest.mark.slow
def test_the_spectrogram_is_fitted_on_the_training_sounds_and_kept(tmp_path):
    """Its mean and deviation are those of the training split, and those of a loaded run."""
    formats.write_tones(tmp_path / "sounds", {"low": 20, "high": 20})
    run = plainloop.train(words(tmp_path / "sounds", "trainer.max_epochs=1"))
    fresh = LogMel(8000, 16, 0.025, 0.01)
    logs = fresh.logarithms(torch.stack([wave for wave, _ in run.data.train]))
    torch.testing.assert_close(run.preprocess.mean[:, 0], logs.mean((0, 2)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run.preprocess.std[:, 0], logs.std((0, 2), correction=0), rtol=1e-3, atol=1e-4)
    loaded = plainloop.load_run(run.path)
    assert torch.equal(loaded.preprocess.mean, run.preprocess.mean)
    plain = plainloop.train(words(tmp_path / "sounds", "trainer.max_epochs=1", "transforms.normalize=none"))
    assert torch.equal(plain.preprocess(torch.zeros(1, 2400)), fresh(torch.zeros(1, 2400)))


@pytest.mark.slow
def test_sounds_resume_bit_for_bit(tmp_path):
    """With spectrograms mixed and covered on the device, as images are."""
    formats.write_tones(tmp_path / "sounds", {"low": 16, "high": 16})
    given = words(tmp_path / "sounds", "transforms.mixup=0.4", "transforms.cutout=4")
    whole = plainloop.train([*given, "trainer.max_epochs=3"])
    first = plainloop.train([*given, "trainer.max_epochs=2"])
    resumed = plainloop.train([f"resume={first.path}", "trainer.max_epochs=3"])
    assert numbers(resumed) == numbers(whole)
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("key", ["flip=true", "crop=2"])
def test_a_waveform_is_not_moved_like_an_image(tmp_path, key):
    formats.write_tones(tmp_path / "sounds", {"low": 16, "high": 16})
    with pytest.raises(
        UserError, match=rf"transforms.{key[:4]}: it is for images, and the inputs are of shape \(2400,\)"
    ):
        plainloop.train(words(tmp_path / "sounds", f"transforms.{key}"))


def test_a_broken_sound_is_named_and_can_be_left_out(tmp_path, capsys):
    """A FLAC whose header is whole and whose sound breaks off."""
    import soundfile

    formats.write_tones(tmp_path / "sounds", {"low": 10, "high": 10})
    broken = tmp_path / "sounds/high/004.flac"
    soundfile.write(broken, numpy.random.default_rng(0).uniform(-0.5, 0.5, 2000), 8000)
    broken.write_bytes(broken.read_bytes()[:400])
    given = words(tmp_path / "sounds", "split.fractions=[1,0,0]", "trainer.max_epochs=1")
    with pytest.raises(MachineError, match=rf"sample 4 \({broken}\) can't be read"):
        plainloop.train(given)
    assert plainloop.train([*given, "loader.skip_unreadable=1"]).metrics["samples"] == 20
    assert f"warning: data: sample 4 ({broken}) can't be read" in capsys.readouterr().err
