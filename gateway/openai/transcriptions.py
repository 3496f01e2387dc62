"""Transcripts of recordings: `POST /v1/audio/transcriptions`."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from gateway.engine import Answer, AnswerStream, Description, Engine, Kind
from gateway.openai.events import (
    EVENT_HEADERS,
    EVENT_STREAM,
    cut_short,
    read_lines,
    write_events,
)
from gateway.openai.fields import refusal
from gateway.openai.hotwords import find_hotwords, name_field
from gateway.openai.models import find_model
from gateway.openai.recognitions import (
    JSON,
    Recognition,
    describe_logprobs,
    describe_segments,
    describe_words,
    read_answer,
    read_words,
    usage_of,
)
from gateway.openai.speakers import describe_turns, find_speakers, name_known_field, write_diarized
from gateway.openai.transcription_request import DIARIZED, TranscriptionRequest, read_form
from gateway.openai.uploads import build_request, open_form
from gateway.responses import PartsResponse

PLAIN = "text/plain"
NDJSON = "application/x-ndjson"
# What is sent as the engine wrote it.
ENGINE_FORMATS = {"text": PLAIN, "srt": "application/x-subrip", "vtt": "text/vtt"}
# ISO 639-2 for what is not known.
UNKNOWN_LANGUAGE = "und"


def build_router(engine: Engine) -> APIRouter:
    """Return the route of transcripts."""
    router = APIRouter()

    @router.post("/audio/transcriptions", response_model=None)
    async def transcribe(http: HttpRequest) -> Response:
        """Transcribe the recording of a form, in one of OpenAI's formats or as a stream."""
        async with open_form(http) as form:
            request, recording = read_form(form)
            about = (await find_model(engine, request.model, Kind.SPEECH_RECOGNITION)).about
            check_language(request, about)
            fields = find_hotwords(request.keywords, request.prompt, about)
            fields |= find_speakers(request, about)
            call = build_request(recording, fields, choose_accept(request, about))
            with name_field(request.keywords, request.prompt), name_known_field():
                if call.accept == NDJSON:
                    return send_segments(await engine.stream(request.model, call), request)
                answer = await engine.answer(request.model, call)
        return write_answer(answer, request, about)

    return router


def send_segments(found: AnswerStream, request: TranscriptionRequest) -> Response:
    """Return a stream of the segments that the engine tells."""
    parts = write_events(tell_segments(found, request))
    return PartsResponse(parts, found.aclose, 200, EVENT_HEADERS, EVENT_STREAM)


def write_answer(answer: Answer, request: TranscriptionRequest, about: Description) -> Response:
    """Return a transcript in the form that a request asks for."""
    if request.stream:
        return stream_whole(read_answer(answer), request)
    if request.response_format in ENGINE_FORMATS:
        return Response(answer.body, media_type=f"{answer.media_type}; charset=utf-8")
    found = read_answer(answer)
    if request.response_format == DIARIZED:
        return JSONResponse(write_diarized(found, request.known_speaker_names))
    return JSONResponse(write_json(found, request, about))


def check_language(request: TranscriptionRequest, about: Description) -> None:
    """Raise for a language that is not the model's, where that is known."""
    asked = {*request.languages, *filter(None, [request.language])}
    if about.language and asked and not any(same_language(each, about.language) for each in asked):
        field = "language" if request.language else "languages"
        raise refusal(field, f"{about.language}, which this model understands", "another")


def same_language(one: str, other: str) -> bool:
    """Compare language tags without their regions and case: RFC 5646, section 2.1."""
    first, second = (each.replace("_", "-").partition("-")[0].lower() for each in (one, other))
    return first == second


def choose_accept(request: TranscriptionRequest, about: Description) -> str:
    """Return the media type to ask the engine for; raises for one that the model has not."""
    # Who speaks is known once all of a recording was heard.
    if request.stream and NDJSON in about.streams and not request.tells_speakers:
        return NDJSON
    wanted = ENGINE_FORMATS.get(request.response_format, JSON)
    if not about.media_types or wanted in about.media_types:
        return wanted
    if request.response_format == "json" and not request.include:
        return PLAIN
    field = "include" if request.include else "response_format"
    raise refusal(field, "one without times, which this model does not tell", "another")


def write_json(
    found: Recognition, request: TranscriptionRequest, about: Description
) -> dict[str, Any]:
    """Return a transcript in the shape of `json` or `verbose_json`."""
    content: dict[str, Any] = {"text": found.text}
    if found.duration_s is not None:
        content["usage"] = usage_of(found.duration_s)
    words = found.words or []
    if request.include:
        content["logprobs"] = describe_logprobs(words)
    if request.response_format == "verbose_json":
        wanted = request.timestamp_granularities or ("segment",)
        content |= {
            "task": "transcribe",
            "language": about.language or request.language or UNKNOWN_LANGUAGE,
            "duration": found.duration_s,
        }
        if "segment" in wanted:
            content["segments"] = describe_segments(words)
        if "word" in wanted:
            content["words"] = describe_words(words)
    return content


async def tell_segments(
    found: AnswerStream, request: TranscriptionRequest
) -> AsyncIterator[dict[str, Any]]:
    """Yield an event for each segment of a recording as it is recognised, and one for the end.

    Raises `EngineError` where the engine does not come to the end.
    """
    sent = ""
    logprobs: list[dict[str, Any]] = []
    async for line in read_lines(found):
        if "duration" in line:
            yield write_done(sent, logprobs if request.include else None)
            return
        if not line["text"]:
            continue
        delta = f" {line['text']}" if sent else line["text"]
        scored = describe_logprobs(read_words(line["words"]), follow=bool(sent))
        sent += delta
        logprobs += scored
        yield write_delta(delta, scored if request.include else None)
    raise cut_short()


def stream_whole(found: Recognition, request: TranscriptionRequest) -> Response:
    """Return a stream for a model that tells a recording's text at its end only."""

    async def events() -> AsyncIterator[dict[str, Any]]:
        logprobs = describe_logprobs(found.words or []) if request.include else None
        if request.response_format == DIARIZED:
            for segment in describe_turns(found.words or [], request.known_speaker_names):
                yield segment
        elif found.text:
            yield write_delta(found.text, logprobs)
        yield write_done(found.text, logprobs)

    async def close() -> None:
        """There is nothing to end."""

    return PartsResponse(write_events(events()), close, 200, EVENT_HEADERS, EVENT_STREAM)


def write_delta(delta: str, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Return the event of further text."""
    told = {} if logprobs is None else {"logprobs": logprobs}
    return {"type": "transcript.text.delta", "delta": delta, **told}


def write_done(text: str, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Return the event of the whole text."""
    told = {} if logprobs is None else {"logprobs": logprobs}
    return {"type": "transcript.text.done", "text": text, **told}
