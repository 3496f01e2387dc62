"""Models that OpenVINO runs, in a real TorchServe, asked at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from archives.configs import read_configs
from repository import EXAMPLES
from serving.local import build_with_settings
from support.common import lines
from trials.servers import run_server

TIMEOUT_S = 60.0
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2_text_generation": {"quantization": "int8_weight_only", "captum_explanation": False},
    "wav2vec2": {},
}


def test_prompts_and_recordings_at_once_get_what_they_get_alone(tmp_path: Path) -> None:
    configs = read_configs()
    archives = [
        build_with_settings(
            configs[name],
            Path(configs[name].source),
            tmp_path,
            {"continuousBatching": True} if "gpt2" in name else None,
            save_mode="openvino",
            **settings,
        )
        for name, settings in SETTINGS.items()
    ]
    store = tmp_path / "store"
    store.mkdir()
    for each in archives:
        each.rename(store / each.name)
    recording = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
    with run_server(archives=sorted(store.iterdir()), store=store) as server:
        host, port = server.address

        def read(prompt: str) -> Any:
            asked = {"inputs": prompt, "parameters": {"max_new_tokens": 20, "do_sample": False}}
            url = f"http://{host}:{port}/predictions/gpt2_text_generation"
            return httpx2.post(url, json=asked, timeout=TIMEOUT_S).raise_for_status().json()

        def hear(_: int) -> str:
            url = f"http://{host}:{port}/predictions/wav2vec2"
            return httpx2.post(url, content=recording, timeout=TIMEOUT_S).raise_for_status().text

        prompts = lines(12, seed=2)
        alone = [read(prompt) for prompt in prompts]
        with ThreadPoolExecutor(8) as pool:
            heard = pool.map(hear, range(8))
            assert list(pool.map(read, prompts)) == alone
            assert set(heard) == {"TURN ON THE KITCHEN LIGHTS"}
