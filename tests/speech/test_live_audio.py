"""Recordings that arrive in pieces, cut anywhere."""

import contextlib
import io
import itertools
import random
import struct
from typing import cast

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batches import status_of
from speechtext.errors import MalformedRequestError, RequestError, UnsupportedMediaError
from speechtext.speech.audio import decode_audio
from speechtext.speech.live_audio import (
    MAX_HEADER_BYTES,
    PCM_GUID,
    LiveAudio,
    read_format,
    read_header,
)
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


# FFmpeg's names of the samples that it encodes.
ENCODED = {"pcm_u8": "u8", "pcm_s16le": "s16", "pcm_s24le": "s32", "pcm_s32le": "s32"}
LAYOUTS = ["mono", "stereo", "2.1", "quad", "5.0", "5.1", "6.1", "7.1"]


def write_by_ffmpeg(codec: str, rate_hz: int, layout: str, frames: int = 90) -> bytes:
    """Return a WAV file, of WAVE_FORMAT_EXTENSIBLE for all but a few formats."""
    file, kind = io.BytesIO(), np.dtype(ENCODED[codec].replace("s", "int").replace("u", "uint"))
    width = frames * len(av.AudioLayout(layout).channels)
    limits = np.iinfo(kind)
    samples = np.random.default_rng(0).integers(limits.min, limits.max, (1, width), kind)
    frame = av.AudioFrame.from_ndarray(samples, ENCODED[codec], layout)
    frame.sample_rate = rate_hz
    with av.open(file, "w", "wav") as container:
        stream = cast(av.AudioStream, container.add_stream(codec, rate=rate_hz, layout=layout))
        container.mux([*stream.encode(frame), *stream.encode()])
    return file.getvalue()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("codec", ENCODED)
def test_wav_of_ffmpeg_may_be_cut_at_every_byte(codec: str, layout: str) -> None:
    recording = write_by_ffmpeg(codec, RATE_HZ, layout)
    expected = decode_audio(recording, RATE_HZ, 60)
    assert len(expected) == 90
    received = receive(recording, list(range(len(recording))))
    assert torch.equal(received, expected)


def test_wav_of_ffmpeg_at_a_high_rate() -> None:
    recording = write_by_ffmpeg("pcm_s16le", 96_000, "mono", frames=9_000)
    assert recording[20:22] == b"\xfe\xff"
    assert torch.equal(receive(recording, [21, 99]), decode_audio(recording, RATE_HZ, 60))


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


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s24le"])
@pytest.mark.parametrize("file_bytes", [0, 8, 36, 0x7FFFFFFF])
@pytest.mark.parametrize("data_bytes", [None, 0])
def test_length_of_the_file_is_no_matter(
    codec: str, file_bytes: int, data_bytes: int | None
) -> None:
    recording = bytearray(write_by_ffmpeg(codec, RATE_HZ, "stereo"))
    struct.pack_into("<I", recording, 4, file_bytes)
    if data_bytes is not None:
        struct.pack_into("<I", recording, recording.index(b"data") + 4, data_bytes)
    expected = decode_audio(bytes(recording), RATE_HZ, 60)
    assert len(expected) == 90
    assert torch.equal(receive(bytes(recording), [50, 99]), expected)


FLOAT_GUID = b"\3" + PCM_GUID[1:]


@pytest.mark.parametrize(
    ("tag", "channels", "bits", "more", "sample_bytes"),
    [
        (1, 1, 8, b"", 1),
        # Twelve bits lie in sixteen.
        (1, 2, 12, b"", 2),
        (1, 512, 32, bytes(2), 4),
        (0xFFFE, 8, 24, struct.pack("<HHI", 22, 24, 0) + PCM_GUID, 3),
        (0xFFFE, 8, 24, struct.pack("<HHI", 22, 24, 0) + FLOAT_GUID, None),
        (0xFFFE, 8, 24, struct.pack("<HHI", 22, 24, 0) + PCM_GUID[:15], None),
        (0xFFFE, 8, 24, b"", None),
        (3, 1, 32, b"", None),
        (1, 0, 16, b"", None),
        (1, 513, 16, b"", None),
        (1, 1, 0, b"", None),
        (1, 1, 33, b"", None),
    ],
)
def test_format_of_a_wav(
    tag: int, channels: int, bits: int, more: bytes, sample_bytes: int | None
) -> None:
    chunk = struct.pack("<HHIIHH", tag, channels, 44_100, 0, 0, bits) + more
    if sample_bytes:
        assert read_format(chunk) == PcmFormat(44_100, channels, "LITTLE", sample_bytes)
    else:
        with pytest.raises(UnsupportedMediaError):
            read_format(chunk)
    with pytest.raises(UnsupportedMediaError):
        read_format(chunk[:15])


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


BEGINNING = b"RIFF\xff\xff\xff\xffWAVE"


def chunk(name: bytes, length: int) -> bytes:
    """Return a chunk of a WAV file, padded to an even number of bytes."""
    return name + struct.pack("<I", length) + bytes(length + length % 2)


@pytest.mark.parametrize(
    ("before", "place"),
    [
        (b"", 20),
        (chunk(b"fmt ", 16), 44),
        (chunk(b"JUNK", 3), 32),
        (chunk(b"JUNK", 4) + chunk(b"fmt ", 18) + chunk(b"data"[::-1], 1), 68),
        (chunk(b"JUNK", MAX_HEADER_BYTES - 20), MAX_HEADER_BYTES + 8),
    ],
)
def test_samples_begin_behind_the_chunks_before_them(before: bytes, place: int) -> None:
    header = BEGINNING + before + b"data" + struct.pack("<I", 50)
    found = read_header(header)
    assert found is not None
    assert found == read_header(header + b"samples")
    assert (found.start, found.data_bytes) == (place, 50)
    # The whole is a header for as long as that has not arrived.
    assert {
        read_header(header[:stop]) for stop in (*range(41), len(header) - 1) if stop < place
    } == {None}


@pytest.mark.parametrize(
    "data",
    [
        b"r",
        b"RIFX",
        b"RIFX\0\0\0\0WAVE",
        b"RIFF\0\0\0\0AVI ",
        b"RIFF\0\0\0\0WAX",
        BEGINNING + chunk(b"JUNK", MAX_HEADER_BYTES - 18),
        BEGINNING + b"JUNK\xff\xff\xff\xff",
    ],
)
def test_no_header_is_refused_as_soon_as_that_is_sure(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaError) as refusal:
        read_header(data)
    assert (refusal.value.kind, refusal.value.message) == (
        "UnsupportedAudio",
        "Expected the first piece of a session to begin with the header of a WAV file of 8 to 32 "
        "bits PCM, or to have a Content-Type such as audio/L16; rate=16000.",
    )


def test_second_wav_is_told_by_its_kind() -> None:
    first = LiveAudio(RATE_HZ, 60, None)
    first.push(wav("PCM_16", RATE_HZ, 1))
    with pytest.raises(MalformedRequestError) as refusal:
        first.push(wav("PCM_16", RATE_HZ, 1))
    assert (refusal.value.kind, refusal.value.message) == (
        "DamagedAudio",
        "Expected one recording in a session, got another WAV file behind the first.",
    )


@pytest.mark.parametrize("cut", [1, 11, 12])
def test_second_wav_is_refused_also_where_nothing_came_amid_its_header(cut: int) -> None:
    first, second = wav("PCM_16", RATE_HZ, 1), wav("PCM_16", RATE_HZ, 1)
    audio = LiveAudio(RATE_HZ, 60, None)
    audio.push(first)
    with pytest.raises(MalformedRequestError, match="got another WAV file"):
        for piece in (second[:cut], b"", second[cut:]):
            audio.push(piece)


def test_recording_of_one_sample_ends_behind_it() -> None:
    recording = wav("PCM_U8", RATE_HZ, 1, frames=1)
    assert len(receive(recording + b"LIST", [3])) == 1


@pytest.mark.parametrize("pieces", [1, 2, 5_000])
@pytest.mark.parametrize("quiet", [0, 1, 11, 12, 13, 4_000])
def test_header_among_bare_samples_is_refused(quiet: int, pieces: int) -> None:
    """Unless they begin with it, as a client may send a file and say what is in it."""
    pcm = PcmFormat(RATE_HZ)
    data = bytes(quiet) + wav("PCM_16", RATE_HZ, 1, frames=500)
    cuts = list(range(0, len(data), -(-len(data) // pieces)))
    if quiet:
        with pytest.raises(MalformedRequestError, match="got another WAV file"):
            receive(data, cuts, pcm)
    else:
        assert len(receive(data, cuts, pcm)) == len(data) // 2


def test_duration_is_that_of_the_samples_that_arrived() -> None:
    recording = wav("PCM_24", 44_100, 2, frames=4_410)
    audio = LiveAudio(RATE_HZ, 60, None)
    place = recording.index(b"data") + 8
    audio.push(recording[:place])
    assert audio.duration_s == 0.0
    audio.push(recording[place : place + 6 * 441 + 5])
    assert audio.duration_s == pytest.approx(0.01)
    audio.push(recording[place + 6 * 441 + 5 :] + b"LIST")
    assert audio.duration_s == pytest.approx(0.1)
    assert len(audio.push(b"more")) == 0
    assert audio.duration_s == pytest.approx(0.1)
