"""Live speech when its worker dies, and on several workers, on a real server."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import yaml

from archives.configs import read_configs
from repository import ROOT
from serving.local import build_with_settings
from trials.good_traffic import LIVE_MODEL, Session, cut_speech
from trials.http_client import Outcome, send_alone
from trials.servers import TrialServer, run_server

TIMEOUT_S = 60.0
PIECES = 6
SAID = "turn on the kitchen lights"


def speak(server: TrialServer, name: str) -> list[Outcome]:
    """Say the example in pieces; return the answers."""
    requests = Session(name, cut_speech(PIECES)).requests()
    return [send_alone(server.address, request, TIMEOUT_S) for request in requests]


def text_of(outcomes: list[Outcome]) -> str:
    assert [each.status for each in outcomes] == [200] * PIECES, outcomes
    return str(json.loads(outcomes[-1].body)["text"])


def test_live_speech_goes_on_after_its_worker_was_killed(model_store: Path) -> None:
    archive = model_store / f"{LIVE_MODEL}.mar"
    with run_server(archives=[archive], store=model_store) as server:
        send = partial(send_alone, server.address, timeout_s=TIMEOUT_S)
        sessions = [Session(f"speaker {n}", cut_speech(PIECES)).requests() for n in range(4)]
        assert [send(requests[0]).status for requests in sessions] == [200] * 4
        server.workers()[LIVE_MODEL].kill()
        # Nobody hangs: what was said is lost, and each is told so.
        lost = [send(requests[1]) for requests in sessions]
        assert all(each.failure == "" and each.status != 200 for each in lost), lost
        assert lost[-1].status == 410
        assert text_of(speak(server, "speaker 0")) == SAID


def test_session_stays_with_one_of_several_workers(tmp_path: Path) -> None:
    """With the keys that docs/live.md shows."""
    page = (ROOT / "docs" / "live.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(minWorkers.*?)^```", page, re.MULTILINE | re.DOTALL)
    keys = yaml.safe_load(shown)
    assert keys["minWorkers"] > 1
    config = read_configs()[LIVE_MODEL]
    archive = build_with_settings(config, ROOT / config.source, tmp_path, keys)
    running = run_server(archives=[archive], store=archive.parent)
    with running as server, ThreadPoolExecutor(8) as pool:
        for outcomes in pool.map(lambda n: speak(server, f"speaker {n}"), range(24)):
            assert text_of(outcomes) == SAID
