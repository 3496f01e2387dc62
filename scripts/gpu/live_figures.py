"""How long live sessions of full size wait for their text on the device."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.full_size_models import write_bundle
from benchmarks.live import FULL_SIZE_SETTINGS, live_server, measure, speech
from gpu.plan import Plan, Result
from repository import ROOT

SESSIONS, BAR_S = (16, 64, 128, 256), 0.1
DEMO = ROOT / "demo_models" / "emformer_asr"


def measure_live(plan: Plan) -> Iterator[Result]:
    """Yield the delays of so many sessions at the pace of speech, through TorchServe."""
    counts = plan.amount(SESSIONS, (1,))
    keys = {"batchSize": max(counts)}
    given: dict[str, Any] = {
        **FULL_SIZE_SETTINGS,
        "max_sessions": max(counts),
        "threads": plan.amount(None, 1),
    }
    with tempfile.TemporaryDirectory() as name:
        workspace = Path(name)
        (workspace / "bundle").mkdir()
        if plan.amount(True, False):
            write_bundle(workspace / "bundle")
        source = plan.amount(workspace / "bundle", DEMO)
        with live_server(source, workspace, keys, dtype="bfloat16", **given) as url:
            pieces = speech()[: plan.amount(None, 12)]
            measure(url, 1, pieces)
            for count in counts:
                median_s, slow_s = measure(url, count, pieces)
                found = f"{median_s * 1000:.0f}, {slow_s * 1000:.0f}"
                what = f"{count} live sessions, bfloat16: median and 95th percentile, ms"
                yield Result(what, found, f"{BAR_S * 1000:.0f}", plan.judge(slow_s <= BAR_S))
