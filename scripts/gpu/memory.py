"""What a worker answers where memory ends: a real limit, met in a batch and by a recording alone.

`python -m gpu.memory DEVICE` loads the archive in a process of its own, whose limit ends with it.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from archives.configs import read_configs
from benchmarks.full_size_models import write_base_960h
from benchmarks.recordings import noise
from gpu.plan import Plan, Result
from repository import ROOT
from serving.local import LocalModel, build_with_settings, load_archive
from speechtext.devices import free_memory

# All of the first convolution's 512 channels, in a model that is else small: a second of audio
# takes 13 MB of it and of what follows in float32, each.
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SHORT_S, LONG_S, SHORT_COUNT = 1, 25, 8
# What is left to the process: some short recordings, and no long one.
LEFT_BYTES = 160 * 2**20
EXPECTED = {
    "short ones, each alone": [200] * SHORT_COUNT,
    "short ones in a batch": [200] * SHORT_COUNT,
    "a long one alone": [507],
    "a long one among short ones": [200, 507, 200, 200],
    "short ones afterwards": [200] * SHORT_COUNT,
}


def run_out(plan: Plan) -> Iterator[Result]:
    """Yield the statuses of recordings in a worker whose memory ends."""
    with tempfile.TemporaryDirectory() as name:
        # As the Makefile has it; pytest has a way of its own.
        folders = map(str, (ROOT, ROOT / "handlers", ROOT / "scripts"))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
        command = [sys.executable, "-m", "gpu.memory", str(plan.device), name]
        ended = subprocess.run(  # noqa: S603 - this very module
            command, capture_output=True, text=True, check=False, env=environment
        )
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        raise RuntimeError(f"the worker ended with {ended.returncode}: {said[-1] if said else ''}")
    found = json.loads(ended.stdout.splitlines()[-1])
    for what, expected in EXPECTED.items():
        yield Result(
            f"memory ends, {what}", _short(found[what]), _short(expected), found[what] == expected
        )


def _short(statuses: list[int]) -> str:
    return str(statuses[0]) if len(set(statuses)) == 1 else ", ".join(map(str, statuses))


def answer_within(plan: Plan, workspace: Path) -> dict[str, list[int]]:
    """Return the statuses of recordings, with little memory left to this process."""
    folder = workspace / "model"
    folder.mkdir()
    write_base_960h(folder, **SMALL)
    settings: dict[str, Any] = {"dtype": "float32", "threads": 1}
    archive = build_with_settings(read_configs()["wav2vec2"], folder, workspace, **settings)
    model = load_archive(archive, plan.gpu_id)
    short, long = {"body": noise(SHORT_S, seed=0)}, {"body": noise(LONG_S, seed=1)}
    # What the first call loads is there before the limit is.
    model.answer([short])
    limit_memory(plan.device)
    batches = {
        "short ones in a batch": [short] * SHORT_COUNT,
        "a long one alone": [long],
        "a long one among short ones": [short, long, short, short],
        "short ones afterwards": [short] * SHORT_COUNT,
    }
    alone = [_statuses(model, [short])[0] for _ in range(SHORT_COUNT)]
    found = {name: _statuses(model, rows) for name, rows in batches.items()}
    return {"short ones, each alone": alone, **found}


def _statuses(model: LocalModel, rows: list[dict[str, Any]]) -> list[int]:
    return [reply.status for reply in model.answer(rows)]


def limit_memory(device: torch.device) -> None:
    """Let this process have no more than it has and `LEFT_BYTES`, on a GPU or of the machine."""
    if device.type == "cuda":
        free_memory()
        total = torch.cuda.get_device_properties(device).total_memory
        allowed = torch.cuda.memory_reserved(device) + LEFT_BYTES
        torch.cuda.set_per_process_memory_fraction(allowed / total, device)
        return
    allowed = psutil.Process(os.getpid()).memory_info().vms + LEFT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(answer_within(Plan(torch.device(sys.argv[1])), Path(sys.argv[2]))))
