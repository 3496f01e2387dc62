"""Recordings of every container, rate and channel count, and those that cannot be one."""

import contextlib
import io
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batches import status_of
from speechtext.errors import RequestError
from speechtext.speech.audio import decode_audio
from speechtext.speech.audio_limits import MAX_RATE_HZ, MIN_RATE_HZ
from speechtext.speech.pcm import PcmFormat, parse_pcm_format
from support.common import BROKEN_RECORDINGS

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
    expected = torch.from_numpy(tone(RATE_HZ) * (channels + 1) / 16)
    assert waveform.dtype == torch.float32
    # At both ends the filter has no neighbours; a cut sine is no sine there.
    inner = slice(200, -200)
    torch.testing.assert_close(waveform[inner], expected[inner], atol=1e-5, rtol=0)


def test_odd_rate_is_taken_as_it_is() -> None:
    waveform = decode_audio(encode(tone(44_101), 44_101, "WAV"), RATE_HZ, 60)
    expected = torch.from_numpy(tone(RATE_HZ))
    torch.testing.assert_close(waveform[200:-200], expected[200:-200], atol=1e-4, rtol=0)


def with_total_samples(flac: bytes, samples: int) -> bytes:
    """Return a FLAC file whose header claims another length: 36 bits at byte 21."""
    claimed = (int.from_bytes(flac[21:26], "big") >> 36 << 36) | samples
    return flac[:21] + claimed.to_bytes(5, "big") + flac[26:]


def test_header_tells_a_recording_that_is_too_long() -> None:
    three_days = 3 * 24 * 3600 * RATE_HZ
    flac = with_total_samples(encode(tone(RATE_HZ), RATE_HZ, "FLAC"), three_days)
    with pytest.raises(RequestError, match=r"at most 60 s.*259200\.0 s") as caught:
        decode_audio(flac, RATE_HZ, 60)
    assert status_of(caught.value) == 413


@pytest.mark.parametrize("endian", ["BIG", "LITTLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_without_a_header(endian: str, channels: int) -> None:
    samples = (np.stack([tone(RATE_HZ)] * channels, axis=1) * 32767).astype(np.int16)
    audio = samples.astype(">i2" if endian == "BIG" else "<i2").tobytes()
    extra = "; endianness=little-endian" if endian == "LITTLE" else ""
    pcm = parse_pcm_format(f"Audio/L16;rate=16000; channels={channels}{extra}")
    assert pcm == PcmFormat(RATE_HZ, channels, endian)  # type: ignore[arg-type]
    waveform = decode_audio(audio, RATE_HZ, 60, pcm)
    torch.testing.assert_close(waveform, torch.from_numpy(tone(RATE_HZ)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("content_type", ["", "audio/wav", "application/octet-stream", "nonsense"])
def test_other_content_types_have_a_header(content_type: str) -> None:
    assert parse_pcm_format(content_type) is None


@pytest.mark.parametrize("parameters", ["", "; rate=fast", "; rate=1", "; rate=16000; channels=9"])
def test_content_type_of_impossible_samples_is_refused(parameters: str) -> None:
    with pytest.raises(
        RequestError, match="in Content-Type, as in audio/L16; rate=16000"
    ) as caught:
        parse_pcm_format(f"audio/L16{parameters}")
    assert status_of(caught.value) == 400


RATES = st.text() | st.integers().map(str) | st.integers(1, 9_999).map(lambda digits: "9" * digits)


@settings(max_examples=300, deadline=None)
@given(
    st.text() | RATES.map("audio/L16; rate={}".format) | RATES.map("audio/L16;channels={}".format)
)
def test_any_content_type_is_read_or_refused(content_type: str) -> None:
    with contextlib.suppress(RequestError):
        pcm = parse_pcm_format(content_type)
        assert pcm is None or MIN_RATE_HZ <= pcm.rate_hz <= MAX_RATE_HZ


@settings(max_examples=100, deadline=None)
@given(st.binary() | BROKEN_RECORDINGS)
def test_any_recording_is_decoded_or_refused(recording: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert decode_audio(recording, RATE_HZ, 3_600).isfinite().all()


def test_part_of_a_sample_is_refused() -> None:
    with pytest.raises(RequestError, match="multiple of 4 bytes"):
        decode_audio(b"\0" * 6, RATE_HZ, 60, PcmFormat(RATE_HZ, 2))


def not_audio() -> list[tuple[bytes, int, str]]:
    nan = np.full(1000, np.nan, dtype=np.float32)
    wav = encode(tone(RATE_HZ), RATE_HZ, "WAV")
    flac = bytearray(encode(tone(RATE_HZ, 2), RATE_HZ, "FLAC"))
    flac[len(flac) // 2 :] = b"\xff" * len(flac[len(flac) // 2 :])
    return [
        (b"this is a text file, not a recording", 415, "UnsupportedAudio"),
        (wav[:20], 415, "UnsupportedAudio"),
        (b"\0" * 1000, 415, "UnsupportedAudio"),
        (encode(np.zeros(0, dtype=np.float32), RATE_HZ, "WAV"), 400, "EmptyAudio"),
        (encode(nan, RATE_HZ, "WAV", "FLOAT"), 400, "InvalidAudio"),
        (bytes(flac), 400, "DamagedAudio"),
        (encode(tone(RATE_HZ), 100, "WAV"), 422, "UnsupportedRate"),
    ]


@pytest.mark.parametrize(("audio", "status", "kind"), not_audio())
def test_what_is_no_recording_is_refused(audio: bytes, status: int, kind: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode_audio(audio, RATE_HZ, 60)
    assert (status_of(caught.value), caught.value.kind) == (status, kind)


def test_decoders_say_nothing_of_a_damaged_file(capfd: pytest.CaptureFixture[str]) -> None:
    """libmpg123 would write bytes of the recording to stderr, which TorchServe logs."""
    recording = bytearray(encode(tone(16_000, 3.0), 16_000, "MP3"))
    recording[2_000:2_900] = bytes(range(1, 226)) * 4
    with contextlib.suppress(RequestError):
        decode_audio(bytes(recording), 16_000, 60.0)
    with pytest.raises(RequestError):
        decode_audio(b"\xff\xfb" + b"secret" * 500, 16_000, 60.0)
    assert capfd.readouterr() == ("", "")


def test_length_of_a_stream_is_found_by_reading() -> None:
    """What a pipe leaves in the header of a FLAC file: 0 samples."""
    flac = encode(tone(RATE_HZ, 3.0), RATE_HZ, "FLAC")
    waveform = decode_audio(with_total_samples(flac, 0), RATE_HZ, 60)
    assert torch.equal(waveform, decode_audio(flac, RATE_HZ, 60))
    with pytest.raises(RequestError, match=r"at most 2 s .* got more than 3\.0 s"):
        decode_audio(with_total_samples(flac, 0), RATE_HZ, 2)


def test_many_channels_are_read_in_short_blocks() -> None:
    """Ten seconds of FFmpeg's most channels at once would take a gigabyte."""
    samples = np.tile(tone(8_000, 2.0)[:, None], (1, 512)).astype(np.float32)
    recording = encode(samples, 8_000, "WAV", "PCM_U8")
    tracemalloc.start()
    waveform = decode_audio(recording, 8_000, 60.0)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert waveform.numpy() == pytest.approx(samples[:, 0], abs=0.02)
    assert peak_bytes < 20e6
