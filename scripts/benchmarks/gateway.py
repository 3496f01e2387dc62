"""What the gateway costs beside TorchServe alone: latency, throughput, live speech, sessions."""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from archives.configs import read_configs
from benchmarks.full_size_models import write_base_960h
from benchmarks.live import RATE_HZ, live_server, speak, speech
from benchmarks.recordings import CLIP_S, noise
from benchmarks.text_models import full_size_bert, texts_of
from clients.live_session import PIECE_S, TIMEOUT_S, LiveSession
from repository import ROOT
from serving.local import build_with_settings
from tables import print_table
from trials.gateways import RunningGateway, run_gateway
from trials.servers import run_server

TEXT_TOKENS = 16
# Pairs of requests, one to each, after some to warm up.
WARM_UP, PAIRS = 30, 300
# Who asks at once, and how often each does in a turn.
CLIENTS, CLIPS_EACH, TURNS = 8, 2, 3
LIVE_TURNS = 3
IDLE_SESSIONS = 64
IDLE_SETTLE_S = 2.0
BYTES_PER_S, ROUNDING_S = 2 * RATE_HZ, 0.002
report = partial(print, file=sys.stderr, flush=True)


class LiveSocket:
    """A session at `/live/{model}`, in 16-bit samples, from the side of a client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sent_s = 0.0

    def send(self, piece: bytes, last: bool = False) -> dict[str, Any]:
        """Return the answer that reaches to the end of a piece."""
        self._connection.send(piece)
        if last:
            self._connection.send('{"type": "end"}')
        self._sent_s += len(piece) / BYTES_PER_S
        while True:
            answer: dict[str, Any] = json.loads(self._connection.recv(TIMEOUT_S))
            if answer["duration"] > self._sent_s - ROUNDING_S and ("text" in answer) == last:
                return answer


def benchmark_gateway(threads: int, _long: bool) -> None:
    """Print what the gateway adds; TorchServe and it take turns with the same requests."""
    _time_texts(threads)
    _time_recordings(threads)
    _time_live(threads)


@contextmanager
def both_servers(archive: Path) -> Iterator[tuple[Mapping[str, str], RunningGateway]]:
    """Serve an archive with a gateway before it; yield both addresses, and the gateway."""
    with ExitStack() as stack:
        server = stack.enter_context(run_server(report, [archive], archive.parent))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gateway = stack.enter_context(run_gateway(folder, server.properties))
        yield addresses_of(server.properties["inference_address"], gateway), gateway


def addresses_of(inference_address: str, gateway: RunningGateway) -> Mapping[str, str]:
    """Return the two addresses by name."""
    return {"TorchServe": inference_address, "gateway": gateway.url}


def _time_texts(threads: int) -> None:
    """Print the latency of one text after the other."""
    with full_size_bert() as (folder, tokenizer):
        (text,) = texts_of(tokenizer, TEXT_TOKENS, 1)
        own: dict[str, Any] = {"captum_explanation": False, "num_labels": None, "threads": threads}
        config = read_configs()["bert_seq_classification"]
        archive = build_with_settings(config, folder, folder.parent, **own)
        with both_servers(archive) as (addresses, _):
            urls = {name: f"{url}/predictions/{config.name}" for name, url in addresses.items()}
            seconds = _ask_in_turns(urls, text.encode())
    rows = [(name, *map(_in_ms, _quantiles(each))) for name, each in seconds.items()]
    pairs = zip(seconds["gateway"], seconds["TorchServe"], strict=True)
    added_s = statistics.median(ours - theirs for ours, theirs in pairs)
    print(f"\nOne text of {TEXT_TOKENS} tokens at a time, BERT-base, {threads} thread(s):\n")
    print_table(("", "p50 ms", "p95 ms"), rows)
    print(f"\nThe gateway adds {_in_ms(added_s)} ms: the median of {PAIRS} pairs.")


def _ask_in_turns(urls: Mapping[str, str], body: bytes) -> dict[str, list[float]]:
    """Return the seconds of each answer, one connection kept for each address."""
    seconds: dict[str, list[float]] = {name: [] for name in urls}
    headers = {"content-type": "text/plain"}
    with httpx2.Client(timeout=60, headers=headers) as client:
        for number in range(WARM_UP + PAIRS):
            # Neither goes first always.
            for name in sorted(urls, reverse=bool(number % 2)):
                started_s = time.perf_counter()
                client.post(urls[name], content=body).raise_for_status()
                if number >= WARM_UP:
                    seconds[name].append(time.perf_counter() - started_s)
    return seconds


def _time_recordings(threads: int) -> None:
    """Print how many recordings are answered in a second."""
    config = read_configs()["wav2vec2"]
    with tempfile.TemporaryDirectory() as workspace:
        folder = Path(workspace) / "wav2vec2-base-960h"
        folder.mkdir()
        write_base_960h(folder)
        archive = build_with_settings(config, folder, folder.parent, dtype="auto", threads=threads)
        with both_servers(archive) as (addresses, _):
            urls = {name: f"{url}/predictions/{config.name}" for name, url in addresses.items()}
            rates = _rates(urls, [noise(CLIP_S, seed) for seed in range(CLIENTS)])
    ratio = statistics.median(rates["gateway"]) / statistics.median(rates["TorchServe"])
    rows = [(name, *(f"{each:.3f}" for each in rate)) for name, rate in rates.items()]
    print(f"\nRecordings of {CLIP_S} s a second, Wav2Vec2-base, dtype auto, {CLIENTS} clients:\n")
    print_table(("", *(f"turn {each + 1}" for each in range(TURNS))), rows)
    print(f"\nThe gateway answers {ratio:.3f} of what TorchServe alone does.")


def _rates(urls: Mapping[str, str], clips: Sequence[bytes]) -> dict[str, list[float]]:
    """Return the answers a second of each turn."""
    rates: dict[str, list[float]] = {name: [] for name in urls}
    with httpx2.Client(timeout=300) as client, ThreadPoolExecutor(len(clips)) as pool:

        def ask(url: str, clip: bytes) -> None:
            for _ in range(CLIPS_EACH):
                client.post(url, content=clip).raise_for_status()

        for turn in range(TURNS + 1):
            for name in sorted(urls, reverse=bool(turn % 2)):
                started_s = time.perf_counter()
                list(pool.map(partial(ask, urls[name]), clips))
                spent_s = time.perf_counter() - started_s
                report(f"  {name}: turn {turn} of {TURNS}")
                # The first is to warm up.
                rates[name] += [len(clips) * CLIPS_EACH / spent_s] * bool(turn)
    return rates


def _time_live(threads: int) -> None:
    """Print the delays of live speech over both, and the memory of sessions that say nothing."""
    with ExitStack() as stack:
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = ROOT / "demo_models" / "emformer_asr"
        url = stack.enter_context(live_server(source, workspace, {}, threads=threads))
        address, _, name = url.rpartition("/predictions/")
        properties = {"inference_address": address, "disable_token_authorization": "true"}
        settings = {
            "max_sessions": IDLE_SESSIONS,
            "models": {name: "live_speech"},
            "torchserve": {"management_address": None},
        }
        gateway = stack.enter_context(run_gateway(workspace / "gateway", properties, **settings))
        socket_url = f"{gateway.socket_url}/live/{name}?rate={RATE_HZ}"
        delays = _live_delays(url, socket_url)
        before, with_sessions = _idle_bytes(gateway, socket_url)
    rows = [(name, *map(_in_ms, _quantiles(each))) for name, each in delays.items()]
    print(f"\nLive speech in pieces of {PIECE_S * 1000:.0f} ms, demo model:\n")
    print_table(("", "median delay, ms", "95th percentile, ms"), rows)
    print(
        f"\n{IDLE_SESSIONS} idle sessions take {(with_sessions - before) / 1e6:.0f} MB; "
        f"the gateway has {with_sessions / 1e6:.0f} MB with them."
    )


def _live_delays(url: str, socket_url: str) -> dict[str, list[float]]:
    """Return the seconds from the end of each piece to its answer, in turns."""
    pieces = speech()
    delays: dict[str, list[float]] = {"HTTP pieces to TorchServe": [], "WebSocket": []}
    for turn in range(LIVE_TURNS):
        report(f"  live speech: turn {turn + 1} of {LIVE_TURNS}")
        with LiveSession(url, RATE_HZ) as session:
            delays["HTTP pieces to TorchServe"] += speak(session, pieces)
        with connect(socket_url) as connection:
            delays["WebSocket"] += speak(LiveSocket(connection), pieces)
    return delays


def _idle_bytes(gateway: RunningGateway, socket_url: str) -> tuple[int, int]:
    """Return the gateway's resident memory without sessions, and with many that say nothing."""
    before = gateway.process.memory_info().rss
    with ExitStack() as stack:
        for _ in range(IDLE_SESSIONS):
            # Each has spoken before it says nothing.
            LiveSocket(stack.enter_context(connect(socket_url))).send(speech()[0])
        time.sleep(IDLE_SETTLE_S)
        return before, gateway.process.memory_info().rss


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile."""
    return statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]


def _in_ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"
