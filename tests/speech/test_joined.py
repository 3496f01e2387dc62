"""Recordings cut and joined, of files and of pipes: each is read to its real end, or refused."""

import io
import time
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
from speechtext.allowance import allow
from speechtext.errors import DeadlineError, MalformedRequestError, RequestError
from speechtext.speech.audio import decode_audio
from speechtext.speech.joined import (
    HEADERS,
    LAST_BYTES,
    MATROSKA,
    MOST_LINKS,
    MOV,
    check_one_header,
    check_rest,
    has_aac,
    split_links,
)
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


def ogg_page(kind: int, *segments: int) -> bytes:
    """Return a page of Ogg with segments of so many bytes: RFC 3533, section 6."""
    numbers = bytes([1, 2, 3, 4]) + bytes(8)
    table = bytes([len(segments), *segments])
    return b"OggS\0" + bytes([kind]) + bytes(8) + numbers + table + b"x" * sum(segments)


def tag(size: int) -> bytes:
    """Return an ID3v2 tag with so many bytes behind its header."""
    sizes = bytes(size >> bits & 127 for bits in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + sizes + b"t" * size


BEGIN, GO_ON = ogg_page(2, 19), ogg_page(0, 255, 255, 10)
FLAC = b"fLaC\0\0\0\x22" + b"f" * 90
FLAC_ALONE = b"fLaC\x80\0\0\x22" + b"f" * 34
MP3 = b"\xff\xfb\x90" + b"m" * 200


@pytest.mark.parametrize(
    "links",
    [
        # Whole recordings, and none.
        [b""],
        [b"RIFF1234WAVE" + 2 * FLAC],
        [BEGIN + GO_ON + GO_ON],
        [FLAC],
        [tag(300) + FLAC],
        [tag(300) + MP3 + MP3],
        [MP3 + MP3],
        # Chains of Ogg: where pages begin streams, of which there may be several.
        [BEGIN + GO_ON, BEGIN + GO_ON],
        [BEGIN + GO_ON, BEGIN + GO_ON + GO_ON, BEGIN + GO_ON],
        [BEGIN + ogg_page(2, 255, 255, 7) + GO_ON, BEGIN + ogg_page(2, 5) + ogg_page(2) + GO_ON],
        [BEGIN + GO_ON, ogg_page(6, 8)],
        # Of FLAC, and of FLAC and MP3 with tags.
        [FLAC, FLAC],
        [FLAC_ALONE, FLAC, FLAC_ALONE],
        [FLAC, tag(5) + FLAC],
        [tag(200) + FLAC, tag(1_000) + FLAC, FLAC],
        [tag(5) + MP3, tag(129) + MP3, tag(16_383) + MP3],
        [tag(2**21 + 5) + MP3, tag(2**14 + 5) + MP3],
        [tag(7) + MP3, tag(5) + tag(300) + MP3],
        [tag(0) + MP3, tag(0) + MP3 + FLAC[4:]],
        # The first of them without a tag.
        [MP3, tag(5) + MP3],
        [MP3 + MP3, tag(5) + MP3, tag(300) + MP3],
        # A tag that is no beginning: nothing, or something else, is behind it.
        [MP3 + tag(5)],
        [MP3 + tag(5) + b"abc"],
        [tag(5) + MP3 + tag(5) + b"\xff\x10"],
        # A link is known by its beginning, and looks for no other kind's.
        [BEGIN + GO_ON + FLAC + tag(3) + MP3],
        [b"TAG" + FLAC + FLAC],
    ],
)
def test_chain_is_split_where_links_begin(links: list[bytes]) -> None:
    assert split_links(b"".join(links)) == links


@pytest.mark.parametrize("link", [BEGIN + GO_ON, FLAC, tag(5) + MP3])
def test_links_of_a_chain_are_not_too_many(link: bytes) -> None:
    assert split_links(link * MOST_LINKS) == [link] * MOST_LINKS
    with pytest.raises(MalformedRequestError, match="at most 1000 recordings") as refusal:
        split_links(link * (MOST_LINKS + 1))
    assert refusal.value.kind == "DamagedAudio"


def test_marks_of_matroska_are_read_once() -> None:
    """Bytes that are full of them would be read for each of them again."""
    (pattern,) = HEADERS[MATROSKA]
    mark, name = b"\x1aE\xdf\xa3", b"\x42\x82\x84webm"
    found = pattern.search(mark * 100 + name)
    assert found is not None
    assert found.start() == 99 * len(mark)
    assert pattern.search(mark * 100) is None


def test_page_that_is_cut_ends_with_what_there_is() -> None:
    cut = BEGIN + GO_ON + ogg_page(2, 255, 255)[:28]
    assert split_links(cut) == [BEGIN + GO_ON, cut[len(BEGIN + GO_ON) :]]
    assert split_links(BEGIN[:14]) == [BEGIN[:14]]


# How a recording of each container begins.
BEGINNINGS: dict[str, list[bytes]] = {
    "wav": [b"RIFF\n\0\0\0WAVE"],
    "flac": [FLAC, FLAC_ALONE],
    "ogg": [BEGIN, ogg_page(6)],
    "amr": [b"#!AMR\n", b"#!AMR-WB\n"],
    "aiff": [b"FORM\n\0\0\0AIFF", b"FORM1234AIFC"],
    "caf": [b"caff\0\x01\0\0desc"],
    MATROSKA: [b"\x1aE\xdf\xa3\n12345webm", b"\x1aE\xdf\xa3" + b"1" * 60 + b"matroska"],
    MOV: [b"\0\0\0\x20ftypisom", b"\0\0\0\x14ftypqt  ", b"moov\0\0\0lmvhd"],
    "w64": [b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"],
    "au": [b".snd\0\0\0\x18\0\0\1\2\0\0\0\3\0\0\x3e\x80\0\0\0\1"],
    "avr": [b"2BIT12345678\xff\xff\0\x10", b"2BIT12345678\0\0\0\x08"],
    "epaf": [b" paf\0\0\0\0\0\0\0\0", b"fap \0\0\0\0\1\0\0\0"],
    "ircam": [b"\x64\xa3\1\0abcd\0\0\0\1\0\2\0\1", b"\x64\xa3\4\0abcd\1\0\0\0\1\0\2\0"],
    "nistsphere": [b"NIST_1A\n"],
    "pvf": [b"PVF1\n"],
    "voc": [b"Creative Voice File\x1a"],
}
EACH = [(name, begin) for name, begins in BEGINNINGS.items() for begin in begins]
SPEECH_BYTES = b"abc \n" * 50
# Those that FFmpeg's readers of PCM would take for samples, unless they are behind the last packet.
NEVER_SAMPLES = ("wav", "flac", "ogg", "amr", "aiff", "caf", MATROSKA, MOV)


def refused(check: Callable[..., None], *asked: Any) -> bool:
    """Tell whether a check refuses a recording; if so, in the words that clients read."""
    try:
        check(*asked)
    except MalformedRequestError as error:
        assert error.kind == "DamagedAudio"
        assert error.message == (
            "Expected one recording in body, got several that were joined byte by byte."
        )
        return True
    return False


def test_search_for_what_follows_ends_with_the_time() -> None:
    with allow(0.0), pytest.raises(DeadlineError):
        time.sleep(0.001)
        check_rest(b"", 0, "wav", "pcm_s16le", False)


def test_beginnings_of_all_containers_are_known() -> None:
    assert BEGINNINGS.keys() == HEADERS.keys()


@pytest.mark.parametrize(("container", "begin"), EACH)
def test_second_header_of_one_container_is_refused(container: str, begin: bytes) -> None:
    once = begin + SPEECH_BYTES
    assert not refused(check_one_header, once, container)
    # What follows an Ogg is read as a link of a chain.
    assert refused(check_one_header, 2 * once, container) == (container != "ogg")
    assert refused(check_one_header, 3 * once, container) == (container != "ogg")
    assert not refused(check_one_header, 2 * once, "mp3")


@pytest.mark.parametrize(("container", "begin"), EACH)
def test_header_behind_another_recording_is_refused(container: str, begin: bytes) -> None:
    """Behind its last packet; before it, it is sound, a picture, or a text that quotes it."""
    first = b"\x01\x02 first " * 40
    last = len(first) - 5
    joined = first + begin + SPEECH_BYTES
    for codec in ("pcm_s16le", "aac"):
        assert refused(check_rest, joined, last, "other", codec, True)
        assert refused(check_rest, joined, last, "other", codec, False)
        assert refused(check_rest, joined, len(first), "other", codec, True)
        assert not refused(check_rest, joined, len(first) + 1, "other", codec, True)
        assert not refused(check_rest, first + SPEECH_BYTES, last, "other", codec, False)
    # Where a header tells no end, all is searched, but for rare ones among samples.
    behind = len(first) + 1
    assert refused(check_rest, joined, behind, "other", "aac", False)
    common = container in NEVER_SAMPLES
    assert refused(check_rest, joined, behind, "other", "pcm_s16le", False) == common
    # Its own are told by `check_one_header`, or links of a chain.
    assert not refused(check_rest, joined, last, container, "aac", True)
    assert not refused(check_rest, joined, last, "other", container, True)


def adts(size: int, profile: int = 0x50, protection: int = 1) -> bytes:
    """Return a frame of AAC of so many bytes, with its header of seven: ISO 13818-7, 6.2."""
    sizes = [0x80 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F]
    return bytes([0xFF, 0xF0 | protection, profile, *sizes, 0xFC]).ljust(size, b"a")


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        ([adts(100)] * 5, True),
        ([adts(100)] * 4 + [adts(100)[:7]], True),
        ([adts(100)] * 4 + [adts(100)[:6]], False),
        ([adts(100)] * 4, False),
        # Of any size and kind, but all of one kind.
        ([adts(9), adts(2_047), adts(2_048), adts(8_191), adts(15)], True),
        ([adts(6_145)] * 5, True),
        ([adts(30, 0x4C, 9)] * 5, True),
        ([adts(30)] * 4 + [adts(30, 0x4C)], False),
        ([adts(30)] * 4 + [adts(30, 0x50, 0)], False),
        ([adts(30)] * 2 + [b"?"] + [adts(30)] * 4, False),
        ([b"noise"] + [adts(30)] * 2 + [b"?"] + [adts(30)] * 5, True),
        # A header that tells a size of less than itself.
        ([adts(0)[:7]] * 5, True),
        ([adts(7)] * 5, True),
        ([b"\xff\xf2\x50" + adts(30)[3:]] * 5, False),
        ([], False),
    ],
)
def test_frames_of_aac_are_known_by_those_that_follow(frames: list[bytes], found: bool) -> None:
    data = b"".join(frames)
    assert has_aac(data) == found
    assert has_aac(b"before" + data + b"behind") == found or len(frames[-1]) < 7
    # Whatever begins in a recording of another kind is no more than its end.
    joined = b"n" * 100_000 + data
    assert refused(check_rest, joined, 100_000, "wav", "pcm_s16le", True) == found
    assert refused(check_rest, joined, 100_000, "wav", "pcm_s16le", False) == found
    assert not refused(check_rest, joined, 100_000, "aac", "aac", True)


def test_frames_of_aac_are_looked_for_between_two_places() -> None:
    data = b"before" + adts(20) * 5 + b"behind"
    assert has_aac(data, 6)
    assert has_aac(data, 0, 7)
    assert not has_aac(data, 7)
    assert not has_aac(data, 0, 6)
    # Six frames, of which the second begins five in a row.
    assert has_aac(adts(20) * 6, 1)
    assert has_aac(adts(20) * 6, 1, 21)
    assert not has_aac(adts(20) * 6, 1, 20)


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac")])
def test_frames_of_mp3_are_known_by_those_that_follow(container: str, codec: str) -> None:
    recording = record(Kind("mp3", "libmp3lame"), 1)
    start = recording.index(b"\xff\xf3\x38", 100)
    step = recording.index(b"\xff\xf3\x38", start + 3) - start
    first = b"n" * 1_000
    for count, found in [(2, False), (3, False), (6, True), (10, True)]:
        joined = first + recording[start : start + count * step]
        assert refused(check_rest, joined, len(first), container, codec, True) == found, count
        assert not refused(check_rest, joined, len(first), "mp3", codec, True)
        assert not refused(check_rest, joined, len(first), "mp3", "mp3float", True)
        assert not refused(check_rest, joined, len(joined), container, codec, True)
        assert refused(check_rest, joined, len(joined), container, codec, False) == found
    # Frames in a row, and not here and there.
    frames = [recording[start + n * step : start + (n + 1) * step] for n in range(12)]
    apart = b"".join(frame + b"noise" * 200 for frame in frames)
    assert not refused(check_rest, first + apart, len(first), container, codec, True)


@pytest.mark.parametrize("frames", [adts(20) * 5, record(Kind("mp3", "libmp3lame"), 1)])
def test_frames_are_looked_for_at_the_end(frames: bytes) -> None:
    """No more of it is searched for them, as that takes time."""
    for missing, found in [(0, True), (1_000, True), (-len(frames) - 1, False)]:
        joined = b"n" * 1_000 + frames + b"n" * (LAST_BYTES - len(frames) - missing)
        assert refused(check_rest, joined, 0, "wav", "pcm_s16le", True) == found
