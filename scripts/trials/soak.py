"""Keep a server busy for a while with mixed traffic, then ask more than it can answer.

Fails where an answer is wrong or missing, a worker's memory grows, answers get slower, or the
server does not turn away what is too much and come back by itself.
"""

import argparse
import functools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil

from serving.errors import ServerError
from tables import print_table
from trials.load import LIVE_TARGET, Load, Sample, Traffic, Verdict, learn_traffic, percentile
from trials.servers import TrialServer, run_server

CONNECTIONS, LIVE_CONNECTIONS = 64, 6
WARM_UP_S, CAPACITY_S = 20.0, 90.0
SHARE = 0.8
MEMORY_EVERY_S, REPORT_EVERY_S = 5.0, 30.0
# Memory is compared from here on, and latency between the first and the last minutes.
SETTLED_S, COMPARED_S = 120.0, 300.0
MOST_GROWTH, MOST_SLOWDOWN = 0.03, 1.3
OVERLOAD, OVERLOAD_CONNECTIONS, OVERLOAD_S, RECOVERY_S = 2.0, 400, 30.0, 30.0
# A refusal is quick, and what is let in waits behind a full queue at most.
MOST_REFUSAL_S, MOST_QUEUED_S = 1.0, 20.0
LATENCY_HEADER = ("answers", "count", "p50 ms", "p95 ms", "p99 ms")
report = functools.partial(print, flush=True)


class Work(NamedTuple):
    """Processor seconds until a moment: of the clients, of the server, and of nobody; answers."""

    at_s: float
    clients_s: float
    server_s: float
    idle_s: float
    answers: int

    @classmethod
    def until_now(cls, server: TrialServer, load: Load) -> "Work":
        """Return what was worked until now."""
        times = [each.cpu_times() for each in server.processes()]
        server_s = sum(each.user + each.system for each in times)
        idle_s = psutil.cpu_times().idle
        return cls(time.monotonic(), time.process_time(), server_s, idle_s, len(load.samples))

    def tell(self, later: "Work") -> str:
        """Return what each request took from here until later, as a sentence.

        At one pace the clients' work is the same: where it takes longer, the machine is slower,
        whose other tenants nothing else here shows.
        """
        answers = max(1, later.answers - self.answers) / 1000
        idle = (later.idle_s - self.idle_s) / (later.at_s - self.at_s) / (psutil.cpu_count() or 1)
        return (
            f"{(later.clients_s - self.clients_s) / answers:.2f} ms of a processor for each "
            f"request in the clients, {(later.server_s - self.server_s) / answers:.1f} in the "
            f"server; {idle:.0%} idle"
        )


@dataclass
class Watch:
    """Each worker's resident memory over time, and what was worked until then."""

    samples: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)

    def take(self, server: TrialServer, load: Load, since_s: float) -> None:
        """Add what is so now."""
        now_s = time.monotonic() - since_s
        self.samples.append((now_s, server.resident_bytes()))
        self.work.append(Work.until_now(server, load))

    def tell_work(self, start_s: float, stop_s: float) -> str:
        """Return what each request took in a part of the time, which is told from the first."""
        first_s = self.work[0].at_s
        spent = [each for each in self.work if start_s <= each.at_s - first_s <= stop_s]
        return spent[0].tell(spent[-1])

    def growth(self, length_s: float) -> dict[str, tuple[float, ...]]:
        """Return the bytes of each worker once it had settled, and at the end: medians."""
        settled_s = min(SETTLED_S, length_s / 3)
        window_s = min(60.0, length_s / 6)
        starts_s = (settled_s, length_s - window_s)
        return {
            name: tuple(self._median(name, start_s, start_s + window_s) for start_s in starts_s)
            for name in self.samples[-1][1]
        }

    def _median(self, name: str, start_s: float, stop_s: float) -> float:
        sizes = [sizes[name] for at_s, sizes in self.samples if start_s <= at_s <= stop_s]
        return statistics.median(sizes)


def measure_capacity(server: TrialServer, traffic: Traffic) -> float:
    """Return how many requests a second are answered when all connections always ask."""
    report(f"Measuring the capacity for {WARM_UP_S + CAPACITY_S:.0f} s ...")
    with Load(server.address, traffic, CONNECTIONS, LIVE_CONNECTIONS).running() as load:
        time.sleep(WARM_UP_S)
        before, work = _count_singles(load), Work.until_now(server, load)
        time.sleep(CAPACITY_S)
        rate_hz = (_count_singles(load) - before) / CAPACITY_S
        told = work.tell(Work.until_now(server, load))
    report(
        f"Capacity: {rate_hz:.0f} requests a second from {CONNECTIONS - LIVE_CONNECTIONS} "
        f"connections, beside {LIVE_CONNECTIONS} in live speech; {told}."
    )
    return rate_hz


def _count_singles(load: Load) -> int:
    return sum(each.target != LIVE_TARGET for each in load.samples[:])


def soak(
    server: TrialServer, traffic: Traffic, rate_hz: float, length_s: float
) -> tuple[float, list[Sample], Watch]:
    """Ask steadily; return when that began, what came of it and what was watched."""
    watch, reported_s = Watch(), 0.0
    load = Load(server.address, traffic, CONNECTIONS, LIVE_CONNECTIONS, rate_hz)
    with load.running():
        started_s = time.monotonic()
        while (now_s := time.monotonic() - started_s) < length_s:
            watch.take(server, load, started_s)
            if now_s - reported_s >= REPORT_EVERY_S:
                reported_s = now_s
                report(f"  {now_s / 60:.1f} min: {len(load.samples)} answers")
            time.sleep(min(MEMORY_EVERY_S, max(0.1, length_s - now_s)))
    return started_s, load.samples, watch


def check_soak(
    started_s: float, samples: Sequence[Sample], watch: Watch, length_s: float
) -> list[str]:
    """Print what came of the steady load; return what is past a bar."""
    faults = _check_verdicts(samples)
    compared_s = min(COMPARED_S, length_s / 3)
    parts = {
        "all": samples,
        f"first {compared_s:.0f} s": [
            each for each in samples if each.finished_s < started_s + compared_s
        ],
        f"last {compared_s:.0f} s": [
            each for each in samples if each.finished_s > started_s + length_s - compared_s
        ],
    }
    delays = {name: [each.delay_s for each in part] for name, part in parts.items()}
    print_table(LATENCY_HEADER, [_latency_row(*each) for each in delays.items()])
    windows = ((0, compared_s), (length_s - compared_s, length_s))
    report(f"\nIn the first of these: {watch.tell_work(*windows[0])}.")
    report(f"In the last: {watch.tell_work(*windows[1])}.")
    first, last = (percentile(each, 0.99) for each in list(delays.values())[1:])
    if last > first * MOST_SLOWDOWN:
        faults.append(f"p99 went from {first * 1000:.0f} to {last * 1000:.0f} ms")
    return faults + _check_memory(watch, length_s)


def _latency_row(name: str, delays_s: Sequence[float]) -> Sequence[str]:
    shown = (f"{percentile(delays_s, share) * 1000:.0f}" for share in (0.5, 0.95, 0.99))
    return (name, str(len(delays_s)), *shown)


def _check_memory(watch: Watch, length_s: float) -> list[str]:
    growth = watch.growth(length_s)
    rows = [
        (name, f"{first / 1e6:.0f}", f"{last / 1e6:.0f}", f"{last / first - 1:+.1%}")
        for name, (first, last) in growth.items()
    ]
    report()
    print_table(("worker", "MB once settled", "MB at the end", "growth"), rows)
    grown = {name: last / first - 1 for name, (first, last) in growth.items()}
    return [f"{name} grew by {by:.1%}" for name, by in grown.items() if by > MOST_GROWTH]


def _check_verdicts(samples: Sequence[Sample]) -> list[str]:
    found = Counter(each.verdict for each in samples)
    report(f"\n{found.total()} requests: {', '.join(f'{n} {name}' for name, n in found.items())}\n")
    errors = [each for each in samples if each.verdict is Verdict.ERROR]
    for (target, status), count in Counter((each.target, each.status) for each in errors).items():
        report(f"  {count} times {status} from {target}")
    bad = (Verdict.WRONG, Verdict.LOST, Verdict.ERROR, Verdict.REFUSED)
    return [f"{found[verdict]} {verdict}" for verdict in bad if found[verdict]]


def overload(server: TrialServer, traffic: Traffic, rate_hz: float) -> list[str]:
    """Ask more than the server can answer, then less; return what is past a bar."""
    report(f"\nOverload: {rate_hz * OVERLOAD:.0f} requests a second for {OVERLOAD_S:.0f} s ...")
    load = Load(server.address, traffic, OVERLOAD_CONNECTIONS, 0, rate_hz * OVERLOAD)
    with load.running():
        time.sleep(OVERLOAD_S)
    taken = [each.duration_s for each in load.samples if each.verdict is Verdict.RIGHT]
    refused = [each.duration_s for each in load.samples if each.status == 503]
    print_table(
        LATENCY_HEADER,
        [_latency_row("let in, right", taken), _latency_row("503, queue full", refused)],
    )
    found = load.count()
    faults = [
        f"{found[bad]} {bad} under overload" for bad in (Verdict.WRONG, Verdict.LOST) if found[bad]
    ]
    if percentile(refused, 0.99) > MOST_REFUSAL_S:
        faults.append("being turned away takes long")
    if percentile(taken, 0.99) > MOST_QUEUED_S:
        faults.append("waiting in the queue has no bound")
    return faults + _recover(server, traffic, rate_hz)


def _recover(server: TrialServer, traffic: Traffic, rate_hz: float) -> list[str]:
    with Load(
        server.address, traffic, CONNECTIONS, LIVE_CONNECTIONS, rate_hz * SHARE
    ).running() as load:
        started_s = time.monotonic()
        time.sleep(RECOVERY_S)
    bad = [each.finished_s for each in load.samples if each.verdict is not Verdict.RIGHT]
    back_s = max(bad, default=started_s) - started_s
    report(f"\nAfterwards, at {SHARE:.0%} of capacity, every answer is right after {back_s:.1f} s.")
    return ["it does not come back"] if back_s > RECOVERY_S / 2 else []


def run(length_s: float) -> list[str]:
    """Run all of it; return what is past a bar."""
    with run_server(report) as server:
        traffic = learn_traffic(server.address)
        rate_hz = measure_capacity(server, traffic)
        report(f"Soak: {rate_hz * SHARE:.0f} requests a second for {length_s / 60:g} min ...")
        faults = check_soak(*soak(server, traffic, rate_hz * SHARE, length_s), length_s)
        return faults + overload(server, traffic, rate_hz)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="default 30")
    options = parser.parse_args(arguments)
    try:
        faults = run(options.minutes * 60)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report("\n" + ("\n".join(f"past a bar: {fault}" for fault in faults) or "Within every bar."))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
