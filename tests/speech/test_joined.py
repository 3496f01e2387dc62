"""Recordings cut and joined, of files and of pipes: each is read to its real end, or refused."""

import io
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batches import status_of
from speechtext.errors import RequestError
from speechtext.speech.audio import decode_audio
from support.common import EXAMPLES
from trials.broken_audio import encode

RATE_HZ = 16_000
SPEECH = EXAMPLES / "turn_on_the_kitchen_lights.wav"


class Pipe:
    """A file that can only be written to, as standard output is."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> int:
        """Take more bytes."""
        self.content += data
        return len(data)


class Kind(NamedTuple):
    """How FFmpeg writes a recording: a container, an encoder, and the rate that it takes."""

    container: str
    codec: str
    rate_hz: int = RATE_HZ


KINDS = [
    *[Kind("wav", "pcm_s16le"), Kind("wav", "pcm_f32le"), Kind("w64", "pcm_s16le")],
    *[Kind("aiff", "pcm_s16be"), Kind("au", "pcm_s16be"), Kind("caf", "pcm_s16be")],
    *[Kind("flac", "flac"), Kind("flac", "flac", 8_000), Kind("ogg", "libopus")],
    *[Kind("mp3", "libmp3lame"), Kind("mp3", "libmp3lame", 44_100), Kind("adts", "aac")],
    *[Kind("mp4", "aac"), Kind("ipod", "alac"), Kind("mov", "pcm_s16le")],
    *[Kind("matroska", "libopus"), Kind("webm", "libopus"), Kind("matroska", "pcm_s16le")],
    *[Kind("amr", "libopencore_amrnb", 8_000), Kind("voc", "pcm_s16le")],
    Kind("ircam", "pcm_s16le"),
]
# Of these FFmpeg writes nothing into a pipe, or nothing that it reads.
SEEKING = {"w64", "aiff", "mp4", "ipod", "mov"}
# Here, what follows the samples are samples: their headers tell no length.
WITHOUT_END = {"ircam", "amr"}
# These are not searched for where they would be samples.
RARE = {"w64", "au", "voc", "ircam"}
# Recordings of one of these may follow one another.
CHAINS = {"flac", "ogg", "mp3", "adts"}


def speak(seed: int, rate_hz: int, duration_s: float) -> np.ndarray:
    """Return chirps, each seed's its own, and no two stretches of them alike."""
    times_s = np.arange(int(rate_hz * duration_s)) / rate_hz
    pitch_hz = 300 + 250 * seed + 400 * times_s
    return (0.4 * np.sin(2 * np.pi * pitch_hz * times_s)).astype(np.float32)


@cache
def record(kind: Kind, seed: int, piped: bool = False, duration_s: float = 0.8) -> bytes:
    """Return a recording as FFmpeg writes it into a file, or into a pipe."""
    file: Any = Pipe() if piped else io.BytesIO()
    samples = speak(seed, kind.rate_hz, duration_s)
    # No 8 kB of nothing before the frames of FLAC: a part of the file is a part of the speech.
    options = {"metadata_header_padding": "0"}
    with av.open(file, "w", format=kind.container, options=options) as output:
        stream = cast(
            av.AudioStream, output.add_stream(kind.codec, rate=kind.rate_hz, layout="mono")
        )
        for start in range(0, len(samples), 1000):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1000], "flt", "mono")
            frame.sample_rate, frame.pts = kind.rate_hz, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return bytes(file.content if piped else file.getvalue())


def hear(recording: bytes) -> torch.Tensor:
    return decode_audio(recording, RATE_HZ, 60)


def likeness(waveform: torch.Tensor, part: torch.Tensor) -> float:
    """Return how alike a part and the likest stretch of a waveform are: 1 for the same."""
    size = 2 * max(len(waveform), len(part))
    spectra = [torch.fft.rfft(each, size) for each in (waveform, part)]
    products = torch.fft.irfft(spectra[0] * spectra[1].conj(), size)
    place = int(products[: len(waveform)].argmax())
    stretch = waveform[place : place + len(part)]
    return float(torch.cosine_similarity(stretch, part[: len(stretch)], dim=0)) * (
        len(stretch) / len(part)
    )


def assert_all_heard(recording: bytes, parts: Sequence[bytes]) -> None:
    """Check that the samples are those of the parts, with no more than a codec's silence."""
    waveform = hear(recording)
    own = [hear(part) for part in parts]
    assert abs(len(waveform) - sum(map(len, own))) <= 0.08 * RATE_HZ * len(parts)
    start = 0
    for part in own:
        # Somewhere near its place: MP3 adds up to 80 ms where a part ends.
        near = waveform[max(0, start - 1600) : start + len(part) + 1600 * len(own)]
        assert likeness(near, part) > 0.93
        start += len(part)


def assert_read_or_refused(recording: bytes, parts: Sequence[bytes]) -> None:
    try:
        hear(recording)
    except RequestError as refusal:
        assert status_of(refusal) in (400, 415)
        return
    assert_all_heard(recording, parts)


PIPED = [kind for kind in KINDS if kind.container not in SEEKING]


@pytest.mark.parametrize("kind", PIPED, ids=str)
def test_pipe_is_read_to_its_end(kind: Kind) -> None:
    file, pipe = record(kind, 1), record(kind, 1, piped=True)
    found, expected = hear(pipe), hear(file)
    assert abs(len(found) - len(expected)) <= 0.1 * RATE_HZ
    assert likeness(found, expected) > 0.98


@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.container in CHAINS], ids=str)
def test_chains_are_read_link_by_link(kind: Kind, piped: bool) -> None:
    links = [record(kind, seed, piped) for seed in (1, 2, 3)]
    assert_all_heard(b"".join(links), links)


LINKS: dict[str, Callable[[int], bytes]] = {
    "opus": lambda seed: encode(speak(seed, RATE_HZ, 0.8), RATE_HZ, "OGG", "OPUS"),
    "opus_stereo": lambda seed: encode(stereo(seed), RATE_HZ, "OGG", "OPUS"),
    "vorbis": lambda seed: encode(speak(seed, RATE_HZ, 0.8), RATE_HZ, "OGG", "VORBIS"),
    "vorbis_48": lambda seed: encode(speak(seed, 48_000, 0.8), 48_000, "OGG", "VORBIS"),
    "vorbis_stereo": lambda seed: encode(stereo(seed), RATE_HZ, "OGG", "VORBIS"),
}
FLACS: dict[str, Callable[[int], bytes]] = {
    "flac": lambda seed: encode(speak(seed, RATE_HZ, 0.8), RATE_HZ, "FLAC", "PCM_16"),
    "flac_24": lambda seed: encode(speak(seed, RATE_HZ, 0.8), RATE_HZ, "FLAC", "PCM_24"),
    "flac_8": lambda seed: encode(speak(seed, 8_000, 0.8), 8_000, "FLAC", "PCM_16"),
    "flac_44": lambda seed: encode(speak(seed, 44_100, 0.8), 44_100, "FLAC", "PCM_16"),
    "flac_stereo": lambda seed: encode(stereo(seed), RATE_HZ, "FLAC", "PCM_16"),
}


def stereo(seed: int) -> np.ndarray:
    return np.repeat(speak(seed, RATE_HZ, 0.8)[:, None], 2, axis=1)


@pytest.mark.parametrize("second", [*LINKS, *FLACS])
@pytest.mark.parametrize("first", [*LINKS, *FLACS])
def test_links_have_their_own_rate_channels_and_codec(first: str, second: str) -> None:
    kinds = LINKS | FLACS
    links = [kinds[first](1), kinds[second](2)]
    if (first in LINKS) != (second in LINKS):
        with pytest.raises(RequestError, match="Expected one recording"):
            hear(b"".join(links))
        return
    own = [hear(link) for link in links]
    found = hear(b"".join(links))
    # The resampler goes on where the rate does, up to half a sample beside.
    assert abs(len(found) - sum(map(len, own))) <= 1
    assert torch.equal(found[: len(own[0]) - 50], own[0][:-50])
    assert likeness(found[len(own[0]) - 50 :], own[1]) > 0.98


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_container_does_not_answer_for_another(kind: Kind) -> None:
    for other in KINDS:
        joined = record(kind, 1) + record(other, 2)
        if {kind.container, other.container} <= CHAINS:
            assert_read_or_refused(joined, [record(kind, 1), record(other, 2)])
        elif not (kind.container in WITHOUT_END and other.container in RARE):
            with pytest.raises(RequestError) as refusal:
                hear(joined)
            assert status_of(refusal.value) == 400


# What players and taggers put behind a recording.
TRAILERS = {
    "id3v1": b"TAG" + b"title".ljust(125, b"\0"),
    "ape": b"APETAGEX\xd0\x07\0\0" + (84).to_bytes(4, "little") + b"\1\0\0\0" + bytes(96),
    "id3v2": b"ID3\x03\0\0\0\0\x02\x00" + bytes(256),
    "noise": np.random.default_rng(0).bytes(3_000),
    "zeros": bytes(3_000),
}


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("kind", [k for k in KINDS if k.container not in WITHOUT_END], ids=str)
def test_what_follows_a_recording_is_no_audio(kind: Kind, trailer: str) -> None:
    recording = record(kind, 1)
    found, expected = hear(recording + TRAILERS[trailer]), hear(recording)
    # A last frame of MP3 and a trailer may end in another than the padding that the header tells.
    assert abs(len(found) - len(expected)) <= (0.05 * RATE_HZ if kind.container == "mp3" else 0)
    assert likeness(found, expected) > 0.99


def test_tags_between_mp3s_are_left_out() -> None:
    parts = [record(Kind("mp3", "libmp3lame"), seed) for seed in (1, 2, 3)]
    joined = (
        parts[0] + TRAILERS["id3v1"] + TRAILERS["id3v2"] + parts[1] + TRAILERS["ape"] + parts[2]
    )
    assert_all_heard(joined, parts)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(Kind("flac", "flac", 8_000), True, 0.708984375)
@given(st.sampled_from(KINDS), st.booleans(), st.floats(0, 1))
def test_cut_recording_is_read_up_to_its_cut_or_refused(
    kind: Kind, piped: bool, share: float
) -> None:
    recording = record(kind, 1, piped and kind.container not in SEEKING)
    cut = recording[: int(share * len(recording))]
    try:
        found = hear(cut)
    except RequestError as refusal:
        assert status_of(refusal) in (400, 415)
        return
    expected = hear(recording)
    # Up to a frame of a lossy codec is missing, or a packet of a tenth of a second.
    assert len(found) >= 0.6 * share * len(expected) - 0.15 * RATE_HZ
    assert len(found) <= len(expected) + 0.1 * RATE_HZ
    if len(found) > 0.3 * RATE_HZ:
        assert likeness(expected, found[: -RATE_HZ // 10]) > 0.9
    if kind.codec in ("flac", "alac") and share < 0.99:
        # What is checked for damage is whole, or refused.
        assert len(found) == len(expected) or piped


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), min_size=2, max_size=3),
    st.sampled_from([b"", *TRAILERS.values()]),
)
def test_joined_recordings_are_read_whole_or_refused(
    chosen: list[tuple[Kind, bool]], between: bytes
) -> None:
    parts = [
        record(kind, seed, piped and kind.container not in SEEKING)
        for seed, (kind, piped) in enumerate(chosen, start=1)
    ]
    headless = WITHOUT_END | {kind.container for kind, piped in chosen if piped}
    if not (
        headless & {kind.container for kind, _ in chosen[:-1]}
        and RARE & {kind.container for kind, _ in chosen}
    ):
        assert_read_or_refused(between.join(parts), parts)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(Kind("adts", "aac"), Kind("adts", "aac"), 0.6015625, False)
@example(Kind("ipod", "alac"), Kind("mp4", "aac"), 0.990234375, False)
@given(st.sampled_from(KINDS), st.sampled_from(KINDS), st.floats(0.3, 1), st.booleans())
def test_whole_recording_behind_a_cut_one_is_not_lost(
    first: Kind, second: Kind, share: float, piped: bool
) -> None:
    cut = record(first, 1, piped and first.container not in SEEKING)
    cut, whole = cut[: int(share * len(cut))], record(second, 2)
    try:
        waveform = hear(cut + whole)
    except RequestError as refusal:
        assert status_of(refusal) in (400, 415)
        return
    if second.container not in RARE:
        # A frame that is cut short takes the next one with it.
        assert likeness(waveform, hear(whole)) > 0.8
