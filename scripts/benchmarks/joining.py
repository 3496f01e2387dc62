"""How long a short text waits behind a long one in TorchServe, in batches and continuously."""

import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from archives.configs import read_configs
from benchmarks.random_text_models import write_random_model
from serving.local import build_with_settings
from tables import print_table
from trials.servers import TrialServer, run_server

MODEL = "gpt2_text_generation"
LONG, SHORT = 500, 16
PROMPT = "kalo miren tuva " * 5
REPEATS = 3
# After the long text has begun.
COMES_AFTER_S = 0.5
TIMEOUT_S = 300.0


def benchmark_joining(threads: int, _long: bool) -> None:
    """Print the seconds of a text of 16 tokens alone, and behind one of 500, of GPT-2's size."""
    rows = []
    with tempfile.TemporaryDirectory() as workspace:
        folder = write_random_model(Path(workspace) / "gpt2", "gpt2", "text_generation", tiny=False)
        for name, continuous in (("batches", False), ("continuousBatching", True)):
            own: dict[str, Any] = {"captum_explanation": False, "threads": threads}
            archive = build_with_settings(
                read_configs()[MODEL],
                folder,
                folder.parent,
                {"continuousBatching": continuous},
                do_sample=False,
                max_new_tokens_limit=LONG,
                **own,
            )
            report = partial(print, file=sys.stderr, flush=True)
            with run_server(report, [archive], archive.parent) as server:
                rows.append((name, *(f"{each:.2f}" for each in _time(server))))
    print(f"\nGPT-2, float32, {threads} thread(s): seconds of a text of {SHORT} tokens:\n")
    print_table(("TorchServe", "alone", f"behind one of {LONG}", "those of the long one"), rows)


def _time(server: TrialServer) -> tuple[float, float, float]:
    """Return the seconds of a short text alone and behind a long one, and those of the long one."""
    host, port = server.address
    with (
        httpx2.Client(base_url=f"http://{host}:{port}", timeout=TIMEOUT_S) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        alone_s = statistics.median(_ask(client, SHORT) for _ in range(REPEATS))
        long = pool.submit(_ask, client, LONG)
        time.sleep(COMES_AFTER_S)
        behind_s = _ask(client, SHORT)
        return alone_s, behind_s, long.result()


def _ask(client: httpx2.Client, new_tokens: int) -> float:
    started_s = time.perf_counter()
    content = {"inputs": PROMPT, "parameters": {"max_new_tokens": new_tokens}}
    client.post(f"/predictions/{MODEL}", json=content).raise_for_status()
    return time.perf_counter() - started_s
