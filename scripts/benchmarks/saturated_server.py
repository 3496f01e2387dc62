"""How much of its time a saturated server's model works."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2

from archives.configs import read_configs
from benchmarks.side_by_side import time_side_by_side
from benchmarks.text_models import BATCH, full_size_bert, texts_of
from serving.local import LocalModel, build_with_settings, load_archive
from tables import print_table
from trials.servers import run_server

# A server is saturated by twice as many clients as fit in a batch and one in the making.
CLIENTS = 4 * BATCH
WARM_UP_S, SATURATED_S, SAMPLE_EVERY_S = 5.0, 20.0, 0.5


def time_saturated_server(threads: int) -> None:
    """Print how much of a saturated server's time its model works.

    One worker, batches of 8 texts of 16 tokens, clients on the same machine. TorchServe's metric
    PredictionTime says how long the handler takes for a batch while it serves; of that, what
    reading and writing texts takes is measured alone.
    """
    with full_size_bert() as (folder, tokenizer):
        texts = texts_of(tokenizer, 16, BATCH)
        own: dict[str, Any] = {"captum_explanation": False, "num_labels": None, "dtype": "auto"}
        config = read_configs()["bert_seq_classification"]
        archive = build_with_settings(config, folder, folder.parent, threads=threads, **own)
        report = partial(print, file=sys.stderr, flush=True)
        with run_server(report, [archive], archive.parent) as server:
            answered, handler_s = _saturate(server.properties, texts)
        around_s = _seconds_around_the_model(load_archive(archive), texts)
    batch_s = BATCH * SATURATED_S / answered
    model_s = handler_s - around_s
    row = (
        f"{answered / SATURATED_S:.0f}",
        f"{batch_s * 1000:.1f}",
        f"{handler_s * 1000:.1f}",
        f"{model_s * 1000:.1f}",
        f"{1 - model_s / batch_s:.1%}",
    )
    print(f"\nA server of one worker, {CLIENTS} clients, texts of 16 tokens, dtype auto, for 8:\n")
    header = ("texts a second", "ms", "in the handler", "in the model", "outside the model")
    print_table(header, [row])


def _saturate(properties: Mapping[str, str], texts: list[str]) -> tuple[int, float]:
    """Ask as fast as the server answers, for a while.

    Return how many answers came, and the median of the seconds that the handler took for a batch.
    """
    url = f"{properties['inference_address']}/predictions/bert_seq_classification"
    started_s = time.monotonic() + WARM_UP_S

    def ask(number: int) -> int:
        answered = 0
        with httpx2.Client(timeout=60, headers={"Content-Type": "text/plain"}) as client:
            while time.monotonic() < started_s + SATURATED_S:
                client.post(url, content=texts[number % BATCH]).raise_for_status()
                answered += time.monotonic() > started_s
        return answered

    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = pool.map(ask, range(CLIENTS))
        handler_s = []
        while time.monotonic() < started_s + SATURATED_S - 1:
            time.sleep(SAMPLE_EVERY_S)
            if time.monotonic() > started_s:
                handler_s.append(_prediction_seconds(properties["metrics_address"]))
        return sum(asking), statistics.median(handler_s)


def _prediction_seconds(metrics_address: str) -> float:
    lines = httpx2.get(f"{metrics_address}/metrics").text.splitlines()
    line = next(line for line in lines if line.startswith("PredictionTime{"))
    return float(line.split()[-1]) / 1000


def _seconds_around_the_model(model: LocalModel, texts: list[str]) -> float:
    """Return what the handler does for a batch beside running its network."""
    task = model.handler.predictor.task
    batch = task.encode([task.read(text) for text in texts])
    runs: dict[str, Callable[[], Any]] = {
        "all": partial(model.answer, [{"body": text} for text in texts]),
        "network": partial(task.score, batch),
    }
    medians = time_side_by_side(runs, 40)
    return medians["all"] - medians["network"]
