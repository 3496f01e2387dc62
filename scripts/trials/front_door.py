"""Put the gateway to the test: broken requests and frames, faults underneath, clients that go.

Fails where something hangs, a client got a wrong answer or none, an error has no honest status or
does not say what was expected, a live session or a connection stays, or memory grows.
"""

import argparse
import functools
import json
import random
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from serving.errors import ServerError
from trials.chaos import FAULTS, Result, measure
from trials.chaos import show as show_faults
from trials.fuzz import USUAL, Memory, settled_bytes
from trials.fuzz import show as show_broken
from trials.fuzzing import FuzzReport, fuzz, learn_answers, measure_usual
from trials.gateways import RunningGateway, run_gateway
from trials.good_traffic import LIVE_MODEL, SPEECH, TIMEOUT_S, pictures
from trials.http_client import send_alone
from trials.load import learn_traffic, wait_for
from trials.protocol_corpus import make_cases, make_frame
from trials.servers import TrialServer, run_server
from trials.soak import check_soak, soak

# Broken requests before memory is measured for the first time: caches fill.
WARM_UP, WARM_UP_SEED = 1200, 99
FRAMES_EACH = 20
FRAME_TIMEOUT_S = 30.0
# Clients that go in the middle of something, and how long all that they left may take to go.
GOING, GONE_S = 60, 30.0
# How many the live model hears at once.
PLACES = 8
SOAK_RATE_HZ = 60.0
UNDERNEATH = ("workers killed", "server restarted")
report = functools.partial(print, flush=True)


@dataclass(frozen=True)
class FrontDoor(TrialServer):
    """A server with a gateway before it: clients ask the gateway, faults befall the server."""

    gateway: RunningGateway

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port of the gateway."""
        return self.gateway.address

    def resident_bytes(self) -> dict[str, int]:
        """Return the resident memory of the gateway and of each worker."""
        return {"gateway": self.gateway.process.memory_info().rss, **super().resident_bytes()}


@contextmanager
def open_front_door() -> Iterator[FrontDoor]:
    """Run a server with the seven archives and a gateway before it."""
    with (
        run_server(report) as server,
        tempfile.TemporaryDirectory() as name,
        run_gateway(Path(name), server.properties) as gateway,
    ):
        own = (server.folder, server.store, server.archives, server.properties)
        yield FrontDoor(*own, gateway)


def fuzz_requests(
    door: FrontDoor, requests: int, seed: int
) -> tuple[FuzzReport, Memory, Mapping[str, float]]:
    """Return what came of broken requests, the memory of all processes, and usual times."""
    learned = learn_answers(door.address)
    report(f"Warming up with {WARM_UP} broken requests ...")
    fuzz(door, list(make_cases(WARM_UP, WARM_UP_SEED)), learned, report)
    for request in pictures():
        send_alone(door.address, request, TIMEOUT_S)
    fuzz_frames(door.gateway, FRAMES_EACH, WARM_UP_SEED, FuzzReport())
    before = settled_bytes(door, learned)
    usual_s = measure_usual(door, learned, USUAL)
    results = fuzz(door, list(make_cases(requests, seed)), learned, report)
    fuzz_frames(door.gateway, requests // (5 * FRAMES_EACH), seed, results)
    return results, Memory(before, settled_bytes(door, learned)), usual_s


def fuzz_frames(gateway: RunningGateway, sessions: int, seed: int, results: FuzzReport) -> None:
    """Send broken frames over live sessions; after them, a session must still be understood."""
    for number in range(sessions):
        chance = random.Random(f"{seed}-frames-{number}")
        path = chance.choice(("/v1/realtime?intent=transcription", f"/live/{LIVE_MODEL}"))
        outcome = _send_frames(f"{gateway.socket_url}{path}", chance)
        faults = ["no answer in time"] if outcome == "hung" else []
        results.note("frames " + path.split("?")[0].rsplit("/", 1)[0], outcome, faults)


def _send_frames(url: str, chance: random.Random) -> str:
    """Return how a session took broken frames: it goes on, or was closed with a code."""
    try:
        # Nobody reads the answers before the end, so that they need room.
        options: dict[str, Any] = {"open_timeout": FRAME_TIMEOUT_S, "max_queue": None}
        with connect(url, **options) as session:
            for _ in range(FRAMES_EACH):
                session.send(make_frame(chance))
            # Who is still there answers a ping behind all of that.
            answered = session.ping().wait(FRAME_TIMEOUT_S)
            # A session that is closed meanwhile answers no ping.
            closed = session.close_code is not None
            return f"closed {session.close_code}" if closed else "goes on" if answered else "hung"
    except ConnectionClosed as closed:
        return f"closed {closed.rcvd.code if closed.rcvd else 'without a code'}"
    except OSError:
        return "refused"


def leave(gateway: RunningGateway) -> Sequence[str]:
    """Go in the middle of uploads, streams and sessions; return what they left behind."""
    process = gateway.process
    wait_for(lambda: not _connections(process), GONE_S)
    files = len(process.open_files())
    for number in range(GOING):
        LEAVERS[number % len(LEAVERS)](gateway)
    left = []
    if not wait_for(lambda: not _connections(process), GONE_S):
        left.append(f"{len(_connections(process))} connections")
    if not wait_for(lambda: len(process.open_files()) <= files, GONE_S):
        left.append(f"{len(process.open_files()) - files} open files")
    if not wait_for(lambda: _has_all_places(gateway), GONE_S):
        left.append("sessions that hold places of the model")
    return left


def _has_all_places(gateway: RunningGateway) -> bool:
    """Tell whether as many can speak at once as the model has places."""
    with ExitStack() as stack, suppress(KeyError):
        for _ in range(PLACES):
            session = stack.enter_context(connect(_live_url(gateway)))
            session.send(SPEECH[:9600])
            json.loads(session.recv(TIMEOUT_S))["partial"]
        return True
    return False


def _live_url(gateway: RunningGateway) -> str:
    return f"{gateway.socket_url}/live/{LIVE_MODEL}?rate=16000"


def _leave_upload(gateway: RunningGateway) -> None:
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n"
    kind = b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    with socket.create_connection(gateway.address) as connection:
        connection.sendall(head + kind + part + SPEECH)


def _leave_stream(gateway: RunningGateway) -> None:
    story = {"model": "gpt2_text_generation", "prompt": "Once", "max_tokens": 100, "stream": True}
    with (
        httpx2.Client(timeout=TIMEOUT_S) as client,
        client.stream("POST", f"{gateway.url}/v1/completions", json=story) as response,
    ):
        next(response.iter_lines())


def _leave_session(gateway: RunningGateway) -> None:
    with connect(_live_url(gateway), close_timeout=0.1) as session:
        session.send(SPEECH[:9600])
        session.recv(TIMEOUT_S)
        # No closing handshake: the client is gone.
        session.socket.shutdown(socket.SHUT_RDWR)


LEAVERS: Sequence[Callable[[RunningGateway], None]] = (_leave_upload, _leave_stream, _leave_session)


def _connections(process: psutil.Process) -> list[object]:
    """Return the connections that clients have to a gateway."""
    port = {each.laddr.port for each in process.net_connections() if each.status == "LISTEN"}
    return [
        each
        for each in process.net_connections()
        if each.laddr.port in port and each.status == "ESTABLISHED"
    ]


def break_underneath(door: FrontDoor) -> list[Result]:
    """End and start what the gateway stands before, while clients ask it."""
    traffic = learn_traffic(door.address)
    return [measure(door, traffic, each, FAULTS[each]) for each in UNDERNEATH]


def run(requests: int, seed: int, minutes: float) -> int:
    """Run all of it; return the number of faults."""
    with open_front_door() as door:
        faults = show_broken(*fuzz_requests(door, requests, seed))
        left = leave(door.gateway)
        report(f"\n{GOING} clients went in the middle: {'; '.join(left) or 'nothing is left'}.")
        faults += len(left) + show_faults(break_underneath(door))
        found = soak(door, learn_traffic(door.address), SOAK_RATE_HZ, minutes * 60)
        past = check_soak(*found, minutes * 60)
    for each in past:
        report(f"past a bar: {each}")
    return faults + len(past)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000, help="broken ones; default 5000")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other requests")
    parser.add_argument("--minutes", type=float, default=10.0, help="of steady load; default 10")
    options = parser.parse_args(arguments)
    try:
        return 1 if run(options.requests, options.seed, options.minutes) else 0
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
