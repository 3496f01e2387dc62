"""From a request's recording to a mono waveform at the model's sampling rate.

A recording is decoded, mixed and resampled block by block, so that a long one needs no more memory
than its samples at the model's rate.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from speechtext.allowance import allow_share, check_time
from speechtext.errors import MalformedRequestError
from speechtext.speech.audio_limits import check_duration, check_samples
from speechtext.speech.containers import read_recording
from speechtext.speech.frames import Block, Samples
from speechtext.speech.pcm import PcmFormat, pcm_duration_s, read_pcm
from speechtext.speech.resampling import Resampler

# The share of a batch's remaining time that one recording may take: the longest takes a fifth of
# TorchServe's timeout, and those behind it need time, too.
DECODING_SHARE = 0.5
# To build the filter between two rates without a common divisor takes 15 ms.
MOST_RATES = 100


def decode_audio(
    audio: bytes, sample_rate_hz: int, max_duration_s: float, pcm: PcmFormat | None = None
) -> torch.Tensor:
    """Return a recording as a mono float32 waveform of shape (samples,) at `sample_rate_hz`.

    Any container of `containers.CONTAINERS`: WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, m4a, mp4,
    WebM and more, or bare samples where `pcm` says how to read them. Channels are averaged. Raises
    `RequestError`: 415 for bytes that no decoder recognises, 413 for more than `max_duration_s`
    (before any sample is decoded, where the header tells the length), 422 for a rate that cannot
    be, 400 for no, damaged or impossible samples; and `DeadlineError` where it takes more than
    `DECODING_SHARE` of the time that its batch has left.
    """
    if pcm is None:
        blocks = read_recording(audio, max_duration_s)
    else:
        check_duration(pcm_duration_s(audio, pcm), max_duration_s)
        blocks = read_pcm(audio, pcm)
    with allow_share(DECODING_SHARE):
        waveform = _join(_resample(blocks, sample_rate_hz))
    if waveform.numel() == 0:
        raise MalformedRequestError(
            "EmptyAudio", "Expected audio in body, got a file of 0 samples."
        )
    return waveform


def _resample(blocks: Iterable[Block], to_hz: int) -> Iterator[Samples]:
    # Recordings that were joined, as Ogg files can be, may change their rate on the way.
    stretches = itertools.groupby(blocks, key=lambda block: block.rate_hz)
    for number, (rate_hz, same) in enumerate(stretches):
        if number == MOST_RATES:
            raise MalformedRequestError(
                "DamagedAudio",
                f"Expected at most {MOST_RATES} sampling rates one behind the other in body, got "
                "more.",
            )
        resampler = Resampler(rate_hz, to_hz)
        for block in same:
            check_time()
            check_samples(block.samples)
            yield resampler.push(block.samples)
        yield resampler.end()


def _join(blocks: Iterable[Samples]) -> torch.Tensor:
    """Return blocks as one, with little more memory on the way than in the end."""
    waveform, samples = np.empty(0, np.float32), 0
    for block in blocks:
        end = samples + len(block)
        if end > len(waveform):
            waveform.resize(end + end // 8, refcheck=False)
        waveform[samples:end] = block
        samples = end
    waveform.resize(samples, refcheck=False)
    return torch.from_numpy(waveform)
