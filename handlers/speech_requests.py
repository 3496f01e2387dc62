"""What all speech handlers share: from a request to a waveform, from an alignment to an answer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from alignments import EXPLANATIONS, MAX_EXPLAINED_S, Alignment
from audio_decoding import request_waveform
from device_io import Answer, Row, request_header, wants_explanation
from measurements import note_size
from transcripts import WRITERS, Transcript, choose_media_type, response_format_of


class SpeechRequest(NamedTuple):
    """A waveform of shape (samples,), and the media type in which its answer is wanted.

    `stream` is what sends parts of the answer, where they are wanted as they come.
    """

    waveform: torch.Tensor
    media_type: str
    explain: bool = False
    stream: Any = None


def read_request(
    row: Row,
    context: Any,
    index: int,
    sample_rate_hz: int,
    max_duration_s: float,
    transcripts: Sequence[str] = tuple(WRITERS),
) -> SpeechRequest:
    """Return what a row of a batch asks for; raises `RequestError`.

    `transcripts` are the media types in which the model can answer a prediction.
    """
    explain = wants_explanation(context, index)
    media_types = list(EXPLANATIONS) if explain else transcripts
    accept = request_header(context, index, "Accept")
    media_type = choose_media_type(accept, response_format_of(row), media_types)
    limit_s = min(max_duration_s, MAX_EXPLAINED_S) if explain else max_duration_s
    waveform = request_waveform(row, context, index, sample_rate_hz, limit_s)
    note_size(index, "audio_s", len(waveform) / sample_rate_hz)
    return SpeechRequest(waveform, media_type, explain)


def write_answer(
    request: SpeechRequest, transcript: Transcript, align: Callable[[], Alignment]
) -> Answer:
    """Return a transcript in the form that a request asks for, or the alignment behind it."""
    if request.explain:
        return Answer(EXPLANATIONS[request.media_type](align()), request.media_type)
    return Answer(WRITERS[request.media_type](transcript), request.media_type)
