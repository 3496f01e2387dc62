"""Send thousands of broken requests to a server, each beside a good one, and say what came of it.

Fails where a worker dies, our code answers 5xx, a good request gets another answer than alone, an
error does not say what was expected, or a worker's memory grows.
"""

import argparse
import functools
import sys
import time
from collections.abc import Mapping, Sequence

from archives.building import build_archive
from archives.configs import known_configs
from serving.errors import ServerError
from tables import print_table
from trials.corpus import make_cases
from trials.fuzzing import FuzzReport, fuzz, fuzz_grpc, learn_answers
from trials.good_traffic import TIMEOUT_S, Script, pictures
from trials.http_client import send_alone
from trials.servers import TrialServer, run_server

# Broken requests before memory is measured for the first time: caches fill.
WARM_UP, WARM_UP_SEED = 1100, 99
# One in so many of the requests goes to the gRPC door.
GRPC_SHARE = 20
MOST_GROWTH = 0.02
# Workers give memory back a few seconds after the last time, with their next answer.
SETTLE_S = 6.0
MOST_SHOWN = 20
report = functools.partial(print, flush=True)


def run(requests: int, seed: int) -> tuple[FuzzReport, Mapping[str, int], Mapping[str, int]]:
    """Return what came of the requests, and each worker's memory before and after."""
    archives = [build_archive(config) for config in known_configs().values()]
    with run_server(report, archives) as server:
        learned = learn_answers(server.address)
        report(f"Warming up with {WARM_UP} broken requests ...")
        fuzz(server, list(make_cases(WARM_UP, WARM_UP_SEED)), learned, report)
        for request in pictures():
            send_alone(server.address, request, TIMEOUT_S)
        pids = {name: worker.pid for name, worker in server.workers().items()}
        before = settled_bytes(server, learned)
        by_grpc = requests // GRPC_SHARE
        results = fuzz(server, list(make_cases(requests - by_grpc, seed)), learned, report)
        fuzz_grpc(server, by_grpc, seed, results)
        for name, worker in server.workers().items():
            if worker.pid != pids.get(name):
                results.faults.append(f"the worker of {name} died")
        results.faults += [f"{name} has no worker" for name in pids if name not in server.workers()]
        return results, before, settled_bytes(server, learned)


def settled_bytes(server: TrialServer, learned: Script) -> Mapping[str, int]:
    """Return each worker's memory, once a request has let it give back what it had freed."""
    time.sleep(SETTLE_S)
    one_of_each = {request.target: request for request, _ in reversed(learned)}
    for target, request in one_of_each.items():
        if target.startswith("/predictions/"):
            send_alone(server.address, request, TIMEOUT_S)
    return server.resident_bytes()


def show(results: FuzzReport, before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Print the tables; return how many things went wrong."""
    faults = list(results.faults)
    wrong = sum(fault.startswith("good") for fault in faults)
    _show_answers(results)
    growth = {name: after[name] / before[name] - 1 for name in before if name in after}
    _show_growth(growth, before, after)
    faults += [
        f"{name} grew by {grown:.1%}" for name, grown in growth.items() if grown > MOST_GROWTH
    ]
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


def _show_growth(
    growth: Mapping[str, float], before: Mapping[str, int], after: Mapping[str, int]
) -> None:
    """Print what each worker's memory was and is."""
    rows = [
        (name, f"{before[name] / 1e6:.0f}", f"{after[name] / 1e6:.0f}", f"{grown:+.1%}")
        for name, grown in growth.items()
    ]
    report()
    print_table(("worker", "MB before", "MB after", "growth"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5500, help="broken ones; default 5500")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other requests")
    options = parser.parse_args(arguments)
    try:
        return 1 if show(*run(options.requests, options.seed)) else 0
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
