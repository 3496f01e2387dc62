"""Alignments: a prefix search against all paths there are, and what is told of a recording."""

import io
import itertools
from collections import defaultdict

import matplotlib.image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.speech.ctc.alternatives import search_prefixes
from support.common import EXAMPLES, LoadModel

SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()


def sum_all_paths(probabilities: torch.Tensor, blank: int) -> dict[tuple[int, ...], float]:
    frames, labels = probabilities.shape
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(labels), repeat=frames):
        collapsed = tuple(label for label, _ in itertools.groupby(path) if label != blank)
        sums[collapsed] += float(probabilities[range(frames), path].prod())
    return sums


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 1000))
def test_prefix_search_sums_over_all_paths(frames: int, labels: int, seed: int) -> None:
    logits = torch.randn(frames, labels, generator=torch.manual_seed(seed), dtype=torch.float64)
    probabilities = logits.softmax(dim=-1)
    expected = sum_all_paths(probabilities, blank=0)
    found = search_prefixes(probabilities, blank=0, beam_width=1000)
    assert {each.labels: pytest.approx(each.probability) for each in found} == expected
    chances = [each.probability for each in found]
    assert chances == pytest.approx(sorted(expected.values(), reverse=True))


def test_explanation_is_an_alignment(load_model: LoadModel) -> None:
    model = load_model("wav2vec2")
    plain, explained = model.answer([{"body": SPEECH}] * 2, [{}, {"explain": "True"}])
    answer = explained.answer
    assert answer["text"] == plain.answer == "TURN ON THE KITCHEN LIGHTS"
    assert "".join(token["token"] for token in answer["tokens"]) == plain.answer.replace(" ", "")
    for token in answer["tokens"]:
        assert token["start"] == pytest.approx(token["start_frame"] * 0.02)
        assert token["end"] == pytest.approx(token["end_frame"] * 0.02)
        assert 0 < token["probability"] <= 1
    assert [word["word"] for word in answer["words"]] == plain.answer.split()
    for word in answer["words"]:
        chances = [each["probability"] for each in word["alternatives"]]
        assert word["alternatives"][0]["word"] == word["word"]
        assert len(chances) > 1
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) <= 1.001


def test_picture_is_as_wide_as_the_recording_is_long(load_model: LoadModel) -> None:
    headers = {"explain": "True", "accept": "image/png"}
    picture = load_model("wav2vec2").answer([{"body": SPEECH}], [headers])[0].answer
    height, width, _ = matplotlib.image.imread(io.BytesIO(picture), format="png").shape
    assert (height, width) == (650, 900)


def test_silence_has_a_picture_too(load_model: LoadModel) -> None:
    headers = {"explain": "True", "accept": "image/png"}
    pcm = {**headers, "Content-Type": "audio/L16; rate=16000"}
    for samples in (1, 16_000):
        reply = load_model("wav2vec2").answer([{"body": b"\0\0" * samples}], [pcm])[0]
        assert reply.status == 200
        assert reply.answer.startswith(b"\x89PNG")


def test_long_recording_is_not_explained(load_model: LoadModel) -> None:
    pcm = {"explain": "True", "Content-Type": "audio/L16; rate=8000"}
    reply = load_model("wav2vec2").answer([{"body": b"\0\0" * 8_000 * 61}], [pcm])[0]
    assert reply.status == 413
    assert "at most 60 s" in reply.answer["message"]
