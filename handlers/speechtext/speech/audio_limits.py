"""What a recording may be: its sampling rate, its length and its samples."""

from speechtext.errors import (
    ImpossibleRequestError,
    MalformedRequestError,
    RequestTooLargeError,
)
from speechtext.speech.frames import Samples

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
# Floats have a full scale of 1; those of programs that do not know have that of whole numbers,
# which is mostly 32,768, and this for 32 bits. The power of some thousand times as much overflows.
MAX_AMPLITUDE = 2**31


def check_rate(rate_hz: int) -> None:
    """Raise `RequestError` 422 for a sampling rate that cannot be."""
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise ImpossibleRequestError(
            "UnsupportedRate",
            f"Expected a sampling rate from {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz in body, got "
            f"{rate_hz} Hz.",
        )


def check_duration(duration_s: float, max_duration_s: float, more: bool = False) -> None:
    """Raise `RequestError` 413 for a recording that is too long; `more` of it may follow."""
    if duration_s > max_duration_s:
        least = "more than " if more else ""
        raise RequestTooLargeError(
            "AudioTooLong",
            f"Expected at most {max_duration_s:g} s of audio in body, got {least}"
            f"{duration_s:.1f} s.",
        )


def check_samples(waveform: Samples) -> None:
    """Raise `RequestError` 400 for samples that are no numbers, or beyond any recording's."""
    # Both ways, and false for NaN.
    if not (waveform.max(initial=0) <= MAX_AMPLITUDE and waveform.min(initial=0) >= -MAX_AMPLITUDE):
        raise MalformedRequestError(
            "InvalidAudio",
            f"Expected samples from -{MAX_AMPLITUDE} to {MAX_AMPLITUDE} in body (full scale is 1), "
            "got larger ones, infinite ones or NaN.",
        )
