"""The demo models of labels, frames and voices: what they say of recordings in the repository."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from archives.building import build_archive
from archives.configs import choose_configs, known_configs
from archives.errors import BuildError
from repository import CONFIG_FOLDER
from serving.local import LocalModel, load_archive
from support.common import EXAMPLES
from support.recordings import RATE_HZ, join_turns, read_samples, write_wav

SENTENCES = json.loads((EXAMPLES / "transcripts.json").read_text())
LABELS = {
    "turn_on_the_kitchen_lights.wav": "turn on",
    "please_set_a_timer_for_twenty_seconds.wav": "set timer",
    "call_five_five_one_seven_nine.wav": "call",
    "close_the_bathroom_window.wav": "close",
    "what_is_the_weather_tomorrow.wav": "ask",
    "move_the_purple_box_left.wav": "move thing",
    "set_the_volume_to_forty_percent.wav": "set level",
    "seven_three_three_zero_one.wav": "other",
}
TALK = EXAMPLES / "conversations" / "other_voices.wav"
Load = Callable[[str], LocalModel]


@pytest.fixture(scope="module")
def load_more(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return a function from a name to the model of its archive."""

    @cache
    def load_named(name: str) -> LocalModel:
        config, folder = known_configs()[name], tmp_path_factory.mktemp(name)
        return load_archive(build_archive(config, folder, archive_format="no-archive"))

    return load_named


def ask(model: LocalModel, recording: bytes, **headers: str) -> Any:
    (reply,) = model.answer([{"body": recording}], [headers])
    assert reply.status == 200, reply.answer
    return reply.answer


def turn(number: int) -> bytes:
    return join_turns(number, name="other_voices")


def test_commands_have_their_labels(load_more: Load) -> None:
    model = load_more("wav2vec2_commands")
    rows = [{"body": (EXAMPLES / name).read_bytes()} for name in LABELS]
    found = [reply.answer[0]["label"] for reply in model.answer(rows)]
    assert dict(zip(LABELS, found, strict=True)) == LABELS


def test_speech_is_where_it_was_put(load_more: Load) -> None:
    spoken = read_samples(EXAMPLES / "turn_on_the_kitchen_lights.wav")
    silence = np.random.default_rng(0).normal(0, 30, 2 * RATE_HZ).astype(np.int16)
    answer = ask(
        load_more("wav2vec2_voiced"), write_wav(np.concatenate([silence, spoken, silence]))
    )
    (loud,) = np.nonzero(np.abs(spoken.astype(int)) > 300)
    first_s, last_s = (2 + each / RATE_HZ for each in (loud[0], loud[-1]))
    assert {each["label"] for each in answer} == {"speech"}
    assert answer[0]["start"] == pytest.approx(first_s, abs=0.1)
    assert answer[-1]["end"] == pytest.approx(last_s, abs=0.15)


def test_conversation_of_two_has_two_speakers_in_turn(load_more: Load) -> None:
    answer = ask(load_more("wav2vec2_speakers"), TALK.read_bytes())
    names = [each["label"] for each in answer if each["end"] - each["start"] > 0.5]
    woman, man = names[0], names[-1]
    assert woman != man
    assert names == [woman, man] * 2


def test_voice_is_alike_itself_and_not_another(load_more: Load) -> None:
    model = load_more("wav2vec2_voices")
    rows = [
        {"data": turn(0), "other": turn(2)},
        {"data": turn(0), "other": turn(1)},
    ]
    same, others = (reply.answer for reply in model.answer(rows))
    assert (same["same_speaker"], others["same_speaker"]) == (True, False)
    assert same["threshold"] == known_configs()["wav2vec2_voices"].handler_settings["threshold"]


def test_features_are_the_encoders(load_more: Load) -> None:
    recording = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
    answer = ask(load_more("wav2vec2_features"), recording, Accept="application/octet-stream")
    features = load(bytes(answer))["features"]
    assert features.shape == (77, 144)
    assert torch.isfinite(features).all()


def test_more_models_are_served_where_they_are_named() -> None:
    served = {config.name for config in choose_configs([])}
    more = {path.stem for path in (CONFIG_FOLDER / "more").glob("*.yaml")}
    assert len(more) == 5
    assert not served & more
    assert [config.name for config in choose_configs(["wav2vec2_voices"])] == ["wav2vec2_voices"]
    assert {config.name for config in choose_configs(["all"])} == served | more
    with pytest.raises(BuildError, match="wav2vec2_voices"):
        choose_configs(["wav2vec2_voice"])
