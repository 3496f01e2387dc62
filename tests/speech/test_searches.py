"""Searches of a batch in processes of their own: what they find, and when they end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from demo_models.word_model import write_demo_model
from repository import ROOT
from speechtext.allowance import allow
from speechtext.errors import DeadlineError
from speechtext.speech.ctc.beam import load_beam_decoder, load_biasing
from speechtext.speech.ctc.searches import SearchProcesses
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.hotwords import HotwordParameters
from support.common import LoadModel
from support.searches import load_sleeper
from support.speech import normalize, sentences

pytest.importorskip("kenlm", reason="the extra lm is not installed: make lm needs a C++ compiler")

SETTINGS = Wav2Vec2Settings(decoder="beam", lm="lm.arpa", lm_weight=1.15, beam_processes=2)
# A worker that has loaded, and waits for requests.
WORKER = """
import time
from speechtext.speech.ctc.searches import choose_searches

def search(probabilities, hotwords):
    return []

def load():
    return search

if __name__ == "__main__":
    searches = choose_searches(load, 2)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def spread(
    load_model: LoadModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SearchProcesses]:
    folder = tmp_path_factory.mktemp("lm")
    write_demo_model(folder / "lm.arpa")
    tokenizer = load_model("wav2vec2").handler.processor.tokenizer
    load = partial(load_beam_decoder, SETTINGS, tokenizer, folder)
    searches = SearchProcesses(load(), load, 2)
    yield searches
    searches._pool.shutdown()


@torch.inference_mode()
def emissions(load_model: LoadModel, count: int) -> list[torch.Tensor]:
    """Return what the demo recogniser makes of sentences in noise."""
    frame_model = load_model("wav2vec2").handler.recognizer.frame_model
    noisy = [normalize(waveform) for waveform, _ in sentences(count, seed=1)]
    return [frame_model.run([each])[0].cpu().softmax(dim=-1) for each in noisy]


def test_batches_are_decoded_as_recordings_alone(
    load_model: LoadModel, spread: SearchProcesses
) -> None:
    tokenizer = load_model("wav2vec2").handler.processor.tokenizer
    biasing = load_biasing(SETTINGS, tokenizer)
    asked = biasing.choose(HotwordParameters(["KITCHEN", "FORTY PERCENT"]))
    batch = emissions(load_model, 40)
    hotwords = [asked if number % 4 == 0 else None for number in range(len(batch))]
    expected = [spread([each], [own])[0] for each, own in zip(batch, hotwords, strict=True)]
    assert sum(map(bool, expected)) > 20
    assert spread(batch, hotwords) == expected


def test_process_that_dies_is_followed_by_another(
    load_model: LoadModel, spread: SearchProcesses
) -> None:
    batch = emissions(load_model, 4)
    before = set(spread._pool._processes)
    os.kill(min(before), signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        for _ in range(100):
            spread(batch, [None] * 4)
    assert spread(batch, [None] * 4) == [spread([each], [None])[0] for each in batch]
    assert before.isdisjoint(spread._pool._processes)


def test_batch_that_takes_too_long_is_given_up(
    load_model: LoadModel, spread: SearchProcesses
) -> None:
    batch = emissions(load_model, 4)
    with allow(1e-6), pytest.raises(DeadlineError):
        spread(batch, [None] * 4)
    assert len(spread(batch, [None] * 4)) == 4


def test_searches_end_with_the_time_of_their_batch(tmp_path: Path) -> None:
    gate, ended = tmp_path / "gate", tmp_path / "ended"
    ended.mkdir()
    gate.touch()
    load = partial(load_sleeper, ended, gate)
    searches = SearchProcesses(load(), load, 2)
    abandoned = [psutil.Process(each) for each in searches._pool._processes]
    gate.unlink()
    long, short = torch.zeros(20, 1), torch.zeros(0, 1)
    with allow(1.0), pytest.raises(DeadlineError):
        searches([long] * 4, [None] * 4)
    assert not list(ended.iterdir())
    assert not psutil.wait_procs(abandoned, timeout=10)[1]
    # Those that follow are not ended for taking longer to load than a batch waits.
    following = searches._pool
    with allow(0.01), pytest.raises(DeadlineError):
        searches([short] * 2, [None] * 2)
    assert searches._pool is following
    gate.touch()
    assert searches([short] * 4, [None] * 4) == [[]] * 4
    assert len(list(ended.iterdir())) == 4
    following.shutdown()


def test_processes_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "handlers")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == b"ready\n"
        others = psutil.Process(worker.pid).children(recursive=True)
        assert len([each for each in others if "spawn_main" in str(each.cmdline())]) == 2
        worker.kill()
    _, alive = psutil.wait_procs(others, timeout=10)
    assert not alive
