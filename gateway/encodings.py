"""Encodings of audio without a header, and the samples of 16 bits that the engine takes."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np

from gateway.engine import AudioFormat


class Codec(StrEnum):
    """How samples are written."""

    PCM = "pcm_s16le"
    MU_LAW = "pcm_mulaw"
    A_LAW = "pcm_alaw"


@dataclass(frozen=True)
class Encoding:
    """Audio as clients send it."""

    codec: Codec
    rate_hz: int
    channels: int = 1

    @property
    def frame_bytes(self) -> int:
        """Return the bytes of one sample of all channels."""
        return self.channels * (2 if self.codec is Codec.PCM else 1)

    @property
    def bytes_per_s(self) -> int:
        """Return bytes a second."""
        return self.rate_hz * self.frame_bytes

    @property
    def engine_format(self) -> AudioFormat:
        """Return the format of what `expand` returns."""
        return AudioFormat(self.rate_hz, self.channels)

    def expand(self, audio: bytes) -> bytes:
        """Return audio as samples of 16 bits; it may be cut anywhere."""
        if self.codec is Codec.PCM:
            return audio
        return bytes(_expansion(self.codec)[np.frombuffer(audio, np.uint8)].tobytes())


@cache
def _expansion(codec: Codec) -> "np.ndarray[tuple[int], np.dtype[np.int16]]":
    """Return the sample that each byte of G.711 stands for: ITU-T G.711, tables 1 and 2."""
    codes = np.arange(256)
    codes = codes ^ (0xFF if codec is Codec.MU_LAW else 0x55)
    exponents, mantissas, signs = (codes >> 4) & 7, codes & 15, codes & 0x80
    if codec is Codec.MU_LAW:
        sizes = (((mantissas << 3) + 0x84) << exponents) - 0x84
        return np.where(signs, -sizes, sizes).astype("<i2")
    steps = (mantissas << 4) + 8
    sizes = np.where(exponents, (steps + 0x100) << np.maximum(exponents - 1, 0), steps)
    return np.where(signs, sizes, -sizes).astype("<i2")
