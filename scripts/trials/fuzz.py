"""Send thousands of broken requests to a server, each beside a good one, and say what came of it.

Fails where a worker dies, our code answers 5xx, a good request gets another answer than alone or
waits for twice its usual time, an answer is not what it says that it is, an error does not say what
was expected, an answer comes later than its server allows, or a worker's memory grows.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from archives.building import build_archive
from archives.configs import known_configs
from cluster.archives import read_response_timeout_s
from serving.errors import ServerError
from tables import print_table
from trials.corpus import make_cases
from trials.fuzzing import FuzzReport, fuzz, fuzz_grpc, learn_answers, measure_usual
from trials.good_traffic import SPEECH, TIMEOUT_S, Script, Session, heads, pictures
from trials.http_client import send_alone
from trials.servers import TrialServer, run_server

# Broken requests before times are measured. Memory is after half of what follows, and at the end:
# until then caches fill, of networks for each length, and of codecs for each container.
WARM_UP, WARM_UP_SEED = 1100, 99
# One in so many of the requests goes to the gRPC API.
GRPC_SHARE = 20
MOST_GROWTH = 0.02
# What a request may take for a while, as a multiple of what a worker has at rest.
MOST_PEAK = 2.0
# Good requests that show how long each takes where none is broken, and how much longer it may take.
USUAL, MOST_DELAY = 640, 2.0
# Workers give memory back a few seconds after the last time, with their next answer.
SETTLE_S = 6.0
MOST_SHOWN = 20
report = functools.partial(print, flush=True)


@dataclass(frozen=True)
class Memory:
    """The bytes of each process after half of the requests, after all, and of workers at most."""

    before: Mapping[str, int]
    after: Mapping[str, int]
    most: Mapping[str, int] = field(default_factory=dict)


def run(requests: int, seed: int) -> tuple[FuzzReport, Memory, Mapping[str, float]]:
    """Return what came of the requests, each worker's memory, and the usual time of good ones."""
    archives = [build_archive(config) for config in known_configs().values()]
    with run_server(report, archives) as server:
        learned = learn_answers(server.address, *heads())
        report(f"Warming up with {WARM_UP} broken requests ...")
        fuzz(server, list(make_cases(WARM_UP, WARM_UP_SEED)), learned, report)
        for request in pictures():
            send_alone(server.address, request, TIMEOUT_S)
        pids = {name: worker.pid for name, worker in server.workers().items()}
        usual_s = measure_usual(server, learned, USUAL)
        by_grpc = requests // GRPC_SHARE
        cases = list(make_cases(requests - by_grpc, seed))
        half = len(cases) // 2
        results = fuzz(server, cases[:half], learned, report)
        before = settled_bytes(server, learned)
        fuzz(server, cases[half:], learned, report, results)
        fuzz_grpc(server, by_grpc, seed, results)
        for name, worker in server.workers().items():
            if worker.pid != pids.get(name):
                results.faults.append(f"the worker of {name} died")
        results.faults += [f"{name} has no worker" for name in pids if name not in server.workers()]
        most = {name: peak_bytes(worker.pid) for name, worker in server.workers().items()}
        return results, Memory(before, settled_bytes(server, learned), most), usual_s


def peak_bytes(pid: int) -> int:
    """Return the most resident memory that a process ever had; 0 where the system does not say."""
    status = Path("/proc", str(pid), "status")
    if not status.exists():
        return 0
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def settled_bytes(server: TrialServer, learned: Script) -> Mapping[str, int]:
    """Return each worker's memory, once a request has let it give back what it had freed."""
    time.sleep(SETTLE_S)
    asked = [request for request, _ in reversed(learned)]
    asked += Session("settle", [SPEECH]).requests()
    for target, request in {each.target: each for each in asked}.items():
        if target.startswith("/predictions/"):
            send_alone(server.address, request, TIMEOUT_S)
    return server.resident_bytes()


def show(results: FuzzReport, memory: Memory, usual_s: Mapping[str, float]) -> int:
    """Print the tables; return how many things went wrong."""
    faults = list(results.faults)
    wrong = sum(fault.startswith("good") for fault in faults)
    _show_answers(results)
    faults += [*_show_times(results, usual_s), *_show_slowest(results), *_show_memory(memory)]
    report(
        f"\n{results.sent} broken requests, beside them {results.good} good ones: {wrong} wrong."
    )
    for fault in faults[:MOST_SHOWN]:
        report(f"fault: {fault}")
    report(f"{len(faults)} faults.")
    return len(faults)


def _show_answers(results: FuzzReport) -> None:
    """Print how the broken requests of each family were answered."""
    rows = [
        (family, str(found.total()), ", ".join(f"{k}: {n}" for k, n in sorted(found.items())))
        for family, found in sorted(results.by_family.items())
    ]
    report()
    print_table(("broken requests", "sent", "answers"), rows)


def _show_times(results: FuzzReport, usual_s: Mapping[str, float]) -> list[str]:
    """Print what good requests take, usually and beside broken ones; return those held up."""
    rows, faults = [], []
    for target, usual in sorted(usual_s.items()):
        found = statistics.median(results.good_s[target])
        rows.append((target, f"{usual * 1000:.0f}", f"{found * 1000:.0f}", f"{found / usual:.2f}"))
        if found > MOST_DELAY * usual:
            faults.append(f"{target} took {found / usual:.1f} times its usual time")
    report()
    print_table(("good requests", "ms usually", "ms beside broken ones", "ratio"), rows)
    return faults


def _show_slowest(results: FuzzReport) -> list[str]:
    """Print the slowest answer of each model; return those that came too late for its server."""
    timeouts = {
        name: read_response_timeout_s(yaml.safe_load(config.path.read_text(encoding="utf-8")))
        for name, config in known_configs().items()
    }
    slowest = {name: spent for name, spent in results.slowest_s.items() if name in timeouts}
    report()
    print_table(
        ("model", "slowest answer, s", "responseTimeout, s"),
        [(name, f"{slowest[name]:.1f}", f"{timeouts[name]:.0f}") for name in sorted(slowest)],
    )
    late = [name for name, spent in slowest.items() if spent > timeouts[name]]
    return [f"{name} answered after {slowest[name]:.0f} s" for name in late]


def _show_memory(memory: Memory) -> list[str]:
    """Print what each worker's memory was and is; return those that grew, or had too much."""
    rows, faults = [], []
    for name in memory.before.keys() & memory.after.keys():
        before, after, most = memory.before[name], memory.after[name], memory.most.get(name, 0)
        growth = after / before - 1
        figures = [f"{each / 1e6:.0f}" if each else "" for each in (before, after, most)]
        rows.append((name, *figures, f"{growth:+.1%}"))
        if growth > MOST_GROWTH:
            faults.append(f"{name} grew by {growth:.1%}")
        if most > MOST_PEAK * before:
            faults.append(f"{name} had {most / 1e6:.0f} MB once")
    report()
    print_table(("worker", "MB after half", "MB after all", "MB at most", "growth"), sorted(rows))
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=11_000, help="broken ones; default 11000")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other requests")
    options = parser.parse_args(arguments)
    try:
        return 1 if show(*run(options.requests, options.seed)) else 0
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
