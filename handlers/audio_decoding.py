"""From the bytes of a recording to a mono waveform at the model's sampling rate."""

import io
from functools import lru_cache
from http import HTTPStatus

import soundfile
import torch
import torchaudio

from device_io import RequestError

# Resampling kernels, each a few kilobytes; more rates than these are not in use.
KEPT_RESAMPLERS = 32


def decode_audio(audio: bytes, sample_rate_hz: int, max_duration_s: float) -> torch.Tensor:
    """Return a recording as a mono float32 waveform of shape (samples,) at `sample_rate_hz`.

    Any container that libsndfile reads: WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF and more.
    Channels are averaged. Raises `RequestError`: 415 for bytes that no decoder recognises, 413 for
    more than `max_duration_s` (told by the header, before any sample is decoded), 400 for no or
    impossible samples.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(audio)) as recording:
            _check_duration(recording.frames / recording.samplerate, max_duration_s)
            samples = recording.read(dtype="float32", always_2d=True)
            rate_hz: int = recording.samplerate
    except soundfile.LibsndfileError:
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedAudio",
            f"Expected a recording in body (WAV, FLAC, Ogg, MP3 or AIFF), got {len(audio)} bytes "
            "that no audio decoder recognises.",
        ) from None
    waveform = torch.from_numpy(samples).mean(dim=1)
    _check_samples(waveform)
    return resample(waveform, rate_hz, sample_rate_hz)


def resample(waveform: torch.Tensor, from_hz: int, to_hz: int) -> torch.Tensor:
    """Return `waveform`, shape (samples,), at another sampling rate; kernels are kept per rate."""
    if from_hz == to_hz:
        return waveform
    resampled: torch.Tensor = _resampler(from_hz, to_hz)(waveform)
    return resampled


@lru_cache(maxsize=KEPT_RESAMPLERS)
def _resampler(from_hz: int, to_hz: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(from_hz, to_hz)


def _check_duration(duration_s: float, max_duration_s: float) -> None:
    if duration_s > max_duration_s:
        raise RequestError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "AudioTooLong",
            f"Expected at most {max_duration_s:g} s of audio in body, got {duration_s:.1f} s.",
        )


def _check_samples(waveform: torch.Tensor) -> None:
    if waveform.numel() == 0:
        raise RequestError(
            HTTPStatus.BAD_REQUEST, "EmptyAudio", "Expected audio in body, got a file of 0 samples."
        )
    if not bool(torch.isfinite(waveform).all()):
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "InvalidAudio",
            "Expected finite samples in body, got NaN or infinite ones.",
        )
