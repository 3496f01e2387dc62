"""Broken requests among good ones, from many connections at once, and what came of it."""

import json
import random
import re
import statistics
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count

from trials.answer_forms import find_false_form
from trials.corpus import SPEECH_MODELS, TEXT_MODELS, Case, make_cases
from trials.good_traffic import (
    TIMEOUT_S,
    Script,
    explanations,
    is_right,
    learn_script,
    predictions,
)
from trials.grpc_client import GrpcClient
from trials.http_client import LOST, Outcome, Request, send_alone
from trials.servers import TrialServer

CONNECTIONS = 16
# Connections that a broken message leaves waiting are given up after this long.
BROKEN_TIMEOUT_S = 5.0
REPORT_EVERY = 500
ALMOST_ALWAYS = 0.9
MOST_CHARACTERS = 1000
# What TorchServe 0.12 itself makes of some forms and headers, 500, before any handler sees them.
FRONT_END_FAULTS = (
    "ErrorDataDecoderException",
    "StringIndexOutOfBoundsException",
    "ArrayIndexOutOfBoundsException",
)
# Addresses of models.
MODELS = ("/predictions/", "/explanations/")
# Behind the name of a field it is no first word, and pydantic has words of its own.
EXPECTED = re.compile(r"(^E|: [eE])xpected |: (input|string) should ")


@dataclass
class FuzzReport:
    """What came of the broken requests, and everything that should not have happened."""

    sent: int = 0
    good: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    by_family: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    faults: list[str] = field(default_factory=list)
    # Seconds of the good requests by their targets, and of the slowest that a model answered.
    good_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    slowest_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, family: str, status: str, faults: Iterable[str]) -> None:
        """Add a broken request's outcome."""
        with self._lock:
            self.sent += 1
            self.statuses[status] += 1
            self.by_family[family][status] += 1
            self.faults += [f"{family}: {fault}" for fault in faults]

    def note_good(self, fault: str | None) -> None:
        """Add a good request's outcome."""
        with self._lock:
            self.good += 1
            self.faults += [fault] if fault else []

    def note_time(self, target: str, outcome: Outcome, good: bool) -> None:
        """Add how long an answer took."""
        with self._lock:
            if good:
                self.good_s[target].append(outcome.duration_s)
            if outcome.status == HTTPStatus.OK and target.startswith(MODELS):
                model = target.split("/")[2]
                self.slowest_s[model] = max(self.slowest_s[model], outcome.duration_s)


def learn_answers(address: tuple[str, int], *further: Request) -> Script:
    """Return good requests to the seven archives, and others, and what each is answered alone."""
    return learn_script(address, (*predictions(), *explanations(), *further))


def find_faults(case: Case, outcome: Outcome) -> list[str]:
    """Return what is wrong with the answer to a broken request."""
    if outcome.status is None:
        # A message that is not HTTP may go without an answer.
        whole = case.request.raw is None and outcome.failure == LOST
        return [f"no answer to {case.request.target}"] if whole else []
    if case.request.method == "HEAD":
        return []
    if outcome.status < HTTPStatus.BAD_REQUEST:
        return _judge_answer(case, outcome)
    try:
        kind, said = read_error(outcome.body)
    except (ValueError, TypeError, KeyError):
        # Servers answer what is hardly HTTP without a body, or in words of their own.
        told = outcome.body and case.request.raw is None
        return [f"{outcome.status} without an error's body"] if told else []
    return _judge_error(outcome.status, kind, said)


def _judge_answer(case: Case, outcome: Outcome) -> list[str]:
    """Return what is wrong with an answer of a model; other addresses have forms of their own."""
    if not case.request.target.startswith(MODELS):
        return []
    fault = find_false_form(outcome.content_type, outcome.body)
    return [f"{case.request.target} gave {fault}"] if fault else []


def read_error(body: bytes) -> tuple[str, str]:
    """Return the name and the sentence of an error, in whichever protocol's shape.

    Raises `ValueError`, `TypeError` or `KeyError` where it has none.
    """
    error = json.loads(body)
    # OpenAI's errors lie one deeper, and KServe's are a sentence there.
    said = error.get("error", error) if isinstance(error, dict) else error
    return ("", said) if isinstance(said, str) else (str(said["type"]), str(said["message"]))


def _judge_error(status: int, kind: str, said: str) -> list[str]:
    ours = not kind.endswith("Exception")
    faults = []
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and kind not in FRONT_END_FAULTS:
        faults.append(f"{status} {kind}: {said[:100]}")
    if ours and not EXPECTED.search(said):
        faults.append(f"{kind} does not say what was expected: {said[:100]}")
    if ours and len(said) > MOST_CHARACTERS:
        faults.append(f"{kind} has a message of {len(said)} characters")
    return faults


def fuzz(
    server: TrialServer,
    cases: Sequence[Case],
    learned: Script,
    report: Callable[[str], None],
    results: FuzzReport | None = None,
) -> FuzzReport:
    """Send broken requests, each with a good one beside it, from many connections at once.

    What comes of them is added to `results`.
    """
    results, numbers = results or FuzzReport(), count()

    def send(case: Case) -> None:
        timeout_s = BROKEN_TIMEOUT_S if case.request.raw is not None else TIMEOUT_S
        outcome = send_alone(server.address, case.request, timeout_s)
        status = str(outcome.status or outcome.failure)
        results.note(case.family, status, find_faults(case, outcome))
        results.note_time(case.request.target, outcome, good=False)
        number = next(numbers)
        request, expected = learned[number % len(learned)]
        good = send_alone(server.address, request, TIMEOUT_S)
        results.note_time(request.target, good, good=True)
        wrong = f"good request {request.target} got {good.status or good.failure}: "
        results.note_good(None if is_right(good, expected) else wrong + repr(good.body[:200]))
        if (number + 1) % REPORT_EVERY == 0:
            report(f"{number + 1} of {len(cases)} sent")

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(send, cases))
    return results


def measure_usual(server: TrialServer, learned: Script, sent: int) -> dict[str, float]:
    """Return the median seconds of good requests, by target, from as many connections alone."""
    results = FuzzReport()

    def send(number: int) -> None:
        request, _ = learned[number % len(learned)]
        answer = send_alone(server.address, request, TIMEOUT_S)
        results.note_time(request.target, answer, good=True)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(send, range(sent)))
    return {target: statistics.median(found) for target, found in results.good_s.items()}


def fuzz_grpc(server: TrialServer, sent: int, seed: int, results: FuzzReport) -> None:
    """Send broken requests to the gRPC API, each with a good one after it.

    Live sessions are not asked: there TorchServe 0.12 answers no single gRPC request.
    """
    client = GrpcClient(int(server.properties["grpc_inference_port"]), TIMEOUT_S)
    try:
        for number, case in enumerate(make_cases(sent, seed)):
            chance = random.Random(f"{seed}-{number}")
            model = chance.choice((*SPEECH_MODELS, *TEXT_MODELS, "nobody", ""))
            name = chance.choice(("data", "body", "inputs", "explain", "\u00e9", "x" * 3000))
            inputs = {name: case.request.body} if chance.random() < ALMOST_ALWAYS else {}
            version = chance.choice(("", "", "", "1.0", "9"))
            code, details = client.call(model, inputs, version, stream=number % 3 == 0)
            fault = b"Worker died" in details or code in ("UNKNOWN", "UNAVAILABLE")
            results.note("grpc", code, [f"{code} from {model or 'no model'}"] if fault else [])
            code, answer = client.call("bert_seq_classification", {"data": b"Great"})
            right = code == "OK" and answer == b"Accepted"
            results.note_good(None if right else f"good gRPC request got {code}")
    finally:
        client.close()
