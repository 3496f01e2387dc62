"""What stands before the gateway on a cluster: Ray's proxy of Python, or HAProxy."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

from archives.building import build_archive
from archives.configs import read_configs
from cluster.command import make_config, parse_arguments
from cluster.own_ray import ENVIRONMENT
from tables import print_table
from trials.clusters import RunningCluster, find_family, run_serve

MODEL = "bert_seq_classification"
TEXTS = [text.encode() for text in ("The room was dirty.", "Great") for _ in range(8)]
WARM_UP_S, MEASURED_S = 5.0, 15.0
# HAProxy reaches the servers of replicas, which Ray starts then.
HAPROXY = {
    **{name: value for name, value in ENVIRONMENT.items() if "DIRECT_INGRESS" not in name},
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
}
# Ray alone, in the place of the models and of the gateway.
FLOOR: Mapping[str, Any] = {
    "proxy_location": "EveryNode",
    "applications": [
        {
            "name": name,
            "import_path": f"scripts.benchmarks.ray_floor:build_{name}",
            "route_prefix": route,
        }
        for name, route in (("echo", None), ("front", "/"))
    ],
}
# How many replicas of the gateway there are, and what the environment of each node says.
CHOICES: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "Ray's proxy, as Ray has it": (1, {**ENVIRONMENT, "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}),
    "Ray's proxy": (1, ENVIRONMENT),
    "HAProxy": (1, HAPROXY),
    "HAProxy, two gateways": (2, HAPROXY),
}
report = partial(print, file=sys.stderr, flush=True)


def benchmark_proxies(_threads: int, _long: bool) -> None:
    """Print the answers a second of the demo BERT behind each, on one node."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        store = Path(name)
        config = read_configs()[MODEL]
        build_archive(config, store, config.source, "default")
        report("  HAProxy, and an echo ...")
        with run_serve(FLOOR, store, HAPROXY) as cluster:
            rows.append(("HAProxy, behind it an echo, no gateway, no model", *measure(cluster)))
        for choice, (gateways, environment) in CHOICES.items():
            report(f"  {choice} ...")
            with run_serve(write_config(store, gateways), store, environment) as cluster:
                rows.append((choice, *measure(cluster)))
    print(f"\nDemo BERT on Ray Serve, {len(TEXTS)} connections:\n")
    print_table(
        ("before the gateway", "answers a second", "p50 ms", "ms of a processor each"), rows
    )


def write_config(store: Path, gateways: int) -> dict[str, Any]:
    """Return what Ray's command serves: the model, and so many replicas of the gateway."""
    config = make_config(parse_arguments(["config", "--model-store", str(store), MODEL]))
    config["applications"][-1]["deployments"] = [{"name": "Gateway", "num_replicas": gateways}]
    return config


def measure(cluster: RunningCluster) -> tuple[str, str, str]:
    """Return answers a second, their median time, and what each took of all processors."""
    address = f"{cluster.url}/predictions/{MODEL}"
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
        before_s = processor_seconds(cluster.process)
        time.sleep(MEASURED_S)
        used_s = processor_seconds(cluster.process) - before_s
        spent = [each for found in asking for each in found.result()]
    per_s = len(spent) / MEASURED_S
    return f"{per_s:.0f}", f"{median(spent) * 1000:.0f}", f"{used_s / len(spent) * 1000:.1f}"


def processor_seconds(process: "subprocess.Popen[bytes]") -> float:
    """Return the processor time of a process and of all that it has started."""
    times = [each.cpu_times() for each in find_family(process)]
    return sum(each.user + each.system for each in times)
