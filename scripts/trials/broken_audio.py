"""Recordings that are broken, lie about themselves, or are much larger than they look."""

import io
import random
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import cast

import av
import numpy as np
import soundfile

from trials.good_traffic import SPEECH

RATES_HZ = (0, 1, 3_999, 4_000, 7_919, 44_101, 384_000, 384_001, 2**31 - 1, 2**32 - 1)
FORMATS = (
    ("WAV", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("MP3", None),
    ("AIFF", "PCM_16"),
)
# What phones and browsers record: FFmpeg's container and encoder.
PHONE_FORMATS = (("ipod", "aac"), ("mp4", "aac"), ("mov", "alac"), ("webm", "libopus"))
# Where a WAV header has its fields: offset, format and values that they should not have.
WAV_FIELDS: Sequence[tuple[int, str, Sequence[int]]] = (
    (4, "<I", (0, 1, 2**32 - 1)),
    (16, "<I", (0, 2, 18, 2**32 - 1)),
    (20, "<H", (0, 2, 3, 6, 17, 85, 0xFFFE, 0xFFFF)),
    (22, "<H", (0, 2, 255, 1024, 65_535)),
    (24, "<I", RATES_HZ),
    (28, "<I", (0, 1, 2**32 - 1)),
    (32, "<H", (0, 1, 65_535)),
    (34, "<H", (0, 1, 7, 24, 64, 65_535)),
    (40, "<I", (0, 1, 2**31, 2**32 - 1)),
)


def encode(
    samples: np.ndarray, rate_hz: int, container: str = "WAV", subtype: str | None = "PCM_16"
) -> bytes:
    """Return samples of shape (frames,) or (frames, channels) as a file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def encode_by_ffmpeg(samples: np.ndarray, rate_hz: int, container: str, codec: str) -> bytes:
    """Return samples of shape (frames,) as a file of a container that libsndfile does not write."""
    frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], "flt", "mono")
    frame.sample_rate = rate_hz
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = cast(av.AudioStream, output.add_stream(codec, rate=rate_hz, layout="mono"))
        for each in (frame, None):
            output.mux(stream.encode(each))
    return file.getvalue()


def _short_recording(chance: random.Random) -> bytes:
    noise = np.random.default_rng(chance.randrange(2**32)).normal(0, 0.1, 4_000)
    if chance.random() < 0.4:
        return encode_by_ffmpeg(noise, 16_000, *chance.choice(PHONE_FORMATS))
    container, subtype = chance.choice(FORMATS)
    return encode(noise, 16_000, container, subtype)


def truncated(chance: random.Random) -> bytes:
    """Return the beginning of a recording."""
    whole = _short_recording(chance)
    return whole[: chance.randrange(len(whole))]


def flipped(chance: random.Random) -> bytes:
    """Return a recording with some other bytes, many of them in its header."""
    broken = bytearray(_short_recording(chance))
    for _ in range(chance.choice((1, 3, 30))):
        most = chance.choice((64, len(broken)))
        broken[chance.randrange(min(most, len(broken)))] = chance.randrange(256)
    return bytes(broken)


def lying_header(chance: random.Random) -> bytes:
    """Return a WAV whose header says what is not so."""
    broken = bytearray(SPEECH)
    for offset, layout, values in chance.sample(WAV_FIELDS, chance.choice((1, 1, 2, 3))):
        struct.pack_into(layout, broken, offset, chance.choice(values))
    return bytes(broken)


def spliced(chance: random.Random) -> bytes:
    """Return the head of one file and the tail of another."""
    head, tail = _short_recording(chance), _short_recording(chance)
    return head[: chance.randrange(len(head))] + tail[chance.randrange(len(tail)) :]


def noise(chance: random.Random) -> bytes:
    """Return bytes that are no recording, some of which begin like one."""
    start = chance.choice(
        (
            b"",
            b"RIFF",
            b"fLaC",
            b"OggS",
            b"ID3\x04",
            b"FORM",
            b"caff",
            b"\xff\xfb",
            b"\0\0\0\x20ftyp",
            b"\x1aE\xdf\xa3",
        )
    )
    return start + chance.randbytes(chance.choice((0, 1, 40, 5_000)))


def impossible_samples(chance: random.Random) -> bytes:
    """Return samples that are no numbers, or are far too large."""
    value = chance.choice((float("nan"), float("inf"), -float("inf"), 3e38, 1e-45))
    samples = np.zeros(2_000, np.float32)
    samples[chance.randrange(2_000)] = value
    return encode(samples, 16_000, "WAV", "FLOAT")


def many_channels(chance: random.Random) -> bytes:
    """Return a few samples of many channels."""
    channels = chance.choice((2, 8, 255, 1024))
    container, subtype = ("WAV", "PCM_U8") if channels > 8 else ("FLAC", "PCM_16")
    return encode(np.zeros((chance.choice((0, 1, 300)), channels)), 16_000, container, subtype)


def bomb(chance: random.Random) -> bytes:
    """Return silence that is thousands of times as long as its file."""
    return _silence(*chance.choice(((4_000, 7_200, 1), (8_000, 100, 8), (192_000, 30, 2))))


@cache
def _silence(rate_hz: int, duration_s: int, channels: int) -> bytes:
    file = io.BytesIO()
    second = np.zeros((rate_hz, channels), np.int16)
    with soundfile.SoundFile(file, "w", rate_hz, channels, "PCM_16", format="FLAC") as recording:
        for _ in range(duration_s):
            recording.write(second)
    return file.getvalue()


AUDIO: Sequence[Callable[[random.Random], bytes]] = (
    truncated,
    flipped,
    lying_header,
    spliced,
    noise,
    impossible_samples,
    many_channels,
    bomb,
)
