"""From a row of a batch to a waveform, and from a recognition to the answer asked for."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from batches import JSON, PLAIN, Answer, Parts, dump_json
from device_io import (
    Row,
    is_hub_client,
    preferred_media_type,
    request_audio,
    request_header,
    response_timeout_s,
    wants_explanation,
)
from request_fields import asked_parameters, fields_of, merge_parameters, parse_field
from speaker_requests import (
    KNOWN_FIELD,
    SpeakersAsked,
    measure_speakers,
    name_speakers,
    read_speakers,
)
from speechtext.allowance import Work, plan_seconds, run_admitted
from speechtext.errors import ImpossibleRequestError, RequestError
from speechtext.measurements import note_size
from speechtext.parameters import impossible, read_parameters
from speechtext.payloads import as_text
from speechtext.speech.alignment_picture import draw_alignment
from speechtext.speech.alignments import Alignment, Recognition, describe_alignment
from speechtext.speech.attribution import AudioExplanationParameters
from speechtext.speech.audio import decode_audio
from speechtext.speech.costs import SpeechCost
from speechtext.speech.diarization import DiarizationParameters, Diarizer
from speechtext.speech.hotword_scores import HotwordScores
from speechtext.speech.hotwords import HotwordParameters, read_hotwords
from speechtext.speech.pcm import parse_pcm_format
from speechtext.speech.subtitles import write_srt, write_vtt
from speechtext.speech.transcripts import (
    Segment,
    Transcript,
    describe_chunks,
    write_json,
    write_plain,
    write_segment,
)

logger = logging.getLogger(__name__)

# What fits in a picture and in a person's patience.
MAX_EXPLAINED_S = 60.0
ANYTHING = "*/*"
# Segments as they end, a JSON line each; for models that can tell.
NDJSON = "application/x-ndjson"
# Who speaks when; and tensors, which have no media type of their own.
RTTM, SAFETENSORS = "text/x-rttm", "application/octet-stream"
TRANSCRIPT_WRITERS: dict[str, Callable[[Transcript], Any]] = {
    PLAIN: write_plain,
    JSON: write_json,
    "text/vtt": write_vtt,
    "application/x-subrip": write_srt,
}
EXPLANATION_WRITERS: dict[str, Callable[[Alignment], Any]] = {
    JSON: describe_alignment,
    "image/png": draw_alignment,
}
RESPONSE_FORMATS = {
    "text": PLAIN,
    "json": JSON,
    "vtt": "text/vtt",
    "srt": "application/x-subrip",
    "ndjson": NDJSON,
    "png": "image/png",
    "rttm": RTTM,
    "safetensors": SAFETENSORS,
}

# What a prediction may be asked beside its recording, as fields or in the object `parameters`.
PARAMETERS = (
    "response_format",
    *HotwordParameters.__dataclass_fields__,
    *DiarizationParameters.__dataclass_fields__,
    KNOWN_FIELD,
    "return_timestamps",
)


class SpeechRequest(NamedTuple):
    """A waveform of shape (samples,), and the media type in which its answer is wanted.

    `parts` sends segments of the answer, where they are wanted as they come; `hotwords` are those
    that are searched for, `speakers` what is asked of those who speak, and `target` the word that
    is to be explained. `timed` JSON has `chunks` as Hugging Face's does.
    """

    waveform: torch.Tensor
    media_type: str
    explain: bool = False
    parts: Parts | None = None
    hotwords: HotwordScores | None = None
    speakers: SpeakersAsked | None = None
    target: AudioExplanationParameters | None = None
    timed: bool = False


def describe_recognizer(
    sample_rate_hz: int,
    max_audio_seconds: float,
    decoder: str,
    media_types: Sequence[str] = tuple(TRANSCRIPT_WRITERS),
    explainable: bool = True,
    hotwords: bool = False,
    language: str | None = None,
    speakers: bool = False,
) -> dict[str, Any]:
    """Return what a model of recordings is, for who asks TorchServe to describe it."""
    return {
        "kind": "speech_recognition",
        "decoder": decoder,
        "sample_rate_hz": sample_rate_hz,
        "media_types": [each for each in media_types if each != NDJSON],
        "streams": [NDJSON] if NDJSON in media_types else [],
        "explainable": explainable,
        "hotwords": hotwords,
        "speakers": speakers,
        "language": language,
        "limits": {"max_audio_seconds": max_audio_seconds},
    }


class SpeechOffer(NamedTuple):
    """What a recogniser offers to requests; made once, when it is loaded.

    `media_types` are those of transcripts, and `choose_hotwords` is the recogniser's. `diarizer`
    tells speakers apart, and a model that `explains_words` takes a `target`.
    """

    sample_rate_hz: int
    max_audio_s: float
    media_types: Sequence[str]
    choose_hotwords: Callable[[HotwordParameters], HotwordScores | None]
    diarizer: Diarizer | None = None
    explains_words: bool = False


def read_request(row: Row, context: Any, index: int, offer: SpeechOffer) -> SpeechRequest:
    """Return what a row of a batch asks for; raises `RequestError`."""
    explain = wants_explanation(context, index)
    fields = fields_of(row) if explain else merge_parameters(fields_of(row), PARAMETERS)
    media_types = list(EXPLANATION_WRITERS) if explain else offer.media_types
    timed = read_return_timestamps(fields)
    media_type = _choose_form(fields, timed, media_types, context, index)
    hotwords = offer.choose_hotwords(hotwords_of(fields))
    speakers = read_speakers(fields, offer.diarizer, not explain and media_type != NDJSON)
    limit_s = min(offer.max_audio_s, MAX_EXPLAINED_S) if explain else offer.max_audio_s
    pcm = parse_pcm_format(request_header(context, index, "Content-Type") or "")
    waveform = decode_audio(request_audio(row), offer.sample_rate_hz, limit_s, pcm)
    note_size(index, "audio_s", len(waveform) / offer.sample_rate_hz)
    parts = Parts(context, index, NDJSON) if media_type == NDJSON else None
    target = read_target(fields, offer.explains_words) if explain else None
    return SpeechRequest(waveform, media_type, explain, parts, hotwords, speakers, target, timed)


def _choose_form(
    fields: Mapping[str, Any], timed: bool, media_types: Sequence[str], context: Any, index: int
) -> str:
    """Return the media type of an answer; one with the times of Hugging Face's clients is JSON."""
    accept = request_header(context, index, "Accept") or ANYTHING
    # That client does not say what it accepts, and reads nothing else.
    if timed or (accept == ANYTHING and is_hub_client(context, index)):
        accept = JSON
    media_type = choose_media_type(accept, fields.get("response_format"), media_types)
    if timed and media_type != JSON:
        raise impossible("return_timestamps", "absent with a response_format other than json", "it")
    return media_type


def read_return_timestamps(fields: Mapping[str, Any]) -> bool:
    """Return whether a request wants `chunks`, the words with their times; raises for letters."""
    asked = parse_field(fields.get("return_timestamps"), "return_timestamps")
    if asked in (None, False, True, "word"):
        return bool(asked)
    raise impossible("return_timestamps", 'a boolean or "word"', "something else")


def read_target(
    fields: Mapping[str, Any], explains_words: bool
) -> AudioExplanationParameters | None:
    """Return which word a request wants explained and how, None for the alignment of all.

    Raises `ImpossibleRequestError`.
    """
    given = asked_parameters(fields, AudioExplanationParameters.__dataclass_fields__)
    asked = read_parameters(AudioExplanationParameters, given, {})
    if asked.target is None:
        return None
    if not explains_words:
        raise impossible("target", "absent: only models for CTC explain a word", "one")
    return asked


def affordable_seconds(cost: SpeechCost, most_s: float, context: Any) -> float:
    """Return the longest recording that is recognised before TorchServe ends this worker.

    At most `most_s`, which a warning says where the whole of it does not fit.
    """
    timeout_s = response_timeout_s(context)
    longest_s = cost.longest_s(plan_seconds(timeout_s))
    if longest_s < most_s:
        logger.warning(
            "Recordings of at most %.0f s are taken, not of max_audio_seconds (%g): longer ones "
            "take this worker too long for a responseTimeout of %g s.",
            longest_s,
            most_s,
            timeout_s,
        )
    return min(most_s, longest_s)


class SpeechCosts(NamedTuple):
    """What a recording costs, one with hotwords where there are any, and its speakers."""

    plain: SpeechCost
    hotwords: SpeechCost | None = None
    diarizer: Diarizer | None = None

    def measure(self, request: SpeechRequest, sample_rate_hz: int) -> Work:
        """Return the work of a request."""
        duration_s = len(request.waveform) / sample_rate_hz
        own = self.hotwords if request.hotwords and self.hotwords else self.plain
        work = own.measure(duration_s)
        if request.target:
            passes = 1 + request.target.passes(len(request.waveform))
            work = work._replace(cost_s=work.cost_s * passes)
        if self.diarizer is None or request.speakers is None:
            return work
        speakers = measure_speakers(self.diarizer, request.speakers, duration_s)
        return work._replace(cost_s=work.cost_s + speakers.cost_s)


def run_speech(
    run: Callable[[Sequence[SpeechRequest]], Sequence[Any]],
    requests: Sequence[SpeechRequest],
    sample_rate_hz: int,
    costs: SpeechCosts,
) -> list[Any]:
    """Answer the recordings of a batch that there is time for; the others are to come again."""
    works = [costs.measure(request, sample_rate_hz) for request in requests]
    return run_admitted(run, requests, works)


def choose_media_type(
    accept: str | None,
    response_format: Any,
    media_types: Sequence[str] = tuple(TRANSCRIPT_WRITERS),
) -> str:
    """Return the media type of the answer: the field `response_format`, else the header `Accept`.

    The first of `media_types` where neither asks for one of them. Raises `ImpossibleRequestError`
    for another `response_format`.
    """
    if response_format is None:
        return preferred_media_type(accept or "", media_types)
    name = as_text(response_format) if isinstance(response_format, str | bytes | bytearray) else ""
    names = [each for each, media_type in RESPONSE_FORMATS.items() if media_type in media_types]
    if name not in names:
        raise ImpossibleRequestError(
            "UnknownFormat", f"Expected response_format to be one of {', '.join(names)}."
        )
    return RESPONSE_FORMATS[name]


def hotwords_of(fields: Mapping[str, Any]) -> HotwordParameters:
    """Return what a request says of hotwords: JSON, which a form has as text.

    Of a field that a form has several times, TorchServe hands over the last one only.
    """
    given, boost = (
        as_text(value, name) if isinstance(value, bytes | bytearray) else value
        for name, value in ((name, fields.get(name)) for name in ("hotwords", "hotword_boost"))
    )
    return read_hotwords(given, boost)


def write_answer(request: SpeechRequest, recognition: Recognition) -> Answer:
    """Return a transcript in the form that a request asks for, or the alignment behind it."""
    media_type = request.media_type
    if request.explain:
        return Answer(EXPLANATION_WRITERS[media_type](recognition.align()), media_type)
    return write_transcript(request, recognition.transcript)


def write_transcript(request: SpeechRequest, transcript: Transcript) -> Answer:
    """Return a transcript in the form that a request asks for."""
    content = TRANSCRIPT_WRITERS[request.media_type](transcript)
    if request.timed:
        content = {**content, "chunks": describe_chunks(transcript)}
    return Answer(content, request.media_type)


def send_segments(
    requests: Sequence[SpeechRequest],
) -> Callable[[int, int, Segment], None] | None:
    """Return what sends a segment of one of the requests, None where none of them wants any."""

    def send(index: int, number: int, segment: Segment) -> None:
        if parts := requests[index].parts:
            parts.send(number + 1, write_line(write_segment(segment)))

    return send if any(request.parts for request in requests) else None


def write_recognitions(
    requests: Sequence[SpeechRequest], found: Sequence[Recognition], diarizer: Diarizer | None
) -> list[Answer | RequestError]:
    """Return the answer to each request, with speakers where it asks for them."""
    return [
        _write_named(request, request.speakers, recognition, diarizer)
        if diarizer and request.speakers
        else write_recognition(request, recognition)
        for request, recognition in zip(requests, found, strict=True)
    ]


def _write_named(
    request: SpeechRequest, asked: SpeakersAsked, recognition: Recognition, diarizer: Diarizer
) -> Answer | RequestError:
    named = name_speakers(diarizer, asked, request.waveform, recognition)
    return named if isinstance(named, RequestError) else write_recognition(request, named)


def write_recognition(request: SpeechRequest, recognition: Recognition) -> Answer:
    """Return the answer that a request asks for, or the rest of it behind segments sent."""
    if request.parts is None:
        return write_answer(request, recognition)
    transcript = recognition.transcript
    summary = {"text": transcript.text, "duration": round(transcript.duration_s, 3)}
    return Answer(request.parts.take() + write_line(summary), NDJSON)


def write_line(content: Any) -> str:
    """Return a line of JSON."""
    return dump_json(content) + "\n"
