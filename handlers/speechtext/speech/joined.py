"""Recordings that were joined byte by byte: which are read one by one, and which are refused.

FFmpeg reads the first one and knows nothing of what follows, or takes it for samples.
"""

import functools
import heapq
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

import av

from speechtext.allowance import check_time
from speechtext.errors import MalformedRequestError

MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
WAV_HEADER = re.compile(rb"RIFF.{4}WAVE", re.DOTALL)
# A page of Ogg with which a stream begins, at position 0.
OGG_PAGE = re.compile(rb"OggS\x00[\x02\x06]\x00{8}")
# With the first block, of 34 bytes, behind the name.
FLAC_HEADER = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
# How a recording begins, by FFmpeg's name of the container; each matches once in a whole one.
HEADERS: dict[str, Sequence[re.Pattern[bytes]]] = {
    "wav": [WAV_HEADER],
    "flac": [FLAC_HEADER],
    "ogg": [OGG_PAGE],
    "amr": [re.compile(rb"#!AMR(?:-WB)?\n")],
    "aiff": [re.compile(rb"FORM.{4}AIF[FC]", re.DOTALL)],
    "caf": [re.compile(rb"caff\x00\x01\x00\x00desc")],
    # Its name belongs to the nearest mark: bytes may be full of them.
    MATROSKA: [
        re.compile(rb"\x1aE\xdf\xa3(?:(?!\x1aE\xdf\xa3).){1,60}?(?:webm|matroska)", re.DOTALL)
    ],
    # Cover art may be a file of this kind, too, and begin with an ftyp of its own.
    MOV: [
        re.compile(rb"\x00\x00\x00.ftyp(?!hei|hev|avi|mif|msf)(?:qt  |[a-zA-Z0-9]{3})", re.DOTALL),
        re.compile(rb"moov\x00\x00\x00.mvhd", re.DOTALL),
    ],
    "w64": [re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00")],
    "au": [re.compile(rb"\.snd\x00\x00.{6}\x00\x00\x00.\x00.{3}\x00\x00\x00.", re.DOTALL)],
    "avr": [re.compile(rb"2BIT.{8}(?:\x00\x00|\xff\xff)\x00[\x08\x10]", re.DOTALL)],
    "epaf": [re.compile(rb" paf\x00{8}|fap \x00{4}\x01\x00{3}")],
    "ircam": [
        re.compile(
            rb"\x64\xa3[\x01-\x04]\x00.{4}(?:\x00{3}.\x00.\x00.|.\x00{3}.\x00.\x00)", re.DOTALL
        )
    ],
    "nistsphere": [re.compile(rb"NIST_1A\n")],
    "pvf": [re.compile(rb"PVF1\n")],
    "voc": [re.compile(rb"Creative Voice File\x1a")],
}
# What people record in; to look for all of them takes as long as to decode PCM.
COMMON = ("wav", "flac", "ogg", "amr", "aiff", "caf", MATROSKA, MOV)
# More songs than a recording has; to open each takes a millisecond, whatever is in it.
MOST_LINKS = 1_000
# Tags before MP3, AAC and FLAC: ID3v2, whose size has seven bits in each byte.
TAG = re.compile(rb"ID3[\x02-\x04]\x00[\x00-\xf0][\x00-\x7f]{4}", re.DOTALL)
AFTER_TAG = re.compile(rb"ID3|fLaC|\xff[\xe0-\xff]")
# MP3 and AAC have no header, but frames: so many in a row are no accident. FFmpeg does not
# recognise them behind other bytes.
FRAMES_IN_A_ROW = 4
LAST_BYTES = 65_536
ADTS_SYNC = re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")
ADTS_HEADER_BYTES = 7


def split_links(audio: bytes) -> list[bytes]:
    """Return the recordings of a chain of Ogg, FLAC or tagged MP3 as files, else the whole.

    FFmpeg would start the next one of Ogg in the state that the last one left its decoder in, lose
    frames of FLAC whose rate or width is another, and a frame of MP3 behind a tag. Raises
    `RequestError` 400 for a chain of more than `MOST_LINKS`.
    """
    starts: list[int] = []
    end = 0
    for start, stop in _find_beginnings(audio):
        # Pages of several streams, and tags, are one behind the other.
        if start != end:
            starts.append(start)
        if len(starts) == MOST_LINKS:
            raise MalformedRequestError(
                "DamagedAudio",
                f"Expected at most {MOST_LINKS} recordings one behind the other in body, got more.",
            )
        end = stop
    return [audio[low:high] for low, high in itertools.pairwise([0, *starts, len(audio)])]


def _find_beginnings(audio: bytes) -> Iterable[tuple[int, int]]:
    """Return what links may begin with, as start and end: pages of Ogg, tags, headers of FLAC."""
    if audio.startswith(b"OggS"):
        return ((page.start(), _page_end(audio, page.start())) for page in OGG_PAGE.finditer(audio))
    if not AFTER_TAG.match(audio):
        return ()
    tags = ((tag.start(), tag.end() + _tag_size(tag.group())) for tag in TAG.finditer(audio))
    headers = ((each.start(), each.end()) for each in FLAC_HEADER.finditer(audio))
    return heapq.merge(headers, (tag for tag in tags if AFTER_TAG.match(audio, tag[1])))


def _page_end(audio: bytes, start: int) -> int:
    """Return the end of a page of Ogg: RFC 3533, section 6."""
    segments = start + 27
    table = audio[segments : segments + int.from_bytes(audio[segments - 1 : segments])]
    return segments + len(table) + sum(table)


def _tag_size(header: bytes) -> int:
    return functools.reduce(lambda size, byte: size * 128 + byte, header[6:10])


def check_one_header(audio: bytes, container: str) -> None:
    """Raise `RequestError` 400 where a recording of the same container begins behind another's."""
    for header in HEADERS.get(container, ()):
        if container != "ogg" and len(list(itertools.islice(header.finditer(audio), 2))) > 1:
            raise _joined()


def check_rest(audio: bytes, last_packet: int, container: str, codec: str, ends: bool) -> None:
    """Raise `RequestError` 400 where what follows a recording is another, of another container.

    It is searched for from the last packet on that was read; anywhere, where the header tells no
    end.
    """
    # Ogg holds FLAC with the header of its own file.
    own = {container, codec}
    for other, headers in HEADERS.items():
        check_time()
        tail_only = ends or (codec.startswith("pcm") and other not in COMMON)
        start = last_packet if tail_only else 0
        if other not in own and any(header.search(audio, start) for header in headers):
            raise _joined()
    last = audio[max(last_packet if ends else 0, len(audio) - LAST_BYTES) :]
    if container != "aac" and has_aac(last):
        raise _joined()
    if own.isdisjoint(("mp3", "mp3float")) and _has_mp3(last):
        raise _joined()


def has_aac(data: bytes, start: int = 0, stop: int | None = None) -> bool:
    """Tell whether frames of AAC in a row begin in `data[start:stop]`: ISO 13818-7, section 6.2."""
    end = len(data) if stop is None else stop + 1
    return any(_aac_goes_on(data, first.start()) for first in ADTS_SYNC.finditer(data, start, end))


def _aac_goes_on(data: bytes, start: int) -> bool:
    """Tell whether frames of one profile, rate and number of channels follow one another."""
    fixed = data[start : start + 3]
    for _ in range(FRAMES_IN_A_ROW + 1):
        header = data[start : start + ADTS_HEADER_BYTES]
        if len(header) < ADTS_HEADER_BYTES or header[:3] != fixed:
            return False
        start += max((header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5, ADTS_HEADER_BYTES)
    return True


def _has_mp3(data: bytes) -> bool:
    """Tell whether there are frames of MP3 in a row, whatever is around them."""
    context = cast(av.AudioCodecContext, av.CodecContext.create("mp3float", "r"))
    in_a_row = 0
    for packet in context.parse(data):
        in_a_row = in_a_row + 1 if _is_frame(context, packet) else 0
        if in_a_row == FRAMES_IN_A_ROW:
            return True
    return False


def _is_frame(context: av.AudioCodecContext, packet: "av.Packet[Any]") -> bool:
    start = bytes(packet)[:2]
    # A frame begins with eleven ones.
    if len(start) < 2 or start[0] != 0xFF or start[1] & 0xE0 != 0xE0:
        return False
    try:
        return bool(context.decode(packet))
    except av.FFmpegError:
        return False


def _joined() -> MalformedRequestError:
    return MalformedRequestError(
        "DamagedAudio",
        "Expected one recording in body, got several that were joined byte by byte.",
    )
