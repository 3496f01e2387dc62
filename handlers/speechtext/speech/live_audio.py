"""A recording that arrives in pieces of bytes, cut anywhere: to samples at the model's rate."""

import struct
from typing import NamedTuple

import torch

from speechtext.errors import MalformedRequestError, RequestError, UnsupportedMediaError
from speechtext.speech.audio_limits import check_duration, check_rate
from speechtext.speech.joined import WAV_HEADER
from speechtext.speech.pcm import CODECS, MAX_CHANNELS, PcmDecoder, PcmFormat
from speechtext.speech.resampling import Resampler

# More than any header of a WAV file that people send.
MAX_HEADER_BYTES = 65_536
# Programs that write to a pipe leave one of these as the length of the data, or nearly.
UNKNOWN_DATA_BYTES = 0x7F000000
WAV_HEADER_BYTES = 12
# How samples are written, by a `fmt ` chunk: PCM at once, or by a GUID that the chunk ends with.
PCM, EXTENSIBLE = 1, 0xFFFE
PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")


class WavHeader(NamedTuple):
    """What comes before the samples of a WAV file, which begin at `start`.

    `format` is the body of its `fmt ` chunk; `data_bytes` are those that it says to have.
    """

    format: bytes
    data_bytes: int
    start: int


class LiveAudio:
    """The samples of bare PCM, or of a WAV file whose header comes first, as they arrive."""

    def __init__(self, sample_rate_hz: int, max_duration_s: float, pcm: PcmFormat | None) -> None:
        self._sample_rate_hz = sample_rate_hz
        self._max_duration_s = max_duration_s
        self._rest = b""
        # The end of what arrived, and where that begins.
        self._last_bytes, self._last_bytes_at = b"", 0
        self._data_bytes: int | None = None
        self._received_bytes = 0
        self._pcm: PcmFormat | None = None
        if pcm is not None:
            self._begin(pcm)

    @property
    def duration_s(self) -> float:
        """Return how much audio arrived."""
        if self._pcm is None:
            return 0.0
        return self._received_bytes / self._pcm.frame_bytes / self._pcm.rate_hz

    def push(self, piece: bytes) -> torch.Tensor:
        """Return the samples, shape (samples,), that can be told after another piece.

        Raises `RequestError`: 415 for what is no WAV file of PCM, 400 for a second one behind it,
        422 for an impossible rate, 413 where the whole gets too long.
        """
        self._refuse_second_header(piece)
        data = self._rest + piece
        if self._pcm is None:
            data = self._read_header(data)
        if self._pcm is None:
            self._rest = data
            return torch.empty(0)
        if self._data_bytes is not None:
            # What follows the samples of a WAV file is no audio.
            data = data[: self._data_bytes - self._received_bytes]
        whole = len(data) // self._pcm.frame_bytes * self._pcm.frame_bytes
        self._rest = data[whole:]
        self._received_bytes += whole
        check_duration(self.duration_s, self._max_duration_s)
        return torch.from_numpy(self._resampler.push(self._decoder.decode(data[:whole])))

    def end(self) -> torch.Tensor:
        """Return the last samples; raises `RequestError` 415 where not even the header arrived."""
        if self._pcm is None:
            raise _unsupported()
        return torch.from_numpy(self._resampler.end())

    def _read_header(self, data: bytes) -> bytes:
        """Return what follows a WAV file's header, or all as long as the header is not whole."""
        header = read_header(data)
        if header is None:
            return data
        self._begin(read_format(header.format))
        if 0 < header.data_bytes < UNKNOWN_DATA_BYTES:
            self._data_bytes = header.data_bytes
        return data[header.start :]

    def _refuse_second_header(self, piece: bytes) -> None:
        # A header may be cut anywhere; the session's own is where it begins.
        seen = self._last_bytes + piece
        second = WAV_HEADER.search(seen, 0 if self._last_bytes_at else 1)
        if second:
            raise MalformedRequestError(
                "DamagedAudio",
                "Expected one recording in a session, got another WAV file behind the first.",
            )
        self._last_bytes = seen[-(WAV_HEADER_BYTES - 1) :]
        self._last_bytes_at += len(seen) - len(self._last_bytes)

    def _begin(self, pcm: PcmFormat) -> None:
        check_rate(pcm.rate_hz)
        self._pcm = pcm
        self._decoder = PcmDecoder(pcm)
        self._resampler = Resampler(pcm.rate_hz, self._sample_rate_hz)


def read_header(data: bytes) -> WavHeader | None:
    """Return what comes before the samples of a WAV file, None as long as that has not arrived.

    How long the whole file says to be is no matter: programs that write to a pipe do not know.
    Raises `RequestError` 415 for what is no such file.
    """
    if not (data.startswith(b"RIFF"[: len(data)]) and b"WAVE".startswith(data[8:12])):
        raise _unsupported()
    place, format_ = WAV_HEADER_BYTES, b""
    while len(data) >= place + 8:
        name, size = struct.unpack_from("<4sI", data, place)
        place += 8
        if name == b"data":
            return WavHeader(format_, size, place)
        if name == b"fmt ":
            format_ = data[place : place + size]
        # Chunks have an even number of bytes.
        place += size + size % 2
        if place > MAX_HEADER_BYTES:
            raise _unsupported()
    return None


def read_format(chunk: bytes) -> PcmFormat:
    """Return how the body of a `fmt ` chunk says that samples are written.

    WAVEFORMATEX and WAVEFORMATEXTENSIBLE of Windows' mmreg.h. Raises `RequestError` 415 for
    anything but PCM.
    """
    if len(chunk) < 16:
        raise _unsupported()
    tag, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    pcm = PcmFormat(rate_hz, channels, "LITTLE", -(-bits // 8))
    is_pcm = tag == PCM or (tag == EXTENSIBLE and chunk[24:40] == PCM_GUID)
    if not (is_pcm and pcm.sample_bytes in CODECS and 1 <= channels <= MAX_CHANNELS):
        raise _unsupported()
    return pcm


def _unsupported() -> RequestError:
    return UnsupportedMediaError(
        "UnsupportedAudio",
        "Expected the first piece of a session to begin with the header of a WAV file of 8 to 32 "
        "bits PCM, or to have a Content-Type such as audio/L16; rate=16000.",
    )
