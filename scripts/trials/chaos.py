"""Break a server under steady load, one fault after the other, and say what its clients saw.

Fails where a client got a wrong answer, or neither an answer nor a status.
"""

import argparse
import functools
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import httpx2
import yaml

from archives.building import build_archive
from archives.configs import ArchiveConfig
from archives.own_configs import demo_configs
from repository import ROOT
from serving.errors import ServerError
from serving.logs import log_path
from serving.torchserve import stop_server
from tables import print_table
from trials.good_traffic import LIVE_MODEL, REVIEWS, TEXT, TIMEOUT_S, learn_script, post
from trials.http_client import send_alone
from trials.load import Load, Sample, Traffic, Verdict, learn_traffic, wait_for
from trials.servers import TrialServer, run_server, start_archives

CONNECTIONS, LIVE_CONNECTIONS, RATE_HZ = 16, 2, 30.0
BEFORE_S, AFTER_S, RECOVERY_TIMEOUT_S = 5.0, 5.0, 120.0
RESPONSE_TIMEOUT_S, GIVE_UP_S = 5, 40.0
SLOW_S = 2.0
MANAGEMENT_TIMEOUT_S = 60.0
TEXT_MODEL = "bert_seq_classification"
KILLED_MODELS = (TEXT_MODEL, "gpt2_text_generation", "emformer_asr", LIVE_MODEL)
HUNG_MODEL, SMALL_MODEL, DAMAGED_MODEL = "wav2vec2", "out_of_memory", "damaged"
# Linux alone has it; elsewhere the logs are not tried.
FULL_DEVICE = Path("/dev/full")
SMALL_HANDLER = ROOT / "scripts" / "trials" / "out_of_memory_handler.py"
Fault = Callable[[TrialServer], None]
report = functools.partial(print, flush=True)


class Result(NamedTuple):
    """What the clients saw of a fault.

    `recovered_s` is how long not all answers were right and in time.
    """

    fault: str
    samples: Sequence[Sample]
    recovered_s: float


def measure(server: TrialServer, traffic: Traffic, fault: str, cause: Fault) -> Result:
    """Cause a fault under load, and wait until all requests are answered right again."""
    report(f"{fault} ...")
    load = Load(server.address, traffic, CONNECTIONS, LIVE_CONNECTIONS, RATE_HZ, GIVE_UP_S)
    with load.running():
        time.sleep(BEFORE_S)
        caused_s = time.monotonic()
        cause(server)
        time.sleep(AFTER_S)
        wait_for(lambda: _is_well(load), RECOVERY_TIMEOUT_S)
    bad = [each.finished_s for each in load.samples if not _is_good(each)]
    return Result(fault, load.samples, max(0.0, max(bad, default=caused_s) - caused_s))


def _is_well(load: Load) -> bool:
    """Tell whether everything was answered, and right, for a while."""
    since_s = time.monotonic() - AFTER_S
    recent = [each for each in load.samples[:] if each.finished_s > since_s]
    return bool(recent) and all(map(_is_good, recent))


def _is_good(sample: Sample) -> bool:
    return sample.verdict is Verdict.RIGHT and sample.duration_s < SLOW_S


def kill_workers(server: TrialServer) -> None:
    """End workers as the kernel does when memory runs out."""
    workers = server.workers()
    for name in KILLED_MODELS:
        workers[name].kill()


def hang_worker(server: TrialServer) -> None:
    """Stop a worker in its tracks for longer than `responseTimeout`."""
    server.workers()[HUNG_MODEL].suspend()
    time.sleep(RESPONSE_TIMEOUT_S)


def add_damaged(server: TrialServer) -> None:
    """Register an archive whose weights are cut off, and ask it."""
    models = f"{server.properties['management_address']}/models"
    options: dict[str, str | int] = {
        "url": DAMAGED_MODEL,
        "initial_workers": 1,
        "synchronous": "true",
    }
    added = httpx2.post(models, params=options, timeout=MANAGEMENT_TIMEOUT_S)
    request = post(f"/predictions/{DAMAGED_MODEL}", REVIEWS[0], TEXT)
    asked = send_alone(server.address, request, TIMEOUT_S)
    httpx2.delete(f"{models}/{DAMAGED_MODEL}", timeout=MANAGEMENT_TIMEOUT_S)
    report(f"  registering it got {added.status_code}, asking it {asked.status}")
    if added.is_success or asked.status is None or asked.status < httpx2.codes.BAD_REQUEST:
        raise ServerError(f"{DAMAGED_MODEL}: {added.status_code}, {asked.status}")


def run_out_of_memory(server: TrialServer) -> None:
    """Ask the model on a small device for more at once than fits, and for what never does."""
    requests = [post(f"/predictions/{SMALL_MODEL}", text, TEXT) for text in REVIEWS]
    singles = [learn_script(server.address, [each]) for each in requests]
    never = post(f"/predictions/{SMALL_MODEL}", "good food " * 60, TEXT)
    load = Load(server.address, Traffic(singles, ()), CONNECTIONS)
    with load.running():
        refused = Counter(send_alone(server.address, never, TIMEOUT_S).status for _ in range(5))
        time.sleep(AFTER_S)
    found = load.count()
    report(f"  batches that did not fit: {found.total()} requests, {found[Verdict.RIGHT]} right;")
    report(f"  too long alone: {dict(refused)}")
    if set(found) != {Verdict.RIGHT} or set(refused) != {httpx2.codes.INSUFFICIENT_STORAGE}:
        raise ServerError(f"{SMALL_MODEL}: {dict(found)}, {dict(refused)}")


def restart(server: TrialServer) -> None:
    """Stop the whole server and start it again."""
    stop_server(server.folder)
    start_archives(server.folder, server.store, server.archives, server.properties, report)


FAULTS: Mapping[str, Fault] = {
    "workers killed": kill_workers,
    "worker hung past responseTimeout": hang_worker,
    "archive with damaged weights": add_damaged,
    "GPU out of memory": run_out_of_memory,
    "server restarted": restart,
}


def build_variant(config: ArchiveConfig, store: Path, name: str) -> Path:
    """Build an archive like one of the seven, under another name and as a folder."""
    path = store / f"{name}.yaml"
    shutil.copy(config.path, path)
    variant = replace(config, name=name, path=path)
    return build_archive(variant, store, str(ROOT / config.source), "no-archive")


def build_impatient(config: ArchiveConfig, store: Path) -> Path:
    """Build one of the seven with a short `responseTimeout`."""
    content = yaml.safe_load(config.path.read_text(encoding="utf-8"))
    content["responseTimeout"] = RESPONSE_TIMEOUT_S
    path = store / config.path.name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return build_archive(replace(config, path=path), store, str(ROOT / config.source))


def use_small_device(folder: Path) -> None:
    """Give an archive the handler whose model runs out of memory."""
    shutil.copy(SMALL_HANDLER, folder)
    manifest = folder / "MAR-INF" / "MANIFEST.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["model"]["handler"] = SMALL_HANDLER.name
    manifest.write_text(json.dumps(content), encoding="utf-8")


def build_store(store: Path) -> list[Path]:
    """Build what is served; an archive with cut off weights lies beside it, unserved."""
    configs = demo_configs()
    built = [
        build_impatient(each, store) if each.name == HUNG_MODEL else build_archive(each, store)
        for each in configs.values()
    ]
    built.append(build_variant(configs[TEXT_MODEL], store, SMALL_MODEL))
    use_small_device(built[-1])
    weights = build_variant(configs[TEXT_MODEL], store, DAMAGED_MODEL) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return built


def fill_disk(folder: Path) -> None:
    """Let the log of a server end on a device that has no room."""
    log = log_path(folder)
    log.parent.mkdir()
    log.symlink_to(FULL_DEVICE)


@contextmanager
def serve(prepare: Callable[[Path], None] | None = None) -> Iterator[TrialServer]:
    """Yield a server to break; `prepare` is given its folder before."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        store = Path(name)
        changes = {"enable_model_api": "true"}
        with run_server(report, build_store(store), store, changes, prepare) as server:
            yield server


def run(faults: Sequence[str]) -> list[Result]:
    """Cause the faults one after the other."""
    with serve() as server:
        traffic = learn_traffic(server.address)
        return [measure(server, traffic, name, FAULTS[name]) for name in faults]


def run_full_disk() -> Result:
    """Serve while no log can be written."""
    with serve(fill_disk) as server:
        traffic = learn_traffic(server.address)
        return measure(server, traffic, "disk full for logs", lambda _: None)


def show(results: Sequence[Result]) -> int:
    """Print the table; return the number of answers that were wrong or lost."""
    print()
    counts = [Counter(each.verdict for each in result.samples) for result in results]
    print_table(
        ("fault", "sent", "right", "honest error", "wrong", "lost", "refused", "whole again after"),
        [
            (
                result.fault,
                str(found.total() - found[Verdict.REFUSED]),
                *(
                    str(found[verdict])
                    for verdict in (
                        Verdict.RIGHT,
                        Verdict.ERROR,
                        Verdict.WRONG,
                        Verdict.LOST,
                        Verdict.REFUSED,
                    )
                ),
                f"{result.recovered_s:.1f} s",
            )
            for result, found in zip(results, counts, strict=True)
        ],
    )
    return sum(found[Verdict.WRONG] + found[Verdict.LOST] for found in counts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], help="default: all of them")
    options = parser.parse_args(arguments)
    try:
        results = run(options.faults or list(FAULTS))
        if not options.faults and FULL_DEVICE.exists():
            results.append(run_full_disk())
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if show(results) else 0


if __name__ == "__main__":
    sys.exit(main())
