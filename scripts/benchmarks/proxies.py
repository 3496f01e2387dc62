"""What stands before the gateway on a cluster: Ray's proxy of Python, or HAProxy."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import httpx2
import psutil
import yaml

from archives.building import build_archive
from archives.configs import read_configs
from cluster.own_ray import ENVIRONMENT
from repository import ROOT
from tables import print_table
from trials.gateways import free_port

MODEL = "bert_seq_classification"
TEXTS = [text.encode() for text in ("The room was dirty.", "Great") for _ in range(8)]
WARM_UP_S, MEASURED_S, START_TIMEOUT_S = 5.0, 15.0, 180.0
# How many replicas of the gateway there are, and what the environment of each node says.
CHOICES: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "Ray's proxy, as Ray has it": (1, {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}),
    "Ray's proxy": (1, {}),
    "HAProxy": (1, {"RAY_SERVE_ENABLE_HA_PROXY": "1"}),
    "HAProxy, two gateways": (2, {"RAY_SERVE_ENABLE_HA_PROXY": "1"}),
}
report = partial(print, file=sys.stderr, flush=True)


def benchmark_proxies(_threads: int, _long: bool) -> None:
    """Print the answers a second of the demo BERT behind each, on one node."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        store = Path(name)
        config = read_configs()[MODEL]
        build_archive(config, store, config.source, "default")
        for choice, (gateways, environment) in CHOICES.items():
            report(f"  {choice} ...")
            with serve(store, gateways, environment) as (url, family):
                rows.append((choice, *measure(url, family)))
    print(f"\nDemo BERT on Ray Serve, {len(TEXTS)} connections:\n")
    print_table(
        ("before the gateway", "answers a second", "p50 ms", "ms of a processor each"), rows
    )


@contextmanager
def serve(
    store: Path, gateways: int, environment: Mapping[str, str]
) -> Iterator[tuple[str, psutil.Process]]:
    """Serve the model by Ray's own command; yield its address and its process."""
    words = [sys.executable, "-m", "cluster", "config", "--model-store", str(store), MODEL]
    written = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)  # noqa: S603
    config, port = yaml.safe_load(written.stdout), free_port()
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    config["applications"][-1]["deployments"] = [{"name": "Gateway", "num_replicas": gateways}]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "serve.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        own = {
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": folder,
            "PYTHONPATH": str(ROOT),
            **(ENVIRONMENT | {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"} | dict(environment)),
        }
        if "RAY_SERVE_ENABLE_HA_PROXY" in environment:
            # It reaches the servers of replicas.
            del own["RAY_SERVE_ENABLE_DIRECT_INGRESS"]
        process = start(path, {**os.environ, **own})
        try:
            url = f"http://127.0.0.1:{port}"
            wait(f"{url}/readyz", process)
            yield url, process
        finally:
            end(process)


def start(config: Path, environment: Mapping[str, str]) -> psutil.Process:
    """Start Ray's command; what it says is beside its configuration."""
    command = [sys.executable, "-m", "ray.serve.scripts", "run", str(config)]
    with config.with_suffix(".log").open("wb") as log:
        started = subprocess.Popen(  # noqa: S603 - Ray's own command
            command, cwd=ROOT, env=dict(environment), stdout=log, stderr=log
        )
    return psutil.Process(started.pid)


def end(process: psutil.Process) -> None:
    """End a process and its own."""
    family = [process, *process.children(recursive=True)]
    for each in family:
        each.terminate()
    _, alive = psutil.wait_procs(family, timeout=30)
    for each in alive:
        each.kill()


def wait(url: str, process: psutil.Process) -> None:
    """Wait until an address answers 200; raises `TimeoutError`."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.status() != psutil.STATUS_ZOMBIE:
        try:
            if httpx2.get(url, timeout=5).is_success:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.3)
    raise TimeoutError(f"{url} does not answer.")


def measure(url: str, process: psutil.Process) -> tuple[str, str, str]:
    """Return answers a second, their median time, and what each took of all processors."""
    address = f"{url}/predictions/{MODEL}"
    begin_s = time.monotonic() + WARM_UP_S
    end_s = begin_s + MEASURED_S

    def ask(body: bytes) -> list[float]:
        spent = []
        with httpx2.Client(timeout=60, headers={"Content-Type": "text/plain"}) as client:
            while (started_s := time.monotonic()) < end_s:
                client.post(address, content=body).raise_for_status()
                if started_s > begin_s:
                    spent.append(time.monotonic() - started_s)
        return spent

    with ThreadPoolExecutor(len(TEXTS)) as pool:
        asking = [pool.submit(ask, body) for body in TEXTS]
        time.sleep(WARM_UP_S)
        before_s = processor_seconds(process)
        time.sleep(MEASURED_S)
        used_s = processor_seconds(process) - before_s
        spent = [each for found in asking for each in found.result()]
    per_s = len(spent) / MEASURED_S
    return f"{per_s:.0f}", f"{median(spent) * 1000:.0f}", f"{used_s / len(spent) * 1000:.1f}"


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process and of all that it has started."""
    family = [process, *process.children(recursive=True)]
    times = [each.cpu_times() for each in family if each.is_running()]
    return sum(each.user + each.system for each in times)
