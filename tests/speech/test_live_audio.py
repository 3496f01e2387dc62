"""Recordings that arrive in pieces, cut anywhere."""

import contextlib
import io
import itertools
import random
import struct

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batches import status_of
from speechtext.errors import RequestError
from speechtext.speech.audio import decode_audio
from speechtext.speech.live_audio import MAX_HEADER_BYTES, LiveAudio
from speechtext.speech.pcm import PcmFormat, parse_pcm_format
from trials.broken_audio import lying_header

RATE_HZ = 16_000
BROKEN_WAVS = st.integers().map(lambda seed: lying_header(random.Random(seed)))


def wav(subtype: str, rate_hz: int, channels: int, frames: int = 3_000) -> bytes:
    generator = np.random.default_rng(frames)
    file = io.BytesIO()
    samples = generator.uniform(-0.5, 0.5, (frames, channels))
    soundfile.write(file, samples, rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()


def receive(recording: bytes, cuts: list[int], pcm: PcmFormat | None = None) -> torch.Tensor:
    audio = LiveAudio(RATE_HZ, 60, pcm)
    places = sorted({0, len(recording), *(min(cut, len(recording)) for cut in cuts)})
    parts = [audio.push(recording[low:high]) for low, high in itertools.pairwise(places)]
    return torch.cat([*parts, audio.end()])


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["PCM_U8", "PCM_16", "PCM_24", "PCM_32"]),
    st.sampled_from([8_000, 16_000, 44_100, 48_000]),
    st.sampled_from([1, 2, 8]),
    st.lists(st.integers(0, 20_000), max_size=30),
)
def test_wav_in_pieces_is_the_wav(
    subtype: str, rate_hz: int, channels: int, cuts: list[int]
) -> None:
    recording = wav(subtype, rate_hz, channels)
    expected = decode_audio(recording, RATE_HZ, 60)
    assert torch.equal(receive(recording, cuts), expected)


@pytest.mark.parametrize("channels", [9, 512])
def test_many_channels(channels: int) -> None:
    recording = wav("PCM_16", RATE_HZ, channels, frames=50)
    expected = decode_audio(recording, RATE_HZ, 60)
    torch.testing.assert_close(receive(recording, [999, 9_999]), expected, atol=1e-6, rtol=0)


def test_more_channels_than_ffmpeg_has_are_refused() -> None:
    with pytest.raises(RequestError, match="header of a WAV file"):
        receive(wav("PCM_16", RATE_HZ, 513, frames=5), [])


def test_pieces_of_one_byte() -> None:
    recording = wav("PCM_24", 44_100, 2, frames=500)
    received = receive(recording, list(range(len(recording))))
    assert torch.equal(received, decode_audio(recording, RATE_HZ, 60))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["audio/L16; rate=16000", "audio/L16; rate=8000; channels=2"]),
    st.lists(st.integers(0, 8_000), max_size=30),
)
def test_bare_samples_in_pieces(content_type: str, cuts: list[int]) -> None:
    pcm = parse_pcm_format(content_type)
    samples = np.random.default_rng(0).integers(-9_000, 9_000, 4_000).astype(">i2").tobytes()
    expected = decode_audio(samples, RATE_HZ, 60, pcm)
    assert torch.equal(receive(samples, cuts, pcm), expected)


@settings(max_examples=300, deadline=None)
@given(
    st.binary() | st.binary().map(lambda rest: b"RIFF\0\0\0\0WAVE" + rest) | BROKEN_WAVS,
    st.lists(st.integers(0, 8_000), max_size=5),
)
def test_any_pieces_are_heard_or_refused(recording: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(RequestError):
        assert receive(recording, cuts).isfinite().all()


@pytest.mark.parametrize("length", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_length_that_a_pipe_leaves_is_no_length(length: int) -> None:
    recording = bytearray(wav("PCM_16", RATE_HZ, 1))
    expected = decode_audio(bytes(recording), RATE_HZ, 60)
    place = recording.index(b"data") + 4
    recording[4:8] = struct.pack("<I", 0xFFFFFFFF)
    recording[place : place + 4] = struct.pack("<I", length)
    torch.testing.assert_close(receive(bytes(recording), [50, 999]), expected)


@pytest.mark.parametrize("length", [None, 0, 0xFFFFFFFF])
@pytest.mark.parametrize("pieces", [1, 2, 7, 6_000])
def test_second_wav_in_a_session_is_refused(length: int | None, pieces: int) -> None:
    """Also where each piece is a file, or the first one does not tell its length."""
    first = bytearray(wav("PCM_16", RATE_HZ, 1))
    place = first.index(b"data") + 4
    if length is not None:
        first[place : place + 4] = struct.pack("<I", length)
    joined = bytes(first) + wav("PCM_16", RATE_HZ, 1)
    step = -(-len(joined) // pieces)
    with pytest.raises(RequestError, match="Expected one recording in a session") as refusal:
        receive(joined, list(range(0, len(joined), step)))
    assert status_of(refusal.value) == 400


def test_what_follows_the_samples_is_no_audio() -> None:
    recording = wav("PCM_16", RATE_HZ, 1)
    expected = decode_audio(recording, RATE_HZ, 60)
    trailer = b"LIST" + struct.pack("<I", 400) + b"x" * 400
    received = receive(recording + trailer, [len(recording) - 3, len(recording) + 7])
    torch.testing.assert_close(received, expected)


@pytest.mark.parametrize(
    "start", [b"no audio", b"RIFX", b"RIFF\x10\0\0\0AVI ", wav("FLOAT", RATE_HZ, 1), b"fLaC"]
)
def test_other_beginnings_are_refused(start: bytes) -> None:
    with pytest.raises(RequestError, match="header of a WAV file") as refusal:
        receive(start, [2])
    assert status_of(refusal.value) == 415


def test_header_without_end_is_refused() -> None:
    head = b"RIFF\xff\xff\xff\xffWAVEJUNK"
    audio = LiveAudio(RATE_HZ, 60, None)
    audio.push(head)
    with pytest.raises(RequestError, match="header of a WAV file"):
        audio.push(struct.pack("<I", MAX_HEADER_BYTES))


def test_no_header_at_all_is_refused() -> None:
    with pytest.raises(RequestError, match="header of a WAV file"):
        receive(b"", [])


def test_limits() -> None:
    audio = LiveAudio(RATE_HZ, 1.0, PcmFormat(RATE_HZ))
    audio.push(bytes(2 * RATE_HZ))
    assert audio.duration_s == 1.0
    with pytest.raises(RequestError, match="at most 1 s") as refusal:
        audio.push(bytes(2))
    assert status_of(refusal.value) == 413
    with pytest.raises(RequestError, match="sampling rate"):
        receive(wav("PCM_16", 1_000, 1), [])


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_little_is_held_back(rate_hz: int) -> None:
    """Words in progress must not wait for the resampler."""
    audio, pushed_s, heard_s = LiveAudio(RATE_HZ, 60, PcmFormat(rate_hz)), 0.0, 0.0
    for _ in range(20):
        heard_s += len(audio.push(bytes(rate_hz // 50 * 2))) / RATE_HZ
        pushed_s += 0.02
        assert pushed_s - heard_s <= 0.0025
