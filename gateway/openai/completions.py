"""Texts that go on from a prompt: `POST /v1/completions`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from gateway.engine import AnswerStream, Engine, Kind
from gateway.openai.choices import (
    Continuation,
    choose_best,
    read_continuation,
    write_choice,
    write_usage,
)
from gateway.openai.completion_request import (
    Call,
    CompletionRequest,
    check_limits,
    plan_calls,
    read_request,
)
from gateway.openai.completion_streams import ChoiceStream, MergedParts, Taken
from gateway.openai.events import EVENT_HEADERS, EVENT_STREAM, write_events
from gateway.openai.models import find_model
from gateway.request_context import request_id
from gateway.responses import PartsResponse

Result = TypeVar("Result")
# Requests to the engine at a time for one of the client.
AT_ONCE = 16


def build_router(engine: Engine) -> APIRouter:
    """Return the route of completions."""
    router = APIRouter()

    @router.post("/completions", response_model=None)
    async def complete(http: HttpRequest) -> Response:
        """Continue a prompt, or several, whole or as a stream."""
        request = read_request(await http.body())
        model = await find_model(engine, request.model, Kind.TEXT_GENERATION)
        check_limits(request, model.about)
        calls = list(plan_calls(request))
        if request.stream:
            return await stream_choices(engine, request, calls)
        found = await continue_all(engine, request, calls)
        return JSONResponse(write_completion(request, found))

    return router


async def continue_all(
    engine: Engine, request: CompletionRequest, calls: Sequence[Call]
) -> list[Continuation]:
    """Return the continuations of all calls, in their order; raises the first `EngineError`."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def ask(call: Call) -> Continuation:
        async with turns:
            answer = await engine.answer(request.model, call.request)
        return read_continuation(call.prompt, json.loads(answer.body), request.stop)

    return await _gather(*map(ask, calls))


async def stream_choices(
    engine: Engine, request: CompletionRequest, calls: Sequence[Call]
) -> Response:
    """Return the choices as a stream, once the engine has begun with all of them."""
    answers: list[AnswerStream] = []

    async def open_stream(call: Call) -> AnswerStream:
        answer = await engine.stream(request.model, call.request)
        answers.append(answer)
        return answer

    try:
        opened = await _gather(*map(open_stream, calls))
    except BaseException:
        for each in answers:
            await each.aclose()
        raise
    taken = Taken()
    sources = [
        ChoiceStream(call, request, taken).parts(answer)
        for call, answer in zip(calls, opened, strict=True)
    ]
    merged = MergedParts(sources, opened)
    events = write_events(tell_chunks(merged, request, taken))
    return PartsResponse(events, merged.aclose, 200, EVENT_HEADERS, EVENT_STREAM)


async def _gather(*running: Coroutine[Any, Any, Result]) -> list[Result]:
    """Return the results of coroutines; the first error ends them all, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in running]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def tell_chunks(
    parts: MergedParts, request: CompletionRequest, taken: Taken
) -> AsyncIterator[dict[str, Any]]:
    """Yield a chunk for each part, and one with what all took where that is wanted."""
    about = describe_completion(request)
    usage = {"usage": None} if request.tells_usage else {}
    async for part in parts:
        yield {**about, "choices": [part], **usage}
    if request.tells_usage:
        told = write_usage(list(taken.prompts.values()), taken.completions)
        yield {**about, "choices": [], "usage": told}


def write_completion(
    request: CompletionRequest, found: Sequence[Continuation]
) -> Mapping[str, Any]:
    """Return all choices, and what they took."""
    chosen = choose_best(found, request)
    usage = write_usage(
        [each.prompt_tokens for each in found[:: request.made]],
        sum(each.completion_tokens for each in found),
    )
    choices = [write_choice(index, each, request) for index, each in enumerate(chosen)]
    return {**describe_completion(request), "choices": choices, "usage": usage}


def describe_completion(request: CompletionRequest) -> dict[str, Any]:
    """Return what a completion and each of its chunks have in common."""
    return {
        "id": f"cmpl-{request_id.get()}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.model,
    }
