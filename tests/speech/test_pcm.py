"""Samples as they are: bare ones of any width and order, and each kind of frame of FFmpeg."""

from typing import Any

import av
import numpy as np
import pytest

from speechtext.errors import MalformedRequestError
from speechtext.speech.audio_limits import MAX_RATE_HZ, MIN_RATE_HZ
from speechtext.speech.frames import average_channels
from speechtext.speech.opening import MOST_BLOCK_BYTES, limit_blocks
from speechtext.speech.pcm import (
    BLOCK_S,
    PcmDecoder,
    PcmFormat,
    parse_pcm_format,
    pcm_duration_s,
    read_pcm,
)

# Of each width in bytes: a few whole numbers of it, and what one is divided by.
NUMBERS = {1: [0, 127, 128, 255], 2: [-(2**15), -1, 0, 2**15 - 1], 4: [-(2**31), -1, 0, 2**31 - 1]}
SCALES = {1: 2**7, 2: 2**15, 4: 2**31}


@pytest.mark.parametrize("width", NUMBERS)
@pytest.mark.parametrize("endian", ["BIG", "LITTLE"])
def test_whole_numbers_are_read_by_their_width_and_order(width: int, endian: Any) -> None:
    sign, order = ("u", "") if width == 1 else ("i", ">" if endian == "BIG" else "<")
    data = np.array(NUMBERS[width], f"{order}{sign}{width}").tobytes()
    zero = 128 if width == 1 else 0
    expected = [(each - zero) / SCALES[width] for each in NUMBERS[width]]
    found = PcmDecoder(PcmFormat(8_000, 1, endian, width)).decode(data)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx(expected, abs=1e-7)


def test_three_bytes_are_a_sample_too() -> None:
    data = b"".join(each.to_bytes(3, "big", signed=True) for each in (-(2**23), 0, 2**22))
    assert PcmDecoder(PcmFormat(8_000, 1, "BIG", 3)).decode(data).tolist() == [-1.0, 0.0, 0.5]


def test_channels_are_averaged() -> None:
    data = np.array([[100, 300], [-200, 0]], ">i2").tobytes()
    found = PcmDecoder(PcmFormat(8_000, 2)).decode(data)
    assert (found * 2**15).tolist() == [200.0, -100.0]


def test_nothing_is_no_sample() -> None:
    found = PcmDecoder(PcmFormat(8_000)).decode(b"")
    assert found.shape == (0,)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("audio/L16; rate=16000", PcmFormat(16_000)),
        ("AUDIO/l16;RATE=8000;Channels=2", PcmFormat(8_000, 2)),
        (f"audio/l16; rate={MIN_RATE_HZ}; channels=8", PcmFormat(MIN_RATE_HZ, 8)),
        (f"audio/l16; rate={MAX_RATE_HZ}; channels=1", PcmFormat(MAX_RATE_HZ)),
        ("audio/l16; rate=16000; endianness=Little-Endian", PcmFormat(16_000, 1, "LITTLE")),
        ("audio/l16; rate=16000; endianness=big-endian", PcmFormat(16_000)),
        ("audio/wav", None),
        ("", None),
    ],
)
def test_content_type_says_how_samples_lie(content_type: str, expected: PcmFormat | None) -> None:
    assert parse_pcm_format(content_type) == expected


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("", f"Expected rate from {MIN_RATE_HZ} to {MAX_RATE_HZ} in Content-Type, as in "),
        (f"rate={MIN_RATE_HZ - 1}", "Expected rate from "),
        (f"rate={MAX_RATE_HZ + 1}", "Expected rate from "),
        ("rate=" + "1" * 5000, "Expected rate from "),
        ("rate=-16000", "Expected rate from "),
        ("rate=16000; channels=0", "Expected channels from 1 to 8 in Content-Type"),
        ("rate=16000; channels=9", "Expected channels from 1 to 8 in Content-Type"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: str, said: str) -> None:
    with pytest.raises(MalformedRequestError) as refused:
        parse_pcm_format(f"audio/L16; {parameters}")
    assert refused.value.kind == "InvalidContentType"
    assert refused.value.message.startswith(said)
    assert refused.value.message.endswith("audio/L16; rate=16000; channels=1.")


def test_recording_comes_in_blocks() -> None:
    pcm = PcmFormat(1_000, 2)
    samples = np.arange(BLOCK_S * 1_000 + 7, dtype=">i2").repeat(2).tobytes()
    blocks = list(read_pcm(samples, pcm))
    assert [len(block.samples) for block in blocks] == [BLOCK_S * 1_000, 7]
    assert {block.rate_hz for block in blocks} == {1_000}
    joined = np.concatenate([block.samples for block in blocks]) * 2**15
    assert joined.tolist() == list(range(BLOCK_S * 1_000 + 7))
    assert pcm_duration_s(samples, pcm) == BLOCK_S + 0.007


@pytest.mark.parametrize("pcm", [PcmFormat(8_000, 8), PcmFormat(8_000, 7, "LITTLE", 3)])
def test_much_at_once_is_as_in_pieces(pcm: PcmFormat) -> None:
    """Also where FFmpeg may have no block of its size."""
    limit_blocks()
    chance = np.random.default_rng(0)
    data = chance.bytes((MOST_BLOCK_BYTES // pcm.frame_bytes + 5) * pcm.frame_bytes)
    whole, decoder = PcmDecoder(pcm).decode(data), PcmDecoder(pcm)
    step = 100_003 * pcm.frame_bytes
    pieces = [decoder.decode(data[start : start + step]) for start in range(0, len(data), step)]
    assert np.array_equal(whole, np.concatenate(pieces))
    assert len(whole) == MOST_BLOCK_BYTES // pcm.frame_bytes + 5


def test_part_of_a_sample_is_refused() -> None:
    with pytest.raises(MalformedRequestError) as refused:
        list(read_pcm(bytes(7), PcmFormat(8_000, 2)))
    assert refused.value.kind == "InvalidAudio"
    assert refused.value.message == ("Expected a multiple of 4 bytes of audio/L16 in body, got 7.")


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
@pytest.mark.parametrize("kind", ["u8", "s16", "s32", "flt", "dbl"])
def test_frames_of_each_kind_have_full_scale(kind: str, layout: str, planar: bool) -> None:
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    types: dict[str, Any] = {
        "u8": np.uint8,
        "s16": np.int16,
        "s32": np.int32,
        "flt": np.float32,
        "dbl": np.float64,
    }
    chance = np.random.default_rng(channels)
    values = chance.uniform(-1, 1, (channels, 50))
    largest = {"u8": 2**7, "s16": 2**15, "s32": 2**31, "flt": 1, "dbl": 1}[kind]
    zero = 128 if kind == "u8" else 0
    given = (values * (largest - 1) + zero).astype(types[kind])
    shaped = given if planar else given.T.reshape(1, -1)
    name = kind + "p" * planar
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(shaped), name, layout)
    expected = (given.astype(np.float64) - zero).mean(axis=0) / largest
    found = average_channels(frame)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_float32_cannot_hold_is_infinite_without_a_warning() -> None:
    samples = np.array([[1e300, -1e300, 0.5, np.nan]])
    frame = av.AudioFrame.from_ndarray(samples, "dbl", "mono")
    found = average_channels(frame)
    assert found.tolist()[:3] == [np.inf, -np.inf, 0.5]
    assert np.isnan(found[3])
    both = np.array([[np.inf], [-np.inf]])
    assert np.isnan(average_channels(av.AudioFrame.from_ndarray(both, "dblp", "stereo")))[0]
