"""A Ray of three nodes under load: replicas come, go and die, and a node is removed.

The nodes are raylets of this machine. Clients send texts and sessions speak over WebSockets; every
answer is counted. What is not answered has to say so with a status that is true, and a session
whose replica goes has to be told.
"""

import argparse
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import websockets.sync.client
import yaml
from websockets.exceptions import ConnectionClosed, WebSocketException

from cluster.own_ray import prepare_environment
from cluster.serve_config import write_config
from repository import CONFIG_FOLDER, ROOT
from serving.configuration import free_port
from tables import print_table

TEXTS, LIVE = "bert_seq_classification", "emformer_asr_live"
GUEST = "bert_token_classification"
TEXT, LABEL = "The room was dirty and I want a refund.", "Not Accepted"
CLIP = (ROOT / "examples" / "turn_on_the_kitchen_lights.wav").read_bytes()[44:]
SAID, TIMES = "turn on the kitchen lights", 6
PIECE_BYTES, PIECE_S = 5120, 0.16
CLIENTS, SESSIONS = 12, 4
# 503 and 507 say that a request may come again; 1011 to 1013 make clients connect again.
HONEST, TOLD = {200, 503, 507}, {1011, 1012, 1013}
SCALED = {"minWorkers": 1, "maxWorkers": 3}
CLUSTER = {"target_ongoing_requests": 2.0, "upscale_delay_s": 2.0, "downscale_delay_s": 5.0}
KEYS = {TEXTS: SCALED, LIVE: {**SCALED, "maxWorkers": 2}}
TARGETS = {TEXTS: 2.0, LIVE: 0.05}


@dataclass
class Seen:
    """What clients saw in a phase."""

    texts: Counter[str] = field(default_factory=Counter)
    sessions: Counter[str] = field(default_factory=Counter)
    replicas: set[tuple[int, ...]] = field(default_factory=set)


class Clients:
    """Threads that send texts and speak until they are stopped."""

    def __init__(self, port: int) -> None:
        self.seen = Seen()
        self.busy = threading.Event()
        self._port = port
        self._stop = threading.Event()
        jobs = [self._send_texts] * CLIENTS + [self._speak] * SESSIONS
        self._threads = [threading.Thread(target=job, daemon=True) for job in jobs]

    def __enter__(self) -> "Clients":
        self.busy.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.busy.set()
        for thread in self._threads:
            thread.join(120)

    def next_phase(self) -> Seen:
        """Return what was seen since the last phase."""
        seen, self.seen = self.seen, Seen()
        return seen

    def _send_texts(self) -> None:
        url = f"http://127.0.0.1:{self._port}/predictions/{TEXTS}"
        with httpx2.Client(timeout=120) as client:
            while not self._stop.is_set():
                self.busy.wait()
                self.seen.texts[_ask(client, url)] += 1

    def _speak(self) -> None:
        url = f"ws://127.0.0.1:{self._port}/live/{LIVE}?rate=16000"
        while not self._stop.is_set():
            self.seen.sessions[_speak(url)] += 1


def _ask(client: httpx2.Client, url: str) -> str:
    try:
        reply = client.post(url, content=TEXT, headers={"content-type": "text/plain"})
    except httpx2.HTTPError as error:
        return f"lost: {type(error).__name__}"
    if reply.status_code == 200:
        return "right" if reply.text == LABEL else "wrong"
    honest = reply.status_code in HONEST and "message" in reply.text
    return str(reply.status_code) if honest else f"lost: {reply.status_code}"


def _speak(url: str) -> str:
    samples = CLIP * TIMES
    try:
        with websockets.sync.client.connect(url) as socket:
            for start in range(0, len(samples), PIECE_BYTES):
                socket.send(samples[start : start + PIECE_BYTES])
                time.sleep(PIECE_S)
            socket.send(json.dumps({"type": "end"}))
            answers = [json.loads(each) for each in socket]
            code = socket.close_code
    except ConnectionClosed as error:
        answers, code = [], error.rcvd.code if error.rcvd else None
    except (OSError, WebSocketException) as error:
        return f"no session: {type(error).__name__}"
    if answers and "text" in answers[-1]:
        return "right" if answers[-1]["text"].split()[:5] == SAID.split() else "wrong"
    return f"told {code}" if code in TOLD else f"lost: {code}"


@contextmanager
def run_nodes(store: Path, port: int, count: int) -> Iterator[Any]:
    """Serve both models and the gateway on a Ray of so many nodes; yield the nodes' cluster."""
    prepare_environment()
    # Read their environment when they are imported.
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from cluster.application import BUILDERS

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(count - 1):
        nodes.add_node(num_cpus=3)
    ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
    targets = [
        serve.RunTarget(
            BUILDERS[each["import_path"]](each["args"]), each["name"], each["route_prefix"]
        )
        for each in _configuration(store)["applications"]
    ]
    try:
        serve.run_many(targets)
        yield nodes
    finally:
        shut_down: Any = serve.shutdown
        shut_down()
        ray.shutdown()
        end_nodes: Any = nodes.shutdown
        end_nodes()


def _configuration(store: Path) -> dict[str, Any]:
    models = {}
    for name, changes in KEYS.items():
        keys = yaml.safe_load((CONFIG_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
        own = {**CLUSTER, "target_ongoing_requests": TARGETS[name]}
        models[name] = {**keys, **changes, "cluster": own}
    return write_config(models, str(store), {})


def count_replicas() -> tuple[int, ...]:
    """Return how many replicas of each model answer."""
    from ray import serve

    applications = serve.status().applications
    states = [applications[name].deployments["Model"].replica_states for name in KEYS]
    return tuple(sum(n for state, n in each.items() if state == "RUNNING") for each in states)


def kill_replica() -> None:
    """Kill a replica that answers texts."""
    import ray
    from ray.util.state import list_actors

    title = f"ServeReplica:{TEXTS}:Model"
    alive = [each for each in list_actors() if each.class_name == title and each.state == "ALIVE"]
    ray.kill(ray.get_actor(str(alive[0].name), namespace="serve"))


def come_and_go(store: Path, port: int) -> str:
    """Serve a third model while the others answer, ask it, and take it away; return what it said.

    The others keep their replicas, as those of the phase show.
    """
    from ray import serve

    from cluster.application import build_model

    keys = yaml.safe_load((CONFIG_FOLDER / f"{GUEST}.yaml").read_text(encoding="utf-8"))
    (own, _) = write_config({GUEST: keys}, str(store), {})["applications"]
    serve.run(build_model(own["args"]), name=GUEST, route_prefix=None)
    # The gateway looks which models there are now and then.
    time.sleep(15)
    url = f"http://127.0.0.1:{port}/predictions/{GUEST}"
    reply = httpx2.post(url, content="Maria Rossi works for Acme.", timeout=60)
    serve.delete(GUEST)
    return f"{reply.status_code}, then {httpx2.post(url, content='x', timeout=60).status_code}"


def wait(clients: Clients, seconds: float, holds: Callable[[], bool] = lambda: False) -> bool:
    """Note the replicas for some time, or until something holds; tell whether it does."""
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        clients.seen.replicas.add(count_replicas())
        if holds():
            return True
        time.sleep(1)
    return False


def run_phases(clients: Clients, nodes: Any, store: Path, port: int) -> Iterator[tuple[str, Seen]]:
    """Yield each phase, and what clients saw in it."""
    wait(clients, 120, lambda: min(count_replicas()) >= 2)
    wait(clients, 15)
    yield "replicas are added", clients.next_phase()
    said = come_and_go(store, port)
    wait(clients, 5)
    yield f"a model comes ({said})", clients.next_phase()
    kill_replica()
    wait(clients, 25)
    yield "a replica is killed", clients.next_phase()
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
    wait(clients, 60)
    yield "a node is removed", clients.next_phase()
    clients.busy.clear()
    wait(clients, 120, lambda: count_replicas()[0] == 1)
    yield "replicas of texts are taken away", clients.next_phase()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial; return 0 where every answer was right or honest."""
    parser = argparse.ArgumentParser(prog="python -m trials.ray_nodes", description=__doc__)
    parser.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    options = parser.parse_args(arguments)
    port, faults = free_port(), 0
    with run_nodes(options.model_store, port, 3) as nodes, Clients(port) as clients:
        rows = []
        for name, seen in run_phases(clients, nodes, options.model_store, port):
            rows.append((name, _replicas(seen), _counts(seen.texts), _counts(seen.sessions)))
            print(*rows[-1], sep=" | ", flush=True)
            faults += sum(
                count
                for answers in (seen.texts, seen.sessions)
                for answer, count in answers.items()
                if answer.startswith(("wrong", "lost"))
            )
    print()
    print_table(("phase", "replicas (texts, live)", "texts", "sessions"), rows)
    print(f"\n{faults} wrong or lost")
    return 1 if faults else 0


def _replicas(seen: Seen) -> str:
    return " ".join(f"{texts}+{live}" for texts, live in sorted(seen.replicas))


def _counts(answers: Counter[str]) -> str:
    return ", ".join(f"{answer}: {count}" for answer, count in sorted(answers.items()))


if __name__ == "__main__":
    raise SystemExit(main())
