"""What phones, browsers and pipes record; what was cut or joined; what would open other files."""

import contextlib
import io
import itertools
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
import soundfile
import torch
from av.container import InputContainer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batches import status_of
from benchmarks.peak_memory import peak_mb, reset_peak_mb
from speechtext.allowance import allow
from speechtext.errors import DeadlineError, RequestError
from speechtext.speech.audio import MOST_RATES, decode_audio
from speechtext.speech.containers import find_duration_s
from speechtext.speech.opening import MOST_STREAMS
from speechtext.speech.pcm import BLOCK_S, PcmFormat
from support.common import EXAMPLES
from trials.broken_audio import encode, encode_by_ffmpeg

RATE_HZ = 16_000
SPEECH = soundfile.read(EXAMPLES / "turn_on_the_kitchen_lights.wav", dtype="float32")[0]


def remux(recording: bytes, container: str) -> bytes:
    """Return a recording's packets, as they are, in another container."""
    file = io.BytesIO()
    with (
        av.open(io.BytesIO(recording), "r") as source,
        av.open(file, "w", format=container) as output,
    ):
        from_stream = source.streams.audio[0]
        to_stream = output.add_stream_from_template(from_stream)
        for packet in source.demux(from_stream):
            if packet.dts is not None:
                packet.stream = to_stream
                output.mux(packet)
    return file.getvalue()


def piped_mp3() -> bytes:
    """Return an MP3 of variable bit rate, loud parts and silence, without a Xing header."""
    file = io.BytesIO()
    samples = np.concatenate([np.zeros(5 * RATE_HZ, np.float32), *[SPEECH] * 8])
    frame = av.AudioFrame.from_ndarray(samples[None], "flt", "mono")
    frame.sample_rate = RATE_HZ
    options = {"write_xing": "0", "id3v2_version": "0"}
    with av.open(file, "w", format="mp3", container_options=options) as output:
        stream = output.add_stream("libmp3lame", rate=RATE_HZ, layout="mono")
        stream.codec_context.flags |= 2  # quality instead of a bit rate
        stream.codec_context.options = {"global_quality": "900"}
        for each in (frame, None):
            output.mux(stream.encode(each))
    return file.getvalue()


EXACT = [
    *itertools.product(
        ["WAV", "WAVEX", "RF64", "AIFF", "AU", "CAF", "W64"],
        ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"],
    ),
    *[("WAV", "PCM_U8"), ("WAV", "IMA_ADPCM"), ("WAV", "GSM610"), ("AIFF", "PCM_S8")],
    *[("FLAC", "PCM_S8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")],
    *[("CAF", "ALAC_16"), ("CAF", "ALAC_24"), ("CAF", "ALAC_32"), ("AVR", "PCM_16")],
    *[("IRCAM", "PCM_16"), ("NIST", "PCM_16"), ("PAF", "PCM_16"), ("PVF", "PCM_16")],
    ("VOC", "PCM_16"),
]


@pytest.mark.parametrize(("container", "subtype"), EXACT)
def test_what_is_exact_is_as_libsndfile_reads_it(container: str, subtype: str) -> None:
    recording = encode(SPEECH, RATE_HZ, container, subtype)
    expected, _ = soundfile.read(io.BytesIO(recording), dtype="float32")
    assert torch.equal(decode_audio(recording, RATE_HZ, 60), torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [("OGG", "VORBIS", 1e-6), ("MP3", None, 1e-4), ("WAV", "MS_ADPCM", 2e-2)],
)
def test_lossy_codecs_are_as_libsndfile_reads_them(
    container: str, subtype: str | None, tolerance: float
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, RATE_HZ).astype(np.float32)
    recording = encode(noise, RATE_HZ, container, subtype)
    expected, _ = soundfile.read(io.BytesIO(recording), dtype="float32")
    waveform = decode_audio(recording, RATE_HZ, 60)
    torch.testing.assert_close(waveform, torch.from_numpy(expected), atol=tolerance, rtol=0)


def assert_sounds_like_speech(waveform: torch.Tensor, expected: np.ndarray = SPEECH) -> None:
    """Compare by the best shift: encoders start with some hundred samples of silence."""
    size = 2 * max(len(waveform), len(expected))
    spectra = [np.fft.rfft(each, size) for each in (waveform.numpy(), expected)]
    correlation = np.fft.irfft(spectra[0] * np.conj(spectra[1]), size)
    norms = [np.sqrt(np.square(each).sum()) for each in (waveform.numpy(), expected)]
    assert correlation.max() / (norms[0] * norms[1]) > 0.95
    assert abs(len(waveform) - len(expected)) < 0.2 * RATE_HZ


@pytest.mark.parametrize(("container", "codec"), [("ipod", "alac"), ("mov", "pcm_s16le")])
def test_phones_lossless_recordings_are_exact(container: str, codec: str) -> None:
    recording = encode_by_ffmpeg(SPEECH, RATE_HZ, container, codec)
    expected = torch.from_numpy(SPEECH)
    torch.testing.assert_close(decode_audio(recording, RATE_HZ, 60), expected, atol=1e-4, rtol=0)


PHONES: dict[str, Callable[[], bytes]] = {
    "m4a": lambda: encode_by_ffmpeg(SPEECH, RATE_HZ, "ipod", "aac"),
    "mp4": lambda: encode_by_ffmpeg(SPEECH, RATE_HZ, "mp4", "aac"),
    "3gp": lambda: encode_by_ffmpeg(SPEECH, RATE_HZ, "3gp", "aac"),
    "adts": lambda: encode_by_ffmpeg(SPEECH, RATE_HZ, "adts", "aac"),
    "webm_opus": lambda: encode_by_ffmpeg(SPEECH, RATE_HZ, "webm", "libopus"),
    "webm_vorbis": lambda: remux(encode(SPEECH, RATE_HZ, "OGG", "VORBIS"), "webm"),
    "ogg_opus": lambda: encode(SPEECH, RATE_HZ, "OGG", "OPUS"),
    "mp3": lambda: encode_by_ffmpeg(SPEECH, RATE_HZ, "mp3", "libmp3lame"),
}


@pytest.mark.parametrize("name", PHONES)
def test_phones_and_browsers_are_heard(name: str) -> None:
    assert_sounds_like_speech(decode_audio(PHONES[name](), RATE_HZ, 60))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_eight_channels_in_planes(subtype: str) -> None:
    """PyAV's own list of planes reads beyond their end here, and ends the process."""
    recording = encode(np.tile(SPEECH[:, None], (1, 8)), RATE_HZ, "OGG", subtype)
    assert_sounds_like_speech(decode_audio(recording, RATE_HZ, 60))


def test_mp3_of_a_pipe_is_read_to_its_end() -> None:
    """Its first seconds are silent: their bit rate would make it far too long."""
    waveform = decode_audio(piped_mp3(), RATE_HZ, 5 + len(SPEECH) / RATE_HZ * 8 + 1)
    assert len(waveform) / RATE_HZ == pytest.approx(5 + len(SPEECH) / RATE_HZ * 8, abs=0.2)
    with pytest.raises(RequestError, match="at most 10 s") as refusal:
        decode_audio(piped_mp3(), RATE_HZ, 10)
    assert status_of(refusal.value) == 413


@pytest.mark.parametrize("length", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_of_a_pipe_is_read_to_its_end(length: int) -> None:
    recording = bytearray(encode(SPEECH, RATE_HZ))
    expected = decode_audio(bytes(recording), RATE_HZ, 60)
    place = recording.index(b"data") + 4
    recording[place : place + 4] = struct.pack("<I", length)
    assert torch.equal(decode_audio(bytes(recording), RATE_HZ, 60), expected)


def test_wav_tells_that_it_is_too_long_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("speechtext.speech.containers._Link._decode_packets")
    with pytest.raises(RequestError, match=r"at most 1 s .* got 1\.6 s"):
        decode_audio(encode(SPEECH, RATE_HZ), RATE_HZ, 1)


@pytest.mark.parametrize("container", ["ipod", "webm"])
def test_video_is_ignored(container: str) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4" if container == "ipod" else container) as output:
        codec, audio_codec = ("mpeg4", "aac") if container == "ipod" else ("libvpx", "libopus")
        video = cast(av.VideoStream, output.add_stream(codec, rate=25))
        video.width = video.height = 64
        audio = cast(av.AudioStream, output.add_stream(audio_codec, rate=RATE_HZ, layout="mono"))
        frame = av.AudioFrame.from_ndarray(SPEECH[None], "flt", "mono")
        frame.sample_rate = RATE_HZ
        for _ in range(10):
            output.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        for each in (frame, None):
            output.mux(audio.encode(each))
        output.mux(video.encode(None))
    assert_sounds_like_speech(decode_audio(file.getvalue(), RATE_HZ, 60))


WHOLE: dict[str, Callable[[], bytes]] = PHONES | {
    "wav": lambda: encode(SPEECH, RATE_HZ),
    "flac": lambda: encode(SPEECH, RATE_HZ, "FLAC"),
    "aiff": lambda: encode(SPEECH, RATE_HZ, "AIFF"),
    "caf": lambda: encode(SPEECH, RATE_HZ, "CAF"),
    "ogg_vorbis": lambda: encode(SPEECH, RATE_HZ, "OGG", "VORBIS"),
    "webm": lambda: encode_by_ffmpeg(SPEECH, RATE_HZ, "webm", "libopus"),
}


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_length_is_told_before_anything_is_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("speechtext.speech.containers._Link._decode_packets")
    # Where it is an estimate by the first frames, not too far off.
    assert find_duration_s(WHOLE[name]()) == pytest.approx(len(SPEECH) / RATE_HZ, abs=0.3)


@pytest.mark.parametrize("recording", [b"", b"no recording", bytes(100_000)])
def test_what_is_no_recording_has_no_length(recording: bytes) -> None:
    assert find_duration_s(recording) == 0


def test_length_is_not_more_than_the_bytes_of_a_pipe_hold() -> None:
    recording = bytearray(encode(SPEECH, RATE_HZ))
    place = recording.index(b"data") + 4
    recording[place : place + 4] = b"\xff" * 4
    assert find_duration_s(bytes(recording)) == pytest.approx(len(SPEECH) / RATE_HZ, abs=0.01)


# Frames that stand alone, or links of a chain: they go on where another file begins.
JOINABLE = ["flac", "ogg_vorbis", "ogg_opus", "mp3", "adts"]


@pytest.mark.parametrize("name", JOINABLE)
def test_joined_recordings_are_read_to_the_end_of_the_last(name: str) -> None:
    waveform = decode_audio(WHOLE[name]() * 3, RATE_HZ, 60)
    assert len(waveform) / RATE_HZ == pytest.approx(3 * len(SPEECH) / RATE_HZ, abs=0.4)
    assert_sounds_like_speech(waveform[-len(SPEECH) :])


@pytest.mark.parametrize("name", ["wav", "aiff", "caf", "m4a", "mp4", "webm_opus"])
def test_header_of_one_does_not_answer_for_two(name: str) -> None:
    with pytest.raises(RequestError, match="Expected one recording") as refusal:
        decode_audio(WHOLE[name]() * 2, RATE_HZ, 60)
    assert status_of(refusal.value) == 400


@pytest.mark.parametrize(("low", "high"), [(1285, 11570), (3921, 12855), (0, 4280)])
def test_stream_of_aac_may_begin_and_end_anywhere(low: int, high: int) -> None:
    whole = WHOLE["adts"]()
    with cast(InputContainer, av.open(io.BytesIO(whole))) as container:
        packets = [packet for packet in container.demux() if packet.size]
    frames = [(cast(int, each.pos), cast(int, each.pos) + each.size) for each in packets]
    waveform = decode_audio(whole[low:high], RATE_HZ, 60)
    assert len(waveform) == 1024 * sum(low <= start and end <= high for start, end in frames)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The cut frame has what looks like a header, with a length that takes in frames of the whole one.
@example("adts", 0.60502, 0.79668, True)
@example("adts", 0.75753, 0.87674, True)
@given(st.sampled_from(sorted(WHOLE)), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_cut_and_joined_recordings_are_read_or_refused(
    name: str, start: float, end: float, whole_after: bool
) -> None:
    recording = WHOLE[name]()
    places = sorted(int(len(recording) * each) for each in (start, end))
    joined = recording[places[0] : places[1]] + recording * whole_after
    with contextlib.suppress(RequestError):
        waveform = decode_audio(joined, RATE_HZ, 60)
        assert waveform.isfinite().all()
        assert len(waveform) <= 2.3 * len(SPEECH)
        if whole_after and name in JOINABLE and len(joined) > len(recording):
            assert len(waveform) > 0.9 * len(SPEECH)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(WHOLE)), st.integers())
def test_mutated_recordings_are_read_or_refused(name: str, seed: int) -> None:
    chance, broken = random.Random(seed), bytearray(WHOLE[name]())
    for _ in range(chance.choice((1, 3, 30))):
        most = chance.choice((64, 1024, len(broken)))
        broken[chance.randrange(min(most, len(broken)))] = chance.randrange(256)
    with contextlib.suppress(RequestError):
        assert decode_audio(bytes(broken), RATE_HZ, 60).isfinite().all()


def test_damaged_frame_of_flac_is_refused() -> None:
    flac = bytearray(encode(SPEECH, RATE_HZ, "FLAC"))
    flac[len(flac) // 2] ^= 1
    with pytest.raises(RequestError, match="damaged after"):
        decode_audio(bytes(flac), RATE_HZ, 60)


def test_nothing_is_said_of_damaged_recordings(capfd: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(1)
    for make in WHOLE.values():
        for _ in range(10):
            broken = bytearray(make())
            for _ in range(20):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            with contextlib.suppress(RequestError):
                decode_audio(bytes(broken), RATE_HZ, 60)
    assert capfd.readouterr() == ("", "")


def test_several_at_once_are_as_one_alone() -> None:
    recordings = [make() for make in WHOLE.values()]
    expected = [decode_audio(each, RATE_HZ, 60) for each in recordings]
    found: list[list[torch.Tensor]] = [[], [], [], []]

    def decode_all(into: list[torch.Tensor]) -> None:
        into.extend(decode_audio(each, RATE_HZ, 60) for each in recordings)

    threads = [threading.Thread(target=decode_all, args=(each,)) for each in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in found:
        assert all(itertools.starmap(torch.equal, zip(each, expected, strict=True)))


def put(recording: bytes, box: bytes, *fields: tuple[int, int]) -> bytes:
    """Return a recording with numbers of 32 bits in a box of an mp4, each so far from its name."""
    changed, start = bytearray(recording), recording.index(box)
    for offset, value in fields:
        changed[start + offset : start + offset + 4] = struct.pack(">I", value)
    return bytes(changed)


def telling_of_samples(samples: int) -> bytes:
    """Return an m4a that tells of so many samples, a byte each: ISO 14496-12, section 8.7."""
    recording = put(WHOLE["m4a"](), b"stsz", (8, 1), (12, samples))
    return put(put(recording, b"stts", (12, samples)), b"stsc", (16, samples))


def telling_of_pcm() -> bytes:
    """Return a mov whose chunks tell of as many samples as there can be."""
    recording = encode_by_ffmpeg(SPEECH, RATE_HZ, "mov", "pcm_s16le")
    return put(recording, b"stsc", (8, 1), (16, 2**31 - 1))


def telling_of_fragment(samples: int) -> bytes:
    """Return an mp4 whose fragment tells of so many samples like each other: section 8.8.8."""
    file = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(file, "w", format="mp4", container_options=options) as output:
        stream = output.add_stream("aac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(SPEECH[None], "flt", "mono")
        frame.sample_rate = RATE_HZ
        for each in (frame, None):
            output.mux(stream.encode(each))
    return put(file.getvalue(), b"trun", (4, 1), (8, samples))


def compressed(recording: bytes) -> bytes:
    """Return an mp4 whose header is compressed: QuickTime File Format, "Compressed Movies"."""
    start = recording.index(b"moov") - 4
    stop = start + int.from_bytes(recording[start : start + 4], "big")
    header = recording[start:stop]
    boxes = zlib.compress(header)
    boxes = struct.pack(">I4sI", 12 + len(boxes), b"cmvd", len(header)) + boxes
    boxes = struct.pack(">I4sI4s", 12, b"dcom", 0, b"")[:8] + b"zlib" + boxes
    boxes = struct.pack(">I4s", 8 + len(boxes), b"cmov") + boxes
    moov = struct.pack(">I4s", 8 + len(boxes), b"moov") + boxes
    return recording[:start] + moov + recording[stop:]


@pytest.mark.parametrize(
    "make",
    [
        lambda: telling_of_samples(20_000_000),
        telling_of_pcm,
        lambda: telling_of_fragment(20_000_000),
        lambda: compressed(telling_of_samples(20_000_000)),
    ],
    ids=["samples", "pcm", "fragment", "compressed"],
)
def test_what_tells_of_millions_of_samples_takes_no_memory(make: Callable[[], bytes]) -> None:
    """FFmpeg's index has 35 bytes for each: some hundred megabytes."""
    recording = make()
    before_mb = reset_peak_mb()
    with contextlib.suppress(RequestError):
        decode_audio(recording, RATE_HZ, 3_600)
    assert not peak_mb() - before_mb > 40


@pytest.mark.parametrize("make", [lambda: telling_of_samples(10), lambda: telling_of_fragment(10)])
def test_what_tells_of_few_samples_is_read(make: Callable[[], bytes]) -> None:
    """Of the same kind, but it is only damaged."""
    with contextlib.suppress(RequestError):
        assert decode_audio(make(), RATE_HZ, 3_600).isfinite().all()


@pytest.mark.parametrize("more", [0, 1])
def test_streams_are_as_many_as_phones_record(more: int) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        streams = [output.add_stream("aac", rate=RATE_HZ) for _ in range(MOST_STREAMS + more)]
        for stream in streams:
            stream.layout = "mono"
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(SPEECH[None], "flt", "mono")
            frame.sample_rate = RATE_HZ
            for each in (frame, None):
                output.mux(stream.encode(each))
    if not more:
        assert_sounds_like_speech(decode_audio(file.getvalue(), RATE_HZ, 60))
        return
    with pytest.raises(RequestError, match="at most 16 streams") as refusal:
        decode_audio(file.getvalue(), RATE_HZ, 60)
    assert (status_of(refusal.value), refusal.value.kind) == (413, "AudioTooLong")


def with_names(count: int) -> bytes:
    """Return a WAV file with so many names: the RIFF specification of 1991, chapter 2."""
    recording = encode(SPEECH, RATE_HZ)
    names = b"INFO" + b"INAM\4\0\0\0name" * count
    start = recording.index(b"data")
    return recording[:start] + b"LIST" + struct.pack("<I", len(names)) + names + recording[start:]


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let each look at the clock take a second; return what tells how many there were."""
    looks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(looks)))
    return lambda: next(looks)


@pytest.mark.parametrize(
    ("make", "looks", "pcm"),
    [
        # Packets: 1,024 samples of AAC, 4,096 of FLAC.
        (lambda: WHOLE["adts"]() * 5, 5 * len(SPEECH) // 1_024, None),
        (lambda: encode(np.tile(SPEECH, 10), RATE_HZ, "FLAC"), 10 * len(SPEECH) // 4_608, None),
        # Names in a header, of which FFmpeg reads 32 KB at once.
        (lambda: with_names(500_000), 500_000 * 12 // 32_768, None),
        # Links, in which there is next to nothing.
        (lambda: encode(SPEECH[:16], RATE_HZ, "FLAC") * 40, 40, None),
        (lambda: bytes(2 * 8_000 * BLOCK_S * 15), 15, PcmFormat(8_000)),
    ],
    ids=["aac", "flac", "names", "links", "pcm"],
)
def test_time_is_looked_at_on_the_way(
    make: Callable[[], bytes], looks: int, pcm: PcmFormat | None, ticks: Callable[[], int]
) -> None:
    with allow(1e9):
        begun = ticks()
        decode_audio(make(), RATE_HZ, 200, pcm)
        assert ticks() - begun > looks


def test_slow_recording_leaves_its_neighbours_their_time(ticks: Callable[[], int]) -> None:
    slow = WHOLE["adts"]() * 40
    with allow(2_000):
        for _ in range(3):
            with pytest.raises(DeadlineError):
                decode_audio(slow, RATE_HZ, 3_600)
        # Half of 1,800 s, then of 900, and of 450.
        assert ticks() == pytest.approx(1_800 * (1 - 0.5**3), abs=20)
        assert_sounds_like_speech(decode_audio(WHOLE["m4a"](), RATE_HZ, 60))


@pytest.mark.parametrize("name", sorted(WHOLE))
@pytest.mark.usefixtures("ticks")
def test_recording_that_time_ends_is_no_damaged_one(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    recording = WHOLE[name]()
    expected = decode_audio(recording, RATE_HZ, 60)
    late = 0
    for doublings in range(15):
        with allow(2**doublings):
            try:
                assert torch.equal(decode_audio(recording, RATE_HZ, 60), expected)
            except DeadlineError as error:
                assert error.kind == "TookTooLong"
                late += 1
    assert 0 < late < 15
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("more", [0, 1])
def test_rates_of_a_chain_are_not_too_many(more: int) -> None:
    """Each needs a filter of its own, which may take longer than all that is heard."""
    links = [encode(SPEECH[:800], rate_hz, "FLAC") for rate_hz in (8_000, 16_000)]
    recording = b"".join(links[number % 2] for number in range(MOST_RATES + more))
    if not more:
        # Of each stretch at 8 kHz, half a sample at most is missing.
        assert len(decode_audio(recording, RATE_HZ, 60)) == pytest.approx(50 * 2_400, abs=50)
        return
    with pytest.raises(RequestError, match="at most 100 sampling rates") as refusal:
        decode_audio(recording, RATE_HZ, 60)
    assert (status_of(refusal.value), refusal.value.kind) == (400, "DamagedAudio")


def playlists(address: str) -> dict[str, bytes]:
    """Return files that name another one, by FFmpeg's name of the format."""
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n".encode(),
        "concat": f"ffconcat version 1.0\nfile '{address}'\n".encode(),
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        "dash": f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet '
        f'mimeType="audio/mp4"><Representation id="1"><BaseURL>{address}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>".encode(),
    }


def in_another_file(path: Path) -> bytes:
    """Return a mov whose samples are in another file: an alias record, as QuickTime writes it."""
    name = str(path).encode()
    name += b"\0" * (len(name) % 2)
    alias = bytes(10) + b"\4disk" + bytes(23) + bytes(12) + b"\4name" + bytes(59) + bytes(16)
    alias += struct.pack(">hh", 0, 0) + bytes(16) + struct.pack(">hH", 2, len(name)) + name
    entry = b"alis" + bytes(4) + alias + struct.pack(">hH", -1, 0)
    dref = bytes(4) + struct.pack(">II", 1, len(entry) + 4) + entry
    recording = encode_by_ffmpeg(SPEECH, RATE_HZ, "mov", "pcm_s16le")
    # The last dref is the audio track's; its parents grow by as much as it does.
    place = recording.rindex(b"dref") - 4
    size = int.from_bytes(recording[place : place + 4], "big")
    grown = len(dref) + 8 - size
    new = bytearray(
        recording[:place]
        + struct.pack(">I", len(dref) + 8)
        + b"dref"
        + dref
        + recording[place + size :]
    )
    for parent in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        at = new.rindex(parent, 0, place + 8) - 4
        new[at : at + 4] = struct.pack(">I", int.from_bytes(new[at : at + 4], "big") + grown)
    return bytes(new)


def test_samples_in_another_file_are_not_read(tmp_path: Path) -> None:
    other = tmp_path / "other.mov"
    other.write_bytes(encode_by_ffmpeg(SPEECH, RATE_HZ, "mov", "pcm_s16le"))
    recording = bytearray(in_another_file(other))
    start = recording.index(b"mdat") + 4
    recording[start : start + 2 * len(SPEECH)] = bytes(2 * len(SPEECH))
    # Allowed to, FFmpeg reads the other file: the record is right.
    allowed = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(io.BytesIO(bytes(recording)), "r", options=allowed) as container:
        assert max(frame.to_ndarray().max() for frame in container.decode(audio=0)) > 0
    with contextlib.suppress(RequestError):
        assert not decode_audio(bytes(recording), RATE_HZ, 60).any()


@pytest.mark.parametrize("kind", playlists(""))
def test_files_that_name_another_are_refused(kind: str, tmp_path: Path) -> None:
    other = tmp_path / "other.wav"
    other.write_bytes(encode(SPEECH, RATE_HZ))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        web = f"http://127.0.0.1:{listener.getsockname()[1]}/other.wav"
        for address in (str(other), f"file:{other}", web):
            with pytest.raises(RequestError) as refusal:
                decode_audio(playlists(address)[kind], RATE_HZ, 60)
            assert status_of(refusal.value) == 415
        with pytest.raises(TimeoutError):
            listener.accept()
