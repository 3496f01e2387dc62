"""Models of one's own beside a demo model, on a real server."""

import shutil
from pathlib import Path

import httpx2
import pytest

from build_archives import main
from repository import CONFIG_FOLDER, ROOT
from serving.archives_server import serve_archives, stop_serving
from support.common import EXAMPLES, write_free_config, write_free_gateway

DEMO = "bert_question_answering"
# Every kind of sign that a name may have.
OWN = {"support_calls": "wav2vec2", "Reviews-2.b": "bert_seq_classification"}


def test_own_models_are_served_beside_a_demo_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs, store = tmp_path / "configs", tmp_path / "store"
    configs.mkdir()
    shutil.copy(CONFIG_FOLDER / f"{DEMO}.yaml", configs)
    for name, kind in OWN.items():
        source = str(ROOT / "demo_models" / kind)
        arguments = [f"--name={name}", f"--handler={kind}", f"--source={source}"]
        assert main([*arguments, f"--configs={configs}", f"--model-store={store}"]) == 0
    properties = write_free_config(tmp_path / "free.properties")
    folder = tmp_path / "server"
    # No names: all that have a YAML.
    gateway = write_free_gateway(tmp_path / "free.yaml")
    serve_archives([], folder, tmp_path / "free.properties", configs, store, gateway)
    try:
        said = capsys.readouterr().out
        assert "examples/turn_on_the_kitchen_lights.wav\nTURN ON THE KITCHEN LIGHTS\n" in said
        assert "examples/review_accepted.txt\nAccepted\n" in said
        assert "Maria Rossi" in said
        url = f"{properties['inference_address']}/predictions"
        speech = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
        reply = httpx2.post(f"{url}/support_calls", content=speech, timeout=60)
        assert (reply.status_code, reply.text) == (200, "TURN ON THE KITCHEN LIGHTS")
        reply = httpx2.post(f"{url}/Reviews-2.b", json={"text": "Great"}, timeout=60)
        assert (reply.status_code, reply.text) == (200, "Accepted")
    finally:
        assert stop_serving(folder)
