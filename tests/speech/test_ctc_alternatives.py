"""Alignments: a prefix search against all paths there are, and what is told of a recording."""

import io
import itertools
import math
from collections import defaultdict

import matplotlib.image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.speech.ctc.alternatives import find_alternatives, search_prefixes
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
    chances = [math.exp(each.log_probability) for each in found]
    likely = dict(zip((each.labels for each in found), chances, strict=True))
    assert likely == pytest.approx(expected, rel=1e-9)
    assert chances == pytest.approx(sorted(expected.values(), reverse=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 1000))
def test_shares_are_those_of_all_paths(frames: int, seed: int) -> None:
    logits = torch.randn(frames, 3, generator=torch.manual_seed(seed), dtype=torch.float64)
    probabilities = logits.softmax(dim=-1)
    # No more prefixes than a beam has, so that none is left out.
    found = find_alternatives(probabilities, ["", "a", "b"], 0, None)
    expected = sum_all_paths(probabilities, blank=0)
    words = {
        "".join("-ab"[label] for label in labels): chance for labels, chance in expected.items()
    }
    for word, share in found:
        assert share == pytest.approx(words[word] / sum(words.values()), rel=1e-9)


def test_very_long_word_has_alternatives() -> None:
    """Of 4,000 frames, each sure to a tenth only: the probability of any path is no float."""
    labels = ["", "a", "b", "|"]
    frames = torch.tensor([[0.1, 0.09, 0.08, 0.0]]).repeat(4_000, 1) / 1e3
    frames[:2] = torch.tensor([0.0, 0.6, 0.2, 0.2])
    frames[2:, 1:] = 0
    found = find_alternatives(frames, labels, 0, 3)
    # Of two frames that decide: a, b, and either after the other; the rest is blank.
    shares = {"a": 0.36, "b": 0.04, "ab": 0.12, "ba": 0.12}
    total = sum(shares.values())
    expected = {word: pytest.approx(share / total, rel=1e-6) for word, share in shares.items()}
    assert {word: share for word, share in found if word in shares} == expected


def test_frame_of_the_delimiter_alone_leaves_alternatives() -> None:
    frames = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    alternatives = find_alternatives(frames, ["", "a", "|"], 0, 2)
    found = {word: share for word, share in alternatives if share > 1e-30}
    # Over the frame between, a goes on or a blank comes: equally improbable.
    assert found == {"a": pytest.approx(0.5), "aa": pytest.approx(0.5)}


def test_narrow_beam_keeps_the_best_only() -> None:
    """By hand: of each frame as many labels, and behind it as many prefixes, as it is wide."""
    probabilities = torch.tensor([[0.4, 0.6, 0.0], [0.7, 0.2, 0.1]], dtype=torch.float64)
    (one,) = search_prefixes(probabilities, blank=0, beam_width=1)
    assert one.labels == (1,)
    assert math.exp(one.log_probability) == pytest.approx(0.6 * 0.7)
    two = search_prefixes(probabilities, blank=0, beam_width=2)
    assert [each.labels for each in two] == [(1,), ()]
    chances = [math.exp(each.log_probability) for each in two]
    assert chances == pytest.approx([0.6 * 0.9 + 0.4 * 0.2, 0.4 * 0.7])
    three = search_prefixes(probabilities, blank=0, beam_width=3)
    # Of the third label, behind the second and alone.
    assert [each.labels for each in three] == [(1,), (), (1, 2)]
    assert math.exp(three[-1].log_probability) == pytest.approx(0.6 * 0.1)


def test_beam_is_sixteen_wide_unless_said_otherwise() -> None:
    logits = torch.randn(6, 20, generator=torch.manual_seed(0), dtype=torch.float64)
    probabilities = logits.softmax(dim=-1)
    found = search_prefixes(probabilities, blank=0)
    assert len(found) == 16
    assert found == search_prefixes(probabilities, blank=0, beam_width=16)


def test_impossible_frames_have_no_hypotheses() -> None:
    assert search_prefixes(torch.tensor([[0.2, 0.8], [0.0, 0.0], [0.5, 0.5]]), blank=0) == []
    assert search_prefixes(torch.zeros(0, 3), blank=0) == [((), 0.0)]
    # What cannot be is no hypothesis.
    (sure,) = search_prefixes(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), blank=0)
    assert sure == ((1,), 0.0)


def test_alternatives_are_the_five_likeliest() -> None:
    labels = ["", *"abcdefg"]
    frame = torch.tensor([[0.02, 0.3, 0.25, 0.2, 0.1, 0.06, 0.05, 0.02]])
    found = find_alternatives(frame, labels, 0, None)
    assert [word for word, _ in found] == ["a", "b", "c", "d", "e"]
    # Their shares are those of all that was found.
    assert [share for _, share in found] == pytest.approx([0.3, 0.25, 0.2, 0.1, 0.06])


def test_word_has_no_delimiter() -> None:
    frames = torch.tensor([[0.1, 0.3, 0.6], [0.0, 0.2, 0.8]])
    before = frames.clone()
    found = find_alternatives(frames, ["", "a", "|"], 0, 2)
    assert [word for word, _ in found][:1] == ["a"]
    assert all("|" not in word for word, _ in found)
    assert torch.equal(frames, before)
    # The first label may be one, too; without one all labels are letters.
    assert find_alternatives(frames[:1], ["|", "a", ""], 2, 0)[0][0] == ""
    likely = dict(find_alternatives(frames, ["", "a", "|"], 0, None))
    assert likely["|"] == pytest.approx((0.1 + 0.6) * 0.8)


def test_pieces_that_begin_words_are_words_of_their_own() -> None:
    labels = ["", "\u2581turn", "ed", "\u2581on"]
    frames = torch.eye(4)[[1, 2, 3]] * 0.9 + 0.025
    assert find_alternatives(frames, labels, 0, None)[0][0] == "turned on"


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
