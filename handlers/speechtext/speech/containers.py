"""Recordings in containers, read by the FFmpeg in PyAV to their real end."""

import io
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np
from av.codec.context import Flags2
from av.container import InputContainer
from av.stream import Discard

from speechtext.allowance import check_time, find_deadline_s
from speechtext.errors import (
    MalformedRequestError,
    RequestError,
    RequestTooLargeError,
    UnsupportedMediaError,
)
from speechtext.speech.audio_limits import check_duration, check_rate
from speechtext.speech.frames import Block, Samples, average_channels
from speechtext.speech.joined import (
    MATROSKA,
    MOV,
    WAV_HEADER,
    check_one_header,
    check_rest,
    has_aac,
    split_links,
)
from speechtext.speech.opening import (
    CODECS,
    LOSSLESS_CODECS,
    MOST_BLOCK_BYTES,
    MOST_STREAMS,
    PCM_CODECS,
    open_container,
    unsupported,
)
from speechtext.speech.trial_opening import opener

# What FFmpeg opens at once, whatever is in it.
SMALL_BYTES = 16_384
WAV_HEADER_BYTES = 12
# Their headers tell no length: FFmpeg makes one up out of the first bit rate.
WITHOUT_LENGTH = {"mp3", "aac", "amr"}
# FFmpeg finds the end of these, and looks no further or only for what continues them.
WITH_END = {MOV, MATROSKA, "ogg", "flac"}
LENGTH_TOLERANCE_S = 1e-3
# Bits of a frame's first byte that are zero: RFC 4867, section 5.3. FFmpeg would decode any bytes.
AMR_ZEROS = 0x83
# Their headers tell a length, but FFmpeg takes what follows for samples, too.
WITH_MORE_BEHIND = {"au", "nistsphere"}
DECODER_OPTIONS = {
    "codec_whitelist": ",".join(CODECS),
    # A worker's cores are shared out by its model's threads.
    "threads": "1",
    # Memory that one packet may ask for; FLAC has 65,535 samples at most.
    "max_samples": "262144",
}
# Blocks are worth the work of passing them on, also where frames have 20 ms.
BLOCK_SAMPLES = 160_000


def read_recording(audio: bytes, max_duration_s: float) -> Iterator[Block]:
    """Yield a recording's samples, channels averaged, in blocks.

    The links of a chain of Ogg or FLAC follow one another, each at its own rate. Raises
    `RequestError`: 415 for what is no container or codec of these, 413 for a recording that is too
    long (told by its header where it has the length, else as soon as it is), 422 for an impossible
    rate and 400 for a damaged recording, and for several others that were joined. And
    `DeadlineError` where there is no time left for it.
    """
    read_s = 0.0
    for link in split_links(audio):
        try:
            for block in _read_link(link, read_s, max_duration_s):
                read_s += len(block.samples) / block.rate_hz
                check_duration(read_s, max_duration_s, more=True)
                yield block
        except UnsupportedMediaError:
            # The beginning of a further link is there, but no more of it.
            raise _damaged(read_s) if read_s else unsupported(len(audio)) from None


def find_duration_s(audio: bytes) -> float:
    """Return the seconds that a recording's container tells of, 0 for what is no recording.

    Nothing is decoded: where the header tells no length, FFmpeg's estimate by the bit rate counts.
    Of a chain of recordings it may be the first one's alone.
    """
    try:
        with _open(audio) as container:
            return _Link(audio, container).told_s or (container.duration or 0) / av.time_base
    except RequestError:
        return 0.0


def _read_link(audio: bytes, before_s: float, max_duration_s: float) -> Iterator[Block]:
    with _open(audio) as container:
        # What it was opened with may have ended with the time.
        check_time()
        # First: what a cut header says, filled up with what follows it, is no matter.
        check_one_header(audio, container.format.name)
        link = _Link(audio, container)
        check_duration(before_s + link.told_s, max_duration_s)
        read_s = 0.0
        try:
            for block in _gather(link.decode()):
                check_rate(block.rate_hz)
                read_s += len(block.samples) / block.rate_hz
                yield block
        except av.FFmpegError:
            check_time()
            raise _damaged(before_s + read_s) from None
        # FFmpeg looks for the next whole frame of FLAC, or ends; others may be cut short.
        if link.format == "flac" and read_s < link.told_s - LENGTH_TOLERANCE_S:
            raise _damaged(before_s + read_s)
        link.check_rest()


class _Source(io.BytesIO):
    """A recording's bytes, which end where the time of the batch does.

    FFmpeg reads on after an exception, of which PyAV would write to stderr.
    """

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes."""
        return super().read(size) if time.monotonic() < find_deadline_s() else b""


def _open(audio: bytes) -> InputContainer:
    plain = is_plain_wav(audio)
    if not plain and len(audio) > SMALL_BYTES:
        opener.try_opening(audio)
    try:
        return open_container(_Source(audio), "wav" if plain else None)
    except av.FFmpegError as error:
        check_time()
        no_memory = isinstance(error, MemoryError)
        raise (_too_large() if no_memory else unsupported(len(audio))) from None


def is_plain_wav(audio: bytes) -> bool:
    """Tell whether a recording is a WAV with few bytes beside its samples."""
    if not WAV_HEADER.match(audio):
        return False
    place = WAV_HEADER_BYTES
    while place < SMALL_BYTES:
        name, size = audio[place : place + 4], audio[place + 4 : place + 8]
        place += 8
        end = place + int.from_bytes(size, "little")
        if name == b"data":
            return place + len(audio) - min(end, len(audio)) <= SMALL_BYTES
        place = end + end % 2
    return False


def _too_large() -> RequestError:
    return RequestTooLargeError(
        "AudioTooLong",
        f"Expected a recording of at most {MOST_STREAMS} streams, none with an index of more than "
        f"{MOST_BLOCK_BYTES // 2**20} MiB, in body, got a larger one.",
    )


def _first_audio_stream(container: InputContainer, size: int) -> av.AudioStream:
    stream = next(iter(container.streams.audio), None)
    if stream is None or stream.codec_context is None or stream.codec_context.name not in CODECS:
        raise unsupported(size)
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    decoder = stream.codec_context
    decoder.options = DECODER_OPTIONS
    if decoder.name == "flac":
        # Without it a damaged frame is noise.
        decoder.options = DECODER_OPTIONS | {"err_detect": "crccheck+explode"}
    if (container.format.name, decoder.name) == ("caf", "alac"):
        # FFmpeg would take what its last packet is short of off once more.
        decoder.flags2 |= Flags2.skip_manual
    return stream


class _Link:
    """A recording in one container, open."""

    def __init__(self, audio: bytes, container: InputContainer) -> None:
        self._audio = audio
        self._container = container
        self._stream = _first_audio_stream(container, len(audio))
        self._last_packet = 0
        self.format = container.format.name
        self.codec = self._stream.codec_context.name
        rate_hz = self._stream.codec_context.sample_rate
        if not rate_hz and self.format in WITHOUT_LENGTH:
            # Not even a frame was found, which has the rate.
            raise unsupported(len(audio))
        check_rate(rate_hz)
        self.told_s = self._told_length_s()

    def _told_length_s(self) -> float:
        """Return the length that the header tells, 0 where it tells none or one that cannot be."""
        stream = self._stream
        if self.format in WITHOUT_LENGTH or not (stream.duration and stream.time_base):
            return 0.0
        length_s = float(stream.duration * stream.time_base)
        if self.codec in PCM_CODECS and stream.bit_rate:
            # What a pipe leaves in a WAV's header is more than the file's bytes can hold.
            return min(length_s, len(self._audio) * 8 / stream.bit_rate)
        return length_s

    def decode(self) -> Iterator[Block]:
        """Yield what there is, up to the end that the header tells where more may follow."""
        if not self.told_s or self.format not in WITH_MORE_BEHIND:
            yield from self._decode_packets()
            return
        left = round(self.told_s * self._stream.codec_context.sample_rate)
        for block in self._decode_packets():
            yield block._replace(samples=block.samples[:left])
            left -= len(block.samples)
            if left <= 0:
                return

    def _decode_packets(self) -> Iterator[Block]:
        """Yield what each packet holds; one that is damaged is left out where codecs bear it."""
        decoded = damaged = 0
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError:
                if self.codec in LOSSLESS_CODECS:
                    raise
                damaged += 1
                continue
            decoded += 1
            for frame in frames:
                yield Block(average_channels(frame), frame.sample_rate)
        if damaged >= decoded:
            raise _damaged(0)

    def _packets(self) -> Iterator["av.Packet[Any]"]:
        for packet in self._container.demux(self._stream):
            check_time()
            if packet.size and packet.pos is not None:
                self._last_packet = packet.pos
            if self._is_damaged(packet):
                raise _damaged(0)
            yield packet

    def _is_damaged(self, packet: "av.Packet[Any]") -> bool:
        """Tell where FFmpeg would go on with what is no frame, and lose those behind it."""
        if not packet.size or packet.pos is None:
            return False
        if self.format == "amr":
            return bool(bytes(packet)[0] & AMR_ZEROS)
        # Any bytes may look like a header of AAC, and tell how many are its frame.
        inside = packet.pos + 1, packet.pos + packet.size
        return self.format == "aac" and has_aac(self._audio, *inside)

    def check_rest(self) -> None:
        """Raise `RequestError` 400 where another recording follows, of another container."""
        ends = self.format in WITH_END
        check_rest(self._audio, self._last_packet, self.format, self.codec, ends)


def _gather(blocks: Iterable[Block]) -> Iterator[Block]:
    """Join short blocks of one rate to longer ones."""
    for rate_hz, same in itertools.groupby(blocks, key=lambda block: block.rate_hz):
        parts: list[Samples] = []
        missing = BLOCK_SAMPLES
        for block in same:
            parts.append(block.samples)
            missing -= len(block.samples)
            if missing <= 0:
                yield Block(np.concatenate(parts), rate_hz)
                parts, missing = [], BLOCK_SAMPLES
        if parts:
            yield Block(np.concatenate(parts), rate_hz)


def _damaged(read_s: float) -> RequestError:
    return MalformedRequestError(
        "DamagedAudio",
        f"Expected a whole recording in body, got one that is damaged after {read_s:g} s.",
    )
