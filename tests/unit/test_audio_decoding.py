"""Recordings of every container, rate and channel count, and those that cannot be one."""

import io

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from audio_decoding import decode_audio, resample
from device_io import RequestError

RATE_HZ = 16_000


def tone(rate_hz: int, duration_s: float = 0.5, frequency_hz: float = 440.0) -> np.ndarray:
    times_s = np.arange(int(rate_hz * duration_s)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


def encode(samples: np.ndarray, rate_hz: int, container: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"]
)
def test_wav_of_every_sample_format(subtype: str) -> None:
    samples = tone(RATE_HZ)
    waveform = decode_audio(encode(samples, RATE_HZ, "WAV", subtype), RATE_HZ, 60)
    assert waveform.shape == samples.shape
    assert (waveform - torch.from_numpy(samples)).abs().max() < 0.02


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("AIFF", None)],
)
def test_other_containers_sound_the_same(container: str, subtype: str | None) -> None:
    waveform = decode_audio(encode(tone(48_000), 48_000, container, subtype), RATE_HZ, 60)
    spectrum = torch.fft.rfft(waveform[: RATE_HZ // 2]).abs()
    loudest_hz = float(spectrum.argmax()) * RATE_HZ / (RATE_HZ // 2)
    assert abs(loudest_hz - 440) < 6


@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 192_000])
def test_channels_are_averaged_and_rates_converted(channels: int, rate_hz: int) -> None:
    samples = np.stack([tone(rate_hz) * (channel + 1) for channel in range(channels)], axis=1) / 8
    waveform = decode_audio(encode(samples, rate_hz, "WAV", "FLOAT"), RATE_HZ, 60)
    mono = torch.from_numpy(samples.mean(axis=1))
    expected = torchaudio.functional.resample(mono, rate_hz, RATE_HZ)
    assert waveform.dtype == torch.float32
    torch.testing.assert_close(waveform, expected, atol=1e-5, rtol=0)


def test_same_rate_is_left_alone() -> None:
    waveform = torch.randn(100)
    assert resample(waveform, RATE_HZ, RATE_HZ) is waveform


def test_header_tells_a_recording_that_is_too_long() -> None:
    flac = encode(np.zeros(RATE_HZ * 120, dtype=np.float32), RATE_HZ, "FLAC")
    with pytest.raises(RequestError, match=r"at most 60 s.*120\.0 s") as caught:
        decode_audio(flac, RATE_HZ, 60)
    assert caught.value.status == 413


def not_audio() -> list[tuple[bytes, int]]:
    nan = np.full(1000, np.nan, dtype=np.float32)
    wav = encode(tone(RATE_HZ), RATE_HZ, "WAV")
    return [
        (b"this is a text file, not a recording", 415),
        (wav[:20], 415),
        (b"\0" * 1000, 415),
        (encode(np.zeros(0, dtype=np.float32), RATE_HZ, "WAV"), 400),
        (encode(nan, RATE_HZ, "WAV", "FLOAT"), 400),
    ]


@pytest.mark.parametrize(("audio", "status"), not_audio())
def test_what_is_no_recording_is_refused(audio: bytes, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        decode_audio(audio, RATE_HZ, 60)
    assert caught.value.status == status
