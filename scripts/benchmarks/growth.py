"""How throughput grows with replicas, and with workers in bulk, where a model waits like a GPU.

Its handler sleeps, so that many replicas fit on a few cores; requests come at a pace that does not
wait for answers.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx2
import yaml

from bulk.manifests import GROUP_ROWS
from repository import ROOT
from tables import print_table
from trials.clusters import run_cluster

NAME = "waiting"
# What a request takes, and what a replica takes of a core.
WORK_S, CPUS = 1.0, 0.05
REPLICAS = (1, 2, 4, 8, 16, 32)
# The share of what the replicas could do; the rest is room for chance.
LOAD, LOAD_S, WARM_UP_S = 0.95, 30.0, 5.0

BULK_WORKERS, BULK_GROUPS_EACH, BULK_ROW_S = (1, 2, 4, 8, 16), 16, 0.03

HANDLER = """
import json, time


class Handler:
    def initialize(self, context):
        self.initialized = True
        self.work_s = context.model_yaml_config["handler"]["work_s"]

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [json.dumps({"kind": "sequence_classification"})]
        time.sleep(self.work_s * len(data))
        return [json.dumps("done")] * len(data)
"""
report = partial(print, file=sys.stderr, flush=True)


def benchmark_growth(_threads: int, _long: bool) -> None:
    """Print throughput and p99 for each number of replicas, and throughput for that of workers."""
    rows = []
    for count in REPLICAS:
        with tempfile.TemporaryDirectory() as name:
            rate, p50_s, p99_s = measure_online(Path(name), count)
        asked = LOAD * count / WORK_S
        figures = (f"{asked:.1f}", f"{rate:.1f}", f"{rate / asked:.2f}", f"{p50_s:.2f}")
        rows.append((str(count), *figures, f"{p99_s:.2f}"))
        report("  " + " ".join(map(str, rows[-1])))
    print(f"\nRequests of {WORK_S:g} s, open loop, {CPUS:g} of a core for each replica:\n")
    print_table(("replicas", "asked a second", "answered", "of linear", "p50 s", "p99 s"), rows)
    rates = {count: measure_bulk(count) for count in BULK_WORKERS}
    base = rates[BULK_WORKERS[0]]
    print(f"\nRows of {BULK_ROW_S:g} s in bulk, {BULK_GROUPS_EACH} groups for each worker:\n")
    print_table(
        ("workers", "rows a second", "of linear"),
        [(str(n), f"{rate:.1f}", f"{rate / (n * base):.2f}") for n, rate in rates.items()],
    )


def write_waiting(folder: Path, keys: Mapping[str, Any]) -> Path:
    """Write the archive as a folder; return it."""
    archive = folder / NAME
    (archive / "MAR-INF").mkdir(parents=True)
    model = {"modelName": NAME, "modelVersion": "1.0", "handler": "waiting_handler.py"}
    manifest = {"model": {**model, "configFile": f"{NAME}.yaml"}}
    (archive / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (archive / "waiting_handler.py").write_text(HANDLER)
    (archive / f"{NAME}.yaml").write_text(yaml.safe_dump(dict(keys)))
    return archive


@contextmanager
def serve_waiting(folder: Path, replicas: int) -> Iterator[str]:
    """Serve the archive with so many replicas; yield the address of its predictions."""
    keys = {
        "minWorkers": replicas,
        "maxWorkers": replicas,
        "cluster": {"cpus": CPUS, "max_queued_requests": 1000},
        "handler": {"work_s": WORK_S},
    }
    store, configs = folder / "store", folder / "configs"
    archive = write_waiting(store, keys)
    configs.mkdir()
    (configs / f"{NAME}.yaml").write_bytes((archive / f"{NAME}.yaml").read_bytes())
    with run_cluster(store, folder, configs=configs) as cluster:
        yield f"{cluster.url}/predictions/{NAME}"


def measure_online(folder: Path, replicas: int) -> tuple[float, float, float]:
    """Return the answers a second under a load at a pace, and p50 and p99 of how long they took."""
    with serve_waiting(folder, replicas) as url:
        asyncio.run(send(url, LOAD * replicas / WORK_S, WARM_UP_S))
        spent = asyncio.run(send(url, LOAD * replicas / WORK_S, LOAD_S))
    inside = [took for due, took in spent if due + took <= LOAD_S + 2 * WORK_S]
    cuts = quantiles([took for _, took in spent], n=100)
    return len(inside) / LOAD_S, cuts[49], cuts[98]


async def send(url: str, per_s: float, seconds: float) -> list[tuple[float, float]]:
    """Send requests at a pace; return when each was due, and how long its answer took from then."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=300, limits=limits) as client:
        begun_s = time.perf_counter()

        async def ask(due_s: float) -> tuple[float, float]:
            await asyncio.sleep(max(0.0, begun_s + due_s - time.perf_counter()))
            (await client.post(url, content=b"x")).raise_for_status()
            return due_s, time.perf_counter() - begun_s - due_s

        count = max(2, round(per_s * seconds))
        return await asyncio.gather(*(ask(number / per_s) for number in range(count)))


def measure_bulk(workers: int) -> float:
    """Return the rows a second of a job with so many workers, while all of them work."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = {"cluster": {"cpus": CPUS}, "handler": {"work_s": BULK_ROW_S}}
        archive = write_waiting(folder, keys)
        table, output = folder / "texts.jsonl", folder / "out"
        count = GROUP_ROWS * BULK_GROUPS_EACH * workers
        table.write_text("".join(json.dumps({"text": f"text {n:06}"}) + "\n" for n in range(count)))
        words = ["annotate", "--in", str(table), "--out", str(output), "--archive", str(archive)]
        command = [sys.executable, "-m", "bulk", *words, "--workers", str(workers)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # noqa: S603 - our own
        ended_s = sorted(part.stat().st_mtime for part in output.glob("part-*"))
    # They start one after the other, in the first half, and the last ones end alone.
    among = ended_s[len(ended_s) // 2 : -workers]
    rate = GROUP_ROWS * (len(among) - 1) / (among[-1] - among[0])
    report(f"  {workers} workers: {rate:.1f} rows a second")
    return rate
