"""From a request's recording to a mono waveform at the model's sampling rate.

A recording is decoded, mixed and resampled block by block, so that a long one needs no more memory
than its samples at the model's rate.
"""

import io
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import soundfile
import torch
import torchaudio

from speechtext.errors import (
    ImpossibleRequestError,
    MalformedRequestError,
    RequestError,
    RequestTooLargeError,
    UnsupportedMediaError,
)

STDERR = 2
BLOCK_S = 10
# Resampling kernels are kept, unless they are for a rate that nobody uses: of up to 20 MB each.
KEPT_RESAMPLERS, KEPT_STEPS = 16, 1000
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
# Odd rates are taken for the nearest multiple of this: the kernel of 44,101 Hz would fill 3 GB.
RATE_STEP_HZ = 25
# What libsndfile calls samples of so many bytes.
PCM_SUBTYPES = {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}
# What libsndfile says of a FLAC stream that was written to a pipe.
UNKNOWN_FRAMES = torch.iinfo(torch.int64).max


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


def decode_audio(
    audio: bytes, sample_rate_hz: int, max_duration_s: float, pcm: PcmFormat | None = None
) -> torch.Tensor:
    """Return a recording as a mono float32 waveform of shape (samples,) at `sample_rate_hz`.

    Any container that libsndfile reads: WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF and more, or bare
    samples where `pcm` says how to read them. Channels are averaged. Raises `RequestError`: 415 for
    bytes that no decoder recognises, 413 for more than `max_duration_s` (told by the header, before
    any sample is decoded), 422 for a rate or a length that cannot be, 400 for no, damaged or
    impossible samples.
    """
    with open_recording(audio, pcm) as recording:
        _check_header(recording, max_duration_s)
        rate_hz = usual_rate(recording.samplerate)
        waveform = torch.empty(math.ceil(recording.frames * sample_rate_hz / rate_hz) + 1)
        samples = 0
        for block in _resample(read_blocks(recording), rate_hz, sample_rate_hz):
            waveform[samples : samples + len(block)] = block
            samples += len(block)
    waveform = waveform[:samples]
    if waveform.numel() == 0:
        raise _bad_samples("EmptyAudio", "Expected audio in body, got a file of 0 samples.")
    return waveform


def open_recording(audio: bytes, pcm: PcmFormat | None) -> soundfile.SoundFile:
    """Open a file's bytes, or bare samples; raises `RequestError` 415 for what is neither."""
    try:
        if pcm is None:
            with _muted():
                return soundfile.SoundFile(io.BytesIO(audio))
        _check_whole_samples(audio, pcm)
        return soundfile.SoundFile(
            io.BytesIO(audio),
            samplerate=pcm.rate_hz,
            channels=pcm.channels,
            format="RAW",
            subtype=PCM_SUBTYPES[pcm.sample_bytes],
            endian=pcm.endian,
        )
    except soundfile.LibsndfileError:
        raise UnsupportedMediaError(
            "UnsupportedAudio",
            f"Expected a recording in body (WAV, FLAC, Ogg, MP3 or AIFF), got {len(audio)} bytes "
            "that no audio decoder recognises.",
        ) from None


@contextmanager
def _muted() -> Iterator[None]:
    """Keep what decoders say of a damaged file, such as libmpg123 its bytes, out of the log."""
    with Path(os.devnull).open("wb") as nowhere:
        stderr = os.dup(STDERR)
        os.dup2(nowhere.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(stderr, STDERR)
            os.close(stderr)


def _check_whole_samples(audio: bytes, pcm: PcmFormat) -> None:
    if len(audio) % pcm.frame_bytes:
        raise _bad_samples(
            "InvalidAudio",
            f"Expected a multiple of {pcm.frame_bytes} bytes of audio/L16 in body, got "
            f"{len(audio)}.",
        )


def usual_rate(rate_hz: int) -> int:
    """Return the rate for which another one is taken."""
    return round(rate_hz / RATE_STEP_HZ) * RATE_STEP_HZ


def check_rate(rate_hz: int) -> None:
    """Raise `RequestError` 422 for a sampling rate that cannot be."""
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise ImpossibleRequestError(
            "UnsupportedRate",
            f"Expected a sampling rate from {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz in body, got "
            f"{rate_hz} Hz.",
        )


def check_duration(duration_s: float, max_duration_s: float) -> None:
    """Raise `RequestError` 413 for a recording that is too long."""
    if duration_s > max_duration_s:
        raise RequestTooLargeError(
            "AudioTooLong",
            f"Expected at most {max_duration_s:g} s of audio in body, got {duration_s:.1f} s.",
        )


def _check_header(recording: soundfile.SoundFile, max_duration_s: float) -> None:
    check_rate(recording.samplerate)
    if recording.frames == UNKNOWN_FRAMES:
        raise ImpossibleRequestError(
            "UnknownDuration",
            "Expected a header that tells the recording's length in body, got a stream's. Write "
            "the recording to a file, not to a pipe, and send that.",
        )
    check_duration(recording.frames / recording.samplerate, max_duration_s)


def read_blocks(recording: soundfile.SoundFile) -> Iterator[torch.Tensor]:
    """Yield the recording's samples, channels averaged, in blocks of shape (samples,)."""
    rate_hz, read = recording.samplerate, 0
    # Blocks of many channels are shorter: a small file may have a thousand.
    frames = max(1, BLOCK_S * rate_hz // recording.channels)
    while len(samples := _read(recording, frames, read / rate_hz)):
        read += len(samples)
        block = torch.from_numpy(samples).mean(dim=1)
        if not bool(torch.isfinite(block).all()):
            raise _bad_samples(
                "InvalidAudio", "Expected finite samples in body, got NaN or infinite ones."
            )
        yield block


def _read(recording: soundfile.SoundFile, frames: int, position_s: float) -> Any:
    try:
        with _muted():
            return recording.read(frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        raise _bad_samples(
            "DamagedAudio",
            f"Expected a whole recording in body, got one that is damaged after {position_s:g} s.",
        ) from None


def _bad_samples(kind: str, message: str) -> RequestError:
    return MalformedRequestError(kind, message)


def _resample(blocks: Iterable[torch.Tensor], from_hz: int, to_hz: int) -> Iterator[torch.Tensor]:
    resampler = BlockResampler(from_hz, to_hz)
    yield from map(resampler.push, blocks)
    yield resampler.end()


class BlockResampler:
    """Gives the samples of a waveform that comes in blocks another sampling rate.

    Together they are what resampling the whole at once gives: each block is resampled with its
    neighbours' samples on both sides, as many as the kernel reaches.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._resampler = None if from_hz == to_hz else _choose_resampler(from_hz, to_hz)
        if self._resampler is not None:
            self._step, self._new_step = (
                from_hz // self._resampler.gcd,
                to_hz // self._resampler.gcd,
            )
            self._reach = math.ceil(self._resampler.width / self._step)
            self._kept = torch.zeros(self._reach * self._step)

    def push(self, block: torch.Tensor) -> torch.Tensor:
        """Return the samples that can be told after another block of shape (samples,)."""
        if self._resampler is None:
            return block
        self._kept = torch.cat([self._kept, block])
        steps = max(0, len(self._kept) // self._step - 2 * self._reach)
        if not steps:
            return self._kept[:0]
        resampled: torch.Tensor = self._resampler(
            self._kept[: (steps + 2 * self._reach) * self._step]
        )
        self._kept = self._kept[steps * self._step :]
        first = self._reach * self._new_step
        return resampled[first : first + steps * self._new_step]

    def end(self) -> torch.Tensor:
        """Return the last samples, once there are no more blocks."""
        if self._resampler is None:
            return torch.empty(0)
        resampled: torch.Tensor = self._resampler(self._kept)
        return resampled[self._reach * self._new_step :]


def _choose_resampler(from_hz: int, to_hz: int) -> torchaudio.transforms.Resample:
    steps = max(from_hz, to_hz) // math.gcd(from_hz, to_hz)
    return _kept_resampler(from_hz, to_hz) if steps <= KEPT_STEPS else _resampler(from_hz, to_hz)


@lru_cache(maxsize=KEPT_RESAMPLERS)
def _kept_resampler(from_hz: int, to_hz: int) -> torchaudio.transforms.Resample:
    return _resampler(from_hz, to_hz)


def _resampler(from_hz: int, to_hz: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(from_hz, to_hz)
