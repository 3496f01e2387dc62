"""Samples without a header: how a `Content-Type` describes them, and how they are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Literal, cast

import av
import numpy as np

from speechtext.errors import MalformedRequestError
from speechtext.speech.audio_limits import MAX_RATE_HZ, MIN_RATE_HZ
from speechtext.speech.frames import Block, Samples, average_channels

BLOCK_S = 10
# What is decoded at once: `containers` lets FFmpeg have blocks of so much memory only.
PACKET_BYTES = 4 * 2**20
# FFmpeg's own limit.
MAX_CHANNELS = 512
# FFmpeg's decoders of whole numbers, by the bytes of a sample; eight bits have no sign in WAV.
CODECS = {1: "pcm_u8", 2: "pcm_s16", 3: "pcm_s24", 4: "pcm_s32"}


@dataclass(frozen=True)
class PcmFormat:
    """How to read samples without a header: 16 bits unless said otherwise."""

    rate_hz: int
    channels: int = 1
    endian: Literal["BIG", "LITTLE"] = "BIG"
    sample_bytes: int = 2

    @property
    def frame_bytes(self) -> int:
        """Return the bytes of one sample of all channels."""
        return self.sample_bytes * self.channels

    @property
    def codec(self) -> str:
        """Return FFmpeg's name of the decoder."""
        order = "" if self.sample_bytes == 1 else "be" if self.endian == "BIG" else "le"
        return CODECS[self.sample_bytes] + order


def parse_pcm_format(content_type: str) -> PcmFormat | None:
    """Return what `audio/L16; rate=16000; channels=1` says, None for any other content type.

    Samples are big-endian, as RFC 2586 has them, unless `endianness=little-endian` is added.
    Raises `RequestError` 400 for a missing rate and for a parameter that is out of range.
    """
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_type() != "audio/l16":
        return None
    rate_hz = _whole_parameter(header, "rate", "", MIN_RATE_HZ, MAX_RATE_HZ)
    channels = _whole_parameter(header, "channels", "1", 1, 8)
    little = str(header.get_param("endianness")).lower() == "little-endian"
    return PcmFormat(rate_hz, channels, "LITTLE" if little else "BIG")


def _whole_parameter(header: Message, name: str, default: str, least: int, most: int) -> int:
    value = str(header.get_param(name, default))
    # Python reads no number of thousands of digits.
    if value.isdecimal() and len(value) <= len(str(most)) and least <= int(value) <= most:
        return int(value)
    raise MalformedRequestError(
        "InvalidContentType",
        f"Expected {name} from {least} to {most} in Content-Type, as in "
        "audio/L16; rate=16000; channels=1.",
    )


class PcmDecoder:
    """Reads bare samples."""

    def __init__(self, pcm: PcmFormat) -> None:
        self._decoder = cast(av.AudioCodecContext, av.CodecContext.create(pcm.codec, "r"))
        self._decoder.sample_rate = pcm.rate_hz
        self._decoder.layout = f"{pcm.channels} channels"
        self._packet_bytes = PACKET_BYTES // pcm.frame_bytes * pcm.frame_bytes

    def decode(self, data: bytes) -> Samples:
        """Return whole samples, channels averaged, as a waveform of shape (samples,)."""
        starts = range(0, len(data), self._packet_bytes)
        packets = (av.Packet(data[start : start + self._packet_bytes]) for start in starts)
        frames = (frame for packet in packets for frame in self._decoder.decode(packet))
        return np.concatenate([np.empty(0, np.float32), *map(average_channels, frames)])


def pcm_duration_s(audio: bytes, pcm: PcmFormat) -> float:
    """Return how long a recording of bare samples is."""
    return len(audio) / pcm.frame_bytes / pcm.rate_hz


def read_pcm(audio: bytes, pcm: PcmFormat) -> Iterator[Block]:
    """Yield a recording of bare samples; raises `RequestError` 400 for part of a sample."""
    if len(audio) % pcm.frame_bytes:
        raise MalformedRequestError(
            "InvalidAudio",
            f"Expected a multiple of {pcm.frame_bytes} bytes of audio/L16 in body, got "
            f"{len(audio)}.",
        )
    decoder, step = PcmDecoder(pcm), BLOCK_S * pcm.rate_hz * pcm.frame_bytes
    for start in range(0, len(audio), step):
        yield Block(decoder.decode(audio[start : start + step]), pcm.rate_hz)
