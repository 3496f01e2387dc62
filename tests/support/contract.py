"""Requests of the contract, and whether two engines answer them alike."""

import json
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from io import BytesIO
from typing import Any

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from gateway.contract.engine import ContractEngine
from gateway.engine import ForwardedRequest
from trials import corpus, good_traffic
from trials.http_client import Request

TOLERANCE = 1e-5
LONG_TEXT_BYTES = 500
# Of the fuzz trial's families those that are HTTP: what is hardly that, servers refuse.
FAMILIES = (
    corpus.audio,
    corpus.odd_fields,
    corpus.odd_parameters,
    corpus.odd_json,
    corpus.odd_encoding,
    corpus.odd_headers,
    corpus.odd_session,
    corpus.multipart,
)
# The name of a session that its client did not name.
MADE_UP = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Their messages tell how long something takes on this machine.
TIMED = {"TooMuchWork", "TookTooLong", "WorkerBusy"}


@dataclass(frozen=True)
class Reply:
    """What an engine answered."""

    status: int
    content_type: str
    retry_after: str
    body: bytes


async def ask(engine: ContractEngine, request: Request) -> Reply:
    """Return an engine's answer to a request."""
    headers = [(name.lower(), latin(value)) for name, value in request.headers]
    forwarded = ForwardedRequest(request.method, request.target.encode(), headers, _parts(request))
    async with await engine.forward(forwarded) as answer:
        body = b"".join([part async for part in answer])
    found = answer.headers
    return Reply(answer.status, found.get("content-type", ""), found.get("retry-after", ""), body)


def latin(value: str) -> str:
    """Return a header's value as it arrives: its bytes, each as a character."""
    return value.encode("utf-8", "surrogatepass").decode("latin-1")


async def _parts(request: Request) -> Any:
    yield request.body


def good_requests() -> list[Request]:
    """Return requests to every model, answered with texts, JSON, subtitles and pictures."""
    sessions = [
        each
        for pieces in (1, 3, 7)
        for each in good_traffic.Session(
            f"contract-{pieces}", good_traffic.cut_speech(pieces)
        ).requests()
    ]
    return [
        *good_traffic.predictions(),
        *good_traffic.explanations(),
        *good_traffic.pictures(),
        *sessions,
    ]


def addresses() -> list[Request]:
    """Return requests to addresses that are, that are not, and by other methods."""
    review = good_traffic.REVIEWS[0].encode()
    model = "/predictions/bert_seq_classification"
    targets = (
        *("/ping", "/predictions/nobody", "/explanations/nobody", "/predictions/no%20body"),
        *(model, f"{model}/1.0", f"{model}/9.9", f"{model}/1.0/further/steps", f"{model}?x=1"),
    )
    named = [Request(target, review, (("Content-Type", "text/plain"),)) for target in targets]
    # Bytes that are no UTF-8, and some that are.
    named += [Request(model, review, (("X-File", name),)) for name in ("caf\udce9", "café")]
    return [*named, Request("/ping", method="GET"), Request(model, method="DELETE")]


def odd_requests(count: int, seed: int) -> Iterator[Request]:
    """Yield requests that hardly anybody sends."""
    for number in range(count):
        make = FAMILIES[number % len(FAMILIES)]
        request = corpus.ended(make(random.Random(f"contract-{seed}-{number}")))
        if not is_long_work(request):
            yield request


def is_long_work(request: Request) -> bool:
    """Tell whether a request takes each engine a minute: tokens of a long text, explained."""
    return request.target.startswith("/explanations/gpt2") and len(request.body) > LONG_TEXT_BYTES


def difference(one: Reply, other: Reply) -> str:
    """Return in which way two answers differ, empty where they do not."""
    for name in ("status", "content_type", "retry_after"):
        if getattr(one, name) != getattr(other, name):
            return f"{name}: {getattr(one, name)} and {getattr(other, name)}"
    if one.body == other.body:
        return ""
    try:
        pair = json.loads(one.body), json.loads(other.body)
    except ValueError:
        return f"body: {one.body[:300]!r} and {other.body[:300]!r}"
    if all(isinstance(each, dict) for each in pair):
        pair = comparable(pair[0]), comparable(pair[1])
    return "" if alike(*pair) else f"body: {one.body[:300]!r} and {other.body[:300]!r}"


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what is made up for it, and what depends on the time of day."""
    if answer.get("type") in TIMED:
        return {"type": answer["type"]}
    made_up = {"session"} if MADE_UP.fullmatch(str(answer.get("session"))) else set()
    return {key: value for key, value in answer.items() if key not in made_up}


def alike(one: Any, other: Any) -> bool:
    """Tell whether two values of JSON are equal but for the rounding of numbers."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def is_broken_form(request: Request) -> bool:
    """Tell whether a request is a form that cannot be read: some servers read its beginning."""
    kind = next((value for name, value in request.headers if name == "Content-Type"), "")
    media_type, options = parse_options_header(kind)
    parser = FormDataParser(lambda *_, **__: BytesIO(), silent=False)
    try:
        parser.parse(BytesIO(request.body), media_type, len(request.body), options)
    except (ValueError, RequestEntityTooLarge):
        return True
    return False


def is_random(request: Request) -> bool:
    """Tell whether a request asks for a text that chance has a part in."""
    return b"do_sample" in request.body and "gpt2" in request.target


async def differences(
    one: ContractEngine, other: ContractEngine, requests: Sequence[Request]
) -> list[str]:
    """Return how the answers of two engines differ, one line for each request."""
    found = []
    for number, request in enumerate(requests):
        first, second = await ask(one, request), await ask(other, request)
        told = difference(first, second)
        if told and not is_excused(request, first, second, told):
            found.append(f"{number} {request.target[:80]} {request.headers}: {told}")
    return found


def is_excused(request: Request, one: Reply, other: Reply, told: str) -> bool:
    """Tell whether two engines may differ in this."""
    if is_random(request):
        return told.startswith("body")
    if is_broken_form(request) and min(one.status, other.status) >= HTTPStatus.BAD_REQUEST:
        return True
    # TorchServe's front end itself failed: nothing of the handlers' is 500.
    failed = HTTPStatus.INTERNAL_SERVER_ERROR
    return one.status == failed and other.status < failed
