"""What `python -m cluster config` prints, run by Ray's own command."""

import json
from pathlib import Path

import httpx2
import websockets.sync.client

from cluster.command import make_config, parse_arguments
from support.common import EXAMPLES
from trials.clusters import run_serve

MODELS = ("emformer_asr_live", "bert_seq_classification")
SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()


def test_configuration_is_served_by_rays_own_command(model_store: Path, tmp_path: Path) -> None:
    words = ["config", "--model-store", str(model_store), *MODELS]
    config = make_config(parse_arguments(words))
    with run_serve(config, tmp_path) as cluster:
        url = f"{cluster.url}/v2/models/bert_seq_classification/infer"
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["It was great."]}
        reply = httpx2.post(url, json={"inputs": [tensor]}, timeout=60)
        assert reply.status_code == 200, reply.text
        assert "Accepted" in reply.json()["outputs"][0]["data"]
        live = f"{cluster.url.replace('http', 'ws')}/live/emformer_asr_live?rate=16000"
        with websockets.sync.client.connect(live) as it:
            for start in range(44, len(SPEECH), 5120):
                it.send(SPEECH[start : start + 5120])
            it.send(json.dumps({"type": "end"}))
            answers = [json.loads(each) for each in it]
        assert answers[-1]["text"] == "turn on the kitchen lights"
