"""How long live sessions wait for their text, through a real server, at the pace of speech."""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from archives.configs import read_configs
from benchmarks.full_size_models import write_bundle
from clients.live_session import PIECE_S, LiveSession
from repository import EXAMPLES, ROOT
from serving.local import build_with_settings
from speechtext.cpu.packed import can_multiply_int8
from speechtext.devices import count_cores
from tables import print_table
from trials.servers import run_server

RATE_HZ = 16_000
SPEECH_S = 20
# Sessions at once, at most.
MOST_SESSIONS = 64
DEMO_SESSIONS = (1, 4, 8)
FULL_SIZE_SESSIONS = (1, 4, 8, 16, 24, 32, 48)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "float32": {"dtype": "float32"},
    "auto": {"dtype": "auto"},
    "int8": {"dtype": "float32", "quantization": "int8_dynamic"},
}
# Not as shipped: room for so many, and a token for each frame at most, as random weights emit in
# bursts, which speech does not; a token for each two or three frames is left.
FULL_SIZE_KEYS = {"batchSize": MOST_SESSIONS}
FULL_SIZE_SETTINGS = {"max_sessions": MOST_SESSIONS, "step_max_tokens": 1}
# A session keeps up if nearly each piece is understood before the next one is spoken.
KEEPING_UP_S = PIECE_S


@contextmanager
def live_server(
    source: Path, workspace: Path, keys: Mapping[str, Any], **settings: Any
) -> Iterator[str]:
    """Serve the live archive of a model, with keys and settings of its YAML; yield its address."""
    config = read_configs()["emformer_asr_live"]
    archive = build_with_settings(config, source, workspace, keys, **settings)
    report = partial(print, file=sys.stderr, flush=True)
    with run_server(report, [archive], archive.parent) as server:
        yield f"{server.properties['inference_address']}/predictions/{config.name}"


def speech() -> list[bytes]:
    """Return 20 s of the examples' sentences, in pieces of 16-bit samples."""
    paths = sorted(EXAMPLES.glob("*.wav"))
    recordings = [soundfile.read(path, dtype="int16") for path in paths]
    said = [samples for samples, rate_hz in recordings if rate_hz == RATE_HZ]
    endless = itertools.chain.from_iterable(itertools.cycle(said))
    samples = np.fromiter(itertools.islice(endless, SPEECH_S * RATE_HZ), "<i2")
    size = int(PIECE_S * RATE_HZ)
    return [samples[start : start + size].tobytes() for start in range(0, len(samples), size)]


class Session(Protocol):
    """A live session from the side of a client, over whatever protocol."""

    def send(self, piece: bytes, last: bool = False) -> Any:
        """Send a piece, and wait for its answer."""


def speak(session: Session, pieces: Sequence[bytes], wait_s: float = 0.0) -> list[float]:
    """Send pieces at the pace of speech; return the seconds until the answer to each."""
    begun_s = time.monotonic() + wait_s
    delays_s = []
    for place, piece in enumerate(pieces):
        spoken_s = begun_s + PIECE_S * (place + 1)
        time.sleep(max(0.0, spoken_s - time.monotonic()))
        session.send(piece, last=place == len(pieces) - 1)
        # From the end of the piece, also where the answer to the one before came late.
        delays_s.append(time.monotonic() - spoken_s)
    return delays_s


def _speak_over_http(url: str, pieces: Sequence[bytes], wait_s: float) -> list[float]:
    with LiveSession(url, RATE_HZ) as session:
        return speak(session, pieces, wait_s)


def measure(url: str, sessions: int, pieces: Sequence[bytes]) -> tuple[float, float]:
    """Return the median and the 95th percentile of the delays of so many sessions at once."""
    with ThreadPoolExecutor(sessions) as pool:
        # People do not begin in step.
        waits_s = [PIECE_S * each / sessions for each in range(sessions)]
        spoken = [pool.submit(_speak_over_http, url, pieces, each) for each in waits_s]
        delays_s = [delay for each in spoken for delay in each.result()]
    return statistics.median(delays_s), statistics.quantiles(delays_s, n=20)[-1]


def measure_all(url: str, counts: Sequence[int], label: str) -> Iterator[tuple[str, ...]]:
    """Yield a row of the table for each number of sessions, up to the first that is too large."""
    measure(url, 1, speech())
    for sessions in counts:
        print(f"  {label}: {sessions} session(s) ...", file=sys.stderr, flush=True)
        median_s, slow_s = measure(url, sessions, speech())
        keeps_up = slow_s < KEEPING_UP_S
        delays = (f"{each * 1000:.0f}" for each in (median_s, slow_s))
        yield label, str(sessions), *delays, "yes" if keeps_up else "no"
        if not keeps_up:
            return


def benchmark_live(threads: int, _long: bool) -> None:
    """Print the delays of live sessions."""
    rows = measure_models(threads)
    print(f"\nLive sessions at the pace of speech, {threads} thread(s), {count_cores()} cores:\n")
    print_table(("", "sessions", "median delay, ms", "95th percentile, ms", "keeps up"), rows)


def measure_models(threads: int) -> list[tuple[str, ...]]:
    """Return the delays with the demo model and with the full-size model of random weights."""
    rows: list[tuple[str, ...]] = []
    demo = ROOT / "demo_models" / "emformer_asr"
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        bundle = workspace / "bundle"
        bundle.mkdir()
        write_bundle(bundle)
        with live_server(demo, workspace, {}, threads=threads) as url:
            rows += measure_all(url, DEMO_SESSIONS, "demo model, as shipped")
        for name, settings in VARIANTS.items():
            if "quantization" in settings and not can_multiply_int8():
                continue
            given = {**FULL_SIZE_SETTINGS, **settings, "threads": threads}
            with live_server(bundle, workspace, FULL_SIZE_KEYS, **given) as url:
                rows += measure_all(url, FULL_SIZE_SESSIONS, f"full size, {name}")
    return rows
